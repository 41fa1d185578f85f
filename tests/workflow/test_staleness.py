"""The table in docs/rebuilds.md: each kind of change runs exactly the jobs that it makes stale.

Each test changes a build. The jobs that a dry-run lists, and those that a run then executes, are
compared with a list made from the geometry alone, and all outputs with a build from nothing.

Here: items, tiles and regions; the rest is in test_staleness_of_settings.py.
"""

import json
import os
import re
import shutil

import numpy as np
import pytest
import yaml
from expected import (
    enhancing,
    fetching,
    metatiles,
    mosaicking,
    packing,
    rendering,
    showing,
    tiles_of,
)
from osgeo import gdal
from runs import BY_TIME, CHECKOUT, EDGE, OUTLINE, SMALLER, SOURCE, TIP

from basemake.build.reasons import FOLLOWS


def test_base_has_two_zones_and_enough_tiles(base):
    assert len(base.files("tiles/*")) == 7
    assert len(metatiles(base)) == 10
    assert len(base.files("mosaic/first_326??.vrt")) == 2


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


def test_catalog_copied_without_its_times(scene):
    catalog, copied = scene.directory / "catalog", scene.directory / "copied"
    shutil.copytree(catalog, copied, copy_function=shutil.copy)
    shutil.rmtree(catalog)
    copied.rename(catalog)
    scene.rebuild([])


def test_file_replaced_under_an_unchanged_item(scene, from_nothing):
    """By one of the same size and time, which a copy may have."""
    items = scene.items
    item = next(item for item in items if item["id"].endswith(EDGE))
    path = scene.directory / "catalog" / item["assets"]["B04"]["href"]
    plain = path.with_name("plain.tif")
    gdal.Translate(str(plain), str(path))  # uncompressed: other pixels take as many bytes
    plain.replace(path)
    item["assets"]["B04"] |= {"file:size": path.stat().st_size}
    del item["assets"]["B04"]["file:checksum"]
    scene.items = items
    scene.build(cores=4)

    before = path.stat()
    dataset = gdal.Open(str(path), gdal.GA_Update)
    dn = dataset.ReadAsArray()
    dataset.GetRasterBand(1).WriteArray(np.where(dn == -32768, dn, dn + 200))
    del dataset
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    followers = enhancing([EDGE]) | mosaicking([EDGE]) | rendering(showing(scene, [EDGE]))
    scene.rebuild({f"fetch_band {EDGE} B04"} | followers | packing())
    assert scene.lasting() == from_nothing(scene)


def test_file_replaced_under_an_item_with_its_checksum(scene):
    band = next(scene.directory.glob(f"catalog/*{EDGE}/B04.tif"))
    band.write_bytes(band.read_bytes()[:-1] + b"x")
    scene.run("manifest")
    assert f"fetch_band {EDGE} B04" in scene.jobs("--dry-run")
    printed = scene.run("--cores", "4", check=False)
    assert f"basemake: tile {EDGE}, band B04: " in printed
    assert "its sha256 is" in printed
    assert "Traceback" not in printed


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


def test_polygon_whose_ring_begins_elsewhere_and_runs_the_other_way(scene, from_nothing):
    scene.config["pyramid"]["outputs"] = ["cog"]
    scene.build(cores=4)
    scene.draw("first", (OUTLINE[3:] + OUTLINE[:3])[::-1])
    scene.rebuild([])
    assert scene.lasting() == from_nothing(scene)


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


def test_forced_jobs_are_done_beside_stale_ones_and_each_tells_why(scene):
    (scene.results / f"tiles/{EDGE}.tif").unlink()
    reasons = {}
    for job in scene.run("--dry-run", "--forcerun", "build_preview").split("\nrule ")[1:]:
        fields = dict(re.findall(r"^    (wildcards|reason): (.*)$", job, re.MULTILINE))
        reasons[job.split(":")[0], fields.get("wildcards")] = fields["reason"]
    assert reasons["enhance_tile", f"tile={EDGE}"] == "not made yet, or deleted"
    assert reasons["render_metatile", f"region=first, metatile={TIP}"] == FOLLOWS
    assert reasons["build_preview", "region=first"] == "asked for by an option"
