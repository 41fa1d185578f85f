"""Downloads in bad weather: each fault ends in the right bytes or in one sentence, and is cheap.

The server is real, and its log says what was asked and sent.
"""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import boto3
import numpy as np
import pytest

from basemake.errors import BandError
from basemake.web.access import Credentials
from basemake.web.credentials import credentials_of
from basemake.web.download import Download, Promised
from servers import (
    Answer,
    Asked,
    Fault,
    FaultyServer,
    S3Keys,
    SasTokens,
    Tokens,
    behave,
    changed,
    cut,
    garbled,
    http_date,
    no_ranges,
    raw_server,
    redirect,
    reset,
    s3_server,
    stall,
    status,
    trickle,
)
from sources import NEAR, access, fetch_band, limits

CHECKOUT = Path(__file__).resolve().parents[2]
HALF = 200_000  # bytes: about half of a band


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def bands(write_geotiff, tmp_path_factory) -> list[bytes]:
    """Two bands of the same size and one of another, of 400 KB."""
    folder = tmp_path_factory.mktemp("bands")
    chance = np.random.default_rng(7)
    return [
        write_geotiff(
            folder / f"{n}.tif", chance.integers(1, 9999, (rows, 400), dtype=np.int16)
        ).read_bytes()
        for n, rows in enumerate((500, 500, 470))
    ]


@pytest.fixture
def server(bands: list[bytes]) -> Iterator[FaultyServer]:
    with FaultyServer({"/B04.tif": bands[0]}) as server:
        yield server


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "B04.tif"


def sha256(content: bytes) -> str:
    return "1220" + hashlib.sha256(content).hexdigest()


def fetch(
    href: str,
    output: Path,
    *hosts: str,
    content: bytes | None = None,
    credentials: Credentials | None = None,
    **options: object,
) -> None:
    """Fetch with the promises that `content` keeps."""
    promised = Promised(dtype="int16")
    if content is not None:
        promised = Promised(len(content), sha256(content), "int16")
    within = access(*hosts, credentials=credentials, **{**NEAR, **options})
    fetch_band(href, output, promised, within)


