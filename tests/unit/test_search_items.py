"""Searches of catalogs: which items are chosen, what the manifest says of them, what is refused.

The catalogs are built here, or are the genuine records of real_data.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import mapping, shape

from basemake.build.config import read_source
from basemake.build.manifest import describe_request, read_manifest
from basemake.build.quarter import Quarter
from basemake.errors import BandError, ManifestError
from basemake.web.addresses import allowed_hosts, check_url, local_path
from search_items import search_items
from sources import source

REGIONS = {"here": shapely.box(9.2, 45.2, 9.8, 45.8)}


def item(tile: str = "32TNR_0_0", box: tuple = (9, 45, 10, 46), **properties: Any) -> dict:
    """An item of 2025Q3 whose bands are files beside the catalog."""
    return {
        "type": "Feature",
        "id": f"Sentinel-2_mosaic_2025_Q3_{tile}",
        "properties": {
            "start_datetime": "2025-07-01T00:00:00Z",
            "updated": "2025-10-15T12:00:00.000Z",
            "gsd": 10,
            "proj:code": "EPSG:32632",
            **properties,
        },
        "geometry": mapping(shapely.box(*box)),
        "assets": {band: {"href": f"./bands/{band}.tif"} for band in ("B02", "B03", "B04")},
    }


class Search:
    """Searches catalogs of items, and keeps the table that the last search gave."""

    table = ""

    def __call__(
        self,
        items: Any,
        regions: dict[str, Any] | None = None,
        quarter: str = "2025Q3",
        fill: int | list[str] = 0,
        **changes: Any,
    ) -> dict[str, dict]:
        """Return tile -> properties, as written."""
        collection = {"type": "FeatureCollection", "features": items}
        text = items if isinstance(items, str) else json.dumps(collection)
        Path("items.json").write_text(text)
        path = Path("manifest.geojson")
        self.table = search_items(
            source(**changes), Quarter.parse(quarter), regions or REGIONS, path, fill
        )
        features = json.loads(path.read_text())["features"]
        return {feature["id"]: feature["properties"] for feature in features}


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bands").mkdir()
    for band in ("B02", "B03", "B04"):
        (tmp_path / "bands" / f"{band}.tif").write_bytes(b"1234567")
    return Search()


def refused(search: Search, catalog: Any, **changes: Any) -> str:
    """Return the one sentence that refuses a catalog."""
    with pytest.raises(ManifestError) as refusal:
        search(catalog, **changes)
    text = str(refusal.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert not re.search(r"\. [A-Z]", text), text
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    assert not Path("manifest.geojson").exists()
    return text


# -- Which items are chosen -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quarter", "begin", "chosen"),
    [
        ("2025Q3", "2025-07-01T00:00:00Z", True),
        ("2025Q3", "2025-09-30T23:59:59.999Z", True),
        ("2025Q3", "2025-10-01T00:00:00Z", False),
        ("2025Q3", "2025-06-30T23:59:59Z", False),
        ("2025Q3", "2025-07-01T01:00:00+02:00", False),
        ("2025Q3", "2025-07-01", True),
        ("2025Q4", "2025-12-31T23:59:59Z", True),
        ("2025Q4", "2026-01-01T00:00:00Z", False),
        ("2024Q4", "2025-10-01T00:00:00Z", False),
    ],
)
@pytest.mark.parametrize("member", ["start_datetime", "datetime"])
def test_items_that_begin_in_the_quarter(
    search: Search, quarter: str, begin: str, chosen: bool, member: str
) -> None:
    times = {"start_datetime": None, "datetime": None, member: begin}
    inside = item("32TNR_0_0", start_datetime=f"{Quarter.parse(quarter).span()[0]:%Y-%m}-15")
    found = search([inside, item("32TNS_0_0", **times)], quarter=quarter)
    assert set(found) == {"32TNR_0_0"} | ({"32TNS_0_0"} if chosen else set())


def test_of_two_items_of_a_tile_the_newest_is_taken(search: Search) -> None:
    old = item(updated="2025-10-15T12:00:00Z")
    new = {**item(updated="2025-10-15T13:30:00+01:00"), "id": "32TNR_0_0"}
    for items in ([old, new], [new, old]):
        assert search(items)["32TNR_0_0"]["item"] == "32TNR_0_0"
    new["properties"]["updated"] = "2025-10-15T12:30:00+01:00"
    assert search([old, new])["32TNR_0_0"]["item"] == old["id"]
    del old["properties"]["updated"]
    assert search([old, new])["32TNR_0_0"]["item"] == "32TNR_0_0"


def test_of_items_as_new_as_each_other_the_last_by_id_is_taken(search: Search) -> None:
    first, last = {**item(), "id": "32TNR_0_0"}, item()
    assert first["id"] < last["id"]
    for items in ([first, last], [last, first]):
        assert search(items)["32TNR_0_0"]["item"] == last["id"]


def spring(tile: str = "32TNR_0_0", **properties: Any) -> dict:
    """An item of the quarter before."""
    properties = {"start_datetime": "2025-04-01T00:00:00Z", **properties}
    return {**item(tile, **properties), "id": f"Sentinel-2_mosaic_2025_Q2_{tile}"}


def test_other_quarters_fill_a_tile_and_show_one_that_the_first_lacks(search: Search) -> None:
    items = [item(), spring(), spring("32TNQ_0_0", **{"proj:code": "EPSG:32632"})]
    tiles = search(items, fill=["2024Q3", "2025Q2"])
    assert [line for line in search.table.splitlines() if "fill" in line] == [
        "WARNING: fill has 2024Q3, of which the source has no items here"
    ]
    assert tiles["32TNR_0_0"]["item"] == "Sentinel-2_mosaic_2025_Q3_32TNR_0_0"
    [further] = tiles["32TNR_0_0"]["fill"]
    assert further["item"] == "Sentinel-2_mosaic_2025_Q2_32TNR_0_0"
    assert further["bands"].keys() == {"B02", "B03", "B04"}
    assert tiles["32TNQ_0_0"]["item"] == "Sentinel-2_mosaic_2025_Q2_32TNQ_0_0"
    assert "fill" not in tiles["32TNQ_0_0"]
    # Without it the manifest is as it was.
    assert search(items).keys() == {"32TNR_0_0"}
    assert "fill" not in Path("manifest.geojson").read_text()


def test_further_items_of_a_tile_are_taken_in_the_order_of_choose(search: Search) -> None:
    (Path("bands") / "SCL.tif").write_bytes(b"123")
    items = []
    for number, box in enumerate(((9, 45, 10, 46), (9.5, 45, 10, 46), (9, 45, 9.4, 46))):
        one = item(f"32TNR_{number}", box, **{"eo:cloud_cover": 10 * number})
        one["assets"]["SCL"] = {"href": "./bands/SCL.tif"}
        items.append(one)
    changes = {
        "choose": ["eo:cloud_cover"],
        "id_pattern": "^Sentinel-2_mosaic_2025_Q3_(?P<tile>[0-9A-Z]{5})_[0-9]$",
        "mask": {"asset": "SCL", "invalid": [0, 9]},
    }
    for number in (1, 2, 5):
        found = search(items, fill=number, **changes)["32TNR"]
        names = [found["item"], *(further["item"] for further in found["fill"])]
        assert names == [one["id"] for one in items[: number + 1]]
        assert all("SCL" in further["bands"] for further in (found, *found["fill"]))
        assert "fill" not in search.table
    search(items[:1], fill=2, **changes)
    assert "WARNING: fill is 2, but no tile has a further item in 2025Q3\n" in search.table
    found = search(items, **changes)["32TNR"]
    assert "SCL" not in found["bands"]  # a mask is of use only where something fills


def test_a_tile_reaches_as_far_as_all_of_its_items(search: Search) -> None:
    changes = {"id_pattern": "^Sentinel-2_mosaic_2025_Q3_(?P<tile>[0-9A-Z]{5})_[0-9]$"}
    items = [item("32TNR_2", (9, 45, 9.5, 46)), item("32TNR_1", (9.4, 45, 10, 46))]
    search(items, fill=1, **changes)
    [feature] = json.loads(Path("manifest.geojson").read_text())["features"]
    assert shape(feature["geometry"]).bounds == (9, 45, 10, 46)


def test_items_in_another_crs_fill_nothing(search: Search) -> None:
    found = search([item(), spring(**{"proj:code": "EPSG:32633"})], fill=["2025Q2"])
    assert "fill" not in found["32TNR_0_0"]


def test_a_build_that_fills_otherwise_searches_again(search: Search) -> None:
    search([item(), spring()], fill=["2025Q2"])
    quarter, path = Quarter.parse("2025Q3"), Path("manifest.geojson")
    request = describe_request(source(), quarter, REGIONS, ["2025Q2"])
    [tile] = read_manifest(path, request).values()
    assert [*tile.files] == ["B04", "B03", "B02", "B04.2", "B03.2", "B02.2"]
    for fill in (0, 1, ["2024Q3"]):
        with pytest.raises(ManifestError, match="fill has changed since"):
            read_manifest(path, describe_request(source(), quarter, REGIONS, fill))


def test_items_are_taken_for_the_regions_whose_area_they_share(search: Search) -> None:
    regions = {"west": shapely.box(8.5, 45, 9, 46), "both": shapely.box(9.5, 45.5, 10.5, 45.6)}
    items = [
        item("touches_at_an_edge", (8, 45, 8.5, 46)),
        item("touches_at_a_corner", (10.5, 45.6, 11, 46)),
        item("east", (10, 45, 11, 46)),
        item("middle", (8.999, 45, 10, 46)),
        item("far", (20, 45, 21, 46)),
    ]
    found = search(items, regions)
    assert {tile: row["regions"] for tile, row in found.items()} == {
        "east": ["both"],
        "middle": ["both", "west"],
    }


def test_a_footprint_that_touches_or_crosses_itself_is_repaired(search: Search) -> None:
    """As those of items at the edge of a swath do; some have heights, too."""
    bow_tie = item()
    ring = [[9, 45, 100], [10, 46, 100], [10, 45, 100], [9, 46, 100], [9, 45, 100]]
    bow_tie["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    spike = item("32TNS_0_0")
    ring = [[9, 45], [12, 45], [10, 45], [10, 46], [9, 46], [9, 45]]
    spike["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    assert set(search([bow_tie, spike])) == {"32TNR_0_0", "32TNS_0_0"}
    regions = {"top": shapely.box(9.4, 45.8, 9.6, 45.9), "there": shapely.box(9.9, 45.4, 10, 45.5)}
    assert search([bow_tie, spike], regions)["32TNR_0_0"]["regions"] == ["there"]


def test_a_region_across_the_antimeridian_gets_tiles_of_both_sides(search: Search) -> None:
    split = shapely.MultiPolygon(
        [shapely.box(179.5, -18, 180, -17), shapely.box(-180, -18, -179.2, -17)]
    )
    across = item("01KAB_0_0")
    across["geometry"] = mapping(split)
    items = [
        across,
        item("60KYF_0_0", (178.6, -18, 179.6, -17)),
        item("30KAA_0_0", (-3, -18, 3, -17)),
    ]
    region = shapely.MultiPolygon([shapely.box(179, -17.9, 180, -17.1),
                                   shapely.box(-180, -17.9, -179.5, -17.1)])  # fmt: skip
    assert set(search(items, {"fiji": region})) == {"01KAB_0_0", "60KYF_0_0"}


def test_the_table_counts_tiles_files_and_bytes_of_each_region(search: Search) -> None:
    regions = {"north": shapely.box(9, 46, 10, 47), "both": shapely.box(9, 45.5, 10, 46.5)}
    sized = item("b", (9, 46, 10, 47))
    for asset in sized["assets"].values():
        asset["file:size"] = 150_000_000
    search([item("a"), sized], regions)
    lines = [line.split() for line in search.table.splitlines()]
    assert lines[1] == ["both", "2", "6", "450.0", "MB", "0.0%"]
    assert lines[2] == ["north", "1", "3", "450.0", "MB", "0.0%"]
    assert lines[3][:3] == ["all", "2", "6"]


def test_the_share_without_tiles_is_of_the_area_on_the_sphere(search: Search) -> None:
    """Of 0 to 60 degrees, 0 to 30 are sin 30 / sin 60 of the area."""
    search([item("a", (0, 0, 40, 30))], {"tall": shapely.box(10, 0, 20, 60)})
    assert search.table.splitlines()[1].endswith(" 42.3%")
    search([item("a", (0, 0, 15, 60))], {"tall": shapely.box(10, 0, 20, 60)})
    assert search.table.splitlines()[1].endswith(" 50.0%")


# -- What the manifest says -----------------------------------------------------------------------


def test_the_manifest_is_the_same_whatever_the_order_and_is_not_written_twice(
    search: Search,
) -> None:
    items = [item("b"), item("a"), item("c", (9.5, 45, 10.5, 46))]
    search(items)
    assert "written" in search.table
    path = Path("manifest.geojson")
    before = path.read_bytes()
    os.utime(path, ns=(1, 1))
    search(items[::-1])
    assert "unchanged" in search.table
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, 1)
    tiles = read_manifest(path, describe_request(source(), Quarter(2025, 3), REGIONS))
    assert list(tiles) == ["a", "b", "c"]


def test_bands_are_files_relative_to_the_working_directory(search: Search) -> None:
    given = item()
    given["assets"]["B04"].update({"file:size": 9, "file:checksum": "1220ab"})
    given["assets"]["B03"]["href"] = Path("bands/B03.tif").resolve().as_uri()
    given["assets"]["B08"] = {"href": "s3://not/asked/for.tif"}
    digest = hashlib.sha256(b"1234567").hexdigest()
    assert search([given])["32TNR_0_0"]["bands"] == {
        "B04": {"href": "bands/B04.tif", "size": 9, "checksum": "1220ab", "digest": digest},
        "B03": {"href": "bands/B03.tif", "size": 7, "checksum": None, "digest": digest},
        "B02": {"href": "bands/B02.tif", "size": 7, "checksum": None, "digest": digest},
    }


def test_a_file_that_is_replaced_is_told_apart_and_one_that_is_touched_is_not(
    search: Search,
) -> None:
    given, path = [item()], Path("bands/B03.tif")
    before, time = search(given), path.stat().st_mtime_ns
    os.utime(path, ns=(1, 1))
    assert search(given) == before
    assert "unchanged" in search.table
    path.write_bytes(b"7654321")
    os.utime(path, ns=(time, time))
    bands, old = search(given)["32TNR_0_0"]["bands"], before["32TNR_0_0"]["bands"]
    assert [band for band in bands if bands[band] != old[band]] == ["B03"]


def test_the_simulated_world_is_the_same_whenever_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulated = replace(read_source("simulated"), pixel_size=360)
    manifest = Path("manifest.geojson")
    assert "written" in search_items(simulated, Quarter(2025, 3), REGIONS, manifest)
    assert "unchanged" in search_items(simulated, Quarter(2025, 3), REGIONS, manifest)
    shutil.rmtree("simulated")
    assert "unchanged" in search_items(simulated, Quarter(2025, 3), REGIONS, manifest)


@pytest.mark.parametrize("level", ["item", "asset"])
@pytest.mark.parametrize(
    "crs",
    [
        {"proj:code": "EPSG:32632"},
        {"proj:epsg": 32632},
        {"proj:code": None, "proj:epsg": 32632},
    ],
)
def test_the_crs_is_found_wherever_items_say_it(search: Search, level: str, crs: dict) -> None:
    given = item()
    del given["properties"]["proj:code"]
    (given["properties"] if level == "item" else given["assets"]["B04"]).update(crs)
    assert search([given])["32TNR_0_0"]["epsg"] == 32632


@pytest.mark.parametrize(
    ("asset", "properties", "gsd"),
    [
        ({}, {"gsd": 10}, 10),
        ({"gsd": 20}, {"gsd": 10}, 20),
        ({"proj:transform": [30, 0, 1, 0, -30, 2], "gsd": 20}, {}, 30),
        ({"gsd": 20}, {"proj:transform": [30, 0, 1, 0, -30, 2]}, 30),
        ({}, {"gsd": None}, None),
        ({}, {"gsd": "10 m"}, None),
        ({}, {"gsd": 0}, None),
        ({}, {"gsd": True}, None),
        ({}, {"gsd": float("inf")}, None),
        ({}, {"gsd": 10**400}, None),
        ({"proj:transform": 30}, {"gsd": 10}, 10),
        ({"proj:transform": {"a": 1}}, {"gsd": 10}, 10),
        ({"proj:transform": "30"}, {"gsd": 10}, 10),
        ({"proj:transform": [None]}, {"gsd": 10}, None),
    ],
)
def test_the_pixel_size_is_found_wherever_items_say_it(
    search: Search, asset: dict, properties: dict, gsd: Any
) -> None:
    given = item(**properties)
    given["assets"]["B04"].update(asset)
    assert search([given])["32TNR_0_0"]["gsd"] == gsd


def test_the_source_says_which_assets_and_how_ids_name_tiles(search: Search) -> None:
    given = item()
    given["id"] = "LC08_L2SP_193029"
    given["assets"] = {name: {"href": "bands/B02.tif"} for name in ("red", "green", "blue")}
    found = search(
        [given],
        bands={"red": "red", "green": "green", "blue": "blue"},
        id_pattern="LC08_L2SP_(?P<tile>[0-9]{6})",
    )
    assert list(found) == ["193029"]
    assert list(found["193029"]["bands"]) == ["red", "green", "blue"]


# -- What is refused ------------------------------------------------------------------------------


def changed(key: str, value: Any) -> dict:
    """Return an item in which `key`, a path with slashes, is `value`, or gone if that is `...`."""
    given = item()
    place: Any = given
    *parents, last = key.split("/")
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return given


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("id", "../32TNR", "item '../32TNR' does not match the source's id_pattern '^(?:"),
        ("id", "32TNR_0_0\n", r"item '32TNR_0_0\n' does not match the source's id_pattern"),
        ("id", "", "item '' does not match"),
        ("id", None, "feature 2 of the source's items items.json is not a STAC item: it needs id"),
        ("properties", None, "feature 2 of the source's items items.json is not a STAC item"),
        ("assets", ..., "feature 2 of the source's items items.json is not a STAC item"),
        ("assets/B03", "B03.tif", "feature 2 of the source's items items.json is not a STAC item"),
        ("assets/B03/href", ..., "properties, and assets that have an href"),
        ("assets/B03", ..., "has no asset 'B03'; it has: B02, B04; check the source's bands"),
        ("assets", {}, "has no asset 'B04'; it has: none; check the source's bands"),
        ("properties/proj:code", ..., "has no CRS: neither proj:code (such as EPSG:32633) nor"),
        ("properties/proj:code", "IAU:1", "has no CRS"),
        ("properties/start_datetime", "July", "has the time 'July'; allowed: such as 2025-07-01T"),
        ("properties/start_datetime", 2025, "has the time 2025; allowed"),
        ("properties/start_datetime", ..., "has the time None; allowed"),
        ("geometry", None, "has a geometry that is not a polygon of finite coordinates"),
        ("geometry", {"type": "Point", "coordinates": [9, 45]}, "has a geometry that is not a pol"),
        ("geometry", {"type": "Polygon", "coordinates": [[[9, 45], [1]]]}, "has a geometry that"),
        ("geometry", {"type": "Polygon", "coordinates": []}, "has a geometry that is not a polyg"),
        (
            "geometry",
            {"type": "Polygon", "coordinates": [[[9, 45], [float("inf"), 45], [9, 46], [9, 45]]]},
            "has a geometry that is not a polygon of finite coordinates",
        ),
        ("assets/B02/href", "../B02.tif", "asset 'B02': ../B02.tif is outside .; a catalog's fil"),
        ("assets/B02/href", "/etc/hostname", "asset 'B02': /etc/hostname is outside ."),
        ("assets/B02/href", "file:///etc/hostname", "is outside .; a catalog's files must lie"),
        ("assets/B02/href", "bands/gone.tif", "gone.tif does not exist; check the catalog"),
        ("assets/B02/href", "bands", "bands does not exist; check the catalog"),
        ("assets/B02/href", "/vsicurl/http://x.org/B02.tif", "is outside ."),
        ("assets/B02/href", "s3://eodata/B02.tif", "has the scheme 's3'; allowed: http, https"),
        ("assets/B02/href", "http://x.org/B02.tif", "is at the host 'x.org'; allowed by the sourc"),
        (
            "assets/B02/href",
            "http://[x/B02.tif",
            "'B02': 'http://[x/B02.tif' is not a valid href",
        ),
        ("assets/B02/href", "bands\0", "is not a valid href"),
        ("assets/B02/file:size", "7", "asset 'B02': file:size is '7'; allowed: bytes"),
        ("assets/B02/file:size", -1, "file:size is -1; allowed: bytes"),
        ("assets/B02/file:size", 7.5, "file:size is 7.5; allowed: bytes"),
        ("assets/B02/file:size", True, "file:size is True; allowed: bytes"),
        ("assets/B02/file:size", 10**400, "0; allowed: bytes"),
        ("assets/B02/file:checksum", 1220, "file:checksum is 1220; allowed: a multihash as text"),
        ("assets/B02/file:checksum", ["12"], "file:checksum is ['12']; allowed: a multihash"),
        ("assets/B02/href", 7, "feature 2 of the source's items items.json is not a STAC item"),
        ("assets/B02/href", "http://[::1", "'http://[::1' is not a valid href"),
        ("id", 7, "feature 2 of the source's items items.json is not a STAC item"),
        ("properties/proj:code", "EPSG:99999", "has the CRS 'EPSG:99999', which PROJ does not kn"),
        ("properties/proj:code", ["EPSG:32632"], "has no CRS"),
        ("geometry", {"type": "Polygon", "coordinates": ""}, "has a geometry that is not a pol"),
        ("geometry", {"type": "Polygon", "coordinates": {"a": 1}}, "has a geometry that is not a"),
        (
            "geometry",
            {"type": "Polygon", "coordinates": [[[9, 45], [10**400, 45], [9, 46], [9, 45]]]},
            "has a geometry that is not a polygon of finite coordinates",
        ),
        (
            "geometry",
            {"type": "Polygon", "coordinates": [[[9, 45], [1e300, 45], [9, 46], [9, 45]]]},
            "has a geometry that is not a polygon of finite coordinates",
        ),
        (
            "geometry",
            {"type": "Polygon", "coordinates": [[[9.5, 45], [9.5 + 1e-8, 45], [9.5, 46]]]},
            "has a geometry that is not a polygon of finite coordinates",
        ),
    ],
)
def test_an_item_that_is_not_as_the_source_says_is_named(
    search: Search, key: str, value: Any, said: str
) -> None:
    given = changed(key, value)
    text = refused(search, [item("32TNS_0_0"), given])
    assert said in text
    if not text.startswith("feature 2"):
        assert text.startswith(f"item {given['id']!r}")


def test_of_two_items_a_bad_time_of_update_is_named(search: Search) -> None:
    twin = {**item(updated="lately"), "id": "32TNR_0_0"}
    assert "item '32TNR_0_0' has the time 'lately'" in refused(search, [item(), twin])


def test_a_symbolic_link_out_of_the_folder_is_not_followed(search: Search, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}_outside.tif"
    outside.write_bytes(b"secret")
    Path("bands/link.tif").symlink_to(outside)
    text = refused(search, [changed("assets/B02/href", "bands/link.tif")])
    assert "bands/link.tif is outside ." in text


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", '{"features": 5}', '{"features": null}', "[" * 100_000, "1" * 5000],
)
def test_what_is_no_catalog_is_named(search: Search, text: str) -> None:
    said = refused(search, text)
    assert said == "the source's items items.json are not an ItemCollection (GeoJSON)."


def test_a_missing_catalog_is_named(search: Search) -> None:
    gone = source(items="gone/items.json")
    with pytest.raises(ManifestError) as refusal:
        search_items(gone, Quarter(2025, 3), REGIONS, Path("manifest.geojson"))
    said = "the source's items gone/items.json cannot be read: No such file or directory; allowed"
    assert str(refusal.value).startswith(said)
    assert str(Path.cwd()) in str(refusal.value)


def test_a_gap_is_warned_of_with_its_share_and_the_missing_tiles(search: Search) -> None:
    box = (9, 45.1, 10.25, 46.1)
    search([item("32TNR_0_0", box)])
    assert "WARNING" not in search.table
    wide = {"here": shapely.box(9.5, 45.2, 11, 45.8)}
    search([item("32TNR_0_0", box)], regions=wide)
    (line,) = [line for line in search.table.splitlines() if line.startswith("WARNING")]
    said = "50.0% of region 'here' is not covered: the source has no items for 32TPR_0_0"
    assert line == f"WARNING: {said}"
    # Tiles of other names, as those of Landsat, cannot be named.
    search([item("192028", box)], regions=wide)
    assert search.table.splitlines()[-2].endswith("has no items there")


def test_swapped_longitude_and_latitude_are_suspected_where_they_would_be_covered(
    search: Search,
) -> None:
    swapped = {"here": shapely.box(45.2, 9.2, 45.8, 9.8)}
    assert "longitude and latitude swapped? so it would" in refused(
        search, [item()], regions=swapped
    )
    elsewhere = {"here": shapely.box(45.2, 11.2, 45.8, 11.8)}
    assert "swapped" not in refused(search, [item()], regions=elsewhere)


def test_a_region_without_tiles_is_told_what_was_searched(search: Search) -> None:
    regions = {**REGIONS, "sea": shapely.box(-30.5, 10, -30, 11)}
    items = [item(), item("later", start_datetime="2025-10-01T00:00:00Z")]
    text = refused(search, items, regions=regions)
    assert "no tile covers region 'sea'" in text
    assert "(longitude -30.500 to -30.000, latitude 10.000 to 11.000) in 2025Q3" in text
    assert "searched items.json, 2 items, 1 of them of that time" in text
    regions = {"sea": shapely.box(10, 45, 11, 46)}  # touches the item
    assert "no tile covers region 'sea'" in refused(search, [item()], regions=regions)


# -- Web addresses --------------------------------------------------------------------------------


def test_a_catalog_of_web_addresses_needs_their_hosts(search: Search) -> None:
    given = item()
    for band, asset in given["assets"].items():
        asset["href"] = f"https://data.x.org:8443/{band}.tif?sig=1"
    assert "'data.x.org:8443'; allowed by the source: none; if" in refused(search, [given])
    assert "allowed by the source: y.org; if" in refused(search, [given], hosts=["y.org"])
    for host in ("data.x.org", "data.x.org:8443", "DATA.X.ORG"):
        found = search([given], hosts=[host])["32TNR_0_0"]["bands"]["B02"]
        assert found == {
            "href": "https://data.x.org:8443/B02.tif?sig=1", "size": None, "checksum": None,
        }  # fmt: skip
        assert " unknown " in search.table
        Path("manifest.geojson").unlink()
    assert "'data.x.org:8443'" in refused(search, [given], hosts=["data.x.org:443"])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://x.org/a.tif", "has the scheme 'ftp'; allowed: http, https"),
        ("/etc/hostname", "has the scheme ''; allowed: http, https"),
        ("a.tif", "has the scheme ''; allowed: http, https"),
        ("file:///etc/hostname", "has the scheme 'file'; allowed: http, https"),
        ("https://evil.org/x.org/a.tif", "is at the host 'evil.org'"),
        ("https://x.org.evil.org/a.tif", "is at the host 'x.org.evil.org'"),
        ("https://evil.org\\.x.org/a.tif", "is at the host"),
        ("https://evilx.org/a.tif", "is at the host 'evilx.org'"),
        ("https:///a.tif", "is at the host ''"),
        ("https://z.org:80/a.tif", "is at the host 'z.org:80'"),
    ],
)
def test_only_web_addresses_at_the_sources_own_hosts_pass(url: str, said: str) -> None:
    hosts = allowed_hosts(source(url="https://stac.x.org:8080/v1/", hosts=["X.org", "z.org:81"]))
    assert hosts == {"stac.x.org:8080", "x.org", "z.org:81"}
    for fine in ("https://x.org/a", "http://X.ORG:99/a", "http://z.org:81/a"):
        check_url(fine, hosts)
    with pytest.raises(BandError) as refusal:
        check_url(url, hosts)
    assert said in str(refusal.value)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(BandError) as refusal:
        check_url("https://me:secret@x.org/a.tif", {"x.org"})
    assert "credentials" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("name", ["a b.tif", "ä%20.tif", "#1?.tif"])
def test_file_names_are_taken_as_they_are_and_file_urls_are_decoded(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.touch()
    assert local_path(path.as_uri(), tmp_path) == path
    assert local_path(str(path), tmp_path) == path
    assert local_path(f"./{name}", tmp_path) == path


# -- STAC APIs ------------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[Any]:
    """A STAC API on this machine: `url`, the `pages` of items it answers with, and `asked`."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, document: dict, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def do_GET(self) -> None:
            conforms = [
                f"https://api.stacspec.org/v1.0.0/{name}" for name in ("core", "item-search")
            ]
            link = {"rel": "search", "href": f"{api.url}search", "type": "application/geo+json"}
            self.answer(
                {"type": "Catalog", "id": "a", "description": "a", "stac_version": "1.1.0",
                 "conformsTo": conforms, "links": [{**link, "method": "POST"}]}
            )  # fmt: skip

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.asked.append(asked)
            if not api.pages:
                return self.answer({"code": "Overloaded"}, 400)
            number = asked.get("token", 0)
            following = {"rel": "next", "href": f"{api.url}search", "method": "POST",
                         "body": {**asked, "token": number + 1}}  # fmt: skip
            links = [following] if number + 1 < len(api.pages) else []
            page = {"type": "FeatureCollection", "features": api.pages[number], "links": links}
            return self.answer(page)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api = SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/v1/", pages=[], asked=[])
        Thread(target=server.serve_forever, daemon=True).start()
        yield api
        server.shutdown()


