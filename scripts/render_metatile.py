"""Render one metatile: all web tiles of its zooms from the enhanced tiles that show in it."""

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Snakemake sets it to the job's threads, and numpy's, which nothing here uses, take 0.1 s to start.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, gdal_array, ogr
from PIL import Image

from basemake.archive import write_part
from basemake.encoding import encoder
from basemake.quadtree import grow
from basemake.raster import RGBA
from basemake.warp import Warper, web_mercator
from basemake.webtiles import WebTile

AHEAD = 32  # web tiles that may wait for an encoder: bounds their memory


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
    which the overview grows. Each web tile is warped when it is needed, so memory does not grow
    with the metatile, but for a byte a pixel with an outline. The bytes do not depend on `threads`.
    Raises TileError, naming it, if a tile cannot be read.
    """
    side = 1 << (max_zoom - metatile.z)
    warper = Warper(tiles, metatile.bounds, side, tile_size, resampling)
    mask = None if outline is None else _mask(metatile, side * tile_size, outline)
    encode = encoder(image_format, quality)
    encoded: list[tuple[WebTile, Future[bytes]]] = []

    def place(tile: WebTile) -> tuple[int, int, int]:
        """Return row and column of a web tile's first piece, and how many it has a side."""
        count = 1 << (max_zoom - tile.z)
        return tile.y * count - metatile.y * side, tile.x * count - metatile.x * side, count

    def leaf(tile: WebTile) -> RGBA | None:
        row, column, _ = place(tile)
        image = warper.draw(row, column)
        if image is not None and mask is not None:
            top, left = row * tile_size, column * tile_size
            image *= mask[top : top + tile_size, left : left + tile_size, np.newaxis]
        return image

    with ThreadPoolExecutor(threads) as pool:

        def use(tile: WebTile, image: RGBA) -> None:
            if tile.z >= min_zoom:
                encoded.append((tile, pool.submit(encode, image)))
            if len(encoded) > AHEAD:
                encoded[-AHEAD][1].result()

        image = grow(metatile, max_zoom, leaf, lambda tile: warper.may_show(*place(tile)), use)
    write_part(archive, [(tile, data.result()) for tile, data in encoded], image_format)
    if image is None:
        image = np.zeros((tile_size, tile_size, 4), np.uint8)
    Image.fromarray(image).save(root, "PNG")
    logging.info("%d web tiles from %d tiles", len(encoded), len(tiles))


def _mask(metatile: WebTile, pixels: int, outline: str) -> NDArray[np.uint8]:
    """Return 1 for pixels of a metatile whose centres are inside the outline (WKT), else 0."""
    west, south, east, north = metatile.bounds
    mask = np.zeros((pixels, pixels), np.uint8)
    target = gdal_array.OpenArray(mask)
    target.SetGeoTransform((west, (east - west) / pixels, 0, north, 0, (south - north) / pixels))
    target.SetSpatialRef(web_mercator())
    # GDAL 3.11 folded the vector driver Memory into MEM.
    driver = ogr.GetDriverByName("Memory") or ogr.GetDriverByName("MEM")
    source = driver.CreateDataSource("")
    layer = source.CreateLayer("outline", web_mercator(), ogr.wkbUnknown)
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(ogr.CreateGeometryFromWkt(outline))
    layer.CreateFeature(feature)
    gdal.RasterizeLayer(target, [1], layer, burn_values=[1])
    target.FlushCache()
    return mask


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
