"""A small picture of a map, made of its archive's own web tiles."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image
from pmtiles.reader import Reader

from basemake.pixels.archive import open_archive
from basemake.pixels.webtiles import HALF_WORLD, resolution, to_mercator
from basemake.system.files import writing

SIZE = (660, 440)  # pixels: twice those on a page, for sharp screens
QUALITY = 82
MARGIN = 1.06  # of the picture to the map
MOST = 4  # pixels of web tiles to one of the picture, along a side, at most


def write_thumbnail(
    archive: Path, output: Path, ground: str, bounds: tuple[float, float, float, float]
) -> None:
    """Write a picture of the map in a PMTiles archive to `output`, as WebP of SIZE.

    `bounds` are west, south, east and north of the map in degrees, those beyond 180 degrees above
    180. Where the archive shows nothing the picture is `ground`, a colour such as #12304a. Of a map
    that is wide at its least zoom it shows the middle. Equal arguments give equal bytes. Raises
    TileError if the archive is incomplete.
    """
    with open_archive(archive) as (get_bytes, header):
        reader = Reader(get_bytes)
        tile_size = reader.metadata()["tile_size"]
        x, y, width = _window(bounds)
        # The zoom whose pixels are as fine as the picture's, if the archive has it.
        zoom = math.ceil(math.log2(2 * HALF_WORLD / tile_size / (width / SIZE[0])))
        zoom = min(max(zoom, header["min_zoom"]), header["max_zoom"])
        pixel = resolution(zoom, tile_size)
        size = [max(1, min(MOST * side, round(width / SIZE[0] * side / pixel))) for side in SIZE]
        left = round((x + HALF_WORLD) / pixel - size[0] / 2)
        top = round((HALF_WORLD - y) / pixel - size[1] / 2)
        picture = Image.new("RGB", (size[0], size[1]), ground)
        for row in range(top // tile_size, (top + size[1] - 1) // tile_size + 1):
            for column in range(left // tile_size, (left + size[0] - 1) // tile_size + 1):
                # Beyond the antimeridian the world goes on; beyond the poles it does not.
                if not 0 <= row < 2**zoom or not (data := reader.get(zoom, column % 2**zoom, row)):
                    continue
                tile = Image.open(io.BytesIO(data)).convert("RGBA")
                place = column * tile_size - left, row * tile_size - top
                picture.paste(tile, place, tile)
    way = Image.Resampling.BOX if size[0] >= SIZE[0] else Image.Resampling.BICUBIC
    with writing(output) as part:
        picture.resize(SIZE, way).save(part, "WEBP", quality=QUALITY)


def _window(bounds: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """Return the middle of a map, x and y, and the width of its picture, in Mercator metres."""
    (west, south), (east, north) = to_mercator(np.reshape(bounds, (2, 2))).tolist()
    width = max(east - west, (north - south) * SIZE[0] / SIZE[1])
    return (west + east) / 2, (south + north) / 2, width * MARGIN
