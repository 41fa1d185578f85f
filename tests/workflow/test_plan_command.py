"""`make plan`: what it forecasts is what the build then does."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import shapely
import yaml
from expected import metatiles, tiles_of
from PIL import Image, ImageColor
from runs import CHECKOUT, EDGE, SMALLER, TIP, Scene, lay_out
from shapely.geometry import mapping, shape

from basemake.build.reasons import DELETED, FOLLOWS, ITEM, POLYGON, RECIPE, TILES, WEB_TILES
from basemake.demo.grid import footprint, tiles_covering
from basemake.forecast.briefing import brief
from basemake.forecast.coverage_map import COLOURS, view_of

KEYS = {
    *("arguments", "quarter", "source", "directory", "cores", "connections", "regions", "stages"),
    *("tiles", "files", "download", "disk", "memory", "time", "figures_from_jobs_here", "cost"),
    *("warnings", "map"),
}
STAGES = ("bands", "tiles", "mosaic", "pyramid", "preview", "web")


def plan(scene: Scene, *arguments: str) -> subprocess.CompletedProcess:
    """Ask for the plan, as `make plan` does."""
    configfile = scene.directory / "config.yaml"
    configfile.write_text(yaml.safe_dump(scene.config))
    command = [sys.executable, str(CHECKOUT / "scripts/commands/plan.py")]
    command += ["--configfile", str(configfile), "--directory", str(scene.directory)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def report(scene: Scene, *arguments: str) -> dict[str, Any]:
    done = plan(scene, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def counts(plan: dict[str, Any], state: str, region: str | None = None) -> dict[str, int]:
    """Return how many jobs of each stage are in `state`, without stages that have none."""
    stages = plan["regions"][region]["stages"] if region else plan["stages"]
    return {stage: stages[stage][state] for stage in STAGES if stages[stage][state]}


def whys(plan: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {stage: row["why"] for stage, row in plan["stages"].items() if row["why"]}


def colour_of(scene: Scene, tile: str) -> str:
    """Return the map's colour in a tile, beside its centroid, where its name may be."""
    features = json.loads((scene.results / "manifest.geojson").read_text())["features"]
    geometries = {feature["id"]: shape(feature["geometry"]) for feature in features}
    outlines = [shape(json.loads(path.read_text())) for path in regions(scene)]
    view = view_of([*geometries.values(), *outlines])
    [[x, y]] = view.project(geometries[tile].centroid.coords)
    pixel = Image.open(scene.results / "plan.png").getpixel((round(x), round(y) - 12))
    names = {ImageColor.getrgb(colour): name for name, colour in COLOURS.items()}
    return names[pixel]


def regions(scene: Scene) -> list[Path]:
    return [scene.directory / path for path in scene.config["regions"].values()]


def results(scene: Scene) -> set[str]:
    """Return all files of a build except for the manifest and the plan's map."""
    catalog = scene.results / "stac"
    paths = (catalog if catalog in p.parents else p for p in scene.results.rglob("*"))
    files = {str(p.relative_to(scene.directory)) for p in paths if p == catalog or p.is_file()}
    return files - {"results/manifest.geojson", "results/plan.png"}


@dataclass
class Story:
    """A build, its plan, and the files that existed before it."""

    built: Scene
    planned: dict[str, Any]
    before: Path


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    scene = lay_out(tmp_path_factory.mktemp("plan"))
    scene.run("manifest")
    planned = report(scene, "--cores", "2")
    before = tmp_path_factory.mktemp("before") / "scene"
    shutil.copytree(scene.directory, before)
    scene.run("--cores", "2")
    return Story(scene, planned, before)


def copy_of(scene: Scene, source: Path, directory: Path) -> Scene:
    shutil.copytree(source, directory, symlinks=True)
    return replace(scene, directory=directory, config=json.loads(json.dumps(scene.config)))


