"""The pictures of a report, as WebP in data URIs: maps from archives, and quicklooks of tiles.

None of them takes more than its share of MAPS or QUICKLOOKS, so that a page stays usable however
many tiles a map has.
"""

import base64
import io
import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pmtiles.reader import Reader

from basemake.errors import MALFORMED, TileError
from basemake.pixels.archive import open_archive
from basemake.pixels.raster import geotiff, open_geotiff
from basemake.pixels.webtiles import (
    HALF_WORLD,
    WebTile,
    geometry_to_mercator,
    most_overlapping,
    overlapping,
    to_degrees,
)
from basemake.report.frame import UNITS, Frame

MAPS, QUICKLOOKS = 2_000_000, 4_000_000  # most bytes of all maps, and of all quicklooks
MAP_SIDE, QUICKLOOK_SIDE = 900, 160  # most pixels along the longer side
PIXEL_BYTES = 0.5  # about what a pixel takes; if there are many pictures, they have fewer pixels
QUALITIES = (80, 50, 20)  # of WebP: the first with which a picture takes no more than its share
MOST_WEBTILES = 4096  # of which a map is made
# What reading a file raises that is gone, not whole, or not what it should be.
UNREADABLE = (OSError, EOFError, RuntimeError, TileError, zlib.error, *MALFORMED)


def map_of(archive: Path, frame: Frame, tile_size: int, side: int, most: int) -> str:
    """Return the part of an archive's map that a frame shows, as a picture that fills the frame.

    It has at most `side` pixels along its longer side, and at most `most` bytes; web tiles have
    `tile_size` pixels. It is empty if the archive cannot be read.
    """
    side = _fitting(side, most)
    scale = side / UNITS
    image = Image.new("RGBA", (_pixels(frame.width * scale), _pixels(frame.height * scale)))
    area = geometry_to_mercator(frame.shown)
    try:
        with open_archive(archive) as (get_bytes, header):
            reader = Reader(get_bytes)
            finest = 2 * HALF_WORLD * scale / (frame.metres * tile_size)
            zoom = math.ceil(math.log2(max(1, finest)))
            zoom = min(max(zoom, header["min_zoom"]), header["max_zoom"])
            if most_overlapping(area, zoom) > MOST_WEBTILES:
                return ""
            for webtile in overlapping(area, zoom):
                if data := reader.get(*webtile):
                    _paste(image, data, _box(webtile, frame, scale))
    except UNREADABLE:
        return ""
    return _as_uri(image, most) if image.getbbox() else ""


def _box(webtile: WebTile, frame: Frame, scale: float) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom, in pixels, of a web tile in a frame's picture."""
    west, south, east, north = webtile.bounds
    [[left, top]] = (frame.place(to_degrees(np.array([[west, north]]))) * scale).tolist()
    width, height = ((east - west) * scale / frame.metres, (north - south) * scale / frame.metres)
    return round(left), round(top), round(left + width), round(top + height)


def _paste(image: Image.Image, data: bytes, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    size = max(1, right - left), max(1, bottom - top)
    with Image.open(io.BytesIO(data)) as webtile:
        part = webtile.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    image.paste(part, (left, top))


def quicklook(path: Path, most: int) -> str:
    """Return the quicklook of an enhanced tile, of at most `most` bytes.

    It is empty if the tile cannot be read.
    """
    try:
        with open_geotiff(path) as dataset:
            side = max(dataset.RasterXSize, dataset.RasterYSize)
            # The coarsest reduced image that is large enough.
            halvings = max(0, int(math.log2(side / QUICKLOOK_SIDE)))
            level = min(halvings, dataset.GetRasterBand(1).GetOverviewCount())
        image = Image.fromarray(np.moveaxis(geotiff(path, level).ReadAsArray(), 0, -1))
    except UNREADABLE:
        return ""
    side = _fitting(QUICKLOOK_SIDE, most)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _as_uri(image, most)


def _fitting(side: int, most: int) -> int:
    """Return `side`, or less if a square of that many pixels would take more than `most` bytes."""
    return max(16, min(side, math.isqrt(int(most / PIXEL_BYTES))))


def _pixels(length: float) -> int:
    return max(1, round(length))


def _as_uri(image: Image.Image, most: int) -> str:
    """Return an image as a data URI of at most `most` bytes; empty if it takes more."""
    for quality in QUALITIES:
        encoded = io.BytesIO()
        image.save(encoded, "WEBP", quality=quality, method=4)
        uri = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
        if len(uri) <= most:
            return uri
    return ""