def refusal(href: str, output: Path, *hosts: str, **options) -> str:
    """The one sentence that a fetch ends with, without an output."""
    with pytest.raises(BandError) as caught:
        fetch(href, output, *hosts, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "None" not in message
    assert not output.exists()
    return message


def sent(asked: list[Asked]) -> int:
    """Bytes of bands that a server sent."""
    return sum(a.sent for a in asked if a.status in (200, 206))


# -- Each fault -----------------------------------------------------------------------------------

PASSING = {
    "429": [status(429)],
    "429 seconds": [status(429, 1)],
    "429 milliseconds": [status(429, 30_000)],
    "429 huge": [status(429, 10**12)],
    "429 date": [status(429, "in an hour")],
    "500": [status(500)],
    "502": [status(502)],
    "503": [status(503, 0)],
    "504": [status(504)],
    "reset at once": [reset(-1)],
    "reset before the body": [reset(0)],
    "reset": [reset(HALF)],
    "early end": [cut(HALF)],
    "early end, too large a promise": [cut(HALF, "more")],
    "early end, as promised": [cut(HALF, "sent")],
    "stall": [stall(HALF)],
    "stall at once": [stall(0)],
    "trickle": [trickle(5_000)],
    "other bytes": [garbled()],
    "429 in a resumed transfer": [reset(HALF), status(429), status(503), reset(50_000)],
    "every kind of break": [reset(50_000), cut(50_000), stall(50_000), cut(50_000, "more")],
    "no ranges any more": [reset(HALF), no_ranges()],
}
# What must come twice, because nothing else can be right.
TWICE = ("other bytes", "no ranges any more")


# What only the item's promise of a size and a checksum can tell.
UNTOLD = ("other bytes", "early end, as promised")


@pytest.mark.parametrize(
    ("name", "promised"),
    [(name, True) for name in PASSING] + [(name, False) for name in PASSING if name not in UNTOLD],
)
def test_a_passing_fault_ends_in_the_right_bytes(
    server: FaultyServer, bands: list[bytes], output: Path, name: str, promised: bool
) -> None:
    faults = PASSING[name]
    if name == "429 date":
        faults = [status(429, http_date(3600))]
    url = server.script("/B04.tif", *faults)
    fetch(url, output, server.host, content=bands[0] if promised else None)
    assert output.read_bytes() == bands[0]
    assert [path.name for path in output.parent.iterdir()] == ["B04.tif"]
    assert len(server.log) == len(faults) + (name != "no ranges any more")
    if name not in TWICE:
        slack = 70_000 if name == "trickle" or "stall" in name else 0
        assert sent(server.log) <= len(bands[0]) + slack


def test_a_transfer_goes_on_where_it_stopped(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    url = server.script("/B04.tif", reset(HALF), status(429), cut(10_000))
    fetch(url, output, server.host, content=bands[0])
    ranges = [asked.range for asked in server.log]
    assert ranges == [None, f"bytes={HALF}-", f"bytes={HALF}-", f"bytes={HALF + 10_000}-"]
    assert all("if-range" in asked.headers for asked in server.log[1:])
    assert sent(server.log) == len(bands[0])


@pytest.mark.parametrize("etags", ["weak", "dates"])
def test_the_date_of_an_object_will_do_to_go_on(
    server: FaultyServer, bands: list[bytes], output: Path, etags: str
) -> None:
    server.etags = etags
    fetch(server.script("/B04.tif", reset(HALF)), output, server.host)
    assert output.read_bytes() == bands[0]
    assert sent(server.log) == len(bands[0])


def test_a_transfer_that_gets_on_is_not_given_up(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    """Patience is for failures without progress."""
    url = server.script("/B04.tif", *[cut(10_000)] * 30)
    fetch(url, output, server.host, content=bands[0], patience_seconds=0.4)
    assert output.read_bytes() == bands[0]
    assert server.log[-1].start - server.log[0].start > 0.8


@pytest.mark.parametrize("etags", ["strong", "weak", "dates", "none"])
@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("other", [1, 2], ids=["of the same size", "of another size"])
def test_an_object_that_changed_is_begun_again(
    server: FaultyServer, bands: list[bytes], output: Path, etags: str, if_range: bool, other: int
) -> None:
    """Not all services heed If-Range, and a weak ETag is no promise."""
    server.etags, server.if_range = etags, if_range
    url = server.script("/B04.tif", reset(HALF), changed(bands[other]))
    fetch(url, output, server.host)
    assert output.read_bytes() == bands[other]


@pytest.mark.parametrize("promised", [True, False])
def test_a_rest_that_names_no_object_counts_only_if_a_checksum_proves_it(
    server: FaultyServer, bands: list[bytes], output: Path, promised: bool
) -> None:
    server.etags_in_parts = False
    url = server.script("/B04.tif", reset(HALF))
    fetch(url, output, server.host, content=bands[0] if promised else None)
    assert output.read_bytes() == bands[0]
    ranges = [None, f"bytes={HALF}-"]
    assert [asked.range for asked in server.log] == (ranges if promised else [*ranges, None])


@pytest.mark.parametrize("promised", [True, False])
@pytest.mark.parametrize("etags", ["strong", "dates"])
def test_a_rest_of_another_object_that_names_none_is_not_kept(
    server: FaultyServer, bands: list[bytes], output: Path, etags: str, promised: bool
) -> None:
    server.etags, server.if_range, server.etags_in_parts = etags, False, False
    url = server.script("/B04.tif", reset(HALF), changed(bands[1]))
    fetch(url, output, server.host, content=bands[1] if promised else None)
    assert output.read_bytes() == bands[1]


def test_what_is_there_of_another_object_is_not_whole_by_its_size(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    """The service tells only that there is nothing beyond."""
    server.if_range = False
    url = server.script("/B04.tif", reset(HALF), changed(bands[1][:HALF]), changed(bands[1]))
    fetch(url, output, server.host)
    assert output.read_bytes() == bands[1]


def test_a_service_that_gives_parts_only_is_asked_for_all_of_them(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    def parts(asked: Asked) -> Answer:
        start = int(asked.range.removeprefix("bytes=").rstrip("-")) if asked.range else 0
        end = min(start + 100_000, len(bands[0])) if asked.range else len(bands[0])
        headers = {"ETag": '"x"', "Content-Range": f"bytes {start}-{end - 1}/{len(bands[0])}"}
        return Answer(206 if asked.range else 200, bands[0][start:end], headers)

    server.route("GET", "/B04.tif", parts)
    fetch(server.script("/B04.tif", reset(HALF)), output, server.host)
    assert output.read_bytes() == bands[0]
    assert len(server.log) == 4


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: many\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: %(size)d\r\nContent-Length: %(size)d\r\n",
        b"Content-Length: %(size)d, %(size)d\r\n",
        b"Content-Length: \r\n",
        b"",
        b"Retry-After: Wed, 21 Oct 99999999999999999999 07:28:00 GMT\r\n",
        b"Last-Modified: never\r\nETag: W/\r\n",
        b"Content-Range: bytes 5-1/x\r\n",
        b"Set-Cookie: a=b; expires=Wed, 09-Jun-99999999999999999999 10:18:14 GMT\r\n",
    ],
)
def test_headers_that_say_nothing_are_as_none(
    bands: list[bytes], output: Path, headers: bytes
) -> None:
    headers = headers % {b"size": len(bands[0])} if b"%" in headers else headers
    with raw_server(OK + headers + b"\r\n" + bands[0]) as host:
        fetch(f"http://{host}/B04.tif", output, host)
    assert output.read_bytes() == bands[0]


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nnumber\r\n",
        OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-\xff/%d\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: items 0-5/6\r\n\r\n",
        b"HTTP/1.1 416 No\r\nContent-Range: bytes */x\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\r\n\r\n",
        b"HTTP/1.1 429 Busy\r\nRetry-After: Wed, 21 Oct 99999999999999999999 07:28:00\r\n\r\n",
        b"HTTP/1.1 999 \x1b[31m\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
def test_what_is_no_answer_is_one_sentence(bands: list[bytes], output: Path, head: bytes) -> None:
    with raw_server(head + bands[0]) as host:
        message = refusal(f"http://{host}/B04.tif?sig=hush", output, host, patience_seconds=0.2)
    assert f"http://{host}/B04.tif" in message
    assert "hush" not in message


@pytest.mark.parametrize("missing", [100_000, 2_000])
def test_a_file_of_unknown_size_that_ends_early_is_not_whole(
    bands: list[bytes], output: Path, missing: int
) -> None:
    """Where nobody says how long it is, the end of a connection is the end of a file."""
    early, whole = OK + b"\r\n" + bands[0][:-missing], OK + b"\r\n" + bands[0]
    with raw_server(early, whole) as host:
        fetch(f"http://{host}/B04.tif", output, host)
    assert output.read_bytes() == bands[0]
    output.unlink()
    with raw_server(early) as host:
        assert "is not whole" in refusal(f"http://{host}/B04.tif", output, host)


def test_a_file_without_an_end_is_broken_off(bands: list[bytes], output: Path) -> None:
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    endless = OK + b"Transfer-Encoding: chunked\r\n\r\n" + 50 * chunk
    with raw_server(endless) as host:
        message = refusal(f"http://{host}/B04.tif", output, host, content=bands[0])
    came = int(re.search(r"(\d+) bytes came", message)[1])
    assert len(bands[0]) < came < 10 << 20


def test_what_an_older_run_left_of_another_object_is_not_used(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    url = server.script("/B04.tif", reset(HALF), *[status(503)] * 200)
    refusal(url, output, server.host, content=bands[0], patience_seconds=0.3)
    server.files["/B04.tif"] = bands[1]
    server._scripts.clear()
    fetch(url, output, server.host, content=bands[1])
    assert output.read_bytes() == bands[1]


def test_a_job_killed_when_an_object_has_changed_leaves_no_mixture(
    server: FaultyServer, bands: list[bytes], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.script("/B04.tif", reset(HALF), *[status(503)] * 200)
    refusal(url, output, server.host, patience_seconds=0.3)
    server.files["/B04.tif"] = bands[1]
    server._scripts.clear()

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Download, "_receive", killed)
        with pytest.raises(SystemExit):
            fetch(url, output, server.host)
    fetch(url, output, server.host)
    assert output.read_bytes() == bands[1]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    url = server.script("/B04.tif", reset(HALF), *[status(503)] * 200)
    message = refusal(url, output, server.host, content=bands[0], patience_seconds=0.3)
    assert "503" in message
    server._scripts.clear()
    before = len(server.log)
    fetch(url, output, server.host, content=bands[0])
    assert [asked.range for asked in server.log[before:]] == [f"bytes={HALF}-"]
    assert output.read_bytes() == bands[0]


def test_what_is_whole_already_is_not_fetched_again(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    """As when a job was killed between the last byte and the file's last name."""
    url = server.script("/B04.tif", reset(HALF), *[status(503)] * 200)
    refusal(url, output, server.host, patience_seconds=0.3)
    server._scripts.clear()
    output.with_name("B04.tif.part").write_bytes(bands[0])
    before = len(server.log)
    fetch(url, output, server.host)
    assert output.read_bytes() == bands[0]
    assert sent(server.log[before:]) == 0


FINAL = {
    "401": (status(401), "401"),
    "403": (status(403), "403"),
    "404": (status(404), "404"),
    "410": (status(410), "410"),
    "busy for ever": (status(503), "503"),
    "429 for ever": (status(429, 99_999), "429"),
    "reset for ever": (reset(-1), "connection"),
    "cut for ever": (cut(0), "broke off"),
    "stall for ever": (stall(0), "broke off"),
    "other bytes for ever": (garbled(), "sha256"),
    "redirects for ever": (redirect("/B04.tif"), "redirect"),
}


@pytest.mark.parametrize(("fault", "word"), FINAL.values(), ids=FINAL)
def test_a_lasting_fault_ends_in_one_sentence(
    server: FaultyServer, bands: list[bytes], output: Path, fault: Fault, word: str
) -> None:
    url = server.always("/B04.tif", fault)
    message = refusal(url, output, server.host, content=bands[0], patience_seconds=1.5)
    assert url in message
    assert word in message.lower() or word in message
    most = {"401": 1, "403": 1, "404": 1, "410": 1, "garbled": 2, "redirect": 6}
    assert len(server.log) <= most.get(fault.name.removeprefix("status "), 200)


def test_a_server_whose_object_is_not_of_the_size_promised_is_not_asked_for_ever(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    message = refusal(f"{server.url}/B04.tif", output, server.host, content=bands[0] + b"more")
    assert str(len(bands[0])) in message
    assert str(len(bands[0]) + 4) in message
    assert len(server.log) <= 6


def test_a_server_that_breaks_off_at_every_start_is_given_up(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    """Bytes that come again are no progress."""
    server.etags = "none"
    url = server.always("/B04.tif", cut(HALF))
    refusal(url, output, server.host, content=bands[0], patience_seconds=1)


# -- Disk, kills, and all at once -----------------------------------------------------------------

JOB = f"""
import json, sys
sys.path[:0] = [{str(CHECKOUT / "scripts")!r}, {str(CHECKOUT / "tests")!r}]
from pathlib import Path
from basemake.build.source import Limits
from basemake.errors import BandError
from basemake.web.access import Access, Credentials
from basemake.web.download import Promised
from basemake.web.progress import Progress
from sources import fetch_band
href, output, promised, host, limits = json.loads(sys.argv[1])
access = Access(frozenset([host]), Limits.of(limits), Credentials())
try:
    fetch_band(href, Path(output), Promised(**promised), access)
except BandError as error:
    sys.exit(str(error))
"""


def job(href: str, output: Path, host: str, content: bytes, **options) -> subprocess.Popen:
    """A fetch in a process of its own."""
    promised = {"size": len(content), "checksum": sha256(content), "dtype": "int16"}
    arguments = (href, str(output), promised, host, asdict(limits(**NEAR)))
    command = [sys.executable, "-c", JOB, json.dumps(arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def test_a_killed_download_goes_on_where_it_was(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    server.rate = 200_000
    url = f"{server.url}/B04.tif"
    killed = job(url, output, server.host, bands[0])
    part = output.with_name("B04.tif.part")
    server.wait_until(lambda: part.exists() and part.stat().st_size >= HALF)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not output.exists()
    kept = part.stat().st_size
    assert HALF <= kept < len(bands[0])
    server.rate = None
    fetch(url, output, server.host, content=bands[0])
    assert output.read_bytes() == bands[0]
    assert [asked.range for asked in server.log] == [None, f"bytes={kept}-"]
    assert server.log[1].sent == len(bands[0]) - kept


def test_a_full_disk_is_one_sentence_with_the_size_needed(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    small = (100_000, 100_000)
    full = job(
        f"{server.url}/B04.tif",
        output,
        server.host,
        bands[0],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, small),
    )
    _, message = full.communicate(timeout=30)
    assert full.returncode == 1
    assert message.count("\n") == 1
    assert "full" in message
    assert f"{len(bands[0]) / 1e6:.1f} MB" in message or f"{len(bands[0]):,}" in message
    assert not output.exists()
    fetch(f"{server.url}/B04.tif", output, server.host, content=bands[0])
    assert output.read_bytes() == bands[0]
    assert sent(server.log[1:]) < len(bands[0])


def test_what_the_system_refuses_is_one_sentence_without_the_query(
    server: FaultyServer, bands: list[bytes], output: Path
) -> None:
    """A query may be a signature."""
    url = f"{server.url}/B04.tif?sig=hush"
    small = (100_000, 100_000)
    full = job(
        url,
        output,
        server.host,
        bands[0],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, small),
    )
    _, message = full.communicate(timeout=30)
    assert "full" in message
    assert f"{server.url}/B04.tif" in message
    assert "hush" not in message
    for path in output.parent.iterdir():
        path.unlink()
    output.with_name("B04.tif.part").mkdir()
    message = refusal(url, output, server.host)
    assert f"{server.url}/B04.tif" in message
    assert "irectory" in message
    assert "hush" not in message


@pytest.mark.parametrize("by_web", [True, False])
def test_a_band_is_on_disk_before_it_has_its_name(
    server: FaultyServer,
    bands: list[bytes],
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_web: bool,
) -> None:
    """A power failure must not leave the name of an empty file."""
    href = f"{server.url}/B04.tif" if by_web else str(tmp_path / "B04.tif")
    (tmp_path / "B04.tif").write_bytes(bands[0])
    synced = []

    def sync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, output.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    fetch(href, output, server.host, content=bands[0])
    assert synced[0] == (output.stat().st_ino, len(bands[0]), False)
    assert synced[1][0] == output.parent.stat().st_ino


def test_a_full_device_is_one_sentence(bands: list[bytes], output: Path, tmp_path: Path) -> None:
    (tmp_path / "B04.tif").write_bytes(bands[0])
    output.with_name("B04.tif.part").symlink_to("/dev/full")
    assert "full" in refusal(str(tmp_path / "B04.tif"), output, content=bands[0])


WEATHER = [
    status(429),
    status(429, 1),
    status(429, 60_000),
    status(500),
    status(502),
    status(503, 2),
    status(504),
    reset(-1),
    reset(0),
    reset(30_000),
    reset(150_000),
    cut(0),
    cut(40_000),
    cut(90_000, "more"),
    cut(60_000, "sent"),
    no_ranges(),
    stall(120_000),
    trickle(8_000),
    garbled(),
]


def test_all_faults_at_random_end_in_the_right_bytes(tmp_path: Path, bands: list[bytes]) -> None:
    files = {f"/{n}.tif": bands[n % 3] for n in range(20)}
    with FaultyServer(files) as server:
        server.misbehave(6, WEATHER, share=0.6, row=4)

        def get(path: str) -> bytes:
            output = tmp_path / path[1:]
            fetch(
                server.url + path,
                output,
                server.host,
                content=files[path],
                requests_per_minute=3000,
            )
            return output.read_bytes()

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(get, files)) == list(files.values())
        assert server.most_in_flight <= 4
        faults = [asked.fault for asked in server.log if asked.fault != "behave"]
        assert {fault.name for fault in WEATHER} == set(faults)
        # One request a fault, and one that ends each file.
        assert len(server.log) <= len(faults) + len(files) + faults.count("garbled")
        seconds = server.log[-1].start - server.log[0].start
        assert len(server.log) <= seconds * 50 + 2  # 3000 a minute
        # The same bytes come again only after other bytes, or without ranges.
        again = faults.count("garbled") + faults.count("no ranges")
        again += faults.count("stall") + faults.count("trickle")
        assert sent(server.log) <= sum(map(len, files.values())) + again * len(bands[0])


# -- Hosts and credentials ------------------------------------------------------------------------


@pytest.fixture
def away(bands: list[bytes]) -> Iterator[FaultyServer]:
    """Another host."""
    with FaultyServer({"/final.tif": bands[0]}) as server:
        yield server


VARIABLES = {"user": "TEST_USER", "password": "TEST_PASSWORD"}


def oidc(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch, **lifetimes: float
) -> tuple[Tokens, Credentials]:
    """A server whose bands need a token, and the credentials of a user of it."""
    tokens = Tokens(server, **lifetimes)
    server.protect("/B", tokens.allows)
    monkeypatch.setenv("TEST_USER", tokens.user)
    monkeypatch.setenv("TEST_PASSWORD", tokens.password)
    settings = {"type": "oidc", "token_url": tokens.url, "client_id": "cdse-public"}
    settings |= {"hosts": [server.host], "variables": VARIABLES, "plain_http": True}
    return tokens, credentials_of(settings)


def test_a_redirect_to_an_allowed_host_sees_no_credentials(
    server: FaultyServer,
    away: FaultyServer,
    bands: list[bytes],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, credentials = oidc(server, monkeypatch)
    url = server.always("/B04.tif", redirect(f"{away.url}/final.tif"))
    away.script("/final.tif", reset(HALF))
    fetch(url, output, server.host, away.host, content=bands[0], credentials=credentials)
    assert output.read_bytes() == bands[0]
    assert [asked.range for asked in away.log] == [None, f"bytes={HALF}-"]
    assert not {"authorization", "cookie"} & {name for a in away.log for name in a.headers}
    assert not [s for s in tokens.secrets for a in away.log if s in str(a)]


def test_a_redirect_to_a_foreign_host_is_refused(
    server: FaultyServer, away: FaultyServer, output: Path
) -> None:
    url = server.always("/B04.tif", redirect(f"{away.url}/final.tif"))
    message = refusal(url, output, server.host)
    assert away.host in message
    assert url in message
    assert not away.log


def test_a_token_that_ends_in_mid_transfer_is_renewed_once(
    server: FaultyServer, bands: list[bytes], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, credentials = oidc(server, monkeypatch)

    def ending(asked: Asked) -> bool:
        if len(server.asked("/B04.tif")) == 2:
            tokens.expire()
        return tokens.allows(asked)

    server._protected[:] = [("/B", ending, 401)]
    url = server.script("/B04.tif", reset(HALF))
    fetch(url, output, server.host, content=bands[0], credentials=credentials)
    assert output.read_bytes() == bands[0]
    asked = server.asked("/B04.tif")
    assert [a.status for a in asked] == [200, 401, 206]
    assert asked[2].range == f"bytes={HALF}-"
    assert (tokens.logins, tokens.refreshes) == (1, 1)


@pytest.mark.parametrize("code", [401, 403])
def test_a_token_that_is_refused_for_ever_is_renewed_once(
    server: FaultyServer, output: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    tokens, credentials = oidc(server, monkeypatch)
    url = server.always("/B04.tif", status(code))
    message = refusal(url, output, server.host, credentials=credentials)
    assert str(code) in message
    assert not [secret for secret in tokens.secrets if secret in message]
    assert len(server.asked("/B04.tif")) == 2
    assert (tokens.logins, tokens.refreshes) == (1, 1)


def test_a_wrong_password_is_one_sentence(
    server: FaultyServer, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, credentials = oidc(server, monkeypatch)
    monkeypatch.setenv("TEST_PASSWORD", "not-the-word")
    message = refusal(f"{server.url}/B04.tif", output, server.host, credentials=credentials)
    assert "TEST_PASSWORD" in message
    assert "not-the-word" not in message
    assert tokens.refusals == 1
    assert not server.asked("/B04.tif")


def test_a_busy_login_is_waited_for(
    server: FaultyServer, bands: list[bytes], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, credentials = oidc(server, monkeypatch)
    server.script(tokens.url.removeprefix(server.url), status(429, 1), status(503), reset(-1))
    url = f"{server.url}/B04.tif"
    fetch(url, output, server.host, content=bands[0], credentials=credentials)
    assert output.read_bytes() == bands[0]
    assert tokens.logins == 1


def test_objects_come_by_signed_addresses(
    server: FaultyServer,
    bands: list[bytes],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    keys = S3Keys()
    server.protect("/eodata", keys.allows, 403)
    server.files["/eodata/a/B04.tif"] = bands[0]
    server.script("/eodata/a/B04.tif", reset(HALF), status(403), status(503))
    monkeypatch.setenv("TEST_KEY", keys.access_key)
    monkeypatch.setenv("TEST_SECRET", keys.secret_key)
    settings = {"type": "s3", "endpoint": server.url, "region": "default"}
    settings |= {"variables": {"key": "TEST_KEY", "secret": "TEST_SECRET"}, "plain_http": True}
    credentials = credentials_of(settings)
    href = "s3://eodata/a/B04.tif"
    fetch(href, output, server.host, content=bands[0], credentials=credentials)
    assert output.read_bytes() == bands[0]
    assert keys.refusals == []
    assert server.log[-1].range == f"bytes={HALF}-"
    output.unlink()
    server.always("/eodata/a/B04.tif", status(403))
    message = refusal(href, output, server.host, credentials=credentials)
    assert href in message
    for secret in keys.secrets:
        assert secret not in message + caplog.text


def test_objects_of_an_object_store_of_others_come_whole(
    bands: list[bytes], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as endpoint:
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="eodata")
        client.put_object(Bucket="eodata", Key="a/B04.tif", Body=bands[0], ACL="public-read")
        monkeypatch.setenv("TEST_KEY", "k")
        monkeypatch.setenv("TEST_SECRET", "s")
        settings = {"type": "s3", "endpoint": endpoint, "region": "default"}
        signed = settings | {"variables": {"key": "TEST_KEY", "secret": "TEST_SECRET"}}
        signed["plain_http"] = True
        host = endpoint.removeprefix("http://")
        for kind in (settings, signed):
            credentials = credentials_of(kind)
            href = "s3://eodata/a/B04.tif"
            fetch(href, output, host, content=bands[0], credentials=credentials)
            assert output.read_bytes() == bands[0]
            output.unlink()
        message = refusal("s3://eodata/none.tif", output, host, credentials=credentials)
        assert "404" in message


def test_a_shared_token_that_ends_in_mid_transfer_is_renewed(
    server: FaultyServer,
    bands: list[bytes],
    output: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    tokens = SasTokens(server)

    def ending(asked: Asked) -> bool:
        if len(server.asked("/B04.tif")) == 2:
            tokens.expire()
        return tokens.allows(asked)

    server.protect("/B", ending, 403)
    settings = {"type": "sas", "token_url": f"{tokens.url}/c", "hosts": [server.host]}
    settings["plain_http"] = True
    credentials = credentials_of(settings)
    url = server.script("/B04.tif", reset(HALF), behave)
    fetch(url, output, server.host, content=bands[0], credentials=credentials)
    assert output.read_bytes() == bands[0]
    assert [a.status for a in server.asked("/B04.tif")] == [200, 403, 206]
    assert tokens.issued == 2
    server.always("/B04.tif", status(403))
    output.unlink()
    message = refusal(url, output, server.host, credentials=credentials)
    for secret in tokens.secrets:
        assert secret not in message + caplog.text
