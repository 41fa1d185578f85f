"""The table in docs/rebuilds.md: each kind of change runs exactly the jobs that it makes stale.

Each test changes a build. The jobs that a dry-run lists, and those that a run then executes, are
compared with a list made from the geometry alone, and all outputs with a build from nothing.

Here: settings, code, and what is done by hand; the rest is in test_staleness.py.
"""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from expected import (
    all_of_pyramid,
    enhancing,
    following_archive,
    metatiles,
    mosaicking,
    packing,
    rendering,
    showing,
    tiles_of,
)
from osgeo import gdal
from runs import (
    BY_TIME,
    CHECKOUT,
    EDGE,
    SOURCE,
    TIP,
    ZOOM,
    Scene,
    copy_of_checkout,
    with_catalog,
)

from basemake.pixels.webtiles import metatile_name, metatile_of

LATER = 4_000_000_000  # seconds: in 2096


@pytest.fixture
def base(north) -> Scene:
    return north


# -- Settings --------------------------------------------------------------------------------------


def test_recipe(scene, from_nothing):
    scene.config["recipe"] = "simple-gain"
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene), search=False)
    assert scene.lasting() == from_nothing(scene)


def change_source(scene, **changes) -> None:
    (scene.directory / "source.yaml").write_text(yaml.safe_dump({**SOURCE, **changes}))


@pytest.mark.parametrize("option", [{"quality": 60}, {"format": "png"}, {"resampling": "nearest"}])
def test_web_tiles(scene, option):
    scene.config["pyramid"] |= option
    # The mosaic's view in Web Mercator resamples, too.
    mosaic = mosaicking(tiles_of(scene, "first")) if "resampling" in option else set()
    assert scene.jobs("--dry-run") == with_catalog(all_of_pyramid(scene) | mosaic)


@pytest.mark.parametrize(
    ("option", "jobs"),
    [
        ({"min_zoom": 8}, packing()),  # below the metatiles' zoom
        ({"outputs": ["mbtiles"]}, {"export_mbtiles first"}),
        ({"outputs": ["folder"]}, {"export_folder first", "build_web first"}),
        ({"url": "https://maps.example.org/alps"}, {"build_web first"}),
    ],
    ids=["min_zoom", "outputs", "folder", "url"],
)
def test_options_of_the_pyramid(scene, option, jobs):
    scene.config["pyramid"] |= option
    assert scene.jobs("--dry-run") == with_catalog(jobs)


def test_larger_web_tiles(scene):
    scene.config["pyramid"]["tile_size"] = 512
    mosaic = mosaicking(tiles_of(scene, "first"))  # has the pixels of the top zoom
    assert scene.jobs("--dry-run") == with_catalog(all_of_pyramid(scene) | mosaic)


def test_other_metatiles(scene):
    scene.config["pyramid"]["metatile_zoom"] = ZOOM - 1
    names = {metatile_name(metatile_of(name).parent) for name in metatiles(scene)}
    assert scene.jobs("--dry-run") == with_catalog(rendering(names) | packing())


def test_quality(scene, from_nothing):
    scene.config["pyramid"]["quality"] = 60
    scene.rebuild(all_of_pyramid(scene), search=False)
    assert scene.lasting() == from_nothing(scene)


def test_tile_codec_renders_nothing(base, scene, from_nothing):
    scene.config["tile_codec"] = "zstd"
    scene.rebuild(enhancing(tiles_of(scene, "first")), search=False)
    assert scene.lasting() == from_nothing(scene)
    # As after a run that ended before the catalog: it states checksums of tiles as they were.
    scene.config["tile_codec"] = "deflate"
    scene.run("--cores", "4", *(f"results/tiles/{tile}.tif" for tile in tiles_of(scene, "first")))
    scene.rebuild({"build_stac"}, search=False)
    assert scene.files("metatiles/**/*") == base.files("metatiles/**/*")


def test_attribution_renders_nothing(base, scene, from_nothing):
    change_source(scene, attribution=SOURCE["attribution"] + ".")
    tiles = tiles_of(scene, "first")
    scene.rebuild(
        enhancing(tiles) | mosaicking(tiles) | {"pack_pyramid first"} | following_archive()
    )
    assert scene.lasting() == from_nothing(scene)
    assert scene.files("metatiles/**/*") == base.files("metatiles/**/*")
    for mosaic in (scene.results / "mosaic").iterdir():
        credit = gdal.Open(str(mosaic)).GetMetadataItem("TIFFTAG_COPYRIGHT")
        assert credit == SOURCE["attribution"] + "."


def test_numbers_written_otherwise(scene):
    change_source(scene, dn={"scale": 1e-4, "offset": 0, "nodata": -32768})
    text = (CHECKOUT / "config/recipes/l2a-optimized.yaml").read_text()
    assert "maximum: 3.0" in text
    own = scene.directory / "l2a-optimized.yaml"  # with another name the page would tell that
    own.write_text(text.replace("maximum: 3.0", "maximum: 3"))
    scene.config["recipe"] = str(own)
    scene.rebuild([])


def test_bands_permuted(scene, from_nothing):
    change_source(scene, bands={"red": "B02", "green": "B03", "blue": "B04"})
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene))
    assert scene.lasting() == from_nothing(scene)


