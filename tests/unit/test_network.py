"""HTTP as a guest: the pace that jobs share, waits, redirects, and what their state keeps."""

import gzip
import itertools
import json
import re
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basemake import __version__
from basemake.errors import BasemakeError
from basemake.system.shared_state import RUN_BEGAN, shared
from basemake.web.access import Access, Credentials
from basemake.web.session import (
    NEVER_REACHED_SECONDS,
    Interrupted,
    NetworkError,
    Patience,
    PatientSession,
    Session,
    has_answered,
    note_answer,
    retry_after,
)
from servers import (
    Answer,
    FaultyServer,
    certificate,
    cut,
    http_date,
    raw_server,
    redirect,
    reset,
    status,
)
from sources import limits

CHECKOUT = Path(__file__).resolve().parents[2]
LIMITS = limits(
    requests_per_minute=60_000,
    patience_seconds=5,
    longest_wait_seconds=0.5,
    stall={"bytes_per_second": 1000, "seconds": 2},
)
HOUR = limits(patience_seconds=3600, longest_wait_seconds=60)
CREDENTIALS = {"Authorization": "Bearer secret-of-the-test"}


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What jobs share lies in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/a": b"right", "/b": b"other"}) as server:
        yield server


@pytest.fixture
def foreign() -> Iterator[FaultyServer]:
    with FaultyServer({"/a": b"foreign"}) as server:
        yield server


def session(*hosts: str, trusted: tuple[str, ...] = (), **changes: float) -> Session:
    credentials = Credentials()
    credentials.origins = frozenset(trusted)
    return Session(Access(frozenset(hosts), replace(LIMITS, **changes), credentials))


def jobs(count: int, code: str, *arguments: str) -> list[str]:
    """What each of some processes prints that run `code` at one time in this directory."""
    head = f"import sys; sys.path.insert(0, {str(CHECKOUT / 'scripts')!r})\n"
    command = [sys.executable, "-c", head + code, *arguments]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    ended = [(job.communicate(timeout=60), job.returncode) for job in running]
    assert [code for _, code in ended] == [0] * count, ended
    return [out for (out, _), _ in ended]


# -- One request ----------------------------------------------------------------------------------


def test_a_request_says_who_asks(server: FaultyServer) -> None:
    with session(server.host) as http:
        assert http.get(f"{server.url}/a").content == b"right"
    assert server.log[0].headers["user-agent"] == f"basemake/{__version__}"


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_answer_is_worth_another_try(server: FaultyServer, code: int) -> None:
    url = server.script("/a", status(code))
    with session(server.host) as http:
        with pytest.raises(Interrupted, match=str(code)) as caught:
            http.get(f"{url}?sig=secret")
        assert caught.value.wait is None
        assert http.get(url).content == b"right"


@pytest.mark.parametrize("fault", [reset(-1), cut(2)], ids=["reset", "cut"])
def test_a_broken_connection_is_worth_another_try(server: FaultyServer, fault) -> None:
    url = server.script("/a", fault)
    with session(server.host) as http:
        with pytest.raises(Interrupted) as caught:
            http.get(f"{url}?sig=secret")
        assert "secret" not in str(caught.value)
        assert server.host in str(caught.value)
        assert http.get(url).content == b"right"


def test_a_server_that_is_not_there_is_worth_another_try(server: FaultyServer) -> None:
    with session("127.0.0.1:9") as http, pytest.raises(Interrupted, match=r"127\.0\.0\.1:9"):
        http.get("http://127.0.0.1:9/a?sig=secret")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1:9", "connection refused"),
        ("no-such-host.invalid", "its name does not resolve"),
    ],
)
def test_a_host_that_cannot_be_reached_is_told_with_the_reason(host: str, reason: str) -> None:
    with session(host) as http, pytest.raises(Interrupted) as caught:
        http.get(f"http://{host}/a?sig=secret")
    assert str(caught.value) == f"{host}: {reason}"
    assert caught.value.unreached == host