@pytest.fixture
def scene(story, tmp_path) -> Scene:
    """A copy of the finished build, to be changed."""
    return copy_of(story.built, story.built.directory, tmp_path / "scene")


@pytest.fixture
def unbuilt(story, tmp_path) -> Scene:
    """A copy of it that has a manifest and no other results."""
    return copy_of(story.built, story.before, tmp_path / "scene")


# -- Against the run -------------------------------------------------------------------------------


def test_a_plan_and_then_its_build(story, scene):
    """Tiles, bytes and files exactly; disk within 1.5 times, on tiny tiles."""
    before = story.planned
    assert before["stages"]["bands"]["disk_now_bytes"] == 0
    assert set(before) == KEYS
    tiles = tiles_of(scene, "first")
    assert set(before["tiles"]) == tiles
    assert {tile["state"] for tile in before["tiles"].values()} == {"download"}
    archives = len(metatiles(scene)) + 2  # the overview and the pyramid
    built = {"bands": 7, "tiles": 7, "mosaic": 3, "pyramid": archives, "preview": 2, "web": 1}
    assert counts(before, "new") == built
    assert not counts(before, "stale")
    assert not counts(before, "fresh")
    assert set(before["files"]) == results(scene)
    bands = {name: len(data) for name, data in scene.files("bands/**/*").items()}
    assert before["download"]["files"] == len(bands)
    assert before["download"]["bytes"] == sum(bands.values())
    for tile in tiles:
        size = sum(size for name, size in bands.items() if tile in name)
        assert before["tiles"][tile]["download_bytes"] == size

    files = scene.files("*/**/*")
    disk = sum(len(data) for path, data in files.items() if not path.startswith("records/"))
    assert disk / 1.5 < before["disk"]["after_bytes"] < disk * 1.5
    assert before["disk"]["peak_bytes"] >= before["disk"]["after_bytes"]
    assert before["time"]["wall_seconds"] > 0
    assert not before["warnings"]

    after = report(scene, "--cores", "2")
    assert counts(after, "fresh") == built
    assert not after["files"]
    assert after["disk"]["now_bytes"] == after["disk"]["after_bytes"] == disk
    assert after["time"]["wall_seconds"] == after["cost"]["usd"] == 0
    assert colour_of(scene, EDGE) == "fresh"
    assert "Nothing to do" in brief(after)

    # Now estimates come from this directory: the sizes of its tiles and the seconds of its jobs.
    scene.config["recipe"] = "natural"
    again = report(scene, "--cores", "2")
    assert again["figures_from_jobs_here"]["size_of_tiles"] == len(tiles)
    assert again["figures_from_jobs_here"]["fetch_bands"] == len(tiles)
    assert again["disk"]["after_bytes"] == pytest.approx(disk, rel=0.05)


def test_text_of_a_new_build(unbuilt):
    done = plan(unbuilt, "--cores", "2", "--config", "price_per_vcpu_hour=1000")
    assert done.returncode == 0
    assert not done.stderr
    text = done.stdout
    assert all(len(line) <= 100 for line in text.splitlines() if str(unbuilt.directory) not in line)
    for words in (
        "first: 7 tiles, web map of zooms 0 to 10",
        f"33TYK_0_0, 34TBP_0_0, 34TBQ_0_0, 34TCP_0_0, {EDGE}",
        "in 21 files",
        "with 2 cores and 4 connections",
        "at $1000 a vCPU hour",
        "$10-15 a run",
        "as shipped with basemake",
        f"snakemake -n --configfile {unbuilt.directory}/config.yaml",
    ):
        assert words in text, text
    assert colour_of(unbuilt, EDGE) == "download"


def test_an_interrupted_download_is_continued(story, unbuilt):
    whole = story.planned["download"]
    part = unbuilt.results / f"bands/{EDGE}/B02.tif.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    download = report(unbuilt)["download"]
    assert download == {**whole, "bytes": whole["bytes"] - 1000, "already_here_bytes": 1000}


