"""Whole runs against services on loopback: searches, downloads, kills, and where secrets go."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import yaml
from shapely.geometry import mapping

from basemake.build.bands import COARSE_BYTES
from conftest import Build
from servers import (
    S3Keys,
    SasTokens,
    StacServer,
    Tokens,
    cut,
    redirect,
    reset,
    rustac_serve,
    status,
)

BANDS = ("B02", "B03", "B04")


@pytest.fixture
def server() -> Iterator[StacServer]:
    with StacServer() as server:
        yield server


@pytest.fixture(scope="module")
def band(write_geotiff, tmp_path_factory) -> bytes:
    """A band of 400 KB: 100 km of 2 km, so that a map of it is small."""
    dn = np.random.default_rng(3).integers(1, 9999, (500, 400), dtype=np.int16)
    path = tmp_path_factory.mktemp("band") / "band.tif"
    return write_geotiff(path, dn, origin=(500_000.0, 5_100_000.0), pixel=200.0).read_bytes()


def item(number: int, href: str, size: int | None = None) -> dict:
    """A mosaic in a row along 45 degrees north; `href` has a place for the band."""
    tile = f"{32 + number // 100}T{'ABCDEFGHJK'[number // 10 % 10]}{'ABCDEFGHJK'[number % 10]}_0_0"
    box = shapely.box(number / 10, 45, number / 10 + 0.1, 46)
    times = {"datetime": "2025-07-01T00:00:00Z", "start_datetime": "2025-07-01T00:00:00Z"}
    assets = {band: {"href": href.format(tile=tile, band=band)} for band in BANDS}
    for asset in assets.values():
        asset |= {} if size is None else {"file:size": size}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"Sentinel-2_mosaic_2025_Q3_{tile}",
        "collection": "mosaics",
        "properties": {**times, "end_datetime": "2025-09-30T23:59:59Z", "proj:code": "EPSG:32632"},
        "geometry": mapping(box),
        "bbox": list(box.bounds),
        "links": [],
        "assets": assets,
    }


@pytest.fixture
def build(new_build: Callable[..., Build]) -> Callable[..., Build]:
    """A function that makes a build of a row of tiles from an API."""

    def make(url: str, tiles: int, limits: dict | None = None, **source: Any) -> Build:
        made = new_build(
            source="source.yaml",
            quarter="2025Q3",
            regions={"row": "row.geojson"},
            pyramid={"min_zoom": 5, "max_zoom": 6, "metatile_zoom": 5},
        )
        document = {
            "type": "api",
            "url": url,
            "collection": "mosaics",
            "bands": {"red": "B04", "green": "B03", "blue": "B02"},
            "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768, "dtype": "int16"},
            "attribution": "Somebody",
            "limits": {
                "requests_per_minute": 60_000,
                "patience_seconds": 20,
                "longest_wait_seconds": 0.1,
                **(limits or {}),
            },
            **source,
        }
        (made.directory / "source.yaml").write_text(yaml.safe_dump(document))
        row = mapping(shapely.box(0.01, 45.4, tiles / 10 - 0.01, 45.6))
        (made.directory / "row.geojson").write_text(json.dumps(row))
        return made

    return make


def provide(server: StacServer, tiles: int, content: bytes, prefix: str = "/bands") -> None:
    """Let the server hold items, and the bands that they name."""
    server.items = [
        item(n, f"{server.url}{prefix}/{{tile}}/{{band}}.tif", len(content)) for n in range(tiles)
    ]
    for one in server.items:
        for asset in one["assets"].values():
            server.files[asset["href"].removeprefix(server.url)] = content


def downloads(server: StacServer) -> list:
    return [asked for asked in server.asked() if asked.path.startswith("/bands")]


# -- Searches -------------------------------------------------------------------------------------


def test_300_items_of_a_service_that_throttles(server: StacServer, build: Callable) -> None:
    provide(server, 300, b"")
    server.page, server.paging, server.empty_last = 20, "merge", True
    weather = [status(429), status(429, 1), status(503), reset(-1), reset(500), cut(100)]
    server.misbehave(8, weather, share=0.4, prefix="/v1/search")
    one = build(server.api, 300)
    printed = one.run("manifest")
    assert "300" in printed
    assert one.files("manifest.geojson")["manifest.geojson"].count(b'"id": "3') == 300
    faults = [asked for asked in server.asked("/v1/search") if asked.fault != "behave"]
    assert len(faults) > 5
    assert len(server.asked("/v1/search")) == 16 + len(faults)


def test_300_items_of_a_service_of_others(build: Callable, tmp_path: Path) -> None:
    items = [item(n, "http://127.0.0.1/{tile}/{band}.tif", 1000) for n in range(300)]
    with rustac_serve(items, tmp_path) as url:
        one = build(url, 300, {"page_size": 40}, hosts=["127.0.0.1"])
        first = one.run("manifest")
        assert "300" in first
        assert "written" in first
        assert "unchanged" in one.run("manifest")


def test_a_service_that_is_away_is_one_sentence(server: StacServer, build: Callable) -> None:
    provide(server, 3, b"")
    server.always("/v1/search", status(503))
    printed = build(server.api, 3, {"patience_seconds": 0.5}).run("manifest", check=False)
    assert "503" in printed
    assert "Traceback" not in printed
    assert len({line for line in printed.splitlines() if line.startswith("basemake:")}) == 1


# -- Downloads ------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_where_it_was(
    server: StacServer, build: Callable, band: bytes
) -> None:
    provide(server, 2, band)
    one = build(server.api, 2, {"connections": 3})
    one.run("manifest")
    server.rate = 150_000
    killed = one.start("--cores", "2", "--until", "fetch_bands")
    half = len(band) // 2

    def sizes() -> list[int]:
        return [path.stat().st_size for path in one.results.rglob("*.tif.part")]

    server.wait_until(lambda: [size > half for size in sizes()] == [True] * 2, 60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    parts = {path.parent.name + "/" + path.name: path for path in one.results.rglob("*.tif.part")}
    kept = {name.removesuffix(".part"): p.stat().st_size for name, p in parts.items()}
    assert len(kept) == 2
    assert min(kept.values()) > half
    begun = len(server.log)
    server.rate = None
    one.run("--cores", "2", "--until", "fetch_bands")
    assert set(one.files("bands/*/*.tif").values()) == {band}
    assert len(one.files("bands/*/*")) == 6
    later = [asked for asked in downloads(server) if asked in server.log[begun:]]
    # The header of a band comes first, and once more, as it has no reduced images: one answer might
    # be wrong. Then all the rest follows.
    first = {a.path.removeprefix("/bands/"): a.range for a in reversed(later)}
    whole = dict.fromkeys(first.keys() - kept.keys(), f"bytes=0-{COARSE_BYTES - 1}")
    assert first == whole | {name: f"bytes={size}-" for name, size in kept.items()}
    assert len(later) == len(kept) + 3 * len(whole)
    again = COARSE_BYTES * len(whole)
    assert sum(a.sent for a in later) == 6 * len(band) - sum(kept.values()) + again


@pytest.mark.parametrize(("tiles", "connections", "at_a_time"), [(1, 4, 3), (2, 4, 4)])
def test_few_tiles_take_more_connections_each(
    server: StacServer, build: Callable, band: bytes, tiles: int, connections: int, at_a_time: int
) -> None:
    provide(server, tiles, band)
    server.latency = 0.5
    one = build(server.api, tiles, {"connections": connections})
    one.run("manifest")
    one.run("--cores", "2", "--until", "fetch_bands")
    assert list(one.files("bands/*/*").values()) == [band] * 3 * tiles
    assert server.most_in_flight == at_a_time


def test_bad_weather_ends_in_the_right_bytes_within_the_limits(
    server: StacServer, build: Callable, band: bytes
) -> None:
    provide(server, 2, band)
    server.rate = 2_000_000
    weather = [status(429), status(429, 1), status(503), reset(100_000), cut(200_000), reset(-1)]
    server.misbehave(5, weather, share=0.6, prefix="/bands")
    one = build(server.api, 2, {"connections": 2})
    one.run("manifest")
    one.run("--cores", "2", "--until", "fetch_bands")
    assert list(one.files("bands/*/*").values()) == [band] * 6
    asked = downloads(server)
    faults = [a for a in asked if a.fault != "behave"]
    assert len(faults) > 5
    assert len(asked) == 3 * 6 + len(faults)  # each band's header, twice, and the rest
    assert server.most_in_flight <= 2
    assert sum(a.sent for a in asked if a.status in (200, 206)) == 6 * (len(band) + COARSE_BYTES)


def test_a_band_that_is_gone_is_named(server: StacServer, build: Callable, band: bytes) -> None:
    provide(server, 1, band)
    gone = server.items[0]["assets"]["B03"]["href"] = f"{server.url}/bands/0af3"
    one = build(server.api, 1)
    one.run("manifest")
    printed = one.run("--cores", "2", "--until", "fetch_bands", check=False)
    (sentence,) = {line for line in printed.splitlines() if line.startswith("basemake:")}
    for word in ("32TAA_0_0", "B03", "404", gone):
        assert word in sentence
    assert "Traceback" not in printed
    assert not (one.results / "bands/32TAA_0_0/B03.tif").exists()


def test_a_redirect_to_a_foreign_host_is_refused(
    server: StacServer, build: Callable, band: bytes
) -> None:
    provide(server, 1, band)
    for path in server.files:
        server.always(path, redirect(f"http://{server.other_host}/other.tif"))
    one = build(server.api, 1)
    one.run("manifest")
    printed = one.run("--cores", "2", "--until", "fetch_bands", check=False)
    assert f"'{server.other_host}'" in printed
    assert not server.asked("/other.tif")


# -- Secrets --------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Collects the command lines of all processes of the machine."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.lines: set[bytes] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.lines.add(path.read_bytes())
                except OSError:
                    continue
            time.sleep(0.02)


def leaks(one: Build, secrets: list[str], *printed: str) -> list[str]:
    """Where secrets are found: files of the working directory but its private state, and texts."""
    texts = {f"printed {n}": text.encode() for n, text in enumerate(printed)}
    for path in one.directory.rglob("*"):
        if path.is_file() and path.parent.name == ".basemake":
            assert path.stat().st_mode & 0o077 == 0
        elif path.is_file():
            texts[str(path)] = path.read_bytes()
    return [f"{name}: {s}" for name, text in texts.items() for s in secrets if s.encode() in text]


def test_one_login_serves_a_run_and_no_secret_is_left_anywhere(
    server: StacServer, build: Callable, band: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(server, totp="947261", password="long-pass-word-of-the-test")
    server.protect("/bands", tokens.allows)
    provide(server, 2, band)
    (first, *_) = server.files
    server.script(first, reset(100_000), status(401), status(503))
    monkeypatch.setenv("TEST_USER", tokens.user)
    monkeypatch.setenv("TEST_PASSWORD", tokens.password)
    monkeypatch.setenv("TEST_TOTP", "947261")
    credentials = {
        "type": "oidc",
        "token_url": tokens.url,
        "client_id": "cdse-public",
        "hosts": [server.host],
        "variables": {"user": "TEST_USER", "password": "TEST_PASSWORD", "totp": "TEST_TOTP"},
        "plain_http": True,
    }
    one = build(server.api, 2, credentials=credentials)
    watch = Watch()
    watch.start()
    printed = [
        one.run("manifest"),
        one.run("--cores", "2", "--until", "fetch_bands", "--verbose", "--printshellcmds"),
    ]
    assert list(one.files("bands/*/*").values()) == [band] * 6
    assert tokens.logins == 1
    assert tokens.refreshes == 1  # one 401
    tokens.revoke()
    monkeypatch.setenv("TEST_PASSWORD", "wrong-pass-word-of-the-test")
    (one.results / "bands/32TAA_0_0/B04.tif").unlink()
    printed += [one.run("--cores", "2", "--until", "fetch_bands", check=False)]
    watch.over.set()
    watch.join()
    assert "TEST_PASSWORD" in printed[-1]
    assert "Traceback" not in printed[-1]
    secrets = [*tokens.secrets, "wrong-pass-word-of-the-test"]
    assert len(secrets) >= 7
    assert leaks(one, secrets, *printed) == []
    assert len(watch.lines) > 3
    assert not [s for s in secrets if any(s.encode() in line for line in watch.lines)]


def test_signatures_are_left_nowhere(
    server: StacServer, build: Callable, band: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, tokens = S3Keys(region="default"), SasTokens(server)
    server.protect("/eodata", keys.allows, 403)
    server.protect("/bands", tokens.allows, 403)
    provide(server, 1, band)
    monkeypatch.setenv("TEST_KEY", keys.access_key)
    monkeypatch.setenv("TEST_SECRET", keys.secret_key)
    sas = {"type": "sas", "token_url": f"{tokens.url}/mosaics", "hosts": [server.host]}
    sas["plain_http"] = True
    s3 = {"type": "s3", "endpoint": server.url, "region": "default", "plain_http": True}
    s3["variables"] = {"key": "TEST_KEY", "secret": "TEST_SECRET"}
    for credentials, folder in ((sas, "/bands/32TAA_0_0"), (s3, "/eodata/32TAA_0_0")):
        if credentials is s3:
            server.items = [item(0, "s3://eodata/{tile}/{band}.tif", len(band))]
            server.files |= {f"{folder}/{name}.tif": band for name in BANDS}
        server.script(f"{folder}/B03.tif", status(503), reset(1000), status(403), cut(1000))
        server.always(f"{folder}/B04.tif", status(403))  # the last of them
        one = build(server.api, 1, credentials=credentials)
        printed = [
            one.run("manifest"),
            one.run("--cores", "2", "--until", "fetch_bands", "--keep-going", check=False),
        ]
        assert one.files("bands/*/*.tif") == {}  # all three, or none
        parts = one.files("bands/*/*.part")
        assert list(parts.values()) == [band] * 2
        assert "403" in printed[-1]
        assert "Traceback" not in printed[-1]
        assert leaks(one, [*keys.secrets, *tokens.secrets, "Signature=", "sig="], *printed) == []
    assert keys.refusals == []
    assert len(keys.secrets) > 3
    assert tokens.issued >= 1