def search_api(api: Any) -> dict[str, dict]:
    asked = source(type="api", url=api.url, collection="mosaics")
    search_items(asked, Quarter(2025, 3), REGIONS, Path("manifest.geojson"))
    features = json.loads(Path("manifest.geojson").read_text())["features"]
    return {feature["id"]: feature["properties"] for feature in features}


def published(tile: str, href: str, own: str | None = None, **properties: Any) -> dict:
    """An item of an API, whose own address is `own`."""
    given = item(tile, datetime="2025-07-01T00:00:00Z", **properties)
    links = [{"rel": "self", "href": own}] if own else []
    assets = {band: {"href": href.format(band)} for band in given["assets"]}
    return {**given, "stac_version": "1.1.0", "links": links, "assets": assets,
            "bbox": [9, 45, 10, 46]}  # fmt: skip


def test_an_api_is_searched_to_its_last_page(search: Search, api: Any) -> None:
    at_home = api.url + "{}.tif"
    later = published("c", at_home, start_datetime="2025-10-01T00:00:00Z")
    api.pages = [[published("a", at_home)], [published("b", at_home), later], []]
    found = search_api(api)
    assert set(found) == {"a", "b"}
    assert found["a"]["bands"]["B04"]["href"] == f"{api.url}B04.tif"
    assert len(api.asked) == 3
    assert api.asked[0]["collections"] == ["mosaics"]
    assert api.asked[0]["datetime"] == "2025-07-01T00:00:00Z/2025-09-30T23:59:59Z"
    assert shapely.geometry.shape(api.asked[0]["intersects"]).equals(REGIONS["here"])


