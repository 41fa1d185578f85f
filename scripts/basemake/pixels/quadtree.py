"""Making web tiles from their children, depth first."""

from collections.abc import Callable, Iterator

import numpy as np

from basemake.pixels.light import FAINT, Light, halve
from basemake.pixels.webtiles import WebTile


def grow(
    tile: WebTile,
    leaf_zoom: int,
    leaf: Callable[[WebTile], Light | None],
    may_show: Callable[[WebTile], bool],
    use: Callable[[WebTile, Light], None],
) -> Light | None:
    """Return the image of `tile`, (size, size, 4), or None if nothing shows in it.

    At `leaf_zoom` the image is `leaf(tile)`; at lower zooms each pixel is the mean of four pixels
    of the children, and `use` is called with every tile and image in which something shows, lower
    zooms last. Tiles for which `may_show` is false are left out with all tiles inside them. Memory
    holds the children of one tile a zoom at most.
    """
    if not may_show(tile):
        return None
    if tile.z == leaf_zoom:
        return leaf(tile)
    image = _joined([grow(child, leaf_zoom, leaf, may_show, use) for child in tile.children])
    if image is None or image[..., 3].max() <= FAINT:
        return None
    use(tile, image)
    return image


def leaves(tile: WebTile, leaf_zoom: int, may_show: Callable[[WebTile], bool]) -> Iterator[WebTile]:
    """Yield the tiles whose images `grow` asks for, in its order."""
    if not may_show(tile):
        return
    if tile.z == leaf_zoom:
        yield tile
        return
    for child in tile.children:
        yield from leaves(child, leaf_zoom, may_show)


def _joined(children: list[Light | None]) -> Light | None:
    """Return the image of a web tile, the halves of its children; None if all are None."""
    halves = [None if image is None else halve(image) for image in children]
    half = max(0 if image is None else len(image) for image in halves)
    if half == 0:
        return None
    joined = np.zeros((2 * half, 2 * half, 4), np.uint16)
    corners = ((0, 0), (0, half), (half, 0), (half, half))
    for image, (top, left) in zip(halves, corners, strict=True):
        if image is not None:
            joined[top : top + half, left : left + half] = image
    return joined
