"""Where tiles overlap, the map goes over from one into the other."""

import numpy as np
import pytest
from osgeo import osr

from basemake.pixels.warp import Warper, _inside

PIXEL, SIDE = 10.0, 400  # metres, pixels of a tile
WEST, EAST = 60, 180  # levels of two tiles


def transformation(source: int, target: int) -> osr.CoordinateTransformation:
    systems = [osr.SpatialReference(), osr.SpatialReference()]
    for srs, epsg in zip(systems, (source, target), strict=True):
        srs.ImportFromEPSG(epsg)
        srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return osr.CoordinateTransformation(*systems)


LEFT, TOP = 500_000.0, 5_000_000.0
# About the middle of the first tile's eastern edge; pixels of 15 m in Mercator, about 10.6 m there.
X, Y, _ = transformation(32633, 3857).TransformPoint(LEFT + SIDE * PIXEL, TOP - SIDE * PIXEL / 2)
REACH = 384 * PIXEL
BOUNDS = X - REACH, Y - REACH, X + REACH, Y + REACH


def flat(level: int, *holes: tuple[slice, slice]) -> np.ndarray:
    rgba = np.full((SIDE, SIDE, 4), level, np.uint8)
    rgba[..., 3] = 255
    for hole in holes:
        rgba[hole] = 0
    return rgba


@pytest.fixture
def two(write_tile, tmp_path):
    """A function that writes two tiles, the eastern one `overlap` pixels over the western one."""

    def write(overlap: int, *holes: tuple[slice, slice]) -> list:
        east = LEFT + (SIDE - overlap) * PIXEL
        return [
            write_tile(tmp_path / "a.tif", flat(WEST, *holes), origin=(LEFT, TOP), pixel=PIXEL),
            write_tile(tmp_path / "b.tif", flat(EAST), origin=(east, TOP), pixel=PIXEL),
        ]

    return write


def draw(paths: list, feather: bool = True, bounds=BOUNDS, count: int = 2) -> np.ndarray:
    """The whole canvas, 256 pixels a piece."""
    warper = Warper.of(paths, bounds, count, 256, "bilinear", feather)
    canvas = np.zeros((count * 256, count * 256, 4), np.uint8)
    for row, column in np.ndindex(count, count):
        piece = warper.draw(row, column)
        if piece is not None:
            canvas[row * 256 :, column * 256 :][:256, :256] = piece
    return canvas


