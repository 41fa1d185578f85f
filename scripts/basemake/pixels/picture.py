"""What a metatile shows at the top zoom: tiles, cut along an outline, on a background."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, gdal_array, ogr

from basemake.pixels.background import Background
from basemake.pixels.crs import crs
from basemake.pixels.raster import RGBA
from basemake.pixels.warp import Warper
from basemake.pixels.webtiles import WebTile


@dataclass(frozen=True)
class Rendering:
    """How web tiles are rendered.

    `tile_size` is the side of a web tile in pixels. `image_format`, `quality` and `background` are
    as in encoding.encoder, `resampling` is a key of warp.INTERPOLATION. `overlap` is feather, to
    lead from one tile over into the other, or top, to show the last one. Only pixels whose centres
    lie inside `outline`, WKT in Mercator metres, are shown; None shows all. Those without imagery
    have the background, if there is one, into which imagery fades over `fade_km` along the edge of
    `coverage`, WKT in Mercator metres; None if that edge is farther away.
    """

    min_zoom: int
    max_zoom: int
    tile_size: int
    image_format: str
    quality: int | str | None
    resampling: str
    outline: str | None
    overlap: str
    background: str | None = None
    coverage: str | None = None
    fade_km: float = 0


class Picture:
    """The picture of a metatile, one web tile of the top zoom at a time.

    Memory does not grow with the metatile, except for the mask of an outline, one byte a pixel.
    """

    def __init__(self, metatile: WebTile, tiles: list[Path], rendering: Rendering) -> None:
        """Draw enhanced `tiles`, the later over the earlier; TileError if one cannot be read."""
        self._metatile, self._zoom = metatile, rendering.max_zoom
        self._size = size = rendering.tile_size
        self._side = side = 1 << (rendering.max_zoom - metatile.z)  # in web tiles
        feather = rendering.overlap == "feather"
        self._warper = Warper.of(tiles, metatile.bounds, side, size, rendering.resampling, feather)
        outline, colour = rendering.outline, rendering.background
        self._mask = None if outline is None else _mask(metatile, side * size, outline)
        self._background = None
        if colour is not None:
            self._background = Background(colour, size, rendering.coverage, rendering.fade_km)

    def may_show(self, tile: WebTile) -> bool:
        """Return whether anything may show in a web tile of any zoom."""
        return self._background is not None or self._warper.may_show(*self._place(tile))

    def draw(self, tile: WebTile) -> RGBA | None:
        """Return a web tile of the top zoom, (size, size, 4), or None if nothing shows in it."""
        row, column, _ = self._place(tile)
        inside = None
        if self._mask is not None:
            top, left = row * self._size, column * self._size
            inside = self._mask[top : top + self._size, left : left + self._size, np.newaxis]
            if not inside.any():
                return None
        image = self._warper.draw(row, column)
        if self._background is not None:
            image = self._background.under(image, tile)
        if image is not None and inside is not None:
            image = image * inside
        return None if image is None or image[..., 3].max() == 0 else image

    def _place(self, tile: WebTile) -> tuple[int, int, int]:
        """Return row and column of a web tile's first piece, and how many pieces wide it is."""
        count = 1 << (self._zoom - tile.z)
        row, column = (
            at * count - first * self._side
            for at, first in ((tile.y, self._metatile.y), (tile.x, self._metatile.x))
        )
        return row, column, count


def _mask(metatile: WebTile, pixels: int, outline: str) -> NDArray[np.uint8]:
    """Return (pixels, pixels): 1 where a metatile's pixel has its centre in the outline, else 0."""
    west, south, east, north = metatile.bounds
    mask = np.zeros((pixels, pixels), np.uint8)
    target = gdal_array.OpenArray(mask)
    target.SetGeoTransform((west, (east - west) / pixels, 0, north, 0, (south - north) / pixels))
    target.SetSpatialRef(crs(3857))
    # From GDAL 3.11 on, MEM is for vectors, too, and Memory warns that it will go.
    driver = ogr.GetDriverByName("MEM") or ogr.GetDriverByName("Memory")
    source = driver.CreateDataSource("")
    layer = source.CreateLayer("outline", crs(3857), ogr.wkbUnknown)
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(ogr.CreateGeometryFromWkt(outline))
    layer.CreateFeature(feature)
    gdal.RasterizeLayer(target, [1], layer, burn_values=[1])
    target.FlushCache()
    return mask