def test_a_host_that_was_reached_has_answered(server: FaultyServer, monkeypatch) -> None:
    monkeypatch.setenv(RUN_BEGAN, str(time.time()))
    assert not has_answered(server.host)
    url = server.script("/a", reset(-1))
    with session(server.host) as http:
        with pytest.raises(Interrupted) as caught:
            http.get(url)
        assert caught.value.unreached is None
        assert not has_answered(server.host)
        http.get(url)
    assert has_answered(server.host)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_an_answer(server: FaultyServer, code: int) -> None:
    url = server.script("/a", status(code))
    with session(server.host) as http:
        assert http.get(url).status_code == code
    assert len(server.log) == 1


# -- Retry-After ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3),
        ("0", 0),
        ("-4", 0),
        ("2.5", 2.5),
        (" 3 ", 3),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 0001 07:28:00 +2359", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds
    assert 27 < (retry_after(http_date(30)) or 0) <= 30


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "soon", "Wed, 99 Oct", "1 2 3 4 5 6"),
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
        "Wed, 21 Oct 10000 07:28:00 GMT",
        "Wed, 21 Oct 2015 07:28:00 +99999999999999999999",
    ],
)
def test_a_retry_after_that_says_nothing_is_none(value: str | None) -> None:
    assert retry_after(value) is None


@given(st.text(st.characters(codec="latin-1"), max_size=60))
def test_no_retry_after_breaks_anything(value: str) -> None:
    seconds = retry_after(value)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("huge", ["30000", "1e300", "inf", "nan", "a date"])
def test_a_huge_retry_after_is_capped(server: FaultyServer, huge: str) -> None:
    """One Copernicus service tells milliseconds."""
    url = server.script("/a", status(429, http_date(90_000) if huge == "a date" else huge))
    begin = time.monotonic()
    with session(server.host) as http:
        patience = Patience(LIMITS)
        with pytest.raises(Interrupted) as caught:
            http.get(url)
        patience.wait(caught.value)
        assert http.get(url).content == b"right"
    assert time.monotonic() - begin < 2 * LIMITS.longest_wait_seconds + 0.5


def test_the_wish_of_a_service_holds_for_all_jobs(server: FaultyServer) -> None:
    server.script("/a", status(429, "0.4"))
    with session(server.host) as http, pytest.raises(Interrupted):
        http.get(f"{server.url}/a")
    with session(server.host) as another:
        another.get(f"{server.url}/b")
    assert server.log[1].start - server.log[0].start >= 0.38


# -- Patience -------------------------------------------------------------------------------------


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now, self.waits = 1000.0, []

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("basemake.web.session.time", clock)
    return clock


def out_of_patience(patience: Patience, failure: Interrupted) -> str:
    with pytest.raises(NetworkError) as caught:  # noqa: PT012
        for _ in range(10_000):
            patience.wait(failure)
    return str(caught.value)


def test_waits_grow_up_to_a_cap_with_jitter_and_end(clock: Clock) -> None:
    message = out_of_patience(Patience(HOUR), Interrupted("x.org answers 503 Busy"))
    assert "x.org answers 503 Busy" in message
    assert message.endswith(".")
    assert sum(clock.waits) <= 3600
    assert max(clock.waits) <= 60
    assert max(clock.waits[:3]) <= 4
    later = clock.waits[8:]
    assert sum(later) / len(later) > 20
    assert len({round(wait, 3) for wait in later}) > len(later) / 2
    assert 30 < len(clock.waits) < 400


def test_two_jobs_that_fail_together_do_not_come_back_together(clock: Clock) -> None:
    waits = []
    for _ in range(2):
        clock.waits.clear()
        out_of_patience(Patience(HOUR), Interrupted("busy"))
        waits.append(clock.waits[:6])
    assert waits[0] != waits[1]


def test_a_wish_is_waited_for(clock: Clock) -> None:
    patience = Patience(HOUR)
    patience.wait(Interrupted("busy", 17))
    assert 17 <= clock.waits[0] <= 20


