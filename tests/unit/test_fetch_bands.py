"""Bands as they come: from files and from a real server on loopback, whole, or not at all."""

import hashlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from osgeo import gdal, osr

from basemake import __version__
from basemake.errors import BandError
from basemake.web.download import Promised
from sources import access, fetch_band

DN = np.arange(48 * 40, dtype=np.int16).reshape(48, 40)
DN[7, 5] = -32768
HTML = b"<!DOCTYPE html><title>Sign in</title>"


class Site:
    """A server on loopback: `answers` holds, by path, the function that answers a request.

    It is `host` and `other_host`: one machine with two names.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.headers: list[dict[str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.headers.append(dict(self.headers))
                site.answers[self.path.partition("?")[0]](self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.other_host = f"localhost:{self.server.server_port}"

    def serve(self, path: str, *answers: Callable[[BaseHTTPRequestHandler], None]) -> str:
        """Answer at `path` with each of `answers` in turn, then for ever with the last."""
        queue = list(answers)
        self.answers[path] = lambda request: (queue.pop(0) if queue[1:] else queue[0])(request)
        return f"http://{self.host}{path}"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    thread = Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


def answer(
    body: bytes = b"", status: int = 200, length: int | None = None, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """What sends `body`, promising `length` bytes of it."""

    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(body)

    return send


def chunked(body: bytes, whole: bool = True) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.send_header("Connection", "close")
        request.end_headers()
        for start in range(0, len(body), 1000):
            piece = body[start : start + 1000]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if whole:
            request.wfile.write(b"0\r\n\r\n")

    return send


def redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return answer(status=302, Location=target)


LIMITS = {
    "requests_per_minute": 1e6,
    "patience_seconds": 30,
    "longest_wait_seconds": 0.05,
    "stall": {"bytes_per_second": 1, "seconds": 5},
}


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs share their pace in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def band(tmp_path: Path, write_geotiff) -> Path:
    return write_geotiff(tmp_path / "source" / "B04.tif", DN)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "B04.tif"


def fetch(
    href: str | Path,
    output: Path,
    hosts: set[str] | None = None,
    limits: dict | None = None,
    **promises,
) -> None:
    """Fetch with the promises of an item; by default it makes none."""
    within = access(*(hosts or set()), **LIMITS | (limits or {}))
    fetch_band(str(href), output, Promised(**promises), within)


def refusal(href: str | Path, output: Path, hosts: set[str] | None = None, **promises) -> str:
    """The one sentence that a fetch ends with, which leaves no output."""
    with pytest.raises(BandError) as caught:
        fetch(href, output, hosts, {"patience_seconds": 1}, **promises)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not output.exists()
    return message


def sha256(content: bytes) -> str:
    return "1220" + hashlib.sha256(content).hexdigest()


def test_a_file_is_copied_whole(band: Path, output: Path) -> None:
    content = band.read_bytes()
    promises = {"size": len(content), "checksum": sha256(content).upper(), "dtype": "int16"}
    fetch(band, output, **promises)
    assert output.read_bytes() == content


@pytest.mark.parametrize("send", [answer, chunked])
def test_a_web_address_is_downloaded_whole(
    site: Site, band: Path, output: Path, send: Callable
) -> None:
    content = band.read_bytes()
    url = site.serve("/B04.tif", send(content))
    promises = {"size": len(content), "checksum": sha256(content), "dtype": "int16"}
    fetch(url, output, {site.host}, **promises)
    assert output.read_bytes() == content
    assert [h["User-Agent"] for h in site.headers] == [f"basemake/{__version__}"]
    assert not any(name.lower() in ("authorization", "cookie") for name in site.headers[0])


def test_a_download_replaces_what_a_killed_one_left(site: Site, band: Path, output: Path) -> None:
    content = band.read_bytes()
    output.with_name("B04.tif.part").write_bytes(content * 2)
    fetch(site.serve("/B04.tif", answer(content)), output, {site.host})
    assert output.read_bytes() == content
    assert [path.name for path in output.parent.iterdir()] == ["B04.tif"]


@pytest.mark.parametrize(
    ("promises", "complaint"),
    [
        ({"size": 17}, "17"),
        ({"checksum": sha256(b"another file")}, hashlib.sha256(b"another file").hexdigest()),
        ({"dtype": "uint16"}, "uint16"),
    ],
    ids=["size", "checksum", "dtype"],
)
@pytest.mark.parametrize("by_web", [False, True])
def test_a_broken_promise_is_refused(
    site: Site, band: Path, output: Path, by_web: bool, promises: dict, complaint: str
) -> None:
    href = site.serve("/B04.tif", answer(band.read_bytes())) if by_web else str(band)
    message = refusal(href, output, {site.host}, **promises)
    assert href in message
    assert complaint in message


def test_a_checksum_of_an_unknown_kind_is_said_not_to_be_compared(
    band: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(band, output, checksum="b220" + "0" * 64)
    assert output.exists()
    assert "not compared" in caplog.text


BREAKS = {
    "short": lambda content: answer(content[:-9], length=len(content)),
    "short and chunked": lambda content: chunked(content[:-9], whole=False),
    "empty": lambda content: answer(b"", length=len(content)),
}


@pytest.mark.parametrize("send", BREAKS.values(), ids=BREAKS)
def test_a_transfer_that_breaks_off_is_begun_again(
    site: Site, band: Path, output: Path, send: Callable
) -> None:
    content = band.read_bytes()
    fetch(site.serve("/B04.tif", send(content), answer(content)), output, {site.host})
    assert output.read_bytes() == content


@pytest.mark.parametrize("send", BREAKS.values(), ids=BREAKS)
def test_a_transfer_that_always_breaks_off_is_refused(
    site: Site, band: Path, output: Path, send: Callable
) -> None:
    url = site.serve("/B04.tif", send(band.read_bytes()))
    assert url in refusal(url, output, {site.host})


@pytest.mark.parametrize("status", [204, 401, 403, 404, 410])
def test_a_final_status_is_named_and_not_retried(site: Site, output: Path, status: int) -> None:
    url = site.serve("/B04.tif", answer(b"", status))
    message = refusal(url, output, {site.host})
    assert url in message
    assert str(status) in message
    assert len(site.headers) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(site: Site, band: Path, output: Path, status: int) -> None:
    content = band.read_bytes()
    fetch(site.serve("/B04.tif", answer(b"", status), answer(content)), output, {site.host})
    assert output.read_bytes() == content


def test_a_server_busy_for_ever_is_given_up(site: Site, output: Path) -> None:
    # One Copernicus service gives milliseconds here: 30 s would be 8 hours.
    url = site.serve("/B04.tif", answer(b"", 503, Retry_After="30000"))
    message = refusal(url, output, {site.host})
    assert url in message
    assert "503" in message
    assert len(site.headers) > 1


@pytest.mark.parametrize("target", ["{other}", "/final.tif"])
def test_a_redirect_to_an_allowed_host_is_followed(
    site: Site, band: Path, output: Path, target: str
) -> None:
    content = band.read_bytes()
    site.serve("/final.tif", answer(content))
    url = site.serve(
        "/B04.tif", redirect(target.format(other=f"http://{site.other_host}/final.tif"))
    )
    fetch(url, output, {site.host, site.other_host})
    assert output.read_bytes() == content


@pytest.mark.parametrize(
    "target", ["http://{other}/final.tif", "file://{file}", "//{other}/final.tif"]
)
def test_a_redirect_elsewhere_is_refused(site: Site, band: Path, output: Path, target: str) -> None:
    site.serve("/final.tif", answer(band.read_bytes()))
    target = target.format(other=site.other_host, file=band)
    url = site.serve("/B04.tif", redirect(target))
    assert url in refusal(url, output, {site.host})
    assert len(site.headers) == 1


def test_redirects_without_end_are_refused(site: Site, output: Path) -> None:
    url = site.serve("/B04.tif", redirect("/B04.tif"))
    message = refusal(url, output, {site.host})
    assert url in message
    assert "redirect" in message
    assert len(site.headers) <= 20  # what browsers allow


def test_a_foreign_host_is_never_asked(site: Site, output: Path) -> None:
    url = site.serve("/B04.tif", answer(b""))
    message = refusal(url, output, {"data.example"})
    assert url in message
    assert "data.example" in message
    assert site.headers == []


@pytest.mark.parametrize("at_the_end_of_a_redirect", [False, True])
def test_credentials_in_an_address_are_refused_and_not_repeated(
    site: Site, band: Path, output: Path, at_the_end_of_a_redirect: bool
) -> None:
    site.serve("/final.tif", answer(band.read_bytes()))
    url = f"http://me:s3cret@{site.host}/final.tif"
    if at_the_end_of_a_redirect:
        url = site.serve("/B04.tif", redirect(url))
    message = refusal(url, output, {site.host})
    assert site.host in message
    assert "s3cret" not in message


@pytest.mark.parametrize("host", ["{host}", "{other}", "127.0.0.1:1"])
def test_the_signature_of_a_redirect_is_not_repeated(
    site: Site, output: Path, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.serve("/final.tif", answer(HTML, 503))
    host = host.format(host=site.host, other=site.other_host)
    url = site.serve("/B04.tif", redirect(f"http://{host}/final.tif?X-Amz-Signature=s3cret"))
    message = refusal(url, output, {site.host, "127.0.0.1:1"})
    assert url in message
    assert "s3cret" not in message + caplog.text


def vrt_of(band: Path) -> bytes:
    return gdal.BuildVRT("", [str(band)]).GetMetadata("xml:VRT")[0].encode()


@pytest.mark.parametrize("content", [lambda _: HTML, vrt_of], ids=["HTML", "VRT"])
def test_only_a_geotiff_is_taken_whatever_its_name(
    site: Site, band: Path, output: Path, content: Callable[[Path], bytes]
) -> None:
    url = site.serve("/B04.tif", answer(content(band), Content_Type="image/tiff"))
    message = refusal(url, output, {site.host})
    assert url in message
    assert "GeoTIFF" in message


@pytest.mark.parametrize(
    ("array", "epsg", "complaint"),
    [
        (DN.astype(np.float32), 32633, "another type"),
        (np.stack([DN, DN]), 32633, "2 band"),
        (DN, None, "without a CRS"),
    ],
    ids=["float32", "two bands", "no CRS"],
)
def test_a_raster_that_is_no_band_is_refused(
    tmp_path: Path, output: Path, write_geotiff, array: np.ndarray, epsg: int | None, complaint: str
) -> None:
    path = write_geotiff(tmp_path / "odd.tif", array, epsg=epsg or 32633)
    if epsg is None:
        gdal.Open(str(path), gdal.GA_Update).SetSpatialRef(None)
    message = refusal(path, output)
    assert str(path) in message
    assert complaint in message


@pytest.mark.parametrize(
    ("sides", "block"),
    [((1_000_000, 1_000_000), 16_384), ((50_001, 16), 16), ((16, 50_001), 16)],
)
def test_a_file_that_claims_to_be_huge_is_refused(
    tmp_path: Path, output: Path, sides: tuple[int, int], block: int
) -> None:
    """As blocks may be left out of a file, a small one can claim any size."""
    path = claiming(tmp_path, *sides, f"BLOCKXSIZE={block}", f"BLOCKYSIZE={block}", "TILED=YES")
    assert path.stat().st_size < 1e6
    message = refusal(path, output)
    assert f"claims to have {sides[0]} x {sides[1]} pixels" in message
    assert "at most 50000 pixels a side" in message


def test_a_file_that_claims_to_be_one_huge_block_is_refused(tmp_path: Path, output: Path) -> None:
    path = claiming(tmp_path, 40_000, 40_000, "BLOCKYSIZE=40000", "COMPRESS=DEFLATE")
    message = refusal(path, output)
    assert "in blocks of 40000 x 40000" in message
    assert "134217728 in a block" in message


def test_a_file_of_as_many_pixels_as_allowed_is_taken(tmp_path: Path, output: Path) -> None:
    path = claiming(tmp_path, 50_000, 50_000, "TILED=YES", "COMPRESS=DEFLATE")
    fetch(path, output, size=path.stat().st_size)
    assert output.exists()


def claiming(folder: Path, width: int, height: int, *options: str) -> Path:
    """Write a GeoTIFF of which no block is there."""
    path = folder / "claims.tif"
    driver = gdal.GetDriverByName("GTiff")
    dataset = driver.Create(
        str(path), width, height, 1, gdal.GDT_Int16, ["SPARSE_OK=TRUE", *options]
    )
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(32633)
    dataset.SetSpatialRef(reference)
    dataset.SetGeoTransform((500_000.0, 1, 0, 5_000_000.0, 0, -1))
    del dataset
    return path


@pytest.mark.parametrize("promised", [True, False])
def test_a_damaged_block_is_found_where_nothing_is_promised(
    tmp_path: Path, output: Path, write_geotiff, promised: bool
) -> None:
    """What is promised is compared instead: the job that enhances the band decodes it anyway."""
    noise = np.random.default_rng(1).integers(1, 9999, (600, 600), dtype=np.int16)
    path = write_geotiff(tmp_path / "odd.tif", noise, options=("TILED=YES", "COMPRESS=DEFLATE"))
    content = bytearray(path.read_bytes())
    quarter = len(content) // 4  # from one block into others
    content[quarter : 3 * quarter] = bytes(2 * quarter)
    path.write_bytes(content)
    if promised:
        fetch(path, output, size=len(content))
    else:
        message = refusal(path, output)
        assert "it is not whole, or damaged" in message


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_every_data_type_of_a_band_is_taken(
    tmp_path: Path, output: Path, write_geotiff, dtype: str
) -> None:
    path = write_geotiff(tmp_path / "B04.tif", (DN % 200).astype(dtype))
    fetch(path, output, dtype=dtype)
    assert output.read_bytes() == path.read_bytes()


def test_a_missing_file_is_named(tmp_path: Path, output: Path) -> None:
    assert str(tmp_path / "gone.tif") in refusal(tmp_path / "gone.tif", output)


@pytest.mark.parametrize("by_web", [False, True])
def test_a_disk_without_room_is_named_before_a_byte_is_asked_for(
    site: Site, band: Path, output: Path, monkeypatch: pytest.MonkeyPatch, by_web: bool
) -> None:
    content = band.read_bytes()
    href = site.serve("/B04.tif", answer(content)) if by_web else str(band)
    free = SimpleNamespace(total=10**12, used=0, free=len(content) - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    message = refusal(href, output, {site.host}, size=len(content))
    assert not site.headers
    assert not list(output.parent.iterdir())
    assert href in message
    assert "needs 0.0 MB" in message
    assert "make room, or set keep_bands: false" in message
    # What is there of a download needs no more room; one of unknown size is tried.
    output.with_name("B04.tif.part").write_bytes(content[:1])
    fetch(href, output, {site.host}, size=len(content))
    output.unlink()
    fetch(href, output, {site.host})
