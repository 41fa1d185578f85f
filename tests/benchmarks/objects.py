"""The bands of many tiles on a server, which all are three files on disk.

Of each tile only the georeference is its own: its bands' files differ in these bytes.
"""

import struct
from pathlib import Path

import tifffile

from basemake.demo.grid import TILE_SIDE, GridTile
from servers import PatchedFile

BANDS = ("B04", "B03", "B02")
SCALE, TIE_POINT, GEO_KEYS, GEO_TEXTS = 33550, 33922, 34735, 34737  # tags of a GeoTIFF
PROJECTED_CRS = 3072  # the key of its EPSG code


def objects_of(tile: GridTile, folder: Path, side: int) -> dict[str, PatchedFile]:
    """Return the bands of a tile by path on the server; those in `folder` have `side` pixels."""
    found = {}
    for band in BANDS:
        path = folder / f"{band}.tif"
        found[f"/{tile.tile}/{band}.tif"] = PatchedFile(path, _patches(path, tile, side))
    return found


def _patches(path: Path, tile: GridTile, side: int) -> dict[int, bytes]:
    """Return the bytes of a file that place it where a tile is, by offset."""
    pixel = TILE_SIDE / side
    with tifffile.TiffFile(path) as tif:
        order, tags = tif.byteorder, tif.pages[0].tags
        keys, texts = tags[GEO_KEYS], tags[GEO_TEXTS]
        place = 4 * (list(keys.value[::4]).index(PROJECTED_CRS)) + 3  # of the value, in shorts
        zone = f"UTM zone {tile.epsg % 100}{'S' if tile.epsg > 32700 else 'N'}".encode()
        at = texts.value.index("UTM zone ")
        return {
            tags[SCALE].valueoffset: struct.pack(f"{order}2d", pixel, pixel),
            tags[TIE_POINT].valueoffset + 3 * 8: struct.pack(f"{order}2d", tile.ulx, tile.uly),
            keys.valueoffset + 2 * place: struct.pack(f"{order}H", tile.epsg),
            texts.valueoffset + at: zone,
        }