def test_progress_renews_patience(clock: Clock) -> None:
    patience = Patience(limits(patience_seconds=100, longest_wait_seconds=10))
    for _ in range(200):
        patience.wait(Interrupted("busy"))
        patience.progressed()
    assert max(clock.waits) <= 1.0
    assert out_of_patience(patience, Interrupted("busy"))


def test_each_retry_is_shown_with_its_reason(clock: Clock, capsys) -> None:
    out_of_patience(Patience(LIMITS), Interrupted("x.org answers 503"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"x.org answers 503; next try in {wait:.1f} s" for wait in clock.waits]


def test_patience_is_for_hosts_that_answered_in_this_run(clock: Clock, monkeypatch) -> None:
    failure = Interrupted("x.org: connection refused", unreached="x.org")

    def waited() -> tuple[str, float]:
        clock.waits = []
        return out_of_patience(Patience(HOUR), failure), sum(clock.waits)

    note_answer("x.org")
    monkeypatch.setenv(RUN_BEGAN, str(clock.now + 1))
    said, seconds = waited()
    assert said.startswith("cannot reach x.org: are you online? (connection refused; ")
    assert seconds <= NEVER_REACHED_SECONDS
    note_answer("x.org")
    said, seconds = waited()
    assert said.endswith("run again later.")
    assert seconds > HOUR.patience_seconds - HOUR.longest_wait_seconds
    # What is not known of a run, or a refresh, which begins at 0, is no reason for haste.
    monkeypatch.setenv(RUN_BEGAN, "0")
    failure = Interrupted("y.org: connection refused", unreached="y.org")
    assert waited()[0].endswith("run again later.")


# -- Redirects and credentials --------------------------------------------------------------------


def test_a_redirect_to_an_allowed_host_is_followed(
    server: FaultyServer, foreign: FaultyServer
) -> None:
    url = server.script("/a", redirect(f"{foreign.url}/a"))
    with session(server.host, foreign.host) as http:
        assert http.get(url, headers=CREDENTIALS).content == b"foreign"
    assert "authorization" in server.log[0].headers
    assert not {"authorization", "cookie"} & foreign.log[0].headers.keys()


def test_credentials_go_along_to_the_hosts_named_for_them(
    server: FaultyServer, foreign: FaultyServer
) -> None:
    url = server.script("/a", redirect(f"{foreign.url}/a"))
    with session(server.host, foreign.host, trusted=(server.url, foreign.url)) as http:
        http.get(url, headers=CREDENTIALS)
    assert foreign.log[0].headers["authorization"] == CREDENTIALS["Authorization"]


@pytest.mark.parametrize("target", ["http://{}/a", "//{}/a", "HTTP://{}/a", "http://x@{}/a"])
def test_a_redirect_to_a_foreign_host_is_refused(
    server: FaultyServer, foreign: FaultyServer, target: str
) -> None:
    url = server.script("/a", redirect(target.format(foreign.host)))
    with session(server.host) as http, pytest.raises(BasemakeError) as caught:
        http.get(url, headers=CREDENTIALS)
    assert not foreign.log
    assert foreign.host.partition(":")[0] in str(caught.value)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://127.0.0.1/"])
def test_a_redirect_elsewhere_is_refused(server: FaultyServer, target: str) -> None:
    url = server.script("/a", redirect(target))
    with session(server.host) as http, pytest.raises(BasemakeError):
        http.get(url)


@pytest.mark.parametrize(
    "target", ["http://[::1", "http://[::1]:99999999999999999999/", "http://[x]/", "\x80\xff"]
)
def test_a_redirect_to_what_is_no_address_is_one_sentence(
    server: FaultyServer, target: str
) -> None:
    server.script("/a", redirect(target))
    with session(server.host) as http, pytest.raises(BasemakeError) as caught:
        http.get(f"{server.url}/a?sig=hush", headers=CREDENTIALS)
    message = str(caught.value)
    assert message.endswith(".")
    assert server.host in message or "[" in message
    assert "hush" not in message


def test_a_redirects_own_body_is_not_read(server: FaultyServer) -> None:
    whole = bytes(200 << 20)
    server.route("GET", "/c", lambda asked: Answer(302, whole, {"Location": "/a"}))
    with session(server.host) as http:
        assert http.get(f"{server.url}/c").content == b"right"
    server.wait_until(lambda: server.log[0].seconds is not None)
    assert server.log[0].sent < len(whole) / 2


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """A server that speaks https."""
    path = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with FaultyServer({"/a": b"secure"}, certificate=path) as server:
        yield server


@pytest.mark.parametrize("trusted", [True, False])
def test_a_redirect_from_https_to_http_is_refused(
    secure: FaultyServer, server: FaultyServer, trusted: bool
) -> None:
    """Whatever the host is: the address that it names may be signed."""
    url = secure.script("/a", redirect(f"http://me:hush@{server.host}/a?sig=hush"))
    origins = (secure.url, f"https://{server.host}") if trusted else ()
    with session(secure.host, server.host, trusted=origins) as http:
        with pytest.raises(BasemakeError) as caught:
            http.get(url, headers=CREDENTIALS)
        assert http.get(url, headers=CREDENTIALS).content == b"secure"
    assert not server.log
    assert str(caught.value) == (
        f"{secure.url} redirects to {server.url}, which is not encrypted; allowed: https."
    )


def test_credentials_for_https_do_not_go_along_over_http(
    server: FaultyServer, foreign: FaultyServer, secure: FaultyServer
) -> None:
    url = server.script("/a", redirect(f"{foreign.url}/a"), redirect(f"{secure.url}/a"))
    trusted = tuple(f"https://{one.host}" for one in (server, foreign, secure))
    with session(server.host, foreign.host, secure.host, trusted=trusted) as http:
        http.get(url, headers=CREDENTIALS)
        http.get(url, headers=CREDENTIALS)
    assert "authorization" not in foreign.log[0].headers
    assert secure.log[0].headers["authorization"] == CREDENTIALS["Authorization"]


def test_a_users_netrc_is_not_read(
    server: FaultyServer,
    foreign: FaultyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would take the place of the token, and go to any host at all."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    url = server.script("/a", redirect(f"{foreign.url}/a"))
    with session(server.host, foreign.host, trusted=(server.url,)) as http:
        http.get(url, headers=CREDENTIALS)
        http.get(f"{server.url}/b")
    assert server.log[0].headers["authorization"] == CREDENTIALS["Authorization"]
    assert "authorization" not in server.log[1].headers
    assert "authorization" not in foreign.log[0].headers


# -- Answers that are read at once -----------------------------------------------------------------


def patient(host: str) -> PatientSession:
    within = replace(LIMITS, patience_seconds=1, longest_wait_seconds=0.1)
    return PatientSession(Access(frozenset([host]), within, Credentials()))


def compressed(size: int, times: int = 1) -> bytes:
    """So many bytes of nothing, compressed `times` over."""
    content = b" " * size
    for _ in range(times):
        content = gzip.compress(content, 6)
    return content


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "identity"])
def test_an_answer_that_is_too_large_is_refused_in_little_memory(
    server: FaultyServer, encoding: str
) -> None:
    body = compressed(300 << 20, 0 if encoding == "identity" else encoding.count("gzip"))
    server.route("GET", "/c", lambda asked: Answer(200, body, {"Content-Encoding": encoding}))
    with patient(server.host) as http:
        tracemalloc.start()
        try:
            with pytest.raises(NetworkError, match=rf"^{server.host} gives .* of more than 32 MB"):
                http.get(f"{server.url}/c")
            assert tracemalloc.get_traced_memory()[1] < 100e6
        finally:
            tracemalloc.stop()
    assert len(server.log) == 1


