"""Render one metatile: all web tiles of its zooms from the enhanced tiles that show in it."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from osgeo import gdal, gdal_array, ogr
from PIL import Image

from basemake.archive import write_part
from basemake.encoding import encoder
from basemake.errors import TileError
from basemake.raster import RGBA, halve
from basemake.warp import warp_onto, web_mercator
from basemake.webtiles import WebTile


def render_metatile(
    metatile: WebTile,
    tiles: list[Path],
    archive: Path,
    root: Path,
    *,
    outline: str | None,
    min_zoom: int,
    max_zoom: int,
    tile_size: int,
    image_format: str,
    quality: int | str | None,
    resampling: str,
    threads: int,
) -> None:
    """Write the web tiles of `metatile` from `max_zoom` to `min_zoom` to `archive`, and its root.

    `tiles` are enhanced tiles; where they overlap the last one shows. `outline` is the part to
    show as WKT in Mercator metres, None for all of it. Fully transparent web tiles are left out.
    `root` becomes a lossless PNG of the metatile at its own zoom, tile_size pixels a side, from
    which the overview grows. The bytes do not depend on `threads`. Raises TileError, naming it, if
    a tile cannot be read.
    """
    canvas = _warp(metatile, tiles, tile_size << (max_zoom - metatile.z), resampling)
    if outline is not None:
        _clip(canvas, metatile, outline)
    encode = encoder(image_format, quality)
    encoded: list[tuple[WebTile, bytes]] = []
    with ThreadPoolExecutor(threads) as pool:
        for zoom in range(max_zoom, metatile.z - 1, -1):
            if zoom < max_zoom:
                canvas = halve(canvas)
            if zoom >= min_zoom:
                names, images = _cut(canvas, metatile, zoom, tile_size)
                encoded += zip(names, pool.map(encode, images), strict=True)
    write_part(archive, encoded, image_format)
    Image.fromarray(canvas).save(root, "PNG")
    logging.info("%d web tiles from %d tiles", len(encoded), len(tiles))


def _warp(metatile: WebTile, tiles: list[Path], pixels: int, resampling: str) -> RGBA:
    """Return the tiles, warped to the metatile at `pixels` a side, the later over the earlier."""
    canvas = np.zeros((pixels, pixels, 4), np.uint8)
    for path in tiles:
        try:
            warp_onto(canvas, metatile.bounds, path, resampling)
        except RuntimeError as error:
            raise TileError(
                f"the enhanced tile {path} cannot be read ({error});"
                " delete it and run again to make it anew."
            ) from error
    return canvas


def _clip(canvas: RGBA, metatile: WebTile, outline: str) -> None:
    """Make pixels of a metatile transparent whose centres are outside the outline (WKT)."""
    pixels = len(canvas)
    west, south, east, north = metatile.bounds
    mask = np.zeros((pixels, pixels), np.uint8)
    target = gdal_array.OpenArray(mask)
    target.SetGeoTransform((west, (east - west) / pixels, 0, north, 0, (south - north) / pixels))
    target.SetSpatialRef(web_mercator())
    shape = shapely.from_wkt(outline)
    # GDAL 3.11 folded the vector driver Memory into MEM.
    driver = ogr.GetDriverByName("Memory") or ogr.GetDriverByName("MEM")
    source = driver.CreateDataSource("")
    layer = source.CreateLayer("outline", web_mercator(), ogr.wkbUnknown)
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(ogr.CreateGeometryFromWkb(shape.wkb))
    layer.CreateFeature(feature)
    gdal.RasterizeLayer(target, [1], layer, burn_values=[1])
    target.FlushCache()
    canvas *= mask[..., np.newaxis]


def _cut(canvas: RGBA, metatile: WebTile, zoom: int, size: int) -> tuple[list[WebTile], list[RGBA]]:
    """Return the web tiles of `zoom` in the canvas that show anything, and their images."""
    count = 1 << (zoom - metatile.z)
    left, top = metatile.x * count, metatile.y * count
    names, images = [], []
    for row in range(count):
        for column in range(count):
            image = canvas[row * size : (row + 1) * size, column * size : (column + 1) * size]
            if image[..., 3].any():
                names.append(WebTile(zoom, left + column, top + row))
                images.append(image)
    return names, images


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log
    from basemake.raster import use_gdal
    from basemake.webtiles import metatile_of

    with job_log(snakemake.log[0]):
        use_gdal(snakemake.config["gdal_cache_mb"])
        render_metatile(
            metatile_of(snakemake.wildcards.metatile),
            [Path(path) for path in snakemake.input.tiles],
            Path(snakemake.output.archive),
            Path(snakemake.output.root),
            threads=snakemake.threads,
            **snakemake.params.rendering,
            outline=snakemake.params.outline,
        )
