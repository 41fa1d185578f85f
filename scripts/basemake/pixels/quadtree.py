"""Making web tiles from their children, depth first."""

from collections.abc import Callable

import numpy as np

from basemake.pixels.raster import RGBA, halve
from basemake.pixels.webtiles import WebTile


def grow(
    tile: WebTile,
    leaf_zoom: int,
    leaf: Callable[[WebTile], RGBA | None],
    may_show: Callable[[WebTile], bool],
    use: Callable[[WebTile, RGBA], None],
) -> RGBA | None:
    """Return the image of `tile`, uint8 RGBA (size, size, 4), or None if it is transparent.

    At `leaf_zoom` the image is `leaf(tile)`; at lower zooms each pixel is the mean of four pixels
    of the children. `use` is called with every tile and image that is not transparent, children
    first. Tiles for which `may_show` is false are left out with all tiles inside them. Memory holds
    the children of one tile a zoom at most.
    """
    if not may_show(tile):
        return None
    if tile.z == leaf_zoom:
        image = leaf(tile)
    else:
        image = _joined([grow(child, leaf_zoom, leaf, may_show, use) for child in tile.children])
    if image is None or image[..., 3].max() == 0:
        return None
    use(tile, image)
    return image


def _joined(children: list[RGBA | None]) -> RGBA | None:
    """Return the image of a web tile, halved from its four children; None if all are None."""
    size = max(0 if image is None else len(image) for image in children)
    if size == 0:
        return None
    canvas = np.zeros((2 * size, 2 * size, 4), np.uint8)
    corners = ((0, 0), (0, size), (size, 0), (size, size))
    for image, (top, left) in zip(children, corners, strict=True):
        if image is not None:
            canvas[top : top + size, left : left + size] = image
    return halve(canvas)
