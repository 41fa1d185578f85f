"""Bands in parts, in bad weather: each fault ends in the right blocks or in one sentence.

The server is real, and its log says what was asked and sent.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import shapely.affinity
from osgeo import gdal, osr

from basemake.build.bands import COARSE_BYTES, Known, Need, cut_of, known_of, shared_need
from basemake.build.records import made_of, write_record
from basemake.errors import BandError
from basemake.fetch.old import Old, keep_old
from basemake.fetch.wanted import Wanted
from basemake.pixels.blocks import Image
from basemake.pixels.cog import read_header
from basemake.web.download import Promised
from fetch_bands import fetch_bands, tidy
from servers import (
    Answer,
    Asked,
    Fault,
    FaultyServer,
    behave,
    changed,
    cut,
    garbled,
    no_ranges,
    raw_server,
    reset,
    stall,
    status,
)
from sources import NEAR, access

BLOCK, SIDE = 128, 700  # pixels; 6 x 6 blocks of incompressible pixels, of 25 KB each
EPSG, LEFT, TOP, PIXEL = 32633, 500_000.0, 5_100_000.0, 100.0
FINEST, COARSER = 141.0, 290.0  # Mercator metres of which the full image, and the next, are needed
HEADER = 65_536


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results/bands/T").mkdir(parents=True)


def cog(path: Path, seed: int = 1, side: int = SIDE, **options: str) -> bytes:
    """A cloud-optimized GeoTIFF of noise."""
    dn = np.random.default_rng(seed).integers(0, 9999, (side, side), dtype=np.int16)
    plain = gdal.GetDriverByName("MEM").Create("", side, side, 1, gdal.GDT_Int16)
    plain.SetGeoTransform((LEFT, PIXEL, 0, TOP, 0, -PIXEL))
    plain.SetSpatialRef(srs(EPSG))
    plain.GetRasterBand(1).WriteArray(dn)
    plain.GetRasterBand(1).SetNoDataValue(-32768)
    options = {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "BLOCKSIZE": str(BLOCK), **options}
    creation = [f"{key}={value}" for key, value in options.items()]
    gdal.Translate(str(path), plain, format="COG", creationOptions=creation)
    return path.read_bytes()


def srs(code: int) -> osr.SpatialReference:
    found = osr.SpatialReference()
    found.ImportFromEPSG(code)
    found.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return found


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> list[bytes]:
    """Two bands of other pixels."""
    folder = tmp_path_factory.mktemp("cogs")
    return [cog(folder / f"{seed}.tif", seed) for seed in (1, 2)]


@pytest.fixture
def server(contents: list[bytes]) -> Iterator[FaultyServer]:
    with FaultyServer({"/B04.tif": contents[0]}) as server:
        yield server


def place(row: int, column: int, rows: int = 1, columns: int = 1) -> shapely.Geometry:
    """An area in degrees well inside of blocks."""
    side, inner = BLOCK * PIXEL, 4000
    box = shapely.box(
        LEFT + column * side + inner,
        TOP - (row + rows) * side + inner,
        LEFT + (column + columns) * side - inner,
        TOP - row * side - inner,
    )
    to_degrees = osr.CoordinateTransformation(srs(EPSG), srs(4326))
    return shapely.transform(box, lambda xy: np.array(to_degrees.TransformPoints(xy))[:, :2])


def wanted(url: str, need: Need, size: int | None = None, updated: str = "a") -> Wanted:
    identity = {
        **{"href": url, "digest": None, "size": size, "checksum": None},
        "updated": updated,
    }
    output = Path("results/bands/T/B04.tif")
    promised = Promised(size, None, "int16", updated)
    return Wanted(url, output, promised, identity, "tile T, band B04", need, EPSG)


def fetch(band: Wanted, host: str, **options) -> Known:
    """Fetch a band as its job does."""
    keep_old([band])
    (known,) = fetch_bands([band], access(host, **{**NEAR, **options}))
    write_record(band.output, made_of({}, []), known=asdict(known))
    tidy([band])
    assert [path.name for path in band.output.parent.iterdir()] == ["B04.tif"]
    return known


def refusal(band: Wanted, host: str, **options) -> str:
    with pytest.raises(BandError) as caught:
        fetch(band, host, **options)
    assert not band.output.exists()
    return str(caught.value)


def pixels(content: bytes, level: int = 0) -> np.ndarray:
    gdal.FileFromMemBuffer("/vsimem/content.tif", content)
    dataset = gdal.Open("/vsimem/content.tif")
    layer = dataset.GetRasterBand(1)
    return (layer.GetOverview(level - 1) if level else layer).ReadAsArray()


def check(band: Wanted, content: bytes, rows: slice, columns: slice, level: int = 0) -> None:
    """The band's file has exactly these blocks of `content`."""
    whole = pixels(content, level)
    expected = np.full_like(whole, -32768)
    window = tuple(slice(BLOCK * at.start, BLOCK * at.stop) for at in (rows, columns))
    expected[window] = whole[window]
    np.testing.assert_array_equal(gdal.Open(str(band.output)).ReadAsArray(), expected)


