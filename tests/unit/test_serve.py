"""`make serve`: ranges of files, and its message when it cannot serve."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

SERVE = Path(__file__).parents[2] / "scripts" / "commands" / "serve.py"
CONTENT = bytes(range(256)) * 40


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and the first line that it prints: the address of a page."""
    command = [sys.executable, SERVE, *arguments, "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        stdout=pipe,
        stderr=pipe,
        text=True,
        # A shell's background jobs ignore SIGINT, and hand that on to what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as server:
        assert server.stdout is not None
        try:
            yield server, server.stdout.readline().strip()
        finally:
            server.kill()


def root_of(page: str) -> str:
    """The address of / on the server of a page."""
    return "/".join(page.split("/")[:3])


def fail(*arguments: str | Path) -> str:
    """Return the sentence of a server that ends at once with status 1."""
    command = [sys.executable, SERVE, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    return ended.stderr


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("preview/b c.html", "preview/a.html", "pyramid/a.pmtiles"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CONTENT)
    return tmp_path


@pytest.fixture
def address(results: Path) -> Iterator[str]:
    with serving(results) as (_, page):
        yield root_of(page)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("0-0", (0, 1)),
        ("5-99", (5, 100)),
        ("10000-", (10000, 10240)),
        ("10230-99999", (10230, 10240)),
        ("-7", (10233, 10240)),
    ],
)
def test_a_range_is_what_was_asked(address: str, asked: str, got: tuple[int, int]) -> None:
    archive = f"{address}/pyramid/a.pmtiles"
    response = requests.get(archive, headers={"Range": f"bytes={asked}"}, timeout=60)
    assert response.status_code == 206
    assert response.content == CONTENT[slice(*got)]
    assert response.headers["Content-Range"] == f"bytes {got[0]}-{got[1] - 1}/10240"


def test_a_range_beyond_the_end_is_refused(address: str) -> None:
    archive = f"{address}/pyramid/a.pmtiles"
    response = requests.get(archive, headers={"Range": "bytes=10240-10250"}, timeout=60)
    assert response.status_code == 416
    assert response.headers["Content-Range"] == "bytes */10240"


def test_a_rebuilt_file_has_another_tag_and_is_asked_for_again(results: Path, address: str) -> None:
    page = f"{address}/preview/b%20c.html"
    before = requests.get(page, timeout=60)
    (results / "preview" / "b c.html").write_bytes(CONTENT[:-1])
    after = requests.get(page, timeout=60)
    assert (before.content, after.content) == (CONTENT, CONTENT[:-1])
    assert before.headers["ETag"] != after.headers["ETag"]
    assert after.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_shows(address: str, method: str) -> None:
    for path in ("", "pyramid/a.pmtiles"):
        answer = requests.request(method, f"{address}/{path}", timeout=60)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_nothing_outside_the_folder_is_served(results: Path, address: str) -> None:
    (results.parent / "secret").write_text("secret")
    status = requests.get(f"{address}/%2e%2e/secret", timeout=60).status_code
    assert status == 404


def test_it_prints_each_address_and_nothing_more_until_ctrl_c(results: Path) -> None:
    with serving(results) as (server, first):
        assert server.stdout is not None
        pages = [first, server.stdout.readline().strip()]
        assert [page.split("/preview/")[1] for page in pages] == ["a.html", "b%20c.html"]
        assert requests.get(pages[1], timeout=60).content == CONTENT
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert (server.returncode, errors) == (0, "")


@pytest.mark.parametrize("page", ["results/preview/a b.html", "preview/a b.html", "a b.html"])
def test_one_map_is_at_the_root_and_its_folder_is_found(tmp_path: Path, page: str) -> None:
    """In a working directory, its results, or a folder to which it was published."""
    (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / page).write_bytes(CONTENT)
    with serving(tmp_path) as (_, address):
        assert address.endswith("/a%20b.html")
        assert requests.get(root_of(address), timeout=60).content == CONTENT


def test_without_a_preview_it_says_what_to_run(tmp_path: Path) -> None:
    assert "make demo" in fail(tmp_path)


def test_a_port_that_is_taken_or_not_allowed_is_named(results: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in fail(results, "--port", port)
    assert "99999" in fail(results, "--port", "99999")


@pytest.mark.parametrize(
    ("pages", "shown"),
    [
        (["preview/index.html", "preview/a.html", "preview/b.html"], "preview/index.html"),
        (["preview/index.html", "preview/a.html"], "preview/index.html"),
        # One map, as it is published, beside a page that is somebody's own.
        (["a.html", "index.html", "a.leaflet.html"], "a.html"),
    ],
)
def test_the_root_is_the_index_or_the_only_map(
    tmp_path: Path, pages: list[str], shown: str
) -> None:
    for page in pages:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text(page)
    with serving(tmp_path) as (_, page):
        host = root_of(page)
        answer = requests.get(host, timeout=60)
        assert (answer.url, answer.text) == (f"{host}/{shown}", shown)


def test_several_maps_without_an_index_are_listed(tmp_path: Path) -> None:
    """Here those of several working directories."""
    for page in ("alps/results/preview/a&b.html", "jura/results/preview/jura.html"):
        (tmp_path / page).parent.mkdir(parents=True)
        (tmp_path / page).write_text(page)
    with serving(tmp_path) as (_, page):
        host = root_of(page)
        text = requests.get(host, timeout=60).text
        links = [part.split('"')[0] for part in text.split('<a href="')[1:]]
        assert links == ["alps/results/preview/a%26b.html", "jura/results/preview/jura.html"]
        assert ">alps/results/preview/a&amp;b.html</a>" in text  # as people read it
        for link in links:
            assert requests.get(f"{host}/{link}", timeout=60).ok


@pytest.mark.parametrize("shared", [False, True])
def test_pages_of_other_sites_may_read_it_if_asked(results: Path, shared: bool) -> None:
    with serving(results, *(["--cors"] if shared else [])) as (_, page):
        host = root_of(page)
        archive = f"{host}/pyramid/a.pmtiles"
        answer = requests.get(archive, headers={"Range": "bytes=0-9"}, timeout=60)
        assert answer.content == CONTENT[:10]
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        assert allowed == ("*" if shared else None)
        if shared:
            assert "Content-Range" in answer.headers["Access-Control-Expose-Headers"]
            before = requests.options(archive, timeout=60)
            assert before.status_code == 204
            assert "Range" in before.headers["Access-Control-Allow-Headers"]
            missing = requests.get(f"{host}/nothing", timeout=60)
            assert missing.headers["Access-Control-Allow-Origin"] == "*"


def test_another_host_is_listened_at(results: Path) -> None:
    with serving(results, "--host", "127.0.0.2") as (_, page):
        assert page.startswith("http://127.0.0.2:")
        assert requests.get(page, timeout=60).content == CONTENT
        with pytest.raises(requests.ConnectionError):
            requests.get(page.replace("127.0.0.2", "127.0.0.1"), timeout=60)
    assert "192.0.2.1" in fail(results, "--port", "0", "--host", "192.0.2.1")
