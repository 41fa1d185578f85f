"""Render one metatile: all web tiles of its zooms from the enhanced tiles that show in it."""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Snakemake sets it to the job's threads. Starting more than one costs 0.1 s of CPU when NumPy
    # is imported, and rendering does no linear algebra.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from basemake.errors import TileError
from basemake.pixels.archive import open_archive, write_part
from basemake.pixels.encoding import encoder
from basemake.pixels.light import Light, to_colours, to_light
from basemake.pixels.picture import Picture, Rendering
from basemake.pixels.quadtree import grow, leaves
from basemake.pixels.raster import RGBA, naming, open_geotiff
from basemake.pixels.roots import read_root, write_root
from basemake.pixels.webtiles import WebTile

DRAWN_AHEAD = 2  # web tiles, while others are halved and handed on
AHEAD = 32  # web tiles that may wait for an encoder: bounds their memory


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
    picture = Picture(metatile, tiles, rendering)
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
        with naming(path, "enhanced tile"), open_geotiff(path) as dataset:
            known.append(dataset.GetMetadataItem("DIGEST"))
            if known[-1] is None:
                raise RuntimeError("it has no DIGEST")
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