MIDDLE = Need(FINEST, place(2, 1, rows=2, columns=2))
ROWS, COLUMNS = slice(2, 4), slice(1, 3)


@pytest.mark.parametrize(
    "fault",
    [status(503), status(429, 0), reset(-1), reset(5000), cut(5000), cut(0), stall(5000)],
    ids=lambda fault: f"{fault.name} {fault.after}",
)
@pytest.mark.parametrize("before", [0, 1], ids=["header", "blocks"])
def test_a_passing_fault_in_any_request_changes_nothing(
    server: FaultyServer, contents: list[bytes], fault, before: int
) -> None:
    url = server.script("/B04.tif", *[behave] * before, fault)
    band = wanted(url, MIDDLE, len(contents[0]))
    fetch(band, server.host)
    check(band, contents[0], ROWS, COLUMNS)
    assert len(server.log) == 3
    assert all(asked.range for asked in server.log)
    first, *others = (asked.headers.get("if-range") for asked in server.log)
    assert first is None
    assert all(others[1:])


def test_the_finest_image_that_the_map_shows_is_taken(
    server: FaultyServer, contents: list[bytes]
) -> None:
    for pixel, level in ((FINEST, 0), (COARSER, 1), (2 * COARSER, 2), (1e6, 3)):
        band = wanted(f"{server.url}/B04.tif", Need(pixel, None), len(contents[0]))
        assert fetch(band, server.host).level == level
        side = pixels(contents[0], level).shape[0]
        check(band, contents[0], slice(0, side), slice(0, side), level)
    # The smallest image came with the header.
    assert [asked.range for asked in server.log[-2:]] == [f"bytes=0-{COARSE_BYTES - 1}"] * 2


def test_rows_of_blocks_that_are_near_come_in_one_request(
    server: FaultyServer, contents: list[bytes]
) -> None:
    """Between the rows there are four blocks of 25 KB, less than are read over."""
    band = wanted(f"{server.url}/B04.tif", MIDDLE, len(contents[0]))
    fetch(band, server.host)
    assert len(server.log) == 2


def test_blocks_that_are_far_apart_come_in_requests_of_their_own(tmp_path: Path) -> None:
    content = cog(tmp_path / "wide.tif", side=2000)
    assert len(content) > 8_000_000
    with FaultyServer({"/B04.tif": content}) as server:
        band = wanted(f"{server.url}/B04.tif", MIDDLE, len(content))
        fetch(band, server.host)
        check(band, content, ROWS, COLUMNS)
        sent = [asked.sent for asked in server.log]
    assert len(sent) == 3
    assert sum(sent) < HEADER + 4 * 2 * BLOCK**2 + 3000


