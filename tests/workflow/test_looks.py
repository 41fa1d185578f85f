"""`make looks`: a region in every recipe, in the colours that the build gives it."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from osgeo import gdal
from PIL import Image
from runs import Scene

from basemake.build.config import read_recipe
from basemake.engine.open_build import Build
from basemake.errors import LookError
from basemake.look.imagery import Imagery
from basemake.look.places import pictures_of
from lookable import opened
from looks import lonlat, looks

OWN = {"description": "Mine", "steps": [{"step": "gain", "factor": 3.0}]}
SHIPPED = ["l2a-optimized", "natural", "quicklook", "simple-gain"]


@pytest.fixture
def scene(north: Scene, tmp_path: Path) -> Scene:
    """A build with a recipe of its own, which is in use."""
    scene = north.copy(tmp_path / "scene")
    folder = scene.directory / "config/recipes"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(OWN))
    return scene


@pytest.fixture
def build(scene: Scene) -> Iterator[Build]:
    """The build as commands see it, whose directory is the current one meanwhile."""
    configfile = scene.directory / "config.yaml"
    configfile.write_text(yaml.safe_dump(scene.config))
    with opened(["--directory", str(scene.directory), "--configfile", str(configfile)]) as build:
        yield build


def test_a_sheet_has_every_recipe_and_the_places_asked_for(scene: Scene) -> None:
    scene.config["recipe"] = "mine"
    said = scene.says("looks", "--at", "18.9,44.6")
    assert said == f"first in 5 recipes: {scene.results}/looks/first.png, and .html\n"
    page = (scene.results / "looks/first.html").read_text()
    assert set(re.findall(r"<b>([^<]+)</b>", page)) == {"mine", *SHIPPED}
    assert page.index("<b>mine</b><em>in use</em>") < page.index("<b>natural</b>")
    assert "18.9000, 44.6000" in page
    assert page.count("<svg") == page.count("highlights clipped") == page.count("<figure>")
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page), "the page needs no other file"
    with Image.open(scene.results / "looks/first.png") as sheet:
        assert sheet.height > 5 * 300


def test_pictures_have_the_colours_of_the_build(scene: Scene, build: Build) -> None:
    imagery = Imagery(build)
    drawn, *crops = pictures_of(imagery, "first", [(18.9, 44.6)])
    assert drawn.valid.any()
    steps = read_recipe("l2a-optimized")["steps"]
    for crop in crops:
        assert crop.window
        tile, top, left = crop.window
        height, width = crop.dn.shape[:2]
        built = gdal.Open(str(scene.results / f"tiles/{tile}.tif"))
        expected = np.moveaxis(built.ReadAsArray(left, top, width, height), 0, -1)
        assert (imagery.colour(crop, steps) == expected).all()


def test_the_map_lies_where_the_tiles_are(build: Build) -> None:
    """Its pixels are those of the crops around the same longitude and latitude."""
    imagery = Imagery(build)
    drawn = imagery.map_of("first")
    rows, columns = np.nonzero(drawn.valid)
    compared = 0
    for at in range(0, len(rows), len(rows) // 40):
        lon, lat = drawn.lonlat(columns[at] + 0.5, rows[at] + 0.5)
        crop = imagery.crop("place", lon, lat)
        middle, side = np.array(crop.dn.shape[:2]) // 2, imagery.crop_side
        if crop.dn.shape[:2] == (side, side):
            near = crop.dn[middle[0] - 1 : middle[0] + 2, middle[1] - 1 : middle[1] + 2]
            compared += int((near == drawn.dn[rows[at], columns[at]]).all(axis=-1).any())
    assert compared >= 15  # crops at a tile's edge are moved into it


def test_without_imagery_it_says_what_to_run(scene: Scene) -> None:
    for band in scene.results.glob("bands/*/*"):
        band.unlink()
    done = scene.call("looks")
    assert done.returncode == 1
    assert re.fullmatch(r"looks: there is no imagery in .* run `make draft`.*\.\n", done.stderr)


def test_a_place_outside_of_the_regions_is_named(build: Build) -> None:
    with pytest.raises(LookError, match="--at is 3,4, which is in no region; allowed: "):
        looks(build, [(3, 4)])


@pytest.mark.parametrize("text", ["8", "x,3", "200,10", "8,nan", "1,2,3"])
def test_a_place_that_is_none_gets_one_sentence(text: str) -> None:
    with pytest.raises(LookError, match=f"--at is '{text}'; allowed: longitude,latitude"):
        lonlat(text)


def test_the_build_finds_a_recipe_of_the_working_directory_by_its_name(scene: Scene) -> None:
    scene.config["recipe"] = "mine"
    assert "enhance_tile" in scene.planned()
    scene.config["recipe"] = "nobodys"
    said = scene.run("--dry-run", check=False)
    assert "recipe is 'nobodys', which is not one of: l2a-optimized, mine, natural" in said