def test_an_answer_that_a_redirect_leads_to_is_read(server: FaultyServer) -> None:
    server.script("/a", redirect("/b"))
    with patient(server.host) as http:
        answer = http.get(f"{server.url}/a")
    assert (answer.content, answer.text) == (b"other", "other")


def test_an_answer_that_is_large_is_read(server: FaultyServer) -> None:
    body = compressed(30 << 20)
    server.route("GET", "/c", lambda asked: Answer(200, body, {"Content-Encoding": "gzip"}))
    with patient(server.host) as http:
        assert len(http.get(f"{server.url}/c").content) == 30 << 20


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot compressed",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nright\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nright\r\n0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\nright",
        b"\x00\xff" * 100,
        b"",
    ],
    ids=["coding", "short", "chunk", "chunk size", "status", "headers", "bytes", "nothing"],
)
def test_an_answer_that_is_not_http_is_worth_another_try_and_then_one_sentence(head: bytes) -> None:
    fine = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
    with raw_server(head, fine) as host, patient(host) as http:
        assert http.get(f"http://{host}/a").content == b"right"
    with raw_server(head) as host, patient(host) as http:
        with pytest.raises(NetworkError) as caught:
            http.get(f"http://{host}/a?sig=hush")
        assert "hush" not in str(caught.value)


