"""Searches of a STAC API: all pages or one sentence, whatever the service is like.

The service is a real server on loopback that searches its items, and misbehaves as it is told.
"""

import gzip
import json
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import mapping, shape

from basemake.build.manifest import dn_reading
from basemake.build.quarter import Quarter
from basemake.build.source import Source
from basemake.errors import BasemakeError
from basemake.system.shared_state import RUN_BEGAN
from basemake.web.stac import short_enough
from search_items import search_items
from servers import (
    Answer,
    FaultyServer,
    StacServer,
    cut,
    http_date,
    redirect,
    reset,
    rustac_serve,
    stall,
    status,
)
from sources import source as a_source

QUARTER = Quarter(2025, 3)
EVERYWHERE = {"row": shapely.box(0, 0.2, 40, 0.4)}
MOSAIC = r"^Sentinel-2_mosaic_[0-9]{4}_Q[1-4]_(?P<tile>[0-9]{2}[A-Z]{3}_[0-9]_[0-9])$"


def footprint(west: float, south: float = 0, width: float = 0.1, height: float = 1) -> dict:
    return mapping(shapely.box(west, south, west + width, south + height))


def item(item_id: str, geometry: dict, **properties: Any) -> dict:
    """An item whose bands are at an allowed host."""
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": item_id,
        "collection": "mosaics",
        "properties": {"datetime": "2025-07-01T00:00:00Z", "proj:code": "EPSG:32632", **properties},
        "geometry": geometry,
        "bbox": list(shape(geometry).bounds),
        "links": [],
        "assets": {
            band: {"href": f"https://bands.example/{item_id}/{band}.tif", "file:size": 1000}
            for band in ("B02", "B03", "B04")
        },
    }


def name(number: int) -> str:
    """The tile of item `number`: no two alike."""
    letters = "ABCDEFGHJK"
    hundreds, tens, ones = number // 100, number // 10 % 10, number % 10
    return f"3{hundreds}T{letters[tens]}{letters[ones]}_0_0"


def mosaics(count: int, quarter: Quarter = QUARTER) -> list[dict]:
    """Items of a quarter, in a row along the equator."""
    year, month = quarter.year, 3 * quarter.number - 2
    times = {
        "datetime": f"{year}-{month:02}-01T00:00:00Z",
        "start_datetime": f"{year}-{month:02}-01T00:00:00Z",
        "end_datetime": f"{year}-{month + 2:02}-30T23:59:59Z",
        "updated": f"{year}-{month + 2:02}-30T00:00:00Z",
    }
    return [
        item(
            f"Sentinel-2_mosaic_{year}_Q{quarter.number}_{name(n)}",
            footprint(n / 10),
            **times,
        )
        for n in range(count)
    ]