def test_bands_that_are_not_kept(scene):
    """A new recipe downloads them again, and they are gone after it."""
    shutil.rmtree(scene.results / "bands")
    scene.config |= {"keep_bands": False}
    assert not report(scene)["files"]
    scene.config["recipe"] = "natural"
    stale = report(scene)
    assert whys(stale)["bands"] == {"no longer here, and needed again": 7}
    assert stale["stages"]["bands"]["disk_after_bytes"] == 0
    assert stale["disk"]["peak_bytes"] > stale["disk"]["after_bytes"]


# -- What is stale, and why ------------------------------------------------------------------------


def test_a_recipe_that_changed(scene):
    scene.config["recipe"] = "natural"
    stale = report(scene)
    assert whys(stale) == {
        "tiles": {RECIPE: 7},
        "mosaic": {FOLLOWS: 3},
        "pyramid": {RECIPE: 1, FOLLOWS: 11},
        "preview": {RECIPE: 1, FOLLOWS: 1},
        "web": {FOLLOWS: 1},
        "stac": {RECIPE: 1},
    }
    assert counts(stale, "fresh") == {"bands": 7}
    assert stale["download"]["bytes"] == 0
    assert stale["tiles"][EDGE]["state"] == colour_of(scene, EDGE) == "stale"
    assert f"tiles{7:12}  {RECIPE}" in brief(stale)


def test_items_and_polygon_that_changed_and_files_that_are_gone(scene):
    items = [item for item in scene.items if not item["id"].endswith("33TXJ_0_0")]
    edge = next(item for item in items if item["id"].endswith(EDGE))
    edge["properties"]["updated"] = "2026-02-01T00:00:00Z"
    scene.items = items
    scene.draw("first", SMALLER)
    scene.run("manifest")
    (scene.results / "tiles/34TCP_0_0.tif").unlink()
    (scene.results / "preview/first.html").unlink()
    stale = report(scene)
    found = whys(stale)
    assert found["bands"] == {ITEM: 1}
    assert found["tiles"] == {FOLLOWS: 1, DELETED: 1}
    assert found["mosaic"] == {TILES: 1, FOLLOWS: 2}
    assert set(found["pyramid"]) == {TILES, POLYGON, f"{TILES}, {POLYGON}", FOLLOWS}
    # The page would be stale if it were there, too.
    assert found["preview"] == {f"{TILES}, {ITEM}, {POLYGON}": 1, FOLLOWS: 1}
    assert stale["tiles"][EDGE]["why"] == FOLLOWS
    assert colour_of(scene, EDGE) == "download"
    assert colour_of(scene, "34TCP_0_0") == "stale"
    sizes = [edge["assets"][band]["file:size"] for band in ("B02", "B03", "B04")]
    assert stale["download"]["bytes"] == sum(sizes)


def test_web_tile_settings_that_changed_and_a_metatile_that_is_gone(scene):
    (scene.results / f"metatiles/first/{TIP}.tif").unlink()
    scene.config["pyramid"]["quality"] = 60
    found = whys(report(scene))
    assert set(found) == {"pyramid", "preview", "web", "stac"}
    assert found["pyramid"] == {WEB_TILES: 11, FOLLOWS: 1}


def test_two_regions_share_tiles(scene):
    scene.config["regions"]["other"] = "other.geojson"
    scene.run("manifest")
    both = report(scene)
    assert counts(both, "new", "first") == {}
    assert counts(both, "new", "other")["tiles"] == counts(both, "new")["tiles"] == 2
    shared = tiles_of(scene, "first") & tiles_of(scene, "other")
    assert counts(both, "fresh", "other")["tiles"] == len(shared) > 0
    assert counts(both, "fresh")["tiles"] == 7