def test_an_object_that_changes_is_fetched_anew(
    server: FaultyServer, contents: list[bytes]
) -> None:
    url = server.script("/B04.tif", behave, changed(contents[1]))
    band = wanted(url, MIDDLE)
    known = fetch(band, server.host)
    check(band, contents[1], ROWS, COLUMNS)
    assert known.validator == server.right_answer(server.log[-1]).headers["ETag"]


def test_an_object_that_changes_always_is_one_sentence(
    server: FaultyServer, contents: list[bytes]
) -> None:
    url = server.script("/B04.tif", *[changed(contents[n % 2]) for n in range(40)])
    assert "changes while it is fetched" in refusal(wanted(url, MIDDLE), server.host)


def test_without_ranges_all_of_it_comes(server: FaultyServer, contents: list[bytes]) -> None:
    url = server.always("/B04.tif", no_ranges())
    band = wanted(url, MIDDLE, len(contents[0]))
    known = fetch(band, server.host)
    assert band.output.read_bytes() == contents[0]
    assert known.cut(MIDDLE, EPSG) is None


def test_ranges_that_end_in_the_middle_make_it_whole(
    server: FaultyServer, contents: list[bytes]
) -> None:
    server.script("/B04.tif", behave)
    url = server.always("/B04.tif", no_ranges())
    band = wanted(url, MIDDLE, len(contents[0]))
    fetch(band, server.host)
    assert band.output.read_bytes() == contents[0]


@pytest.mark.parametrize("etags", ["weak", "dates", "none"])
def test_what_names_versions_is_an_etag_or_a_date(
    server: FaultyServer, contents: list[bytes], etags: str
) -> None:
    server.etags = etags
    band = wanted(f"{server.url}/B04.tif", MIDDLE, len(contents[0]))
    known = fetch(band, server.host)
    if etags == "none":  # parts of two versions could not be told apart
        assert band.output.read_bytes() == contents[0]
    else:
        assert "GMT" in (known.validator or "")
        check(band, contents[0], ROWS, COLUMNS)


def test_dates_that_are_left_out_of_later_answers_make_it_whole(
    server: FaultyServer, contents: list[bytes], caplog
) -> None:
    """RFC 9110, 15.3.7, allows that of answers to a request with If-Range."""
    right = server.right_answer

    def without_date(asked: Asked, ranges: bool = True) -> Answer:
        answer = right(asked, ranges)
        if "if-range" in asked.headers:
            answer.headers.pop("Last-Modified")
        return answer

    server.etags, server.right_answer = "dates", without_date
    band = wanted(f"{server.url}/B04.tif", MIDDLE, len(contents[0]))
    with caplog.at_level("INFO"):
        fetch(band, server.host)
    assert band.output.read_bytes() == contents[0]
    assert "fetched whole: the service names no version of it" in caplog.text


def test_progress_is_told_of_the_bytes_that_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr("basemake.web.progress.Progress.update", lambda _, *at: told.append(at))
    content = cog(tmp_path / "wide.tif", side=2000)
    with FaultyServer({"/B04.tif": content}) as server:
        server.script("/B04.tif", behave, behave, cut(1000))
        fetch(wanted(f"{server.url}/B04.tif", MIDDLE, len(content)), server.host)
        came = sum(asked.sent for asked in server.log)
    assert told == sorted(told, key=lambda at: at[0])
    assert told[-1][:2] == (came, came)
    assert {total for _, total, _ in told} == {None, came}
    assert sum(new for *_, new in told) == came


def test_another_size_than_promised_is_refused_before_a_block_comes(
    server: FaultyServer, contents: list[bytes]
) -> None:
    said = refusal(wanted(f"{server.url}/B04.tif", MIDDLE, 12345), server.host)
    assert f"it has {len(contents[0])} bytes, the item promises 12345; search again" in said
    assert len(server.log) == 1