def test_max_zoom(scene, from_nothing):
    scene.config["pyramid"]["max_zoom"] += 1
    # The mosaic's view has the pixels of the top zoom.
    scene.rebuild(all_of_pyramid(scene) | mosaicking(tiles_of(scene, "first")), search=False)
    assert scene.lasting() == from_nothing(scene)


def test_another_quarter_is_refused(base, scene):
    scene.config["quarter"] = "2025Q2"
    for arguments in (["manifest"], ["--cores", "2"], ["--dry-run"]):
        printed = scene.run(*arguments, check=False)
        assert "this working directory holds 2025Q3, and 2025Q2 is asked for" in printed
        assert "--directory" in printed
        assert "Traceback" not in printed
    assert scene.lasting() == base.lasting()


# -- Code ------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the workflow, to be edited."""
    return copy_of_checkout(tmp_path / "checkout")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_code_that_only_looks_new(scene, checkout):
    for path in checkout.glob("scripts/**/*.py"):
        path.write_text(re.sub(r'^"""', '"""New words. ', path.read_text()) + "\n\n# A comment.\n")
    scene = replace(scene, checkout=checkout)
    assert scene.jobs("--dry-run") == set()
    assert scene.jobs("--dry-run", "--workflow-profile", "none", "--cores", "2") == set()


def test_script_edited(scene, checkout, from_nothing):
    edit(
        checkout / "scripts/render_overview.py",
        "encode(to_colours(image))",
        "encode(255 - to_colours(image))",
    )
    scene = replace(scene, checkout=checkout)
    scene.rebuild(packing(), search=False)
    assert scene.lasting() == from_nothing(scene)


def test_shared_module_edited(scene, checkout, from_nothing):
    edit(
        checkout / "scripts/basemake/pixels/recipe.py",
        "np.floor(255 * table",
        "np.floor(250 * table",
    )
    scene = replace(scene, checkout=checkout)
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene), search=False)
    assert scene.lasting() == from_nothing(scene)


def test_tiles_made_again_alike_end_there(base, scene, checkout):
    """Snakemake has planned the jobs that follow, but metatiles are kept and not rendered."""
    path = checkout / "scripts/basemake/pixels/recipe.py"
    path.write_text(path.read_text() + "\nNOTHING = 0\n")
    scene = replace(scene, checkout=checkout)
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene), search=False)
    for metatile in metatiles(scene):
        log = (scene.directory / f"logs/metatiles/first/{metatile}.log").read_text()
        assert "nothing to render" in log
    assert scene.jobs("--dry-run", *BY_TIME) == set(), "they are newer than their tiles"
    assert scene.lasting() == base.lasting()


# -- By hand ---------------------------------------------------------------------------------------


def test_tile_deleted(base, scene):
    """Jobs that read it follow, as Snakemake plans them before it runs; they make the same."""
    (scene.results / f"tiles/{EDGE}.tif").unlink()
    touched = rendering(showing(scene, [EDGE]))
    scene.rebuild(
        enhancing([EDGE]) | touched | {f"build_zone_vrt first 326{EDGE[:2]}"}, search=False
    )
    assert scene.lasting() == base.lasting()


@pytest.mark.parametrize("damage", ["shorter", "of the same size"])
def test_tile_damaged(base, scene, damage):
    tile = scene.results / f"tiles/{EDGE}.tif"
    data = tile.read_bytes()
    half = len(data) // 2
    tile.write_bytes(data[:half] if damage == "shorter" else data[:half] + data[half:][::-1])
    scene.rebuild(enhancing([EDGE]), search=False)
    assert scene.lasting() == base.lasting()


@pytest.mark.parametrize(
    ("suffix", "reader"), [(".pmtiles", "pack_pyramid"), (".tif", "render_overview")]
)
def test_metatile_deleted(base, scene, suffix, reader):
    (scene.results / f"metatiles/first/{TIP}{suffix}").unlink()
    scene.rebuild(rendering([TIP]) | {f"{reader} first"}, search=False)
    assert scene.lasting() == base.lasting()


def test_archive_deleted(base, scene):
    (scene.results / "pyramid/first.pmtiles").unlink()
    expected = {"pack_pyramid first", *following_archive()} - {"build_index"}
    scene.rebuild(expected, search=False)
    assert scene.lasting() == base.lasting()


def test_record_deleted(base, scene):
    """Without its record it is unknown what a tile was made of."""
    (scene.results / f"records/tiles/{EDGE}.tif.json").unlink()
    scene.rebuild(enhancing([EDGE]), search=False)
    assert scene.lasting() == base.lasting()


def test_times_lost_by_a_copy(base, scene):
    """As after `cp -r` with a clock put back: the files that were made first are the newest."""
    stages = ("records", "preview", "pyramid", "metatiles", "mosaic", "tiles", "bands")
    for number, stage in enumerate(stages):
        for path in (scene.results / stage).rglob("*"):
            os.utime(path, (LATER + number, LATER + number))
    assert scene.jobs("--dry-run", *BY_TIME) == set()
    assert scene.lasting() == base.lasting()
    scene.config["recipe"] = "simple-gain"
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene), search=False)


def test_snakemakes_own_records_lost(scene):
    shutil.rmtree(scene.directory / ".snakemake")
    assert scene.jobs("--dry-run") == set()
    shutil.rmtree(scene.directory / ".snakemake")
    scene.config["pyramid"]["quality"] = 60
    scene.rebuild(all_of_pyramid(scene), search=False)