def test_an_items_own_address_is_kept_if_it_is_on_the_web_and_holds_no_secret(
    search: Search, api: Any
) -> None:
    login = api.url.replace("://", "://user:word@")
    own = {
        "a": f"{api.url}items/a",
        "b": f"{login}items/b",
        "c": f"{api.url}items/c?sig=123",
        "d": "s3://bucket/items/d",
        "e": None,
    }
    api.pages = [[published(tile, f"{api.url}{{}}.tif", address) for tile, address in own.items()]]
    found = search_api(api)
    assert {tile: found[tile].get("address") for tile in own} == {
        **dict.fromkeys(own),
        "a": own["a"],
    }


def test_hrefs_relative_to_an_items_own_address_are_web_addresses(search: Search, api: Any) -> None:
    api.pages = [[published("a", "../data/{}.tif", f"{api.url}items/a")]]
    assert search_api(api)["a"]["bands"]["B04"]["href"] == f"{api.url}data/B04.tif"


@pytest.mark.parametrize("href", ["bands/{}.tif", "/etc/hostname", "file:///etc/hostname"])
def test_an_api_cannot_name_files_of_this_machine(search: Search, api: Any, href: str) -> None:
    api.pages = [[published("a", href)]]
    with pytest.raises(ManifestError, match=r"asset 'B04': .* has the scheme '(file)?'; allowed"):
        search_api(api)
    assert not Path("manifest.geojson").exists()


