"""What of an archive has to be uploaded, if an older one of the same map is in the bucket already.

An archive is cut into pieces at web tiles whose bytes say so: what did not change is cut in the
same places wherever it moved, so that equal pieces have equal digests.
"""

import hashlib
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from basemake.pixels.archive import GetBytes, entries_of, open_archive

TILES = 16  # in a piece, on average
LONGEST = 2**20  # bytes of a piece
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
LEAST_PART = 5 * 2**20  # bytes of each part of an upload but the last
MOST_COPY = 5 * 2**30  # bytes
MOST_PARTS = 10_000
PART = 16 * 2**20  # bytes of an uploaded part, unless there would be too many


class Piece(NamedTuple):
    """A stretch of an archive: its length in bytes, and the SHA-256 of these as 32 hex digits."""

    length: int
    digest: str


class Part(NamedTuple):
    """A part of a new object: bytes from `start` on; copied from `source` on in the old, or new."""

    start: int
    length: int
    source: int | None


def pieces_of(archive: Path) -> tuple[str, list[Piece]]:
    """Return the SHA-256 of an archive as hex digits, and its pieces in order.

    The first is all before the web tiles. Raises TileError if the archive is incomplete.
    """
    whole = hashlib.sha256()
    pieces = []
    with open_archive(archive) as (get_bytes, header):
        start = 0
        for end in _cuts(get_bytes, header):
            data = get_bytes(start, end - start)
            whole.update(data)
            pieces.append(Piece(end - start, hashlib.sha256(data).hexdigest()[:32]))
            start = end
    return whole.hexdigest(), pieces


def _cuts(get_bytes: GetBytes, header: dict) -> Iterator[int]:
    """Yield where pieces end; the last is the end of the archive."""
    data = cut = header["tile_data_offset"]
    yield cut
    entries = ((entry.offset, entry.length) for entry in entries_of(get_bytes, header))
    places = np.unique(np.fromiter(entries, [("offset", "u8"), ("length", "u4")]))
    for offset, length in zip(places["offset"].tolist(), places["length"].tolist(), strict=True):
        start, end = data + offset, data + offset + length
        if crc32(get_bytes(start, length)) % TILES == 0 or end - cut >= LONGEST:
            yield end
            cut = end
    last = data + header["tile_data_length"]
    if cut < last:
        yield last


def parts_of(new: list[Piece], old: list[Piece]) -> list[Part]:
    """Return the parts of a multipart upload that makes the object of `new` pieces from the `old`.

    Each but the last has at least LEAST_PART bytes, as S3 wants: where less than that is new, it
    takes bytes of what follows it.
    """
    size = sum(piece.length for piece in new)
    parts: list[Part] = []
    for run in _runs(new, old):
        if run.length < LEAST_PART and run.start + run.length < size:
            run = run._replace(source=None)  # too short to be copied
        if parts and parts[-1].source is None:
            last = parts[-1]
            take = max(0, min(LEAST_PART - last.length, run.length))
            if run.source is None or 0 < run.length - take < LEAST_PART <= run.length:
                take = run.length
            parts[-1] = last._replace(length=last.length + take)
            source = None if run.source is None else run.source + take
            run = Part(run.start + take, run.length - take, source)
        if run.length:
            parts.append(run)
    parts = [part for run in parts for part in _split(run, size)]
    return parts if len(parts) <= MOST_PARTS else parts_of(new, [])


def _split(run: Part, size: int) -> Iterator[Part]:
    """Yield parts of a run that are not too large, nor too many for an object of `size` bytes."""
    most = MOST_COPY if run.source is not None else max(PART, 2 * size // MOST_PARTS)
    count = -(-run.length // most)
    ends = [run.length * number // count for number in range(count + 1)]
    for start, end in pairwise(ends):
        source = None if run.source is None else run.source + start
        yield Part(run.start + start, end - start, source)


def _runs(new: list[Piece], old: list[Piece]) -> Iterator[Part]:
    """Yield stretches that are in the old object in one piece, and those that are not in it."""
    starts = accumulate((piece.length for piece in old), initial=0)
    sources = dict(zip(old, starts, strict=False))
    run = Part(0, 0, None)
    for piece in new:
        source = sources.get(piece)
        joins = run.source + run.length == source if run.source is not None else source is None
        if not joins:
            if run.length:
                yield run
            run = Part(run.start + run.length, 0, source)
        run = run._replace(length=run.length + piece.length)
    yield run