def api(url: str, limits: dict | None = None, **changes: Any) -> Source:
    """A source that searches an API, patient for some seconds only."""
    settings = {
        "type": "api",
        "url": url,
        "collection": "mosaics",
        "id_pattern": MOSAIC,
        "hosts": ["bands.example"],
        "limits": {
            "requests_per_minute": 60_000,
            "patience_seconds": 3,
            "longest_wait_seconds": 0.05,
            "stall": {"bytes_per_second": 1000, "seconds": 0.5},
            **(limits or {}),
        },
        **changes,
    }
    return a_source(**settings)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def serve() -> Iterator[Callable[..., StacServer]]:
    """A function that starts a StacServer; all stop at the end."""
    running: list[StacServer] = []

    def start(items: list[dict] | None = None, **options: Any) -> StacServer:
        running.append(StacServer(items, **options).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


def search(
    source: Source, regions: dict[str, Any] = EVERYWHERE, quarter: Quarter = QUARTER
) -> dict[str, dict]:
    """Search, and return tile -> properties as the manifest has them."""
    path = Path("manifest.geojson")
    search_items(source, quarter, regions, path)
    return {f["id"]: f["properties"] for f in json.loads(path.read_text())["features"]}


def refusal(source: Source, regions: dict[str, Any] = EVERYWHERE) -> str:
    """The one sentence that a search ends with, without a manifest."""
    with pytest.raises(BasemakeError) as caught:
        search(source, regions)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not Path("manifest.geojson").exists()
    return message


# -- Pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("paging", ["body", "merge", "get"])
@pytest.mark.parametrize("empty_last", [False, True])
@pytest.mark.parametrize("matched", ["right", "absent"])
def test_all_pages_are_read(serve: Callable, paging: str, empty_last: bool, matched: str) -> None:
    server = serve(mosaics(60), page=20, paging=paging, empty_last=empty_last, matched=matched)
    assert set(search(api(server.api))) == {name(n) for n in range(60)}
    assert len(server.searches()) == 3 + empty_last


def test_a_search_says_what_is_wanted_and_needs_no_secrets(serve: Callable) -> None:
    server = serve(mosaics(30))
    region = shapely.box(1.01, 0.2, 1.99, 0.4)
    found = search(api(server.api, {"page_size": 4}), {"here": region})
    assert set(found) == {name(n) for n in range(10, 20)}
    first = server.searches()[0]
    assert first["collections"] == ["mosaics"]
    assert first["limit"] == 4
    assert shape(first["intersects"]).equals(region)
    begin, end = first["datetime"].split("/")
    assert begin == "2025-07-01T00:00:00Z"
    assert "2025-09-30T23:59" < end <= "2025-10-01T00:00:00Z"
    assert not {"authorization", "cookie"} & {k for asked in server.log for k in asked.headers}
    assert all("basemake/" in asked.headers["user-agent"] for asked in server.log)


def test_items_of_other_quarters_that_a_service_gives_are_left_out(serve: Callable) -> None:
    """An item that ends where the quarter begins is in its interval, too."""
    before = mosaics(10, Quarter(2025, 2))
    for record in before:
        record["properties"]["end_datetime"] = "2025-07-01T00:00:00Z"
    server = serve(before + mosaics(20)[10:])
    assert set(search(api(server.api))) == {name(n) for n in range(10, 20)}


def test_pages_that_overlap_give_each_item_once(serve: Callable) -> None:
    server = serve(mosaics(60), page=10, overlap=3)
    assert set(search(api(server.api))) == {name(n) for n in range(60)}


def test_a_search_of_a_region_across_the_antimeridian(serve: Callable) -> None:
    west = item("Sentinel-2_mosaic_2025_Q3_01KAB_0_0", footprint(-180, -18))
    east = item("Sentinel-2_mosaic_2025_Q3_60KYF_0_0", footprint(179.9, -18))
    far = item("Sentinel-2_mosaic_2025_Q3_30KAA_0_0", footprint(0, -18))
    server = serve([west, east, far])
    both = shapely.MultiPolygon(
        [shapely.box(179.5, -17.9, 180, -17.1), shapely.box(-180, -17.9, -179.5, -17.1)]
    )
    assert set(search(api(server.api), {"fiji": both})) == {"01KAB_0_0", "60KYF_0_0"}


def test_requests_keep_the_pace(serve: Callable) -> None:
    server = serve(mosaics(50), page=5)
    search(api(server.api, {"requests_per_minute": 600, "longest_wait_seconds": 5}))
    starts = [asked.start for asked in server.log]
    assert len(starts) == 11  # the landing page, and ten
    assert starts[-1] - starts[0] >= 0.8  # of 1 s: a busy server notes the first one late


# -- Traps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stuck", ["same", "cycle", "endless"])
@pytest.mark.parametrize("matched", ["right", "absent"])
def test_a_cursor_that_does_not_advance_is_found_out(
    serve: Callable, stuck: str, matched: str
) -> None:
    server = serve(mosaics(60), page=20, stuck=stuck, matched=matched)
    assert "circle" in refusal(api(server.api))
    assert len(server.searches()) <= 4


def test_fewer_items_than_promised_are_refused(serve: Callable) -> None:
    server = serve(mosaics(60), page=20, matched="wrong")
    message = refusal(api(server.api))
    assert "67" in message
    assert "60" in message


@pytest.mark.parametrize("matched", [{"numberMatched": 3}, {"context": {"matched": 3}}])
def test_an_answer_that_is_one_item_short_is_refused(serve: Callable, matched: dict) -> None:
    server = serve()
    server.replay([{"type": "FeatureCollection", "features": mosaics(2), "links": [], **matched}])
    assert "matches 3 items and returned 2;" in refusal(api(server.api))


def test_no_items_at_all_are_told_as_such(serve: Callable) -> None:
    server = serve(mosaics(5, Quarter(2024, 1)))
    assert "no tile covers region 'row'" in refusal(api(server.api))


def test_a_polygon_too_large_for_a_request_is_simplified(serve: Callable) -> None:
    server = serve(mosaics(300), largest=40_000)
    angles = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    ragged = 0.4 + 0.05 * np.sin(angles * 40) + 0.001 * np.cos(angles * 5000)
    coast = shapely.Polygon(np.column_stack([5 + ragged * np.cos(angles), ragged * np.sin(angles)]))
    assert len(json.dumps(mapping(coast))) > 400_000
    found = search(api(server.api), {"coast": coast})
    expected = {name(n) for n in range(300) if shape(footprint(n / 10)).intersects(coast)}
    assert set(found) == expected
    assert shape(server.searches()[0]["intersects"]).covers(coast)


@pytest.mark.parametrize("islands", [0, 5, 60])
def test_a_simplified_polygon_leaves_nothing_out(islands: int) -> None:
    """A coast that is rough at all scales, and islands."""
    chance = np.random.default_rng(islands)
    angles = np.linspace(0, 2 * np.pi, 20_000 // (islands + 1), endpoint=False)
    waves = np.arange(1, angles.size // 2)
    parts = []
    for number in range(islands + 1):
        phases = chance.uniform(0, 2 * np.pi, waves.size)
        spectrum = np.concatenate([[0], waves**-1.3 * np.exp(1j * phases), [0]])
        rough = np.fft.irfft(spectrum, angles.size)
        radius = (chance.uniform(0.02, 0.2) if number else 3) * (1 + 0.5 * rough / rough.max())
        middle = chance.uniform((0, 50), (30, 60))
        ring = np.column_stack([np.cos(angles), np.sin(angles)]) * radius[:, None] + middle
        parts.append(shapely.Polygon(ring).buffer(0))
    region = shapely.union_all(parts)
    assert len(json.dumps(mapping(region))) > 300_000
    simple = short_enough(region)
    assert simple.covers(region)
    assert simple.is_valid
    assert len(json.dumps(mapping(simple))) <= 20_000


def test_a_small_polygon_stays_as_it_is() -> None:
    region = shapely.box(9, 45, 10, 46)
    assert short_enough(region).equals(region)


# -- Bad weather ----------------------------------------------------------------------------------


def test_passing_faults_in_mid_paging_lose_nothing(serve: Callable) -> None:
    server = serve(mosaics(60), page=10)
    server.script("/v1", status(503), reset(-1))
    server.script("/v1/search", status(429, 1), reset(-1), cut(100), reset(100), stall(100))
    server.script("/v1/search", status(500), status(502), status(503, 0), status(504, 30_000))
    server.script("/v1/search", status(429, http_date(3600)))
    assert set(search(api(server.api))) == {name(n) for n in range(60)}
    assert len(server.asked("/v1/search")) == 10 + 6


def test_300_items_of_a_service_that_throttles(serve: Callable) -> None:
    server = serve(mosaics(300), page=10, paging="merge", empty_last=True)
    weather = [status(429), status(429, 1), status(503), status(504), reset(-1), reset(500)]
    server.misbehave(5, [*weather, cut(100)], share=0.5)
    # No answer is late, however busy this machine is.
    patient = {"patience_seconds": 60, "stall": {"bytes_per_second": 1000, "seconds": 30}}
    assert set(search(api(server.api, patient))) == {name(n) for n in range(300)}
    faults = [asked for asked in server.asked("/v1/search") if asked.fault != "behave"]
    assert len(faults) > 15
    assert len(server.asked("/v1/search")) == 31 + len(faults)
    assert server.most_in_flight == 1


@pytest.mark.parametrize(
    ("fault", "word"),
    [(status(429, 99_999), "429"), (status(503), "503"), (reset(-1), "connection")],
    ids=["429", "503", "reset"],
)
def test_a_service_that_is_away_for_ever_is_given_up(
    serve: Callable, fault: Any, word: str
) -> None:
    server = serve(mosaics(5))
    server.always("/v1/search", fault)
    message = refusal(api(server.api, {"patience_seconds": 0.4}))
    assert word in message
    assert server.host in message
    assert len(server.asked("/v1/search")) < 60


def test_a_service_that_cannot_be_reached_is_not_blamed_on_the_source(monkeypatch) -> None:
    monkeypatch.setenv(RUN_BEGAN, str(time.time()))
    monkeypatch.setattr("basemake.web.session.NEVER_REACHED_SECONDS", 0.1)
    said = refusal(api("http://127.0.0.1:9/"))
    assert said.startswith("cannot reach 127.0.0.1:9: are you online? (connection refused; ")


def test_a_search_that_takes_too_long_is_given_up(serve: Callable) -> None:
    server = serve(mosaics(60), page=1)
    message = refusal(api(server.api, {"search_seconds": 0.3, "requests_per_minute": 1200}))
    assert "search_seconds" in message
    assert len(server.searches()) < 20


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 413])
def test_a_refusal_is_told_and_not_repeated(serve: Callable, code: int) -> None:
    server = serve(mosaics(5))
    server.always("/v1/search", status(code))
    assert server.api in refusal(api(server.api))
    assert len(server.asked("/v1/search")) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><title>Sign in</title>",
        b"{}",
        b"[]",
        b"null",
        b'{"features": null}',
        b'{"features": [{}]}',
        b'{"features": ["item"]}',
        b'{"type": "FeatureCollection", "features": [{"id": 7}]}',
        b'{"type": "FeatureCollection", "features": [{"id": "x"}]}',
        b'{"type": "FeatureCollection", "feat',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b"1" * 5000,
        b"\xff\xfe",
        b'{"type": "Catalog", "id": 7, "stac_version": [], "description": 7, "links": 7}',
        b'{"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "", "links": []}',
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pystac-client's, which go to the log
@pytest.mark.parametrize("path", ["/v1/search", "/v1"])
def test_an_answer_that_is_none_is_one_sentence(serve: Callable, body: bytes, path: str) -> None:
    server = serve(mosaics(5))
    for method in ("GET", "POST"):
        server.routes.insert(0, (method, path, lambda asked: Answer(200, body)))
    message = refusal(api(server.api))
    assert server.api in message


@pytest.mark.parametrize("path", ["/v1/search", "/v1"])
def test_an_answer_that_is_too_large_is_one_sentence(serve: Callable, path: str) -> None:
    server = serve(mosaics(5))
    body = gzip.compress(b'{"a": "' + b" " * (300 << 20), 6)
    answer = Answer(200, body, {"Content-Encoding": "gzip"})
    for method in ("GET", "POST"):
        server.routes.insert(0, (method, path, lambda asked: answer))
    tracemalloc.start()
    try:
        message = refusal(api(server.api))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert f"{server.host} gives an answer of more than 32 MB" in message
    assert len(server.asked(path)) == 1


@pytest.mark.parametrize("href", ["/etc/hostname", "file:///etc/hostname", "http://[::1", 7])
def test_a_search_link_that_leads_elsewhere_is_one_sentence(serve: Callable, href: Any) -> None:
    """A service must not name files of this machine."""
    server = serve(mosaics(5))
    landing = json.loads(server._landing(None).body)
    for link in landing["links"]:
        if link["rel"] == "search":
            link["href"] = href
    server.landing = landing
    refusal(api(server.api))


def put(document: Any, path: tuple, value: Any) -> Any:
    """Return a copy of a document with another value at a path."""
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = put(document[path[0]], path[1:], value)
    return copy


def paths(document: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of each value in a document; of long lists, of the first two."""
    yield path
    if isinstance(document, dict | list):
        keys = document if isinstance(document, dict) else range(min(2, len(document)))
        for key in keys:
            yield from paths(document[key], (*path, key))


ODD = [None, True, -1, 1e300, float("nan"), 10**400, "", "\ud800", "http://[::1", [], {}, [[]]]


@pytest.mark.filterwarnings("ignore::UserWarning")  # pystac-client's, which go to the log
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # shapely's
def test_any_value_of_another_type_in_an_answer_is_fine_or_one_sentence(serve: Callable) -> None:
    (record,) = mosaics(1)
    asset = {"file:size": 5, "file:checksum": "1220ab", "proj:transform": [10, 0, 0, 0, -10, 0]}
    record["assets"]["B04"] |= asset
    server = serve()
    record["links"] = [{"rel": "self", "href": f"{server.api}/item"}]
    link = {"rel": "next", "href": f"{server.api}/search", "method": "POST", "body": {"token": "2"}}
    page = {"features": [record], "links": [link], "numberMatched": 1, "context": {"matched": 1}}
    last = {"features": [], "links": []}
    source = api(server.api, {"patience_seconds": 0.1})
    refusals = []
    for path in paths(page):
        if {"B02", "B03", "rel", "type"} & {*path}:
            continue
        for value in ODD:
            Path("manifest.geojson").unlink(missing_ok=True)
            server.replayed = [put(page, path, value), last]
            try:
                search(source, {"row": shapely.box(0.01, 0.2, 0.09, 0.4)})
            except BasemakeError as error:
                refusals.append(str(error))
    assert len(refusals) > 100
    assert not [text for text in refusals if "\n" in text]


def test_pages_elsewhere_are_not_followed(serve: Callable) -> None:
    server = serve(mosaics(20), page=10)
    with FaultyServer({"/v1/search": b"{}"}) as foreign:
        link = {"rel": "next", "method": "GET", "href": f"{foreign.url}/v1/search?token=2"}
        page = {"type": "FeatureCollection", "features": mosaics(10), "links": [link]}
        server.replay([page])
        assert foreign.host in refusal(api(server.api))
        server.always("/v1/search", redirect(f"{foreign.url}/v1/search"))
        assert foreign.host in refusal(api(server.api))
        assert not foreign.log


# -- Which item of a tile -------------------------------------------------------------------------

SCENES = {
    "id_pattern": r"^S2[AB]_(?P<tile>[0-9]{2}[A-Z]{3})_[0-9]{8}_[0-9]_L2A$",
    "choose": ["eo:cloud_cover", "-datetime"],
}


def scene(day: str, cloud: float | None, tile: str = "32TNR", **properties: Any) -> dict:
    times = {"datetime": f"2025-{day}T10:00:00Z"}
    if cloud is not None:
        times["eo:cloud_cover"] = cloud
    item_id = f"S2A_{tile}_2025{day.replace('-', '')}_0_L2A"
    return item(item_id, footprint(1), **times, **properties)


@pytest.mark.parametrize("reverse", [False, True])
def test_of_scenes_the_least_cloudy_then_the_newest_is_taken(
    serve: Callable, reverse: bool
) -> None:
    scenes = [
        scene("07-03", 5),
        scene("08-20", 0.5),
        scene("08-10", 0.5),
        scene("09-29", 40),
        scene("09-30", None),
        scene("06-30", 0),  # of another quarter
        scene("10-01", 0),
        scene("07-04", 99, tile="32TNS"),
    ]
    server = serve(scenes[::-1] if reverse else scenes, page=3)
    found = search(api(server.api, **SCENES))
    assert {tile: row["item"] for tile, row in found.items()} == {
        "32TNR": "S2A_32TNR_20250820_0_L2A",
        "32TNS": "S2A_32TNS_20250704_0_L2A",
    }


def test_dates_of_a_source_narrow_the_search(serve: Callable) -> None:
    scenes = [scene("07-31", 0), scene("08-01", 50), scene("08-15", 60), scene("08-16", 0)]
    server = serve(scenes)
    found = search(api(server.api, **SCENES, dates="2025-08-01/2025-08-15"))
    assert found["32TNR"]["item"] == "S2A_32TNR_20250801_0_L2A"
    assert server.searches()[0]["datetime"].startswith("2025-08-01T00:00:00Z/2025-08-15T23:59:59")


def test_rules_for_digital_numbers_look_at_items(serve: Callable) -> None:
    dn = {"scale": 0.0001, "offset": -0.1, "nodata": 0}
    dn["rules"] = [
        {"property": "earthsearch:boa_offset_applied", "equals": True, "offset": 0.0},
        {"property": "s2:processing_baseline", "below": "04.00", "offset": 0.0},
    ]
    cases = {
        "32TAA": ({"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.09"}, 0.0),
        "32TBB": (
            {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.09"},
            -0.1,
        ),
        "32TCC": ({"s2:processing_baseline": "03.01"}, 0.0),
        "32TDD": ({"s2:processing_baseline": "04.00"}, -0.1),
        "32TEE": ({}, -0.1),
    }
    server = serve([scene("07-03", 1, tile, **words) for tile, (words, _) in cases.items()])
    source = api(server.api, **SCENES, dn=dn)
    found = search(source)
    offsets = {tile: dn_reading(source.dn, row["dn"]).offset for tile, row in found.items()}
    assert offsets == {tile: offset for tile, (_, offset) in cases.items()}


def test_an_id_that_is_not_as_the_source_says_is_refused(serve: Callable) -> None:
    """It would become a path."""
    server = serve([*mosaics(3), item("../../etc", footprint(1))])
    assert "../../etc" in refusal(api(server.api))


# -- A service of others --------------------------------------------------------------------------


def test_a_service_of_others_with_small_pages(tmp_path: Path) -> None:
    with rustac_serve([*mosaics(300), *mosaics(300, Quarter(2025, 2))], tmp_path) as url:
        found = search(api(url, {"page_size": 40}))
    assert set(found) == {name(n) for n in range(300)}
    assert all(re.search("_2025_Q3_", row["item"]) for row in found.values())