def test_garbled_blocks_are_fetched_again(server: FaultyServer, contents: list[bytes]) -> None:
    url = server.script("/B04.tif", behave, garbled())
    band = wanted(url, MIDDLE, len(contents[0]))
    fetch(band, server.host)
    check(band, contents[0], ROWS, COLUMNS)


def test_blocks_that_stay_garbled_are_one_sentence(server: FaultyServer) -> None:
    url = server.script("/B04.tif", *[behave, garbled()] * 9)
    assert "it is damaged" in refusal(wanted(url, MIDDLE), server.host)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"side": 100}, "no reduced images"),
        ({"COMPRESS": "LZW"}, None),
        ({"COMPRESS": "ZSTD"}, None),
        ({"COMPRESS": "NONE", "PREDICTOR": "NO"}, None),
        ({"COMPRESS": "LERC", "PREDICTOR": "NO"}, "cannot be decoded by themselves"),
    ],
)
def test_codecs(tmp_path: Path, options: dict, why: str | None, caplog) -> None:
    if options.get("COMPRESS") not in (None, "NONE", "LZW"):
        listed = gdal.GetDriverByName("COG").GetMetadataItem("DMD_CREATIONOPTIONLIST")
        if options["COMPRESS"] not in listed:
            pytest.skip(f"this GDAL writes no {options['COMPRESS']}")
    content = cog(tmp_path / "b.tif", **options)
    with FaultyServer({"/B04.tif": content}) as server, caplog.at_level("INFO"):
        band = wanted(f"{server.url}/B04.tif", MIDDLE, len(content))
        fetch(band, server.host)
    if why is None:
        check(band, content, ROWS, COLUMNS)
    else:
        assert band.output.read_bytes() == content
        assert why in caplog.text


def test_strips_come_whole(tmp_path: Path, caplog) -> None:
    cog(tmp_path / "cog.tif")
    gdal.Translate(str(tmp_path / "strips.tif"), str(tmp_path / "cog.tif"))
    content = (tmp_path / "strips.tif").read_bytes()
    with FaultyServer({"/B04.tif": content}) as server, caplog.at_level("INFO"):
        band = wanted(f"{server.url}/B04.tif", MIDDLE, len(content))
        fetch(band, server.host)
    assert band.output.read_bytes() == content
    assert "fetched whole: it is not tiled" in caplog.text


@pytest.mark.parametrize("updated", ["a", "b"])
def test_a_damaged_block_of_a_band_that_came_whole_is_fetched_again(
    server: FaultyServer, contents: list[bytes], updated: str
) -> None:
    """Where a size is promised, a band that comes whole is not decoded."""
    url = f"{server.url}/B04.tif"
    known = read_header(contents[0], len(contents[0])).images[0]
    start = known.offsets[2 * known.across + 1]
    damaged = contents[0][:start] + bytes(99) + contents[0][start + 99 :]
    tag = server.right_answer(Asked("GET", "/B04.tif", {}, {}, b"", ("", 0))).headers["ETag"]
    server.script("/B04.tif", Fault("damaged", change=lambda body: damaged))
    whole = replace(wanted(url, MIDDLE, len(damaged)), need=None)
    assert fetch(whole, server.host).validator == tag
    assert whole.output.read_bytes() == damaged
    band = wanted(url, MIDDLE, len(damaged), updated)
    fetch(band, server.host)
    check(band, contents[0], ROWS, COLUMNS)


# -- Headers that lie ------------------------------------------------------------------------------


def tag(content: bytes, code: int) -> int:
    """The place of a tag's entry in the first directory of a classic TIFF."""
    start = int.from_bytes(content[4:8], "little")
    for number in range(int.from_bytes(content[start : start + 2], "little")):
        at = start + 2 + 12 * number
        if int.from_bytes(content[at : at + 2], "little") == code:
            return at
    raise AssertionError(code)


def lying(content: bytes, code: int, field: int, value: int) -> bytes:
    """The content with another value in a tag: field 4 is its count, 8 its value or the place."""
    at = tag(content, code) + field
    return content[:at] + value.to_bytes(4, "little") + content[at + 4 :]


