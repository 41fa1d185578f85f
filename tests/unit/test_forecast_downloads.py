"""The bytes that the plan tells are those that come, once the tables of a band are known."""

from pathlib import Path

import pytest
import shapely
from test_parts import COARSER, EPSG, FINEST, MIDDLE, cog, fetch, place, wanted

from basemake.build.bands import COARSE_BYTES, Known, Need
from basemake.build.manifest import Band, Tile
from basemake.forecast.downloads import BandSize, Seen, size_of_band
from servers import FaultyServer

SIDE = 2000  # pixels: 16 x 16 blocks of 32 KB
LARGER = Need(FINEST, place(2, 1, rows=9, columns=2))
NEEDS = [
    MIDDLE,
    LARGER,
    Need(FINEST, place(0, 0, rows=15, columns=1)),
    Need(COARSER, place(1, 1, rows=3, columns=2)),
    Need(2 * COARSER, None),
    Need(1e6, None),  # the smallest image, which comes with the header
    Need(1e6, place(100, 100)),  # no block at all
]


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results/bands/T").mkdir(parents=True)


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    return cog(tmp_path_factory.mktemp("cog") / "wide.tif", side=SIDE)


def estimate(url: str, size: int, need: Need | None, known: Known | None) -> BandSize:
    band = Band(url, size, None, None)
    tile = Tile("item", "a", {"B04": band}, {}, "T", EPSG, 100, ["r"], shapely.box(15, 45, 16, 46))
    return size_of_band(tile, "B04", SIDE**2, need, known, Seen((), ()))


@pytest.mark.parametrize("need", NEEDS)
def test_what_comes_is_what_the_tables_tell(content: bytes, need: Need) -> None:
    with FaultyServer({"/B04.tif": content}) as server:
        url = f"{server.url}/B04.tif"
        known = fetch(wanted(url, need, len(content)), server.host)
        sent = sum(asked.sent for asked in server.log)
    told = estimate(url, len(content), need, known)
    assert told.fetched == pytest.approx(sent, rel=0.01)
    assert told.missing == 0
    Path("results/bands/T/B04.tif").unlink()
    assert estimate(url, len(content), need, known).missing == told.fetched


def test_what_is_missing_is_what_comes_for_a_larger_polygon(content: bytes) -> None:
    with FaultyServer({"/B04.tif": content}) as server:
        url = f"{server.url}/B04.tif"
        known = fetch(wanted(url, MIDDLE, len(content)), server.host)
        told = estimate(url, len(content), LARGER, known)
        server.log.clear()
        fetch(wanted(url, LARGER, len(content), updated="b"), server.host)
        sent = sum(asked.sent for asked in server.log)
    assert told.missing == pytest.approx(sent, rel=0.01)


def test_a_file_that_is_smaller_than_what_is_read_first_is_no_more_than_it_is(
    tmp_path: Path,
) -> None:
    content = cog(tmp_path / "small.tif", side=200)
    need = Need(1e6, None)
    with FaultyServer({"/B04.tif": content}) as server:
        url = f"{server.url}/B04.tif"
        known = fetch(wanted(url, need, len(content)), server.host)
    assert len(content) < COARSE_BYTES
    assert estimate(url, len(content), need, known).fetched <= len(content)
