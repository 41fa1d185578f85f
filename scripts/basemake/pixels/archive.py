"""PMTiles archives: the parts that jobs write, and the pyramid that is packed from them."""

import gzip
import json
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pmtiles.reader import MmapSource, Reader
from pmtiles.tile import (
    Compression,
    Entry,
    MagicNumberNotFound,
    SpecVersionUnsupported,
    TileType,
    deserialize_directory,
    deserialize_header,
    serialize_directory,
    serialize_header,
    tileid_to_zxy,
    zxy_to_tileid,
)

from basemake.errors import TileError
from basemake.pixels.webtiles import WebTile
from basemake.system.files import writing

TILE_TYPES = {"webp": TileType.WEBP, "png": TileType.PNG, "jpeg": TileType.JPEG}
HEADER_BYTES = 127
ROOT_BYTES = 16384 - HEADER_BYTES  # PMTiles: header and root directory are in the first 16 KiB
ROOT_ENTRIES = 1024  # this many always fit: the entry of a leaf directory takes 15 bytes at most
LEAF_ENTRIES = 4096
CHUNK = 2**18  # bytes

# A directory entry of a part: its data are at `position` (bytes) in the concatenation of the parts,
# and have the CRC-32 `crc`. It is kept small, as there is one for each web tile of the pyramid.
PLACE = np.dtype(
    [("tile_id", ">u8"), ("run_length", "u4"), ("position", "u8"), ("length", "u4"), ("crc", "u4")]
)
Places = NDArray[np.void]
Flags = NDArray[np.bool_]
Run = tuple[int, int, int, int]  # equal web tiles: first id, count, offset and length of the data
GetBytes = Callable[[int, int], bytes]


class Directories(NamedTuple):
    """The serialized root directory, the leaf directories, and the count of entries in all."""

    root: bytes
    leaves: bytes
    entries: int


def write_part(path: Path, tiles: Iterable[tuple[WebTile, bytes]], image_format: str) -> None:
    """Write encoded web tiles as a PMTiles archive, in ascending order of their ids.

    Equal tiles are stored once. Without tiles the archive has no entries, and is no empty file:
    that would be the remains of a crash.
    """
    stored: dict[bytes, int] = {}
    end = 0
    runs = []
    for tile_id, data in sorted((zxy_to_tileid(*tile), data) for tile, data in tiles):
        if stored.setdefault(data, end) == end:
            end += len(data)
        runs.append((tile_id, 1, stored[data], len(data)))
    directories = _directories(_entries(runs), len(runs))
    ends = (runs[0][0], runs[-1][0]) if runs else (0, 0)
    header = {
        "tile_type": TILE_TYPES[image_format],
        "addressed_tiles_count": len(runs),
        "tile_contents_count": len(stored),
    }
    with writing(path) as part, part.open("wb") as file:
        file.writelines(_front(header, directories, {}, ends, end))
        file.writelines(stored)


def pack_parts(parts: list[Path], output: Path, header: dict, metadata: dict) -> int:
    """Write all web tiles of `parts` as one archive in Hilbert order; return their count.

    Equal tiles are stored once. `header` has tile_type, bounds and centre as PMTiles names them;
    `metadata` is the archive's JSON. Memory grows by 37 bytes a web tile. Raises TileError,
    naming it, if a part is incomplete, and if no part has a web tile.
    """
    source = _Parts(parts, [path.stat().st_size for path in parts])
    places = np.fromiter(source.places(), PLACE)
    if len(places) == 0:
        raise TileError(
            f"{output.stem} would be an empty map: no pixel of its tiles is valid there;"
            " look at the tiles or at the region."
        )
    places.view(f"S{PLACE.itemsize}").sort()  # by id: big-endian numbers sort as bytes, in place
    offsets, first = _allocated(places, source)
    directories = _directories(_entries(_runs(places, offsets)), len(places))
    ends = int(places["tile_id"][0]), int(places["tile_id"][-1] + places["run_length"][-1]) - 1
    count = int(places["run_length"].sum())
    header = {
        **header,
        "addressed_tiles_count": count,
        "tile_contents_count": int(np.count_nonzero(first)),
    }
    size = int(places["length"].sum(where=first))
    with writing(output) as part, part.open("wb") as file:
        file.writelines(_front(header, directories, metadata, ends, size))
        source.copy(places, first, file)
    return count


