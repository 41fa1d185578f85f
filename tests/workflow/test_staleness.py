"""The staleness table: after each kind of change, exactly the jobs that it calls for.

Each row is a build that is changed. The jobs that a dry-run lists, and those that a run then
executes, are held against a list made from the geometry alone; all outputs against a build from
nothing.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import shapely
import yaml
from runs import CHECKOUT, EDGE, OUTLINE, SMALLER, SOURCE, TIP, ZOOM, Scene, small_scene
from shapely.geometry import shape

from basemake.webtiles import WebTile, geometry_to_mercator

# Snakemake compares small files by content; ours are small, and meant to stand for large ones.
BY_TIME = ("--max-checksum-file-size", "0")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Scene:
    scene = small_scene(tmp_path_factory.mktemp("staleness"))
    assert len(scene.files("tiles/*")) == 7
    assert len(metatiles(scene)) == 10
    return scene


@pytest.fixture
def scene(base, tmp_path) -> Scene:
    """A copy of the base, times and all, to be changed."""
    return base.copy(tmp_path / "scene")


@pytest.fixture(scope="module")
def from_nothing(tmp_path_factory) -> Callable[[Scene], dict[str, bytes]]:
    """A function that builds what a scene asks for in a new directory; returns what lasts."""

    def build(scene: Scene) -> dict[str, bytes]:
        directory = tmp_path_factory.mktemp("fresh")
        for path in (*scene.directory.glob("*.geojson"), scene.directory / "source.yaml"):
            shutil.copy(path, directory)
        shutil.copytree(scene.directory / "catalog", directory / "catalog")
        fresh = replace(scene, directory=directory)
        fresh.build(cores=4)
        return fresh.lasting()

    return build


# -- What must be rebuilt, from the geometry alone -------------------------------------------------


def footprints(scene: Scene) -> dict[str, shapely.Geometry]:
    """Footprints in Mercator metres, by tile."""
    return {item["id"][-9:]: geometry_to_mercator(shape(item["geometry"])) for item in scene.items}


def metatiles(scene: Scene, region: str = "first") -> dict[str, shapely.Geometry]:
    """The part that each metatile shows of a region, of those that show any tile."""
    polygon = json.loads((scene.directory / f"{region}.geojson").read_text())
    outline = geometry_to_mercator(shape(polygon))
    covered = shapely.union_all(list(footprints(scene).values()))
    parts = {}
    for x in range(276, 288):
        for y in range(180, 192):
            part = outline.intersection(shapely.box(*WebTile(ZOOM, x, y).bounds))
            if part.area and part.intersects(covered):
                parts[f"{ZOOM}_{x}_{y}"] = part
    return parts


def tiles_of(scene: Scene, region: str) -> set[str]:
    outline = shapely.union_all(list(metatiles(scene, region).values()))
    return {tile for tile, place in footprints(scene).items() if place.intersects(outline)}


def fetching(tiles: Iterable[str]) -> set[str]:
    return {f"fetch_band {tile} {band}" for tile in tiles for band in ("B02", "B03", "B04")}


def enhancing(tiles: Iterable[str]) -> set[str]:
    return {f"enhance_tile {tile}" for tile in tiles}


def mosaicking(tiles: Iterable[str], region: str = "first") -> set[str]:
    zones = {f"build_zone_vrt {region} 326{tile[:2]}" for tile in tiles}
    return zones | {f"build_vrt {region}"}


def rendering(parts: Iterable[str], region: str = "first") -> set[str]:
    return {f"render_metatile {region} {metatile}" for metatile in parts}


def packing(region: str = "first") -> set[str]:
    return {f"{rule} {region}" for rule in ("render_overview", "pack_pyramid", "build_preview")}


def showing(scene: Scene, tiles: Iterable[str], region: str = "first") -> set[str]:
    """The metatiles in which tiles show."""
    places = [place for tile, place in footprints(scene).items() if tile in tiles]
    parts = metatiles(scene, region)
    return {name for name, part in parts.items() if any(part.intersects(p) for p in places)}


def all_of_pyramid(scene: Scene) -> set[str]:
    return rendering(metatiles(scene)) | packing()


# -- Nothing is stale ------------------------------------------------------------------------------


def test_nothing_changed(scene):
    scene.rebuild([])


def test_manifest_touched_reformatted_or_copied(scene):
    manifest = scene.results / "manifest.geojson"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=4))
    shutil.copy(manifest, scene.directory / "copy.geojson")
    shutil.copy(scene.directory / "copy.geojson", manifest)
    assert scene.jobs("--dry-run", *BY_TIME) == set()
    scene.rebuild([])


def test_settings_that_change_no_pixel(scene):
    scene.config |= {"threads": {"enhance": 1, "render": 1}, "gdal_cache_mb": 32}
    scene.config["price_per_vcpu_hour"] = 1
    limits = {"connections": 2, "patience_seconds": 30}
    (scene.directory / "source.yaml").write_text(yaml.safe_dump({**SOURCE, "limits": limits}))
    assert scene.jobs("--dry-run", "--resources", "connections=1") == set()


def test_recipe_of_another_name_with_comments(scene):
    text = (CHECKOUT / "config/recipes/l2a-optimized.yaml").read_text()
    (scene.directory / "mine.yaml").write_text(text + "# the same by another name\n")
    scene.config["recipe"] = "mine.yaml"
    scene.rebuild([])


def test_band_deleted_while_its_tile_is_fresh(scene):
    shutil.rmtree(scene.results / "bands" / EDGE)
    scene.rebuild([])


def test_item_moved_to_another_place(scene):
    items = scene.items
    moved = next(item for item in items if item["id"].endswith(EDGE))
    (scene.directory / "catalog" / moved["id"]).rename(scene.directory / "catalog/elsewhere")
    for asset in moved["assets"].values():
        asset["href"] = asset["href"].replace(moved["id"], "elsewhere")
    scene.items = items
    scene.rebuild([])
    assert "elsewhere" in (scene.results / "manifest.geojson").read_text()


# -- One tile --------------------------------------------------------------------------------------


def test_item_updated(scene, from_nothing):
    scene.edit_bands(EDGE)
    touched = showing(scene, [EDGE])
    assert touched == {TIP, "9_282_185"}
    scene.rebuild(
        fetching([EDGE]) | enhancing([EDGE]) | mosaicking([EDGE]) | rendering(touched) | packing()
    )
    assert scene.lasting() == from_nothing(scene)


@pytest.mark.parametrize("key", ["updated", "file:size", "file:checksum"])
def test_each_part_of_an_items_record_counts(scene, key):
    items = scene.items
    item = next(item for item in items if item["id"].endswith(EDGE))
    if key == "updated":
        item["properties"][key] = "2026-02-01T00:00:00Z"
        bands = fetching([EDGE])
    else:
        item["assets"]["B04"][key] = 4711 if key == "file:size" else "1220" + 64 * "0"
        bands = {f"fetch_band {EDGE} B04"}
    scene.items = items
    scene.run("manifest")
    touched = rendering(showing(scene, [EDGE]))
    expected = bands | enhancing([EDGE]) | mosaicking([EDGE]) | touched | packing()
    assert scene.jobs("--dry-run") == expected


def test_tile_leaves_and_comes_back(base, scene, from_nothing):
    all_items = scene.items
    scene.items = [item for item in all_items if not item["id"].endswith(EDGE)]
    touched = {"9_282_185"}  # the tip showed nothing else
    scene.rebuild(mosaicking([EDGE]) | rendering(touched) | packing())
    fresh = from_nothing(scene)
    assert not any(TIP in path or EDGE in path for path in fresh)
    orphans = scene.lasting().keys() - fresh.keys()
    assert orphans == {
        f"tiles/{EDGE}.tif",
        f"metatiles/first/{TIP}.pmtiles",
        f"metatiles/first/{TIP}.png",
    }
    assert {path: data for path, data in scene.lasting().items() if path not in orphans} == fresh

    scene.items = all_items
    for path in orphans:
        (scene.results / path).unlink()
    scene.rebuild(enhancing([EDGE]) | mosaicking([EDGE]) | rendering({*touched, TIP}) | packing())
    assert scene.lasting() == base.lasting()


# -- Regions ---------------------------------------------------------------------------------------


def test_polygon_shrinks_and_grows_inside_the_same_tiles(base, scene, from_nothing):
    before = metatiles(scene)
    scene.draw("first", SMALLER)
    after = metatiles(scene)
    changed = {
        name for name in before if not before[name].symmetric_difference(after[name]).area < 1
    }
    assert 0 < len(changed) < 5
    scene.rebuild(rendering(changed) | packing())
    assert scene.lasting() == from_nothing(scene)
    scene.draw("first", OUTLINE)
    scene.rebuild(rendering(changed) | packing())
    assert scene.lasting() == base.lasting()


def test_polygon_of_an_unclipped_map_changes_only_the_page(base, scene, from_nothing):
    scene.config["pyramid"]["clip"] = False
    scene.build(cores=4)
    scene.draw("first", SMALLER)
    scene.rebuild({"build_preview first"})
    assert scene.lasting() == from_nothing(scene)


def test_second_region_overlaps_the_first(scene, from_nothing):
    scene.config["regions"]["other"] = "other.geojson"
    new = tiles_of(scene, "other") - tiles_of(scene, "first")
    assert new
    shared = tiles_of(scene, "other")
    scene.rebuild(
        fetching(new)
        | enhancing(new)
        | mosaicking(shared, "other")
        | rendering(metatiles(scene, "other"), "other")
        | packing("other")
    )
    assert scene.lasting() == from_nothing(scene)


# -- Settings --------------------------------------------------------------------------------------


def test_recipe(scene, from_nothing):
    scene.config["recipe"] = "simple-gain"
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene))
    assert scene.lasting() == from_nothing(scene)


@pytest.mark.parametrize("option", [{"quality": 60}, {"format": "png"}, {"resampling": "nearest"}])
def test_web_tiles(scene, option):
    scene.config["pyramid"] |= option
    # The mosaic's view in Web Mercator resamples, too.
    mosaic = mosaicking(tiles_of(scene, "first")) if "resampling" in option else set()
    assert scene.jobs("--dry-run") == all_of_pyramid(scene) | mosaic


def test_quality(scene, from_nothing):
    scene.config["pyramid"]["quality"] = 60
    scene.rebuild(all_of_pyramid(scene))
    assert scene.lasting() == from_nothing(scene)


def test_max_zoom(scene, from_nothing):
    scene.config["pyramid"]["max_zoom"] += 1
    # The mosaic's view has the pixels of the top zoom.
    scene.rebuild(all_of_pyramid(scene) | mosaicking(tiles_of(scene, "first")))
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
    copy = tmp_path / "checkout"
    for name in ("rules", "scripts", "config", "envs", "profiles"):
        shutil.copytree(CHECKOUT / name, copy / name)
    shutil.copy(CHECKOUT / "Snakefile", copy)
    return copy


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_code_that_only_looks_new(scene, checkout):
    for path in checkout.glob("scripts/**/*.py"):
        path.write_text(re.sub(r'^"""', '"""New words. ', path.read_text()) + "\n\n# A comment.\n")
    assert replace(scene, checkout=checkout).jobs("--dry-run") == set()


def test_script_edited(scene, checkout, from_nothing):
    edit(checkout / "scripts/render_overview.py", "encode(image)", "encode(255 - image)")
    scene = replace(scene, checkout=checkout)
    scene.rebuild(packing())
    assert scene.lasting() == from_nothing(scene)


def test_shared_module_edited(scene, checkout, from_nothing):
    edit(checkout / "scripts/basemake/recipe.py", "np.floor(255 * table", "np.floor(250 * table")
    scene = replace(scene, checkout=checkout)
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene))
    assert scene.lasting() == from_nothing(scene)


def test_tiles_made_again_alike_end_there(base, scene, checkout):
    """Early cut-off: Snakemake has planned all that follows, but metatiles are not rendered."""
    path = checkout / "scripts/basemake/recipe.py"
    path.write_text(path.read_text() + "\nNOTHING = 0\n")
    scene = replace(scene, checkout=checkout)
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene))
    for metatile in metatiles(scene):
        log = (scene.directory / f"logs/metatiles/first/{metatile}.log").read_text()
        assert "nothing to render" in log
    assert scene.lasting() == base.lasting()


# -- By hand ---------------------------------------------------------------------------------------


def test_tile_deleted(base, scene):
    (scene.results / f"tiles/{EDGE}.tif").unlink()
    touched = rendering(showing(scene, [EDGE]))
    scene.rebuild(enhancing([EDGE]) | mosaicking([EDGE]) | touched | packing())
    assert scene.lasting() == base.lasting()


def test_tile_truncated(base, scene):
    tile = scene.results / f"tiles/{EDGE}.tif"
    tile.write_bytes(tile.read_bytes()[:-4000])
    touched = rendering(showing(scene, [EDGE]))
    assert scene.jobs("--dry-run") == mosaicking([EDGE]) | touched | packing()
    printed = scene.run("--cores", "4", check=False)
    assert f"the enhanced tile results/tiles/{EDGE}.tif cannot be read" in printed
    assert "delete it and run again to make it anew" in printed
    tile.unlink()
    scene.run("--cores", "4")
    assert scene.lasting() == base.lasting()


@pytest.mark.parametrize("suffix", [".pmtiles", ".png"])
def test_metatile_deleted(base, scene, suffix):
    (scene.results / f"metatiles/first/{TIP}{suffix}").unlink()
    expected = rendering([TIP]) | packing()
    scene.rebuild(expected)
    assert scene.lasting() == base.lasting()


def test_archive_deleted(base, scene):
    (scene.results / "pyramid/first.pmtiles").unlink()
    scene.rebuild({"pack_pyramid first", "build_preview first"})
    assert scene.lasting() == base.lasting()


def test_times_lost_by_a_copy(base, scene):
    """As `cp -r` leaves them: what was made first may be the newest. One command heals it."""
    later = 1_700_000_000
    for number, stage in enumerate(("preview", "pyramid", "metatiles", "mosaic", "tiles", "bands")):
        for path in (scene.results / stage).rglob("*"):
            os.utime(path, (later + number, later + number))
    assert scene.jobs("--dry-run") == set(), "small files are compared by content"
    tiles = tiles_of(scene, "first")
    everything = enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene)
    assert scene.jobs("--dry-run", *BY_TIME) == everything
    scene.run("--cores", "1", "--touch", *BY_TIME)
    assert scene.jobs("--dry-run", *BY_TIME) == set()
    assert scene.lasting() == base.lasting()