# -- Large regions ---------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path, new_build):
    """A function that makes a build of full-size tiles, of which there is only a manifest."""

    def make(region: Any, size: int | None) -> Scene:
        scene = Scene(tmp_path, {"quarter": "2025Q3", "source": "source.yaml", "fetch": "whole"})
        scene.config["regions"] = {"large": "large.geojson"}
        source = {
            "type": "catalog",
            "items": "catalog/items.json",
            "hosts": ["data.example"],
            "bands": {"red": "B04", "green": "B03", "blue": "B02"},
            "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768},
            "attribution": "Simulated imagery",
        }
        (tmp_path / "source.yaml").write_text(yaml.safe_dump(source))
        (tmp_path / "large.geojson").write_text(json.dumps(mapping(region)))
        (tmp_path / "catalog").mkdir()
        known = {} if size is None else {"file:size": size}
        scene.items = [
            {
                "type": "Feature",
                "id": tile.tile,
                "geometry": mapping(footprint(tile)),
                "properties": {
                    "datetime": "2025-07-01T00:00:00Z",
                    "gsd": 10,
                    "proj:code": f"EPSG:{tile.epsg}",
                },
                "assets": {
                    band: {"href": f"https://data.example/{tile.tile}/{band}.tif", **known}
                    for band in ("B02", "B03", "B04")
                },
            }
            for tile in tiles_covering(region)
        ]
        scene.run("manifest")
        return scene

    return make


def test_a_large_region_reads_well(large):
    """85 tiles: the region that the plan is for. The network bounds it, at 100 Mbit/s."""
    scene = large(shapely.box(6.2, 43.6, 16.2, 49.4).buffer(0.01), 150_000_000)
    found = report(scene)
    tiles = len(found["tiles"])
    assert 70 < tiles < 100
    assert found["download"]["bytes"] == tiles * 3 * 150_000_000
    assert found["time"]["bound_by"] == "network"
    assert found["time"]["network_seconds"] == pytest.approx(tiles * 450 / 12.5, rel=0.1)
    assert found["cost"]["usd"] < 1
    text = brief(found)
    assert len(text.splitlines()) < 40
    assert "at 12.5 MB/s" in text


def test_a_disk_that_is_too_small_gives_a_warning(large):
    scene = large(shapely.box(14.5, 45.2, 14.8, 45.4), 5 * 10**15)
    found = report(scene)
    [warning] = found["warnings"]
    assert "The disk is too small: 21,634 TB more are needed at the peak" in warning
    assert "set keep_bands: false" in warning
    assert f"WARNING: {warning}" in brief(found)


def test_a_region_across_180_degrees_with_bands_of_unknown_size(large):
    fiji = shapely.MultiPolygon(
        [shapely.box(178, -18, 180, -17), shapely.box(-180, -18, -179, -17)]
    )
    scene = large(fiji, None)
    found = report(scene)
    assert found["download"]["files_of_unknown_size"] == found["download"]["files"] > 0
    assert found["download"]["bytes"] > found["download"]["files"] * 100e6
    assert "are of unknown size, assumed to be" in brief(found)
    with Image.open(scene.results / "plan.png") as image:
        assert image.width < 1000
        colours = {colour: n for n, colour in image.getcolors(1 << 24)}
        blue = colours[ImageColor.getrgb(COLOURS["download"])]
        assert blue > 0.4 * image.width * image.height, "the tiles lie beside one another"


# -- Mistakes --------------------------------------------------------------------------------------


def test_mistakes_are_one_line(unbuilt):
    def line(*arguments: str) -> str:
        done = plan(unbuilt, *arguments)
        assert done.returncode
        assert not done.stdout
        [only] = done.stderr.splitlines()
        assert only.startswith("plan: ")
        return only

    assert "nowhere" in line("--directory", "nowhere")
    unbuilt.config["price_per_vcpu_hour"] = -1
    assert "price_per_vcpu_hour is -1" in line()
    unbuilt.config["price_per_vcpu_hour"] = 0
    (unbuilt.results / "manifest.geojson").unlink()
    assert "run `snakemake manifest`" in line()
