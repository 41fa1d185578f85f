"""Render one metatile: all web tiles of its zooms from the enhanced tiles that show in it."""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Snakemake sets it to the job's threads. Starting more than one costs 0.1 s of CPU when NumPy
    # is imported, and rendering does no linear algebra.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, gdal_array, ogr

from basemake.errors import TileError
from basemake.pixels.archive import open_archive, write_part
from basemake.pixels.background import Background
from basemake.pixels.crs import crs
from basemake.pixels.encoding import encoder
from basemake.pixels.light import Light, to_colours, to_light
from basemake.pixels.quadtree import grow, leaves
from basemake.pixels.raster import RGBA, open_geotiff
from basemake.pixels.roots import read_root, write_root
from basemake.pixels.warp import Warper, naming
from basemake.pixels.webtiles import WebTile

DRAWN_AHEAD = 2  # web tiles, while others are halved and handed on
AHEAD = 32  # web tiles that may wait for an encoder: bounds their memory


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


def render_metatile(
    metatile: WebTile,
    tiles: list[Path],
    archive: Path,
    root: Path,
    rendering: Rendering,
    *,
    threads: int,
    made_of: str,
) -> None:
    """Write the web tiles inside `metatile`, at all zooms of `rendering`, to the PMTiles `archive`.

    `tiles` are enhanced tiles, the later over the earlier. Fully transparent web tiles are left
    out. `root` becomes the metatile at its own zoom, tile_size pixels a side; it keeps `made_of`
    for `is_made_of`. Each web tile is warped when it is needed, so memory does not grow with the
    metatile, except for the mask of an outline, one byte a pixel. The bytes do not depend on
    `threads`. Raises TileError, naming it, if a tile cannot be read.
    """
    size = rendering.tile_size
    picture = _Picture(metatile, tiles, rendering)
    encode = encoder(rendering.image_format, rendering.quality, rendering.background)
    encoded: list[tuple[WebTile, Future[bytes]]] = []

    # Drawing takes one thread nearly as long as encoding takes another.
    with ThreadPoolExecutor(1) as drawing, ThreadPoolExecutor(max(threads - 1, 1)) as pool:
        webtiles = leaves(metatile, rendering.max_zoom, picture.may_show)
        drawn = _ahead(drawing, picture.draw, webtiles)

        def submit(tile: WebTile, encoded_later: Callable[[], bytes]) -> None:
            encoded.append((tile, pool.submit(encoded_later)))
            if len(encoded) > AHEAD:
                encoded[-AHEAD][1].result()

        def leaf(tile: WebTile) -> Light | None:
            image = next(drawn)
            if image is None:
                return None
            submit(tile, lambda: encode(image))
            return to_light(image)

        def use(tile: WebTile, image: Light) -> None:
            if tile.z >= rendering.min_zoom:
                submit(tile, lambda: encode(to_colours(image)))

        image = grow(metatile, rendering.max_zoom, leaf, picture.may_show, use)
    root.unlink(missing_ok=True)  # so that no root vouches for an archive while it is replaced
    web_tiles = [(tile, data.result()) for tile, data in encoded]
    write_part(archive, web_tiles, rendering.image_format)
    write_root(root, np.zeros((size, size, 4), np.uint16) if image is None else image, made_of)
    logging.info("%d web tiles from %d tiles", len(encoded), len(tiles))


class _Picture:
    """What a metatile shows at the top zoom, one web tile at a time."""

    def __init__(self, metatile: WebTile, tiles: list[Path], rendering: Rendering) -> None:
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


def _ahead(
    pool: ThreadPoolExecutor, draw: Callable[[WebTile], RGBA | None], tiles: Iterable[WebTile]
) -> Iterator[RGBA | None]:
    """Yield the drawings of tiles in order; the pool draws up to DRAWN_AHEAD tiles ahead."""
    waiting: deque[Future[RGBA | None]] = deque()
    for tile in tiles:
        waiting.append(pool.submit(draw, tile))
        if len(waiting) > DRAWN_AHEAD:
            yield waiting.popleft().result()
    for drawing in waiting:
        yield drawing.result()


def digest_inputs(tiles: list[Path], options: Any) -> str:
    """Return a digest of the DIGESTs of enhanced tiles, in order, and of `options`, a JSON value.

    Raises TileError, naming it, if a tile cannot be read or has no DIGEST.
    """
    known = []
    for path in tiles:
        with naming(path), open_geotiff(path) as dataset:
            known.append(dataset.GetMetadataItem("DIGEST"))
            if known[-1] is None:
                raise RuntimeError("its end, with its DIGEST, is missing")
    return hashlib.sha256(json.dumps([known, options], sort_keys=True).encode()).hexdigest()


def is_made_of(archive: Path, root: Path, made_of: str) -> bool:
    """Return whether `archive` and `root` exist, are complete, and were made of `made_of`."""
    if not (archive.exists() and root.exists()):
        return False
    try:
        with open_archive(archive):
            return read_root(root)[1] == made_of
    except TileError:  # one of them is incomplete
        return False


def _mask(metatile: WebTile, pixels: int, outline: str) -> NDArray[np.uint8]:
    """Return (pixels, pixels): 1 where a metatile's pixel has its centre in the outline, else 0."""
    west, south, east, north = metatile.bounds
    mask = np.zeros((pixels, pixels), np.uint8)
    target = gdal_array.OpenArray(mask)
    target.SetGeoTransform((west, (east - west) / pixels, 0, north, 0, (south - north) / pixels))
    target.SetSpatialRef(crs(3857))
    # From GDAL 3.11 on, MEM is the vector driver, too, and Memory is gone.
    driver = ogr.GetDriverByName("Memory") or ogr.GetDriverByName("MEM")
    source = driver.CreateDataSource("")
    layer = source.CreateLayer("outline", crs(3857), ogr.wkbUnknown)
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
        settings = snakemake.params.settings
        made_of = digest_inputs(tiles, [settings, snakemake.params.code])
        if is_made_of(archive, root, made_of):
            logging.info("its tiles were made again, and are the same: nothing to render")
        else:
            render_metatile(
                metatile_of(snakemake.wildcards.metatile),
                tiles,
                archive,
                root,
                Rendering(**settings),
                threads=snakemake.threads,
                made_of=made_of,
            )
