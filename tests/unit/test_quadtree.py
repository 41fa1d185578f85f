"""Making web tiles from leaves: which are visited, in which order, and the images."""

import numpy as np

from basemake.pixels.quadtree import grow
from basemake.pixels.raster import RGBA
from basemake.pixels.webtiles import WebTile

ROOT = WebTile(3, 5, 2)
COLOUR = np.array([10, 20, 30, 255], np.uint8)


def grown(leaves: dict[WebTile, RGBA | None], leaf_zoom: int) -> dict[WebTile, RGBA]:
    """What is used, in the order of use; only `leaves` and what is above them may show."""
    may_show = {tile for leaf in leaves for tile in lineage(leaf)}
    used: dict[WebTile, RGBA] = {}

    def use(tile: WebTile, image: RGBA) -> None:
        assert tile not in used
        used[tile] = image

    image = grow(ROOT, leaf_zoom, leaves.__getitem__, may_show.__contains__, use)
    assert used.get(ROOT) is image
    return used


def lineage(tile: WebTile) -> list[WebTile]:
    return [tile] if tile == ROOT else [*lineage(tile.parent), tile]


def test_each_leaf_has_its_corner_in_all_above() -> None:
    corner = ROOT.children[3].children[1]
    used = grown({corner: np.tile(COLOUR, (4, 4, 1))}, 5)
    assert list(used) == [corner, corner.parent, ROOT]
    assert (used[corner.parent][:2, 2:] == COLOUR).all()
    assert used[corner.parent][..., 3].sum() == 4 * 255
    assert (used[ROOT][2, 3] == COLOUR).all()
    assert used[ROOT][..., 3].sum() == 255


def test_what_shows_nothing_is_not_used() -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    assert grown({}, 5) == {}
    assert grown({ROOT.children[0]: None, ROOT.children[1]: clear}, 4) == {}
    faint = clear.copy()
    faint[0, 0] = (10, 20, 30, 1)  # too faint to show at half the size
    assert list(grown({ROOT.children[2]: faint}, 4)) == [ROOT.children[2]]


def test_a_leaf_may_be_the_root() -> None:
    image = np.tile(COLOUR, (4, 4, 1))
    assert grown({ROOT: image}, 3)[ROOT] is image