@pytest.mark.parametrize(
    ("code", "field", "value"),
    [
        (256, 8, 2**31),  # width
        (257, 8, 60_000),
        (322, 8, 2**30),  # a block's width
        (322, 8, 0),
        (324, 8, 2**32 - 8),  # the offsets lie beyond the end
        (258, 8, 64),  # bits
        (277, 8, 40_000),  # bands
        (259, 8, 7),  # JPEG
    ],
)
def test_a_header_that_lies_is_refused_in_one_sentence(
    server: FaultyServer, contents: list[bytes], code: int, field: int, value: int
) -> None:
    server.files["/B04.tif"] = lying(contents[0], code, field, value)
    said = refusal(wanted(f"{server.url}/B04.tif", MIDDLE), server.host)
    assert "\n" not in said
    assert said.endswith(".")


@pytest.mark.parametrize("code", [324, 325])  # of offsets and of byte counts
def test_a_table_of_a_thousand_million_blocks_is_not_believed(
    server: FaultyServer, contents: list[bytes], code: int
) -> None:
    """GDAL knows how many there must be, so that the file, which comes whole, can be read."""
    server.files["/B04.tif"] = lie = lying(contents[0], code, 4, 10**9)
    band = wanted(f"{server.url}/B04.tif", MIDDLE)
    fetch(band, server.host)
    assert band.output.read_bytes() == lie


def test_offsets_beyond_the_end_are_not_asked_for(
    server: FaultyServer, contents: list[bytes]
) -> None:
    at = int.from_bytes(contents[0][tag(contents[0], 324) + 8 :][:4], "little")
    lie = contents[0][:at] + (2**31).to_bytes(4, "little") + contents[0][at + 4 :]
    server.files["/B04.tif"] = lie
    refusal(wanted(f"{server.url}/B04.tif", Need(FINEST, None)), server.host)
    assert not any("2147483648" in (asked.range or "") for asked in server.log)


def answer_206(body: bytes, **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = ["HTTP/1.1 206 Partial Content", *lines, "Connection: close"]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "multipart/byteranges; boundary=x", "ETag": '"a"'},
        {"Content_Range": "bytes 0-65535/*", "ETag": '"a"'},
        {"Content_Range": "bytes 100-65635/900000", "ETag": '"a"'},
        {"Content_Range": "bytes 0-99999999999999999999/5", "ETag": '"a"'},
        {"Content_Range": "nonsense", "ETag": '"a"'},
        {"Content_Range": "bytes 0-65535/900000"},
    ],
)
def test_answers_that_are_not_the_part_are_not_taken_for_it(headers: dict) -> None:
    with raw_server(answer_206(bytes(HEADER), **headers)) as host:
        said = refusal(wanted(f"http://{host}/B04.tif", MIDDLE), host, patience_seconds=0.5)
    assert "\n" not in said


def test_answers_that_end_early_are_followed_by_the_rest(
    server: FaultyServer, contents: list[bytes]
) -> None:
    """As a service may: each answer has 20 KB of what was asked for, and says so."""
    total = len(contents[0])

    def short(asked: Asked) -> Answer:
        start, stop = map(int, (asked.range or "").removeprefix("bytes=").split("-"))
        body = contents[0][start : min(stop + 1, start + 20_000)]
        place = f"bytes {start}-{start + len(body) - 1}/{total}"
        return Answer(206, body, {"Content-Range": place, "ETag": '"a"'})

    server.route("GET", "/short.tif", short)
    band = wanted(f"{server.url}/short.tif", MIDDLE)
    fetch(band, server.host)
    check(band, contents[0], ROWS, COLUMNS)


