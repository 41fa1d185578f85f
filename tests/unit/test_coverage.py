"""The map of a plan: its projection, colours and names."""

import numpy as np
import pytest
import shapely
from PIL import Image, ImageColor

from basemake.forecast.coverage_map import COLOURS, INK, OUTLINE, draw_coverage, view_of


def square(west: float, south: float, side: float = 1) -> shapely.Polygon:
    return shapely.box(west, south, west + side, south + side)


def test_a_view_is_north_up_and_keeps_shapes():
    view = view_of([square(10, 45), square(12, 46)])
    corners = view.project([[10, 47], [13, 47], [10, 45]])
    (left, top), (right, _), (_, bottom) = corners
    assert 0 < left < right < view.width
    assert 0 < top < bottom < view.height
    assert (bottom - top) / (right - left) == pytest.approx(
        2 / 3 / np.cos(np.radians(46)), rel=1e-3
    )


@pytest.mark.parametrize(
    "areas",
    [
        [square(178, -18, 2), square(-180, -18, 2)],
        [shapely.MultiPolygon([square(178, -18, 2), square(-180, -18, 2)])],
        [square(177, -18, 2), square(-179, -18, 2)],
    ],
)
def test_both_sides_of_180_degrees_are_neighbours(areas):
    view = view_of(areas)
    west, east = (view.project([[lon, -17]])[0, 0] for lon in (178.5, -178.5))
    assert 0 < west < east < view.width
    there = view.project(shapely.get_coordinates(areas))
    assert there.min() >= 0
    assert there[:, 0].max() <= view.width


def test_the_whole_world_is_not_cut():
    view = view_of([shapely.box(-180, -80, 180, 80)])
    (west, _), (east, _) = view.project([[-180, 0], [180, 0]])
    assert east - west == pytest.approx(860)


def test_tiles_have_the_colours_of_their_states_and_edges(tmp_path):
    tiles = {state: (square(lon, 45), state) for lon, state in enumerate(COLOURS)}
    region = shapely.box(0.5, 45.1, 3.5, 45.3)
    path = tmp_path / "plan.png"
    draw_coverage(path, "Plan", tiles, {"here": region})
    view = view_of([region, *(geometry for geometry, _ in tiles.values())])
    with Image.open(path) as image:
        assert image.size == (view.width, view.height)

        def at(lon: float, lat: float) -> tuple:
            return image.getpixel(tuple(round(x) for x in view.project([[lon, lat]])[0]))

        for lon, (state, colour) in enumerate(COLOURS.items()):
            assert at(lon + 0.25, 45.75) == ImageColor.getrgb(colour), state
        assert at(2.25, 45.3) == ImageColor.getrgb(OUTLINE)
        assert at(3.75, 45.3) == ImageColor.getrgb(COLOURS["fresh"]), "outside the polygon"
        box = [round(x) for x in view.project([[0.3, 45.5]])[0]]
        name = image.crop((box[0], box[1], box[0] + 200, box[1] + 30)).getcolors(10_000)
        assert min(sum(colour) for _, colour in name) < sum(ImageColor.getrgb(INK)) + 100


def test_names_do_not_hide_one_another(tmp_path):
    """Tiles of two zones may have the same centroid."""
    tiles = {name: (square(15, 45), "new") for name in ("33TYK_0_0", "34TBQ_0_0")}
    draw_coverage(tmp_path / "two.png", "Plan", tiles, {"here": square(15, 45)})
    draw_coverage(
        tmp_path / "one.png", "Plan", dict([*tiles.items()][:1]), {"here": square(15, 45)}
    )
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        middles = [np.asarray(image.convert("L"))[100:900, 280:380] for image in (two, one)]
    rows = [(middle < 100).any(axis=1).sum() for middle in middles]
    assert rows[0] >= rows[1] + 8
