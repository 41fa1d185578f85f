"""Making web tiles from leaves: which are visited, in which order, and the images."""

import numpy as np

from basemake.pixels.light import FAINT, FULL, Light
from basemake.pixels.quadtree import grow, leaves
from basemake.pixels.webtiles import WebTile

ROOT = WebTile(3, 5, 2)
COLOUR = np.array([10, 20, 30, FULL], np.uint16)


def grown(images: dict[WebTile, Light | None], leaf_zoom: int) -> dict[WebTile, Light]:
    """What is used, in the order of use; only leaves with `images` and what is above may show."""
    may_show = {tile for leaf in images for tile in lineage(leaf)}
    used: dict[WebTile, Light] = {}
    listed = leaves(ROOT, leaf_zoom, may_show.__contains__)

    def leaf(tile: WebTile) -> Light | None:
        assert tile == next(listed)
        return images[tile]

    def use(tile: WebTile, image: Light) -> None:
        assert tile not in used
        used[tile] = image

    image = grow(ROOT, leaf_zoom, leaf, may_show.__contains__, use)
    assert next(listed, None) is None
    assert used.get(ROOT) is image
    return used


def lineage(tile: WebTile) -> list[WebTile]:
    return [tile] if tile == ROOT else [*lineage(tile.parent), tile]


def test_each_leaf_has_its_corner_in_all_above() -> None:
    corner = ROOT.children[3].children[1]
    used = grown({corner: np.tile(COLOUR, (4, 4, 1))}, 5)
    assert list(used) == [corner.parent, ROOT]
    assert (used[corner.parent][:2, 2:] == COLOUR).all()
    assert used[corner.parent][..., 3].sum() == 4 * FULL
    assert (used[ROOT][2, 3] == COLOUR).all()
    assert used[ROOT][..., 3].sum() == FULL


def test_leaves_are_listed_as_they_are_asked_for() -> None:
    shown = [corner for child in (ROOT.children[1], ROOT.children[3]) for corner in child.children]
    colours = {tile: np.tile(COLOUR, (4, 4, 1)) for tile in (shown[5], shown[0], shown[2])}
    assert set(grown(colours, 5)) == {shown[0].parent, shown[5].parent, ROOT}


def test_what_shows_nothing_is_not_used() -> None:
    assert grown({}, 5) == {}
    assert grown({ROOT.children[0]: None}, 4) == {}
    for alpha, shown in ((4 * FAINT, []), (4 * FAINT + 2, [ROOT])):
        faint = np.zeros((4, 4, 4), np.uint16)
        faint[0, 0] = (10, 20, 30, alpha)
        assert list(grown({ROOT.children[2]: faint}, 4)) == shown


def test_a_leaf_may_be_the_root() -> None:
    image = np.tile(COLOUR, (4, 4, 1))
    assert grow(ROOT, 3, {ROOT: image}.__getitem__, {ROOT}.__contains__, print) is image
