"""Render one metatile: all web tiles of its zooms from the enhanced tiles that show in it."""

import hashlib
import json
import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Snakemake sets it to the job's threads. Starting more than one costs 0.1 s of CPU when NumPy
    # is imported, and rendering does no linear algebra.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, gdal_array, ogr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from basemake.errors import TileError
from basemake.pixels.archive import open_archive, write_part
from basemake.pixels.encoding import encoder, read_png
from basemake.pixels.quadtree import grow
from basemake.pixels.raster import RGBA, open_geotiff
from basemake.pixels.warp import Warper, naming, web_mercator
from basemake.pixels.webtiles import WebTile
from basemake.system.files import writing

MADE_OF = "made of"  # the text in a root that says so
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
    made_of: str,
) -> None:
    """Write the web tiles of `metatile` from `max_zoom` to `min_zoom` to `archive`, and its root.

    `tiles` are enhanced tiles; where they overlap the last one shows. `outline` is the part to
    show as WKT in Mercator metres, None for all of it. Fully transparent web tiles are left out.
    `root` becomes a lossless PNG of the metatile at its own zoom, tile_size pixels a side, from
    which the overview grows, and keeps `made_of` for `is_made_of`. Each web tile is warped when it
    is needed, so memory does not grow with the metatile, but for a byte a pixel with an outline.
    The bytes do not depend on `threads`. Raises TileError, naming it, if a tile cannot be read.
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
    root.unlink(missing_ok=True)  # while the archive is replaced nothing says what it is made of
    write_part(archive, [(tile, data.result()) for tile, data in encoded], image_format)
    if image is None:
        image = np.zeros((tile_size, tile_size, 4), np.uint8)
    about = PngInfo()
    about.add_text(MADE_OF, made_of)
    with writing(root) as part:
        Image.fromarray(image).save(part, "PNG", pnginfo=about)
    logging.info("%d web tiles from %d tiles", len(encoded), len(tiles))


def digest_inputs(tiles: list[Path], options: Any) -> str:
    """Return what a metatile is made of: a digest of its tiles' own digests, and of `options`.

    Raises TileError, naming it, if a tile cannot be read, or has none.
    """
    known = []
    for path in tiles:
        with naming(path), open_geotiff(path) as dataset:
            known.append(dataset.GetMetadataItem("DIGEST"))
            if known[-1] is None:
                raise RuntimeError("its end, with its DIGEST, is missing")
    return hashlib.sha256(json.dumps([known, options], sort_keys=True).encode()).hexdigest()


def is_made_of(archive: Path, root: Path, made_of: str) -> bool:
    """Tell whether a metatile is there, whole, and was made of `made_of`."""
    if not (archive.exists() and root.exists()):
        return False
    try:
        with open_archive(archive):
            return bool(read_png(root)[1].get(MADE_OF) == made_of)
    except TileError:  # one of them is not whole
        return False


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

    from basemake.build.records import recorded
    from basemake.pixels.raster import keep_memory, set_up_libraries
    from basemake.pixels.webtiles import metatile_of
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        keep_memory()
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        tiles = [Path(path) for path in snakemake.input.tiles]
        archive, root = Path(snakemake.output.archive), Path(snakemake.output.root)
        options = snakemake.params.settings
        made_of = digest_inputs(tiles, [options, snakemake.params.code])
        if is_made_of(archive, root, made_of):
            logging.info("its tiles were made again, and are the same: nothing to render")
        else:
            metatile = metatile_of(snakemake.wildcards.metatile)
            threads = snakemake.threads
            render_metatile(
                metatile, tiles, archive, root, **options, threads=threads, made_of=made_of
            )