def test_the_checksum_of_an_object_that_came_whole_in_parts_is_compared(
    server: FaultyServer, tmp_path: Path
) -> None:
    """A small one comes with its header."""
    content = cog(tmp_path / "small.tif", side=150)
    assert len(content) < HEADER
    server.files["/B04.tif"] = content
    band = wanted(f"{server.url}/B04.tif", Need(FINEST, None))
    right = f"1220{hashlib.sha256(content).hexdigest()}"
    fetch(replace(band, promised=replace(band.promised, checksum=right)), server.host)
    tidy([band])
    band.output.unlink()
    wrong = replace(band, promised=replace(band.promised, checksum="1220" + "ab" * 32))
    assert "it is damaged" in refusal(wrong, server.host)


def test_more_than_was_asked_for_is_cut_off(server: FaultyServer, contents: list[bytes]) -> None:
    total = len(contents[0])
    begin = contents[0][: HEADER + 500]
    long = answer_206(begin, Content_Range=f"bytes 0-{HEADER - 1}/{total}", ETag='"a"')
    with raw_server(long) as host:
        said = refusal(wanted(f"http://{host}/B04.tif", MIDDLE), host, patience_seconds=0.5)
    assert "\n" not in said


# -- What is here already --------------------------------------------------------------------------


def test_blocks_of_the_same_object_are_kept_and_of_another_are_not(
    server: FaultyServer, contents: list[bytes]
) -> None:
    url = f"{server.url}/B04.tif"
    fetch(wanted(url, MIDDLE), server.host)
    server.log.clear()
    larger = Need(FINEST, place(2, 1, rows=2, columns=3))
    band = wanted(url, larger, updated="b")  # its item is newer, but the object is the same
    fetch(band, server.host)
    check(band, contents[0], ROWS, slice(1, 4))
    kept = sum(asked.sent for asked in server.log)
    server.files["/B04.tif"] = contents[1]
    server.log.clear()
    band = wanted(url, larger, updated="c")
    fetch(band, server.host)
    check(band, contents[1], ROWS, slice(1, 4))
    assert kept < sum(asked.sent for asked in server.log)


def test_a_file_changed_by_hand_gives_no_blocks(
    server: FaultyServer, contents: list[bytes]
) -> None:
    band = wanted(f"{server.url}/B04.tif", MIDDLE)
    fetch(band, server.host)
    fresh = band.output.read_bytes()
    broken = bytearray(fresh)
    broken[-100:] = bytes(100)
    band.output.write_bytes(broken)
    server.log.clear()
    fetch(band, server.host)
    assert band.output.read_bytes() == fresh
    assert len(server.log) == 2


def test_whole_bands_of_an_earlier_version_are_cut(
    server: FaultyServer, contents: list[bytes]
) -> None:
    """Their records know nothing of the object."""
    band = wanted(f"{server.url}/B04.tif", MIDDLE, len(contents[0]))
    band.output.write_bytes(contents[0])
    write_record(band.output, made_of({"settings": band.identity}, []))
    fetch(band, server.host)
    check(band, contents[0], ROWS, COLUMNS)
    assert not server.log
    # But not if they are of another item.
    band.output.write_bytes(contents[0])
    write_record(band.output, made_of({"settings": {**band.identity, "updated": "b"}}, []))
    fetch(band, server.host)
    assert server.log


def test_any_order_of_needs_gives_the_same_bytes(server: FaultyServer) -> None:
    url, chance = f"{server.url}/B04.tif", np.random.default_rng(5)
    needs = [Need(FINEST, place(r, c, 2, 2)) for r in range(3) for c in range(3)]
    needs += [Need(COARSER, None), Need(FINEST, None)]
    first: dict[int, bytes] = {}
    for number in chance.integers(0, len(needs), 30):
        band = wanted(url, needs[number])
        fetch(band, server.host)
        content = band.output.read_bytes()
        assert first.setdefault(number, content) == content
    assert len(first) > 5
    for number, content in first.items():
        band = wanted(url, needs[number])
        band.output.unlink()
        fetch(band, server.host)
        assert band.output.read_bytes() == content