# -- What jobs share ------------------------------------------------------------------------------

ASK = f"""
from basemake.build.source import Limits
from basemake.web.access import Access, Credentials
from basemake.web.session import Session
limits = Limits.of({asdict(LIMITS)!r} | {{"requests_per_minute": 1200}})
with Session(Access(frozenset(sys.argv[1:]), limits, Credentials())) as http:
    for _ in range(8):
        http.get(f"http://{{sys.argv[1]}}/a")
"""


def test_parallel_jobs_share_one_pace(server: FaultyServer) -> None:
    """1200 requests a minute are one in 50 ms, of all jobs together."""
    jobs(3, ASK, server.host)
    starts = [asked.start for asked in server.asked("/a")]
    assert len(starts) == 24
    assert starts[-1] - starts[0] >= 23 * 0.05 - 0.03
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(starts))
    assert gaps[len(gaps) // 2] > 0.04
    assert starts[-1] - starts[0] < 5


COUNT = """
from basemake.system.shared_state import shared
for _ in range(50):
    with shared("count") as state:
        state["n"] = state.get("n", 0) + 1
"""


def test_shared_state_is_changed_by_one_job_at_a_time() -> None:
    jobs(4, COUNT)
    with shared("count") as state:
        assert state == {"n": 200}


def test_shared_state_is_private(tmp_path: Path) -> None:
    with shared("token-../x") as state:
        state["secret"] = "s"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].parent == tmp_path / ".basemake"
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700


def test_shared_state_outlives_errors_and_kills(tmp_path: Path) -> None:
    with shared("x") as state:
        state["a"] = 1
    with pytest.raises(ZeroDivisionError), shared("x") as state:
        state["a"] = 1 / 0
    with shared("x") as state:
        assert state == {"a": 1}
    (file,) = (tmp_path / ".basemake").iterdir()
    for broken in (file.read_text()[:-3], "", "[1]", "null"):
        file.write_text(broken)
        with shared("x") as state:
            assert state == {}
            state["b"] = 2
        assert json.loads(file.read_text()) == {"b": 2}


def test_no_word_of_the_session_holds_an_address_whole(server: FaultyServer, caplog) -> None:
    """Queries may be signatures."""
    caplog.set_level("DEBUG")
    server.script("/a", status(503), reset(-1))
    with session(server.host) as http:
        for _ in range(2):
            with pytest.raises(Interrupted) as caught:
                http.get(f"{server.url}/a?sig=hush")
            Patience(LIMITS).wait(caught.value)
    ours = [r.getMessage() for r in caplog.records if r.levelname != "DEBUG"]
    assert ours
    assert not re.search("hush", "\n".join(ours))
