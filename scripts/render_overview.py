"""Render the overview: the web tiles above the metatiles, grown from the metatiles' roots."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from basemake.archive import write_part
from basemake.encoding import encoder
from basemake.raster import RGBA, halve
from basemake.webtiles import WebTile


def render_overview(
    roots: dict[WebTile, Path],
    archive: Path,
    *,
    min_zoom: int,
    tile_size: int,
    image_format: str,
    quality: int | str | None,
) -> None:
    """Write the web tiles from `min_zoom` to just above the metatiles to `archive`.

    `roots` are the lossless images that render_metatile leaves, tile_size pixels a side. Each web
    tile is halved from the pixels of its four children. Fully transparent ones are left out.
    """
    encode = encoder(image_format, quality)
    encoded: list[tuple[WebTile, bytes]] = []
    wanted = set(roots)
    while wanted and next(iter(wanted)).z > min_zoom:
        wanted = {tile.parent for tile in wanted}
    # Depth first, so that no more than a path of images is in memory.
    ancestors = _ancestors(roots)
    for tile in sorted(wanted):
        _grow(tile, roots, ancestors, tile_size, encode, encoded)
    write_part(archive, encoded, image_format)
    logging.info("%d web tiles from %d roots", len(encoded), len(roots))


def _ancestors(roots: dict[WebTile, Path]) -> set[WebTile]:
    """Return all web tiles that lie above a root."""
    found: set[WebTile] = set()
    level = set(roots)
    while level and next(iter(level)).z > 0:
        level = {tile.parent for tile in level}
        found |= level
    return found


def _grow(
    tile: WebTile,
    roots: dict[WebTile, Path],
    ancestors: set[WebTile],
    size: int,
    encode: Callable[[RGBA], bytes],
    encoded: list[tuple[WebTile, bytes]],
) -> RGBA | None:
    """Return the image of `tile`, adding its encoding and that of all below it to `encoded`."""
    if tile in roots:
        return np.asarray(Image.open(roots[tile]).convert("RGBA"))
    if tile not in ancestors:
        return None
    canvas = np.zeros((2 * size, 2 * size, 4), np.uint8)
    corners = ((0, 0), (0, size), (size, 0), (size, size))
    for child, (top, left) in zip(tile.children, corners, strict=True):
        image = _grow(child, roots, ancestors, size, encode, encoded)
        if image is not None:
            canvas[top : top + size, left : left + size] = image
    image = halve(canvas)
    if image[..., 3].any():
        encoded.append((tile, encode(image)))
    return image


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log
    from basemake.webtiles import metatile_of

    with job_log(snakemake.log[0]):
        paths = [Path(path) for path in snakemake.input.roots]
        render_overview(
            {metatile_of(path.stem): path for path in paths},
            Path(snakemake.output.archive),
            **snakemake.params.rendering,
        )