def test_blocks_that_an_older_run_fetched_for_an_older_item_are_not_used(
    server: FaultyServer, contents: list[bytes]
) -> None:
    """All of its blocks are there, so that no request would tell that the object changed."""
    server.files["/B03.tif"] = contents[0]
    url = f"{server.url}/B04.tif"
    broken = wanted(f"{server.url}/none.tif", MIDDLE)
    broken = replace(broken, output=broken.output.with_name("B03.tif"))
    with pytest.raises(BandError, match="404"):
        fetch_bands([wanted(url, MIDDLE), broken], access(server.host, **NEAR))
    server.files["/B04.tif"] = contents[1]
    band = wanted(url, MIDDLE, updated="b")
    fetch(band, server.host)
    check(band, contents[1], ROWS, COLUMNS)


def test_a_sidecar_that_is_damaged_costs_only_bytes(
    server: FaultyServer, contents: list[bytes]
) -> None:
    band = wanted(f"{server.url}/B04.tif", MIDDLE)
    for text in ("", "[]", '{"ranges": 7}', json.dumps({"validator": 1, "total": "x"})):
        band.beside(".ranges").write_bytes(b"x" * 100)
        band.beside(".ranges.json").write_text(text)
        fetch(band, server.host)
        check(band, contents[0], ROWS, COLUMNS)
        band.output.unlink()


# -- What servers and headers got away with --------------------------------------------------------


@pytest.mark.parametrize("pixel", [1e300, math.nan, 1e-300])
def test_a_pixel_of_no_possible_size_makes_it_whole(
    server: FaultyServer, contents: list[bytes], pixel: float
) -> None:
    at = tag(contents[0], 33550) + 8  # ModelPixelScale: where its numbers are
    start = int.from_bytes(contents[0][at : at + 4], "little")
    lie = contents[0][:start] + struct.pack("<d", pixel) + contents[0][start + 8 :]
    server.files["/B04.tif"] = lie
    band = wanted(f"{server.url}/B04.tif", MIDDLE)
    fetch(band, server.host)
    assert band.output.read_bytes() == lie


def test_directories_in_a_loop_end(server: FaultyServer, contents: list[bytes]) -> None:
    start = int.from_bytes(contents[0][4:8], "little")
    count = int.from_bytes(contents[0][start : start + 2], "little")
    at = start + 2 + 12 * count  # where the next directory is told
    loop = contents[0][:at] + start.to_bytes(4, "little") + contents[0][at + 4 :]
    server.files["/B04.tif"] = loop
    band = wanted(f"{server.url}/B04.tif", MIDDLE)
    fetch(band, server.host)
    assert band.output.read_bytes() == loop  # whole, and GDAL can read it


def test_pages_that_are_no_reduced_images_are_not_taken_for_them(
    server: FaultyServer, contents: list[bytes]
) -> None:
    """Their NewSubfileType (tag 254) is the first entry of their directory."""
    start = int.from_bytes(contents[0][4:8], "little")
    count = int.from_bytes(contents[0][start : start + 2], "little")
    at = start + 2 + 12 * count
    second = int.from_bytes(contents[0][at : at + 4], "little")
    assert int.from_bytes(contents[0][second + 2 : second + 4], "little") == 254
    flag = second + 2 + 8
    server.files["/B04.tif"] = contents[0][:flag] + bytes(4) + contents[0][flag + 4 :]
    band = wanted(f"{server.url}/B04.tif", Need(COARSER, None))
    assert fetch(band, server.host).level == 0


def test_an_object_that_became_shorter_is_fetched_anew(
    server: FaultyServer, contents: list[bytes], tmp_path: Path
) -> None:
    server.if_range = False
    small = cog(tmp_path / "small.tif", side=400)
    last = Need(FINEST, place(5, 4))
    url = server.script("/B04.tif", behave, changed(small))
    band = wanted(url, last)
    fetch(band, server.host)
    assert gdal.Open(str(band.output)).RasterXSize == 400


