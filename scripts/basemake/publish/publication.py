"""A published map: an archive whose name is its digest, and the pages and files that name it."""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from basemake.errors import MALFORMED, PublishError
from basemake.publish.pieces import Piece, pieces_of
from basemake.publish.places import CONNECTIONS, Base, Place
from basemake.readers.pages import leaflet_page, openlayers_page
from basemake.readers.qgis import layer_definition
from basemake.readers.shown import ZXY, Shown, in_archive
from basemake.readers.style import style
from basemake.system.files import PART

DIGEST = 16  # hex digits in the name of an archive
INDEX = ".json"  # added to an archive's name: its ETag and pieces
# What a page links to, as JSON
LINKS = re.compile(r'(?<=<script id="links" type="application/json">)[^<]*(?=</script>)')
# Ends of names of an archive, its index, and what a kill leaves of these in a folder.
ENDS = rf"({re.escape(INDEX)})?(\.[0-9a-f]+{re.escape(PART)})?"
Showing = Callable[[str], Shown]  # returns the map whose web tiles are at an address


class Published(NamedTuple):
    """What a publication did: the name of archive or folder, bytes sent, and objects deleted."""

    name: str
    sent: int
    deleted: int


def publish_archive(
    region: str,
    archive: Path,
    page: Path,
    showing: Showing,
    place: Place,
    *,
    url: str,
    remove_old: bool,
) -> Published:
    """Publish a region's archive, its page as {region}.html, and its TileJSON as {region}.json.

    Between page and TileJSON what else opens the map is published, as `_readers` names it. The
    archive gets a new name, and is there whole before anything names it: a reader sees the old map
    or the new one, and so does everyone after a publication that ended early. `url` is where
    browsers reach the place; it may be empty. With `remove_old` archives are deleted, but for this
    one, the one before, which readers may still have open, and those sent since the last
    publication ended, which another one may be about to name. Raises PublishError if something
    cannot be read or written.
    """
    digest, pieces = pieces_of(archive)
    name = f"{region}-{digest[:DIGEST]}.pmtiles"
    shown_page = _naming(page, archive, name)  # before all else: it may prove to be another map's
    own = re.compile(rf"{re.escape(region)}-[0-9a-f]{{{DIGEST}}}\.pmtiles")
    there = place.objects(f"{region}-")
    named_here = place.objects(f"{region}.")
    # The page is replaced before the TileJSON: if the last publication ended between, it is newer.
    page_before = (place.read(f"{region}.html") or b"").decode(errors="replace")
    told = _document(place.read(f"{region}.json"))
    named = [*own.findall(page_before), str(told.get("archive")), str(told.get("previous"))]
    before = [one for one in dict.fromkeys(named) if one != name and own.fullmatch(one)]
    sent = 0
    sizes = {one: known.size for one, known in there.items()}
    if sizes.get(name) != archive.stat().st_size or name + INDEX not in there:
        base = next((base for one in before if (base := _base(place, one, sizes))), None)
        etag, sent = place.send(name, archive, pieces, base)
        place.write(name + INDEX, _as_json(_index(etag, pieces)))
    shown = showing(in_archive(f"{url}{name}"))
    told_now = {**shown.told, "archive": name, "previous": before[0] if before else None}
    pointers = {
        f"{region}.html": shown_page,
        **_readers(region, shown),
        f"{region}.json": _as_json(told_now),
    }
    # When the last publication ended; archives since then may be of one that is going on.
    ended = max((known.written for one, known in named_here.items() if one in pointers), default=0)
    sent += sum(_replace(place, pointer, data) for pointer, data in pointers.items())
    surplus = []
    if remove_old:
        kept = {name, *before[:1], *own.findall(page_before)}
        surplus = [
            one
            for one, known in there.items()
            if known.written <= ended
            and (found := own.match(one))
            and re.fullmatch(ENDS, one[found.end() :])
            and (found[0] not in kept or one.endswith(PART))
        ]
    for one in surplus:
        place.delete(one)
    return Published(name, sent, len(surplus))


