"""The manifest: written only when it changes, and read only if it answers the request."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import shapely

from basemake.build.config import read_source
from basemake.build.manifest import (
    Band,
    check_quarter,
    describe_request,
    read_manifest,
    write_manifest,
)
from basemake.build.quarter import Quarter
from basemake.errors import ManifestError
from sources import source

SOURCE = {
    "type": "catalog",
    "title": "Any",
    "items": "items.json",
    "bands": {"red": "B04", "green": "B03", "blue": "B02"},
    "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768},
    "attribution": "Somebody",
    "hosts": [],
}
REGIONS = {"alps": shapely.box(9, 45, 10, 46), "coast": shapely.box(12, 44, 13, 45)}


def feature(tile: str, **properties: Any) -> dict:
    band = {"href": f"{tile}/B04.tif", "size": 5, "checksum": None}
    return {
        "type": "Feature",
        "id": tile,
        "properties": {
            "tile": tile,
            "item": f"Sentinel-2_mosaic_2025_Q3_{tile}",
            "epsg": 32633,
            "gsd": 10,
            "updated": "2025-10-15T00:00:00Z",
            "regions": ["alps"],
            "bands": {"B04": band},
            **properties,
        },
        "geometry": shapely.geometry.mapping(shapely.box(9, 45, 10, 46)),
    }


def request(**changes: Any) -> dict:
    quarter = Quarter.parse(changes.get("quarter", "2025Q3"))
    settings = SOURCE | changes.get("source", {})
    return describe_request(source(**settings), quarter, changes.get("regions", REGIONS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "results" / "manifest.geojson"
    assert write_manifest(path, request(), [feature("33TWM_0_0"), feature("33TWL_0_0")])
    return path


def test_it_is_geojson_sorted_by_tile_a_line_each(path: Path) -> None:
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    assert [feature["id"] for feature in document["features"]] == ["33TWL_0_0", "33TWM_0_0"]
    assert document["features"][1] == json.loads(json.dumps(feature("33TWM_0_0")))
    assert [line[:30] for line in path.read_text().splitlines() if '"33TW' in line] == [
        '{"type": "Feature", "id": "33T'
    ] * 2


def test_the_same_answer_leaves_the_file_as_it_is(path: Path) -> None:
    os.utime(path, ns=(1, 1))
    before = path.read_bytes()
    assert not write_manifest(path, request(), [feature("33TWL_0_0"), feature("33TWM_0_0")])
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, 1)
    assert write_manifest(path, request(), [feature("33TWL_0_0")])
    assert path.stat().st_mtime_ns > 1
    assert [file.name for file in path.parent.iterdir()] == ["manifest.geojson"]


def test_it_reads_as_tiles_sorted_by_name(path: Path) -> None:
    tiles = read_manifest(path, request())
    assert list(tiles) == [tile.name for tile in tiles.values()] == ["33TWL_0_0", "33TWM_0_0"]
    tile = tiles["33TWM_0_0"]
    assert tile.item == "Sentinel-2_mosaic_2025_Q3_33TWM_0_0"
    assert tile.bands == {"B04": Band("33TWM_0_0/B04.tif", size=5, checksum=None)}
    assert tile.regions == ["alps"]
    assert tile.geometry.equals(shapely.box(9, 45, 10, 46))


def test_the_order_of_tiles_does_not_depend_on_that_of_the_file(path: Path) -> None:
    document = json.loads(path.read_text())
    document["features"].reverse()
    path.write_text(json.dumps(document))
    assert list(read_manifest(path, request())) == ["33TWL_0_0", "33TWM_0_0"]


def test_tiles_are_in_the_order_in_which_tiles_cover_one_another(path: Path) -> None:
    """By EPSG code, then by name: 9UXR lies under 10UBA, and the north under the south."""
    zones = {"10UBA": 32610, "9UXS": 32609, "9UXR": 32609, "33MUV": 32733, "33NUA": 32633}
    write_manifest(path, request(), [feature(name, epsg=epsg) for name, epsg in zones.items()])
    order = ["9UXR", "9UXS", "10UBA", "33NUA", "33MUV"]
    assert list(read_manifest(path, request())) == order


def test_unknown_values_read_as_none(path: Path) -> None:
    write_manifest(path, request(), [feature("a", updated=None, gsd=None), feature("b")])
    tiles = read_manifest(path, request())
    assert [tile.updated for tile in tiles.values()] == [None, "2025-10-15T00:00:00Z"]
    assert [tile.gsd for tile in tiles.values()] == [None, 10]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": {"items": "other.json"}}, "the source has changed"),
        ({"source": {"hosts": ["x.org"]}}, "the source has changed"),
        ({"source": {"bands": {**SOURCE["bands"], "red": "B05"}}}, "the source has changed"),
        ({"regions": {**REGIONS, "isle": shapely.box(1, 1, 2, 2)}}, "the regions have (isle) chan"),
        ({"regions": {"alps": REGIONS["alps"]}}, "the regions have (coast) changed"),
        (
            {"regions": {name: box.buffer(0.1) for name, box in REGIONS.items()}},
            "the regions have (alps, coast) changed",
        ),
    ],
)
def test_another_request_is_named_with_the_command_that_helps(
    path: Path, change: dict, said: str
) -> None:
    with pytest.raises(ManifestError) as refusal:
        read_manifest(path, request(**change))
    text = str(refusal.value)
    assert said in text
    assert text.endswith("manifest.geojson was written: run `snakemake manifest` to search again.")
    assert "\n" not in text


def test_another_quarter_is_refused_with_the_way_to_keep_both(path: Path) -> None:
    write_manifest(path, request(), [feature("a")])
    said = "holds 2025Q3, and 2025Q2 is asked for: build it in another one, by --directory"
    for refuse in (
        lambda: read_manifest(path, request(quarter="2025Q2")),
        lambda: check_quarter(path, "2025Q2"),
    ):
        with pytest.raises(ManifestError, match=said):
            refuse()
    check_quarter(path, "2025Q3")
    check_quarter(path.with_name("none"), "2025Q2")
    path.write_text("[]")
    check_quarter(path, "2025Q2")  # nothing to lose


def test_the_digest_of_a_source_is_that_of_existing_manifests() -> None:
    assert describe_request(read_source("cdse"), Quarter(2025, 3), {}) == {
        "source": "57ba756c71cf82b0",
        "quarter": "2025Q3",
        "regions": {},
    }


@pytest.mark.parametrize(
    "change",
    [
        {"source": {"dn": {"scale": 1.0, "offset": 0.0, "nodata": None}}},
        {"source": {"attribution": "Somebody else", "title": "Another"}},
        {"source": {"bands": dict(reversed(SOURCE["bands"].items()))}},
        {"regions": dict(reversed(REGIONS.items()))},
        {"regions": {**REGIONS, "alps": shapely.box(9, 45, 10, 46, ccw=False)}},
    ],
    ids=["dn", "words", "order-of-keys", "order-of-regions", "winding"],
)
def test_what_does_not_change_the_answer_is_the_same_request(path: Path, change: dict) -> None:
    assert request(**change) == request()
    assert len(read_manifest(path, request(**change))) == 2


def test_a_missing_manifest_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^there is no .*: run `snakemake manifest` first"):
        read_manifest(tmp_path / "manifest.geojson", request())


@pytest.mark.parametrize(
    "change",
    [
        lambda document: "",
        lambda document: json.dumps(document)[:-20],
        lambda document: "[]",
        lambda document: json.dumps({**document, "request": None}),
        lambda document: json.dumps({**document, "request": {"quarter": "2025Q3"}}),
        lambda document: json.dumps({**document, "features": [{"id": "a", "properties": {}}]}),
        lambda document: json.dumps(
            {**document, "features": [{**document["features"][0], "geometry": None}]}
        ),
        lambda document: json.dumps({**document, "features": []}),
        lambda document: json.dumps({"type": "FeatureCollection", "features": []}),
        lambda document: json.dumps({**document, "features": document["features"][:1] * 2}),
        lambda document: "[" * 100_000,
        lambda document: "\ud800",
    ],
)
def test_what_is_not_a_manifest_is_refused(path: Path, change: Any) -> None:
    path.write_text(change(json.loads(path.read_text())), errors="surrogatepass")
    with pytest.raises(ManifestError, match="is not a manifest; delete it and run `snakemake mani"):
        read_manifest(path, request())
    check_quarter(path, "2025Q3")
    assert write_manifest(path, request(), [feature("a")])
    assert list(read_manifest(path, request())) == ["a"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("id", 7), ("item", None), ("epsg", "EPSG:1"), ("gsd", "10 m"), ("gsd", float("nan"))),
        *(("gsd", -1), ("regions", "alps"), ("bands", []), ("bands", {"B04": 7}), ("dn", [])),
        ("bands", {"B04": {"href": 7, "size": 5, "checksum": None}}),
        ("bands", {"B04": {"href": "a", "size": "5", "checksum": None}}),
        ("bands", {"B04": {"href": "a", "size": 5, "checksum": 12}}),
        ("bands", {"B04": {"href": "a", "size": 5, "checksum": None, "digest": 12}}),
        ("bands", {"B04": {"href": "a"}}),
        ("geometry", {"type": "Polygon", "coordinates": []}),
        ("geometry", {"type": "Polygon", "coordinates": [[[0, 0], [float("inf"), 0], [1, 1]]]}),
        ("geometry", {"type": "Polygon", "coordinates": [[[0, 0], [10**400, 0], [1, 1]]]}),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # shapely's
def test_a_feature_that_no_search_wrote_is_refused(path: Path, key: str, value: Any) -> None:
    document = json.loads(path.read_text())
    feature = document["features"][0]
    (feature if key in feature else feature["properties"])[key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError, match="is not a manifest; delete it and run `snakemake mani"):
        read_manifest(path, request())


def test_a_path_that_cannot_be_read_or_written_is_named(path: Path) -> None:
    path.unlink()
    path.mkdir()
    with pytest.raises(ManifestError, match="is not a manifest; delete it and run `snakemake mani"):
        read_manifest(path, request())
    with pytest.raises(ManifestError, match=r"manifest\.geojson cannot be written: Is a directory"):
        write_manifest(path, request(), [feature("a")])


def test_a_manifest_is_on_disk_before_it_has_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, synced = path.read_bytes(), []

    def sync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, path.read_bytes() == before))

    monkeypatch.setattr(os, "fsync", sync)
    assert write_manifest(path, request(), [feature("a")])
    assert synced == [(path.stat().st_ino, True), (path.parent.stat().st_ino, False)]
