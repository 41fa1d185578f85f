"""What of an archive is uploaded anew, and what is copied from the one before."""

from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basemake.pixels.archive import TILE_TYPES, pack_parts, write_part
from basemake.pixels.webtiles import WebTile
from basemake.publish import pieces
from basemake.publish.pieces import LEAST_PART, Part, Piece, parts_of, pieces_of

HEADER = {
    "tile_type": TILE_TYPES["webp"],
    **dict.fromkeys(("min_lon_e7", "min_lat_e7", "center_lon_e7", "center_lat_e7"), 0),
    **dict.fromkeys(("max_lon_e7", "max_lat_e7"), 1),
    "center_zoom": 0,
}
Tiles = dict[WebTile, bytes]


def archive(path: Path, tiles: Tiles) -> Path:
    write_part(path.with_suffix(".part0"), tiles.items(), "webp")
    pack_parts([path.with_suffix(".part0")], path, HEADER, {})
    return path


@pytest.fixture(scope="module")
def tiles() -> Tiles:
    """Web tiles of zooms 5 to 7, some of them equal, of 2 to 60 kB: 1 000 in 27 MB."""
    draw = np.random.default_rng(5)
    found = {
        WebTile(z, x, y): draw.bytes(int(draw.integers(2_000, 60_000)))
        for z in (5, 6, 7)
        for x in range(2**z * 3 // 16, 2**z * 3 // 8)
        for y in range(2**z // 4, 2**z // 2)
    }
    for tile in list(found)[::7]:
        found[tile] = b"the sea"
    return found


def test_pieces_are_the_archive(tmp_path: Path, tiles: Tiles) -> None:
    path = archive(tmp_path / "a.pmtiles", tiles)
    digest, found = pieces_of(path)
    assert sum(piece.length for piece in found) == path.stat().st_size
    assert len(found) > 30
    assert len(digest) == 64
    assert pieces_of(path) == (digest, found)


def rebuilt(parts: list[Part], new: bytes, old: bytes) -> bytes:
    """The object that an upload makes."""
    return b"".join(
        new[part.start : part.start + part.length]
        if part.source is None
        else old[part.source : part.source + part.length]
        for part in parts
    )


def test_a_part_of_the_map_changes(tmp_path: Path, tiles: Tiles, monkeypatch) -> None:
    """Little more is uploaded than what changed, wherever that moves the rest."""
    monkeypatch.setattr(pieces, "LEAST_PART", 200_000)
    old = archive(tmp_path / "old.pmtiles", tiles)
    changed = {t: tiles[t] + b"new" for t in tiles if (t.x >> t.z - 4, t.y >> t.z - 4) == (4, 5)}
    new = archive(tmp_path / "new.pmtiles", tiles | changed)
    parts = parts_of(pieces_of(new)[1], pieces_of(old)[1])
    assert rebuilt(parts, new.read_bytes(), old.read_bytes()) == new.read_bytes()
    uploaded = sum(part.length for part in parts if part.source is None)
    share = sum(map(len, changed.values())) / new.stat().st_size
    assert 0.05 < share < 0.1
    assert share < uploaded / new.stat().st_size < 2 * share
    # What is the same is copied whole.
    same = parts_of(pieces_of(old)[1], pieces_of(old)[1])
    assert same == [Part(0, old.stat().st_size, 0)]


LENGTHS = st.sampled_from([1, 1000, LEAST_PART // 3, LEAST_PART, 3 * LEAST_PART])
PIECES = st.lists(st.builds(Piece, LENGTHS, st.sampled_from("abcdef")), min_size=1, max_size=30)


@given(PIECES, PIECES)
def test_parts_are_what_s3_takes_and_make_the_object(new: list[Piece], old: list[Piece]) -> None:
    parts = parts_of(new, old)
    size = sum(piece.length for piece in new)
    assert [part.start for part in parts] == [
        0,
        *accumulate(part.length for part in parts[:-1]),
    ]
    assert sum(part.length for part in parts) == size
    assert all(part.length >= LEAST_PART for part in parts[:-1])
    assert all(part.length > 0 for part in parts)
    for part in parts:
        if part.source is not None:
            assert _between(new, part.start, part.length) == _between(old, part.source, part.length)


def _between(stretch: list[Piece], start: int, length: int) -> list[tuple[str, int, int]]:
    """What bytes are made of: pieces, and from which byte of each to which."""
    found = []
    starts = list(accumulate((piece.length for piece in stretch), initial=0))
    for piece, (first, last) in zip(stretch, pairwise(starts), strict=True):
        low, high = max(start, first), min(start + length, last)
        if low < high:
            found.append((f"{piece}", low - first, high - first))
    return found


def test_parts_of_large_objects_are_neither_too_large_nor_too_many(monkeypatch) -> None:
    monkeypatch.setattr(pieces, "MOST_PARTS", 10)
    large = [Piece(pieces.PART, str(n)) for n in range(40)]
    parts = parts_of(large, [])
    assert len(parts) == 5
    assert len({part.length for part in parts}) == 1
    every_second = [piece if n % 2 else Piece(pieces.PART, "x") for n, piece in enumerate(large)]
    assert parts_of(every_second, large) == parts
    monkeypatch.setattr(pieces, "MOST_COPY", 8 * pieces.PART)
    assert parts_of(large, large) == [
        Part(n * 8 * pieces.PART, 8 * pieces.PART, n * 8 * pieces.PART) for n in range(5)
    ]