def publish_folder(
    region: str, folder: Path, showing: Showing, place: Place, url: str
) -> Published:
    """Publish a region's web tiles as {region}/z/x/y, and its TileJSON as {region}.json.

    With it goes what else opens the map, as `_readers` names it, and QGIS's {region}.qlr. Only web
    tiles that changed are sent; those that are gone are deleted in the end. While it works a reader
    may see some old and some new ones.
    """
    paths = {f"{region}/{path.relative_to(folder).as_posix()}": path for path in _files(folder)}
    there = place.sums(f"{region}/")

    def send(name: str) -> int:
        data = paths[name].read_bytes()
        if there.get(name) == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return 0
        place.write(name, data)
        return len(data)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        sent = sum(pool.map(send, paths))
        suffix = next(iter(paths.values())).suffix
        tiles = f"{url}{quote(region)}{ZXY}{suffix}"
        shown = showing(tiles)
        pointers = {
            **_readers(region, shown),
            f"{region}.qlr": layer_definition(shown, tiles).encode(),
            f"{region}.json": _as_json(shown.told),
        }
        sent += sum(_replace(place, pointer, data) for pointer, data in pointers.items())
        own = re.compile(rf"{re.escape(region)}/\d+/\d+/\d+{re.escape(suffix)}{ENDS}")
        surplus = [name for name in there if own.fullmatch(name) and name not in paths]
        list(pool.map(place.delete, surplus))
    return Published(f"{region}/", sent, len(surplus))


def _readers(region: str, shown: Shown) -> dict[str, bytes]:
    """Return what opens a map, by name: a MapLibre style, pages of OpenLayers and Leaflet."""
    return {
        f"{region}.style.json": _as_json(style(shown)),
        f"{region}.openlayers.html": openlayers_page(shown).encode(),
        f"{region}.leaflet.html": leaflet_page(shown).encode(),
    }


def _replace(place: Place, name: str, data: bytes) -> int:
    """Write an object unless it is there with the same content; return the bytes sent."""
    if place.read(name) == data:
        return 0
    place.write(name, data)
    return len(data)


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*/*/*") if path.is_file())
    if not found:
        raise PublishError(
            f"there are no web tiles in {folder}: put `folder` into pyramid.outputs of the config,"
            " and run snakemake."
        )
    return found


def _naming(page: Path, archive: Path, name: str) -> bytes:
    """Return a preview page that shows the archive `name` beside it.

    It links to no index and no tiles' files, as these are not published.
    """
    text = page.read_text(encoding="utf-8")
    found = LINKS.search(text)
    links = _document(found[0].encode()) if found else {}
    if links.get("archive") != quote(f"../pyramid/{archive.name}"):
        raise PublishError(f"{page} does not show {archive}: delete it and run snakemake.")
    shown = {**links, "archive": quote(name), "index": None, "tiles": None}
    return LINKS.sub(lambda _: _as_json(shown).decode().replace("<", r"\u003c"), text).encode()


def _index(etag: str, pieces: list[Piece]) -> dict[str, Any]:
    """Return what is kept beside an archive; `sum` tells whether it is whole."""
    listed = [list(piece) for piece in pieces]
    return {"etag": etag, "pieces": listed, "sum": hashlib.sha256(_as_json(listed)).hexdigest()}


def _base(place: Place, name: str, sizes: dict[str, int]) -> Base | None:
    """Return the published archive `name`, if what is told of it holds."""
    said = _document(place.read(name + INDEX))
    with suppress(*MALFORMED):
        pieces = [Piece(int(length), str(digest)) for length, digest in said["pieces"]]
        whole = said == _index(str(said["etag"]), pieces)
        if whole and sum(piece.length for piece in pieces) == sizes.get(name):
            return Base(name, said["etag"], pieces)
    return None


def _document(data: bytes | None) -> dict[str, Any]:
    """Return a JSON object; an empty one if it is none."""
    with suppress(*MALFORMED):
        found = json.loads(data or b"")
        if isinstance(found, dict):
            return found
    return {}


def _as_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