def test_an_api_that_refuses_is_named(search: Search, api: Any) -> None:
    with pytest.raises(ManifestError, match=r"^the search at http://127.* failed .*Overloaded"):
        search_api(api)


# -- Genuine records ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lon_lat", "quarter", "epsg"),
    [
        ("2024_Q1_17RLM_0_0", (-82.5, 28.5), "2024Q1", 32617),
        ("2024_Q1_53MKS_0_0", (132.7, -3.2), "2024Q1", 32753),
        ("2024_Q1_54GXU_0_0", (142.8, -42.0), "2024Q1", 32754),
        ("2024_Q2_39UUP_0_0", (49.0, 48.3), "2024Q2", 32639),
    ],
)
def test_a_genuine_item_gives_the_mirrors_addresses(
    search: Search, real_data: Path, name: str, lon_lat: tuple, quarter: str, epsg: int
) -> None:
    """Items of the Copernicus Data Space: their own hrefs are s3://, their proj:bbox is wrong."""
    folder = real_data / "stac" / "cdse_items"
    items = [json.loads(path.read_text()) for path in sorted(folder.glob("Sentinel-2_*.json"))]
    assert len(items) == 5
    Path("items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    mirrored = replace(read_source("cdse"), type="catalog", items="items.json")
    regions = {"spot": shapely.Point(lon_lat).buffer(0.05)}
    search_items(mirrored, Quarter.parse(quarter), regions, Path("manifest.geojson"))
    (found,) = json.loads(Path("manifest.geojson").read_text())["features"]
    year, q, tile = re.fullmatch(r"(\d{4})_(Q\d)_(\w+)", name).groups()
    genuine = next(item for item in items if item["id"].endswith(name))
    assert (found["id"], found["properties"]["epsg"], found["properties"]["gsd"]) == (
        tile,
        epsg,
        10,
    )
    assert found["properties"]["updated"] == genuine["properties"]["updated"]
    assert found["properties"]["bands"]["B04"] == {
        "href": "https://data.source.coop/tge-labs/sentinel-2-quarterly-cloudless-mosaics/"
        f"{year}/{q}/{tile}/B04.tif",
        "size": genuine["assets"]["B04"]["file:size"],
        "checksum": None,
    }
    own = replace(mirrored, href=None)
    with pytest.raises(ManifestError, match=r"asset 'B04': s3://eodata/.* has the scheme 's3'"):
        search_items(own, Quarter.parse(quarter), regions, Path("manifest.geojson"))


def test_the_real_mosaic_is_found_with_sizes_and_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    items = real_data / "real_mosaic" / "items.json"
    overlap = {"border": shapely.box(15.3, 45.8, 15.6, 46.2)}
    table = search_items(
        source(items=str(items)), Quarter(2023, 3), overlap, Path("manifest.geojson")
    )
    features = json.loads(Path("manifest.geojson").read_text())["features"]
    assert [feature["id"] for feature in features] == ["33TWL_0_0", "33TWM_0_0"]
    sizes = 0
    for feature in features:
        assert feature["properties"]["epsg"] == 32633
        assert feature["properties"]["gsd"] == 120
        for band in feature["properties"]["bands"].values():
            assert Path(band["href"]).stat().st_size == band["size"]
            assert re.fullmatch("1220[0-9a-f]{64}", band["checksum"])
            sizes += band["size"]
    assert f"{sizes / 1e6:.1f} MB" in table
    assert table.splitlines()[1].endswith(" 0.0%")


def test_only_items_with_the_wanted_properties_are_looked_at(search: Search) -> None:
    striped = item(platform="landsat-7")
    plain = item("32TPR_0_0", platform="landsat-8")
    found = search([striped, plain], only={"platform": ["landsat-8", "landsat-9"]})
    assert list(found) == ["32TPR_0_0"]


def test_values_that_cannot_be_put_in_order_are_named(search: Search) -> None:
    given = [item(cloud=3), item("32TPR_0_0", cloud="little")]
    assert "'cloud'" in refused(search, given, choose=["cloud"])


def test_a_file_here_knows_its_grid_better_than_its_item(search: Search, write_geotiff) -> None:
    for band in ("B02", "B03", "B04"):
        path = Path("bands") / f"{band}.tif"
        write_geotiff(path, np.zeros((4, 4), np.int16), pixel=120.0, epsg=32633)
    said = item(gsd=10)
    del said["properties"]["proj:code"]
    (row,) = search([said]).values()
    assert (row["epsg"], row["gsd"]) == (32633, 120)
