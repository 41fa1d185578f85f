"""The table in docs/rebuilds.md, as in test_staleness.py: items and files of a catalog."""

import os
import shutil

import numpy as np
import pytest
from expected import enhancing, fetching, mosaicking, packing, rendering, showing
from osgeo import gdal
from runs import EDGE, TIP, Scene, opened_for_update, with_catalog


@pytest.fixture
def base(north) -> Scene:
    return north


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
    dataset = opened_for_update(path)
    dn = dataset.ReadAsArray()
    dataset.GetRasterBand(1).WriteArray(np.where(dn == -32768, dn, dn + 200))
    del dataset
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    followers = enhancing([EDGE]) | mosaicking([EDGE]) | rendering(showing(scene, [EDGE]))
    scene.rebuild({f"fetch_bands {EDGE}"} | followers | packing())
    assert scene.lasting() == from_nothing(scene)


def test_file_replaced_under_an_item_with_its_checksum(scene):
    band = next(scene.directory.glob(f"catalog/*{EDGE}/B04.tif"))
    band.write_bytes(band.read_bytes()[:-1] + b"x")
    scene.run("manifest")
    assert f"fetch_bands {EDGE}" in scene.jobs("--dry-run")
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
        bands = {f"fetch_bands {EDGE}"}
    scene.items = items
    scene.run("manifest")
    touched = rendering(showing(scene, [EDGE]))
    expected = bands | enhancing([EDGE]) | mosaicking([EDGE]) | touched | packing()
    assert scene.jobs("--dry-run") == with_catalog(expected)


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
        f"metatiles/first/{TIP}.tif",
    }
    assert {path: data for path, data in scene.lasting().items() if path not in orphans} == fresh

    scene.items = all_items
    for path in orphans:
        (scene.results / path).unlink()
    scene.rebuild(enhancing([EDGE]) | mosaicking([EDGE]) | rendering({*touched, TIP}) | packing())
    assert scene.lasting() == base.lasting()
