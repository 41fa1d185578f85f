"""PMTiles archives: the parts that jobs leave, and the pyramid that is packed from them."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, NamedTuple

from pmtiles.reader import MmapSource, Reader
from pmtiles.tile import (
    Compression,
    TileType,
    deserialize_directory,
    deserialize_header,
    tileid_to_zxy,
    zxy_to_tileid,
)
from pmtiles.writer import Writer

from basemake.webtiles import WebTile

TILE_TYPES = {"webp": TileType.WEBP, "png": TileType.PNG, "jpeg": TileType.JPEG}
WHOLE_WORLD = {
    "min_lon_e7": -1800000000,
    "min_lat_e7": -850511287,
    "max_lon_e7": 1800000000,
    "max_lat_e7": 850511287,
    "center_zoom": 0,
    "center_lon_e7": 0,
    "center_lat_e7": 0,
}


class Place(NamedTuple):
    """Where an encoded web tile lies: its PMTiles id, and offset and length (bytes) in a file."""

    tile_id: int
    part: int
    offset: int
    length: int


def write_part(path: Path, tiles: Iterable[tuple[WebTile, bytes]], image_format: str) -> None:
    """Write encoded web tiles as an archive, in rising order of their PMTiles ids.

    PMTiles knows no empty archive: without any tile the file is empty.
    """
    ordered = sorted((zxy_to_tileid(*tile), data) for tile, data in tiles)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        if ordered:
            _write(file, ordered, {"tile_type": TILE_TYPES[image_format]}, {})
    part.replace(path)


def pack_parts(parts: list[Path], output: Path, header: dict, metadata: dict) -> int:
    """Write all web tiles of `parts` as one archive in Hilbert order; return how many there are.

    Equal tiles are stored once. `header` holds tile_type, bounds and centre as PMTiles names
    them; `metadata` is the archive's JSON.
    """
    places = sorted(place for number, path in enumerate(parts) for place in _places(number, path))
    zooms = [tileid_to_zxy(places[end].tile_id)[0] for end in (0, -1)]
    header["center_zoom"] = min(max(header["center_zoom"], zooms[0]), zooms[1])
    part = output.with_name(output.name + ".part")
    with part.open("wb") as file:
        _write(file, _read(parts, places), header, metadata)
    part.replace(output)
    return len(places)


def read_tile(path: Path, tile: WebTile) -> bytes | None:
    """Return one web tile's data, or None where the archive has none."""
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file:
        return Reader(MmapSource(file)).get(*tile)


def _write(
    file: IO[bytes], tiles: Iterable[tuple[int, bytes]], header: dict, metadata: dict
) -> None:
    writer = Writer(file)
    for tile_id, data in tiles:
        writer.write_tile(tile_id, data)
    compression = {"tile_compression": Compression.NONE}
    writer.finalize({**WHOLE_WORLD, **compression, **header}, metadata)


def _places(number: int, path: Path) -> Iterator[Place]:
    """Yield where each web tile of a part lies; `number` is the part's place in the list."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        get_bytes = MmapSource(file)
        header = deserialize_header(get_bytes(0, 127))
        directories = [(header["root_offset"], header["root_length"])]
        while directories:
            for entry in deserialize_directory(get_bytes(*directories.pop())):
                if entry.run_length == 0:
                    leaf = header["leaf_directory_offset"] + entry.offset
                    directories.append((leaf, entry.length))
                for tile_id in range(entry.tile_id, entry.tile_id + entry.run_length):
                    offset = header["tile_data_offset"] + entry.offset
                    yield Place(tile_id, number, offset, entry.length)


def _read(parts: list[Path], places: list[Place]) -> Iterator[tuple[int, bytes]]:
    """Yield (PMTiles id, data), with one file open at a time.

    A metatile's descendants of one zoom follow one another in Hilbert order, so each file is
    opened once a zoom.
    """
    for number, group in groupby(places, key=itemgetter(1)):
        with parts[number].open("rb") as file:
            for place in group:
                file.seek(place.offset)
                yield place.tile_id, file.read(place.length)