def test_another_checksum_is_another_object(server: FaultyServer, contents: list[bytes]) -> None:
    """Although address, size and ETag are as before."""
    band = wanted(f"{server.url}/B04.tif", MIDDLE)
    old = Known({**band.identity, "href": None, "checksum": "1220aa"}, 5, '"a"')
    new = Known({**band.identity, "href": None, "checksum": "1220bb"}, 5, '"a"')
    band.output.write_bytes(b"12345")
    assert Old(band.output, old).is_of(old)
    assert not Old(band.output, old).is_of(new)


def test_bands_of_a_tile_have_one_grid(
    server: FaultyServer, contents: list[bytes], tmp_path: Path
) -> None:
    """One without reduced images comes whole: of the others the full image is needed, too."""
    plain = cog(tmp_path / "plain.tif", OVERVIEWS="NONE")
    server.files["/B03.tif"] = plain
    one = wanted(f"{server.url}/B04.tif", Need(COARSER, None))
    other = wanted(f"{server.url}/B03.tif", Need(COARSER, None))
    other = replace(other, output=one.output.with_name("B03.tif"))
    known = fetch_bands([one, other], access(server.host, **NEAR))
    assert [band.level for band in known] == [0, 0]
    assert other.output.read_bytes() == plain
    assert gdal.Open(str(one.output)).RasterXSize == SIDE
    shared = shared_need(one.need, known, EPSG)
    assert shared is not None
    assert shared.pixel == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"identity": {}, "size": 1, "images": [[1, 2]], "transform": [0] * 6},
        {"identity": {}, "size": 1, "images": [[1, 2, 0, 0]], "transform": [0] * 6},
        {"identity": {}, "size": 1, "images": [[9, 9, 16, 16]], "transform": [0] * 5},
        {"identity": {}, "size": 1, "images": [[9, 9, 16, 16]], "transform": ["x"] * 6},
        {"identity": 7, "size": 1},
        {"size": 1},
    ],
)
def test_a_record_that_tells_nonsense_is_nothing_known(fields: dict) -> None:
    assert known_of(fields) is None


def test_an_area_of_nothing_needs_no_block(contents: list[bytes], server: FaultyServer) -> None:
    need = Need(FINEST, shapely.Polygon())
    assert Need.from_json(json.loads(json.dumps(need.as_json()))) == need
    band = wanted(f"{server.url}/B04.tif", need)
    fetch(band, server.host)
    assert (gdal.Open(str(band.output)).ReadAsArray() == -32768).all()


def test_the_margin_is_that_of_the_coarser_of_map_and_image() -> None:
    """An edge 400 m beside a block's: five pixels of an image of 100 m, or of a map of 100 m."""
    images = (Image(SIDE, SIDE, BLOCK, BLOCK), Image(SIDE // 2, SIDE // 2, BLOCK, BLOCK))
    transform, side = (LEFT, PIXEL, 0.0, TOP, 0.0, -PIXEL), BLOCK * PIXEL
    box = shapely.box(LEFT + side + 400, TOP - side + 3000, LEFT + side + 3000, TOP - 3000)
    to_degrees = osr.CoordinateTransformation(srs(EPSG), srs(4326))
    area = shapely.transform(box, lambda xy: np.array(to_degrees.TransformPoints(xy))[:, :2])
    fine, coarse = Need(10.0, area, 10.0), Need(10.0, area, 160.0)
    assert cut_of(fine, images, transform, EPSG).blocks == [[0, 1]]
    assert cut_of(coarse, images, transform, EPSG).blocks == [[0, 1]]
    away = shapely.transform(
        shapely.affinity.translate(box, 400),
        lambda xy: np.array(to_degrees.TransformPoints(xy))[:, :2],
    )
    assert cut_of(Need(10.0, away, 10.0), images, transform, EPSG).blocks == [[1, 1]]
    assert cut_of(Need(10.0, away, 400.0), images, transform, EPSG).blocks == [[0, 1]]