def places(bounds=BOUNDS, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows, from the western tile's corner, of the centres of a canvas's pixels."""
    west, south, east, north = bounds
    side = count * 256
    at = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(west + at * (east - west), north - at * (north - south))
    points = np.array(
        transformation(3857, 32633).TransformPoints(np.stack([x, y], -1).reshape(-1, 2).tolist())
    )
    columns, rows = (points[:, 0] - LEFT) / PIXEL, (TOP - points[:, 1]) / PIXEL
    return columns.reshape(side, side), rows.reshape(side, side)


def weight(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The square of the distance to the nearest edge, from 12 pixels (120 m) on."""
    edge = np.minimum(np.minimum(columns, SIDE - columns), np.minimum(rows, SIDE - rows))
    return np.maximum(edge - 12, 0) ** 2


@pytest.mark.parametrize("overlap", [60, 150, 300])
def test_colours_follow_the_distances_to_the_edges(two, overlap):
    found = draw(two(overlap))
    columns, rows = places()
    west, east = weight(columns, rows), weight(columns - (SIDE - overlap), rows)
    wanted = (WEST * west + EAST * east) / np.maximum(west + east, 1e-9)
    compared = (west + east > 0) & (found[..., 3] > 0)
    assert compared.mean() > 0.4
    # Coordinates are right to 0.05 pixels, and weights change fastest in narrow overlaps, and
    # where tiles end side by side.
    error = np.abs(found[..., 0] - wanted)[compared]
    assert error.max() <= 1
    inner = compared & (np.abs(rows - SIDE / 2) < SIDE / 2 - 40)
    error = np.abs(found[..., 0] - wanted)[inner]
    assert error.max() <= 0.5 + 0.05 * 2 * (EAST - WEST) / (overlap - 24)
    mixed = (found[..., 0] > WEST) & (found[..., 0] < EAST) & (found[..., 3] > 0)
    assert mixed.sum() > 50 * overlap


def test_the_colours_of_one_tile_stay_where_it_is_alone(two):
    paths = two(100)
    found = draw(paths)
    columns, _ = places()
    shown = found[..., 3] > 0
    assert (found[shown & (columns < 298)][:, :3] == WEST).all()
    assert (found[shown & (columns > 402)][:, :3] == EAST).all()
    assert (found[..., 3] == draw(paths, feather=False)[..., 3]).all()


@pytest.mark.parametrize("overlap", [0, 6, 12])
def test_narrow_overlaps_are_as_before(two, overlap):
    paths = two(overlap)
    assert (draw(paths) == draw(paths, feather=False)).all()


# Of 30 pixels, and of one pixel.
HOLES = (np.s_[100:130, 320:350], np.s_[200, 330], np.s_[250:300, 300:330])


def test_the_other_tile_shows_in_holes_and_there_is_no_step_around_them(two):
    paths = two(160, *HOLES)
    found, hard = draw(paths), draw(paths[::-1], feather=False)
    columns, rows = places()
    hole = (columns > 321) & (columns < 349) & (rows > 101) & (rows < 129)
    assert hole.sum() > 400
    assert (found[hole] == [EAST, EAST, EAST, 255]).all()
    shown = (columns > 14) & (columns < SIDE + 225) & (np.abs(rows - SIDE / 2) < SIDE / 2 - 40)
    steps = []
    for image in (found, hard):
        level = np.where(shown, image[..., 0], np.nan).astype(float)
        steps.append(
            max(
                np.nanmax(np.abs(np.diff(level, axis=0))), np.nanmax(np.abs(np.diff(level, axis=1)))
            )
        )
    assert steps[1] == EAST - WEST
    assert steps[0] <= 8  # where a hole is near the other tile's edge
    assert found[..., 0][shown].min() == WEST


def test_distances_are_the_same_at_each_call(write_tile, tmp_path):
    rgba = np.full((1112, 1112, 4), 255, np.uint8)  # with fewer pixels OpenCV's do not vary
    rgba[300:310, 400:410] = 0
    tile = write_tile(tmp_path / "a.tif", rgba, origin=(LEFT, TOP), pixel=PIXEL)
    first, *others = (_inside(tile, 0) for _ in range(10))
    assert all((other == first).all() for other in others)


def test_a_pixel_is_the_same_in_each_metatile(two):
    paths = two(160, *HOLES)
    whole = draw(paths)
    west, south, east, north = BOUNDS
    middle = (west + east) / 2, (south + north) / 2
    quarter = draw(paths, bounds=(west, middle[1], middle[0], north), count=1)
    np.testing.assert_array_equal(quarter, whole[:256, :256])
    quarter = draw(paths, bounds=(middle[0], south, east, middle[1]), count=1)
    np.testing.assert_array_equal(quarter, whole[256:, 256:])


def test_tiles_of_two_zones_are_feathered(write_tile, tmp_path):
    """And where three overlap, each weighs by itself, in any order."""
    lon, lat, _ = transformation(3857, 4326).TransformPoint(X, Y)
    paths = []
    for name, level, epsg, east in (
        ("a", 40, 32632, -50),
        ("b", 100, 32633, 0),
        ("c", 160, 32634, 90),
    ):
        x, y, _ = transformation(4326, epsg).TransformPoint(lon, lat)
        origin = round(x + (east - SIDE / 2) * PIXEL), round(y + SIDE / 2 * PIXEL)
        paths.append(
            write_tile(tmp_path / f"{name}.tif", flat(level), epsg=epsg, origin=origin, pixel=PIXEL)
        )
    found = draw(paths)
    assert (found == draw(paths[::-1]))[found[..., 3] > 0].mean() > 0.98
    level = found[256, :, 0][found[256, :, 3] > 0].astype(int)
    assert (np.diff(level) >= 0).all()
    assert np.diff(level).max() <= 3
    assert (level[0], level[-1]) == (40, 160)
