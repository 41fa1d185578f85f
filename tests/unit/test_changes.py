"""Which tiles a refresh reports as new, updated or gone, and how a signal stops it."""

import copy
import json

import pytest

from refresh import compare, tiles_in

BAND = {"href": "https://a.example/B04.tif", "size": 4, "checksum": "1220ab"}
FEATURE = {
    "id": "33TWM_0_0",
    "properties": {
        "item": "a",
        "updated": "2025-10-01",
        "regions": ["alps"],
        "bands": {"B04": BAND},
    },
}


def updated(tmp_path, old: dict, new: dict) -> bool:
    found = []
    for feature in (old, new):
        path = tmp_path / "manifest.geojson"
        path.write_text(json.dumps({"features": [feature]}))
        found.append(tiles_in(path))
    changes = compare(*found)
    assert changes.new == changes.gone == []
    return changes.updated == ["33TWM_0_0"]


def changed(key: str, value: object, feature: dict = FEATURE) -> dict:
    new = copy.deepcopy(feature)
    place = new["properties"] if key in new["properties"] else new["properties"]["bands"]["B04"]
    assert place[key] != value
    place[key] = value
    return new


@pytest.mark.parametrize(
    ("key", "value"), [("item", "b"), ("updated", "2026"), ("size", 5), ("checksum", "1220ff")]
)
def test_each_part_of_a_band_counts(tmp_path, key, value):
    assert updated(tmp_path, FEATURE, changed(key, value))


def test_regions_and_addresses_do_not_count_where_there_is_a_checksum(tmp_path):
    assert not updated(tmp_path, FEATURE, changed("regions", ["alps", "po"]))
    moved = "https://b.example/B04.tif"
    assert not updated(tmp_path, FEATURE, changed("href", moved))
    unsure = changed("checksum", None)
    assert updated(tmp_path, unsure, changed("href", moved, unsure))


def test_a_local_file_is_identified_by_its_digest(tmp_path):
    here = copy.deepcopy(FEATURE)
    here["properties"]["bands"]["B04"] |= {"checksum": None, "digest": "ab"}
    assert updated(tmp_path, here, changed("digest", "cd", here))
    assert not updated(tmp_path, here, changed("href", "elsewhere/B04.tif", here))


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"features": [1]}', "[" * 100_000])
def test_no_manifest_has_no_tiles(tmp_path, text):
    path = tmp_path / "manifest.geojson"
    if text is not None:
        path.write_text(text)
    assert tiles_in(path) == {}
    assert compare(tiles_in(path), {"a": 1}) == (["a"], [], [])
