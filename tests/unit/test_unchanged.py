"""Bands whose items are newer although they did not change, asked of a real server."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import shapely

from basemake.build.bands import Known, band_path, known_here
from basemake.build.manifest import Band, Tile
from basemake.build.records import made_of, write_record
from basemake.build.source import Source
from basemake.web.access import Access, Credentials, CredentialsError
from basemake.web.unchanged import SILENT, keep_unchanged
from servers import Asked, FaultyServer, status
from sources import NEAR, limits, source

TAG = f'"{hashlib.sha256(b"band").hexdigest()[:16]}"'  # as the server makes it
KEYS = [f"B{number:02}" for number in range(2, 9)]


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Renewed(Credentials):
    """Credentials that are refused until they are renewed."""

    name = "old"

    def headers(self, address: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.name}"}

    def renew(self) -> bool:
        self.name = "new"
        return True


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({f"/{key}.tif": b"band" for key in KEYS}) as server:
        yield server


def tile_of(server: FaultyServer, updated: str) -> Tile:
    bands = {key: Band(f"{server.url}/{key}.tif", 4, None) for key in KEYS}
    return Tile("item", updated, bands, {}, "T", 32633, 10.0, ["here"], shapely.box(14, 45, 15, 46))


def kept(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch, credentials: Credentials | None = None
) -> set[str]:
    """Record bands of an item, ask for those of a newer one, and return what was kept."""
    old, new = tile_of(server, "2025"), tile_of(server, "2026")
    for key, band in old.bands.items():
        path = band_path("T", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"band")
        known = Known(band.identity("2025"), 4, TAG)
        write_record(path, made_of({}, []), known=asdict(known))
    access = Access(frozenset([server.host]), limits(**NEAR), credentials or Credentials())
    monkeypatch.setattr("basemake.web.unchanged.access_to", lambda source: access)
    count = keep_unchanged([new], source())
    found = {
        key
        for key, band in new.bands.items()
        if getattr(known_here("T", key), "identity", None) == band.identity("2026")
    }
    assert count == len(found)
    return found


def test_all_that_did_not_change_is_kept(server, monkeypatch) -> None:
    assert kept(server, monkeypatch) == set(KEYS)


def test_no_answer_about_one_band_is_nothing_to_the_others(server, monkeypatch) -> None:
    server.script("/B04.tif", status(503), status(503))
    assert kept(server, monkeypatch) == {*KEYS} - {"B04"}


def test_a_service_that_gives_no_answers_is_not_asked_for_all(server, monkeypatch) -> None:
    for key in KEYS:
        server.script(f"/{key}.tif", *[status(503)] * 9)
    assert kept(server, monkeypatch) == set()
    assert len(server.log) == SILENT


def test_refused_credentials_are_renewed(server, monkeypatch) -> None:
    def allowed(asked: Asked) -> bool:
        return asked.headers.get("authorization") == "Bearer new"

    server.protect("/", allowed)
    assert kept(server, monkeypatch, Renewed()) == set(KEYS)
    assert [asked.status for asked in server.log] == [401, *[304] * len(KEYS)]


def test_a_search_without_credentials_keeps_nothing(server, monkeypatch) -> None:
    assert kept(server, monkeypatch) == set(KEYS)

    def refuse(source: Source) -> Access:
        raise CredentialsError("there are none")

    monkeypatch.setattr("basemake.web.unchanged.access_to", refuse)
    assert keep_unchanged([tile_of(server, "2027")], source()) == 0


def test_credentials_that_stay_refused_keep_nothing(server, monkeypatch) -> None:
    server.protect("/", lambda asked: False)
    assert kept(server, monkeypatch, Renewed()) == set()