def read_tile(path: Path, tile: WebTile) -> bytes | None:
    """Return the encoded bytes of one web tile, or None if the archive lacks it."""
    with open_archive(path) as (get_bytes, _):
        return Reader(get_bytes).get(*tile)


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[GetBytes, dict]]:
    """Open an archive; yield a function that returns bytes by offset and length, and the header.

    Raises TileError, naming it, if the archive is incomplete.
    """
    with path.open("rb") as file:
        try:
            get_bytes = MmapSource(file)
            header: dict = deserialize_header(get_bytes(0, HEADER_BYTES))
            end = header["tile_data_offset"] + header["tile_data_length"]
            whole = path.stat().st_size == end
        except (MagicNumberNotFound, SpecVersionUnsupported, LookupError, ValueError):
            whole = False
        if not whole:
            raise TileError(
                f"{path} is not a whole archive; delete it and run again to make it anew."
            )
        yield get_bytes, header


def read_about(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header (zooms, bounds in 1e-7 degrees) and metadata of an archive.

    Raises TileError if the archive is incomplete.
    """
    with open_archive(path) as (get_bytes, header):
        return header, Reader(get_bytes).metadata()


def entries_of(get_bytes: GetBytes, header: dict) -> Iterator[Entry]:
    """Yield the directory entries of an archive, those of leaf directories in any order."""
    directories = [(header["root_offset"], header["root_length"])]
    while directories:
        for entry in deserialize_directory(get_bytes(*directories.pop())):
            if entry.run_length == 0:
                leaf = header["leaf_directory_offset"] + entry.offset
                directories.append((leaf, entry.length))
            else:
                yield entry


def _front(
    header: dict,
    directories: Directories,
    metadata: dict,
    ends: tuple[int, int],
    data_length: int,
) -> list[bytes]:
    """Return the sections of an archive before its tile data, `data_length` bytes.

    `ends` are the first and the last id of its web tiles.
    """
    described = _of_no_system(gzip.compress(json.dumps(metadata).encode(), mtime=0))
    least, most = (tileid_to_zxy(tile_id)[0] for tile_id in ends)
    header = {
        **header,
        "center_zoom": min(max(header.get("center_zoom", least), least), most),
        "min_zoom": least,
        "max_zoom": most,
        "tile_entries_count": directories.entries,
        "clustered": True,
        "internal_compression": Compression.GZIP,
        "tile_compression": Compression.NONE,
    }
    sizes = {
        "root": len(directories.root),
        "metadata": len(described),
        "leaf_directory": len(directories.leaves),
        "tile_data": data_length,
    }
    offset = HEADER_BYTES
    for section, size in sizes.items():
        header |= {f"{section}_offset": offset, f"{section}_length": size}
        offset += size
    return [serialize_header(header), directories.root, described, directories.leaves]


class _Parts:
    """The concatenation of archives: each begins where the one before ends."""

    def __init__(self, paths: list[Path], sizes: list[int]) -> None:
        self.paths = paths
        self.starts = [0, *accumulate(sizes)]

    def places(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield the fields of PLACE for every directory entry, in the order of the parts."""
        for path, start in zip(self.paths, self.starts, strict=False):
            with open_archive(path) as (get_bytes, header):
                for entry in entries_of(get_bytes, header):
                    offset = header["tile_data_offset"] + entry.offset
                    crc = crc32(get_bytes(offset, entry.length))
                    yield entry.tile_id, entry.run_length, start + offset, entry.length, crc

    def read(self, position: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes of one part from `position`, in chunks."""
        number = bisect(self.starts, position) - 1
        with self.paths[number].open("rb", buffering=0) as file:
            file.seek(position - self.starts[number])
            for done in range(0, length, CHUNK):
                yield file.read(min(CHUNK, length - done))

    def copy(self, places: Places, first: Flags, output: BinaryIO) -> None:
        """Write the data of the places that are `first`; adjoining data are read as one."""
        for rows in _slices(len(places)):
            kept = places[rows][first[rows]]
            ends = kept["position"] + kept["length"]
            breaks = np.flatnonzero(ends[:-1] != kept["position"][1:]) + 1
            for stretch in np.split(kept, breaks):
                if len(stretch):
                    position, length = stretch["position"][0], stretch["length"].sum()
                    output.writelines(self.read(int(position), int(length)))


def _slices(count: int) -> Iterator[slice]:
    """Yield slices of `count` rows: Python objects are made of few rows at a time."""
    for start in range(0, count, LEAF_ENTRIES):
        yield slice(start, start + LEAF_ENTRIES)


def _shared_crcs(places: Places) -> set[int]:
    """Return the CRCs that more than one place has."""
    crcs = np.sort(places["crc"])
    return set(crcs[1:][crcs[1:] == crcs[:-1]].tolist())


def _allocated(places: Places, source: _Parts) -> tuple[NDArray[np.uint64], Flags]:
    """Return the offset of each place's data in the pyramid, and whether no place before has them.

    `places` are sorted by id, and so are the data that are stored: those of the first places only.
    """
    shared = _shared_crcs(places)
    offsets = np.empty(len(places), np.uint64)
    first = np.empty(len(places), np.bool_)
    stored: dict[bytes, int] = {}
    end = 0
    for rows in _slices(len(places)):
        data = places[rows][["position", "length", "crc"]].tolist()
        for row, (position, length, crc) in enumerate(data, rows.start):
            offset = end
            if crc in shared:  # equal CRCs do not prove that data are equal
                digest = sha256(b"".join(source.read(position, length))).digest()
                offset = stored.setdefault(digest, end)
            offsets[row], first[row] = offset, offset == end
            if offset == end:
                end += length
    return offsets, first


def _runs(places: Places, offsets: NDArray[np.uint64]) -> Iterator[Run]:
    """Yield the runs of `places`, whose data are at `offsets`."""
    for rows in _slices(len(places)):
        fields = (places["tile_id"], places["run_length"], offsets, places["length"])
        yield from zip(*(field[rows].tolist() for field in fields), strict=True)


def _entries(runs: Iterable[Run]) -> Iterator[Entry]:
    """Yield directory entries of runs in ascending order of ids; adjoining equal runs as one."""
    last = None
    for tile_id, run_length, offset, length in runs:
        if last and (last.offset, last.tile_id + last.run_length) == (offset, tile_id):
            last.run_length += run_length
            continue
        if last:
            yield last
        last = Entry(tile_id, offset, length, run_length)
    if last:
        yield last


def _directories(entries: Iterator[Entry], most: int) -> Directories:
    """Return the directories of `entries`, which are `most` at most."""
    size = max(LEAF_ENTRIES, most // ROOT_ENTRIES + 1)
    root: list[Entry] = []
    leaves = bytearray()
    count = 0
    while leaf := list(islice(entries, size)):
        directory = _of_no_system(serialize_directory(leaf))
        root.append(Entry(leaf[0].tile_id, len(leaves), len(directory), 0))
        leaves += directory
        count += len(leaf)
    if len(root) == 1 and len(leaves) <= ROOT_BYTES:
        return Directories(bytes(leaves), b"", count)
    return Directories(_of_no_system(serialize_directory(root)), bytes(leaves), count)


def _of_no_system(compressed: bytes) -> bytes:
    """Return a gzip file that names no operating system, which depends on Python's version."""
    return compressed[:9] + b"\xff" + compressed[10:]
