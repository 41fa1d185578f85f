"""Holes filled from further items: on the simulated world with its truth, and pixel by pixel."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from basemake.demo.noise import fractal
from basemake.demo.world import reflectance
from basemake.pixels.blocks import Image
from basemake.pixels.dn import DnReading, MaskRule
from basemake.pixels.fill import (
    CELL,
    HIDDEN,
    MOST,
    Composite,
    Grid,
    Holes,
    Layer,
    grid_of,
    nearest,
)

NODATA = -32768
READING = DnReading(0.0001, 0.0, NODATA)
SCL = MaskRule(invalid=[0, 3, 9])


@pytest.fixture
def layer(tmp_path: Path, write_geotiff) -> Callable[..., Layer]:
    """A function that writes DN (3, height, width), and a mask, as an item."""
    written = iter(range(99))

    def write(
        dn: NDArray,
        mask: NDArray | None = None,
        rule: MaskRule = SCL,
        reading: DnReading = READING,
        **grid,
    ) -> Layer:
        folder = tmp_path / str(next(written))
        bands = [
            write_geotiff(folder / f"{n}.tif", band.astype(np.int16), **grid)
            for n, band in enumerate(dn)
        ]
        if mask is None:
            return Layer(bands, reading)
        return Layer(bands, reading, write_geotiff(folder / "mask.tif", mask, **grid), rule)

    return write


def composite(*layers: Layer | None, side: int = 512) -> Composite:
    first = layers[0]
    assert first is not None
    found = Composite(layers, grid_of(first.bands[0]))
    with ThreadPoolExecutor(2) as pool:
        found.match(grid_of(first.bands[0]).windows(side, side), pool)
    return found


def read(*layers: Layer | None, side: int = 512) -> tuple[NDArray, NDArray[np.uint8]]:
    """What a tile of items shows, read whole."""
    first = layers[0]
    assert first is not None
    grid = grid_of(first.bands[0])
    return composite(*layers, side=side).read((slice(0, grid.height), slice(0, grid.width)))


# -- The simulated world, of which the truth is known ----------------------------------------------


@pytest.fixture(scope="module")
def world() -> SimpleNamespace:
    """A summer whose clouds hide a third of it, and the spring before, with clouds of its own."""
    lon, lat = np.meshgrid(np.linspace(17.6, 18.9, 700), np.linspace(43.9, 43.1, 600))
    summer, spring = (np.rint(reflectance(lon, lat, 41, turn) * 10_000) for turn in (0, -1))
    never = np.isnan(summer).any(axis=0)
    x, y = (degrees.astype(np.float32) * 5 for degrees in (lon, lat))
    clouds = fractal(x, y, 7, 1, 5) > 0.15
    others = np.isnan(spring).any(axis=0) | (fractal(x, y, 8, 1, 5) > 0.45)
    return SimpleNamespace(
        truth=summer,
        first=np.where(clouds | never, NODATA, summer),
        second=np.where(others, NODATA, spring),
        known=~never,
        holes=(clouds | never) & ~others,
    )


def steps(image: NDArray, parts: NDArray) -> NDArray:
    """Differences between neighbours across the borders between parts 1 and 2."""
    image = image.astype(float)
    down, right = np.abs(np.diff(image, axis=1)), np.abs(np.diff(image, axis=2))
    pairs = (parts[1:], parts[:-1]), (parts[:, 1:], parts[:, :-1])
    borders = [(a != b) & (a > 0) & (b > 0) for a, b in pairs]
    return np.concatenate([down[:, borders[0]].ravel(), right[:, borders[1]].ravel()])


def test_holes_are_filled_at_the_level_of_what_surrounds_them(world, layer) -> None:
    first, second = layer(world.first), layer(world.second)
    dn, item = read(first, second)
    # No pixel is empty where an item is valid, and what was valid is as it was.
    np.testing.assert_array_equal(item == 2, world.holes)
    valid = (world.first != NODATA).all(axis=0)
    np.testing.assert_array_equal(item == 1, valid)
    np.testing.assert_array_equal(dn[:, valid], world.first[:, valid])

    holes = world.holes & world.known
    error = np.abs(dn - world.truth)[:, holes].mean()
    plain = np.abs(world.second - world.truth)[:, holes].mean()
    assert error <= 0.5 * plain

    # Random lines: the same borders elsewhere, in the truth.
    rng, truth = np.random.default_rng(0), np.nan_to_num(world.truth)
    elsewhere = []
    for _ in range(30):
        moved = np.roll(item, rng.integers(0, item.shape), (0, 1)) * world.known
        elsewhere.append(steps(truth, moved).mean())
    lines = np.mean(elsewhere)
    step = steps(dn, item).mean()
    assert step <= 1.2 * lines
    copied = steps(np.where(item == 2, world.second, dn), item).mean()
    assert copied > 1.25 * lines


def test_pixels_are_the_same_whatever_windows_are_read(world, layer) -> None:
    layers = layer(world.first), layer(world.second)
    whole = read(*layers, side=1024)
    parts = composite(*layers, side=5 * CELL)
    for rows, columns in ((slice(0, 1), slice(0, 700)), (slice(77, 300), slice(33, 34))):
        dn, item = parts.read((rows, columns))
        np.testing.assert_array_equal(dn, whole[0][:, rows, columns])
        np.testing.assert_array_equal(item, whole[1][rows, columns])


# -- Pixel by pixel --------------------------------------------------------------------------------


def flat(value: float, side: int = 96) -> NDArray:
    """Three bands of one reflectance, a little different from one another."""
    return np.stack([np.full((side, side), value * 10_000 * (1 + band / 10)) for band in range(3)])


def holed(dn: NDArray, *holes: tuple[slice, slice]) -> NDArray:
    dn = dn.copy()
    for hole in holes:
        dn[:, *hole] = NODATA
    return dn


MIDDLE = np.s_[20:70, 30:60]
INNER = np.s_[40:50, 40:50]


def test_the_gain_is_that_of_what_surrounds_a_hole_and_bounded(layer) -> None:
    first = flat(0.2)
    for other in (0.1, 0.3):
        dn, item = read(layer(holed(first, MIDDLE)), layer(flat(other)))
        assert np.abs(dn - first).max() <= 0.002 * 10_000  # gains are kept with 11 bits
        assert (item[MIDDLE] == 2).all()
        assert np.count_nonzero(item == 2) == 50 * 30
    dn, _ = read(layer(holed(first, MIDDLE)), layer(flat(0.02)))
    assert np.abs(dn[0][MIDDLE] / 10_000 - (MOST * 0.03 - 0.01)).max() < 0.001


def test_a_gain_that_varies_is_followed_and_fades_inwards(layer) -> None:
    """The left half is brighter than it was by a quarter, the right half as it was."""
    first = flat(0.2, 256)
    other = first.copy()
    other[:, :, :128] = flat(0.16, 256)[:, :, :128]
    hole = np.s_[64:192, 64:192]
    dn, _ = read(layer(holed(first, hole)), layer(other))
    error = np.abs(dn[0] / first[0] - 1)
    # Just inside its borders, but where the halves meet.
    assert max(error[65, 65:116].max(), error[65, 140:191].max(), error[65:191, 65].max()) < 0.04
    across = dn[0][128, 72:120].astype(int)  # of the left half: ever less is made of the left
    assert np.abs(np.diff(across)).max() < 20
    assert across[0] > across[-1]


def test_the_next_item_fills_what_the_second_one_leaves(layer) -> None:
    first, second = holed(flat(0.2), MIDDLE), holed(flat(0.1), INNER)
    dn, item = read(layer(first), layer(second), None, layer(flat(0.4)))
    assert (item[INNER] == 4).all()
    ring = item[MIDDLE].copy()
    ring[20:30, 10:20] = 2
    assert (ring == 2).all()
    assert np.abs(dn - flat(0.2)).max() <= 20
    # Nothing is left of a pixel that no item has.
    _, item = read(layer(first), layer(second))
    assert (item[INNER] == 0).all()


def test_items_read_their_own_digital_numbers(layer) -> None:
    """Ranked scenes may be of two processing baselines."""
    shifted = DnReading(0.0001, -0.1, NODATA)
    dn, _ = read(layer(holed(flat(0.2), MIDDLE)), layer(flat(0.2) + 1000, reading=shifted))
    assert np.abs(dn - flat(0.2)).max() <= 20


def test_a_filled_pixel_is_never_nodata(layer) -> None:
    zero = DnReading(0.0001, 0.0, 0)
    dark = np.zeros((3, 96, 96)) + 1
    first = holed(dark, MIDDLE)
    first[first == NODATA] = 0
    dn, item = read(layer(first, reading=zero), layer(dark, reading=zero))
    assert (dn > 0).all()
    assert (item > 0).all()


@pytest.mark.parametrize(
    ("rule", "clear", "cloud"),
    [(SCL, 4, 9), (MaskRule(bits=[0, 3]), 64, 0b1000), (MaskRule(bits=[0, 3]), 64, 0b1001)],
)
def test_masks_hide_by_classes_or_bits(layer, rule: MaskRule, clear: int, cloud: int) -> None:
    mask = np.full((96, 96), clear, np.uint16)
    mask[MIDDLE] = cloud
    bright = flat(0.2)
    bright[:, *MIDDLE] = 9000
    none = np.full((96, 96), clear, np.uint16)
    dn, item = read(layer(bright, mask, rule), layer(flat(0.1), none, rule))
    assert (item[MIDDLE] == 2).all()
    assert np.abs(dn - flat(0.2)).max() <= 20


def test_what_all_masks_hide_is_shown_by_the_darkest_item(layer) -> None:
    mask = np.full((96, 96), 4, np.uint8)
    mask[INNER] = 9
    bright = flat(0.2)
    bright[:, *INNER] = 9000
    dn, item = read(layer(bright, mask), layer(flat(0.1), mask))
    assert (item[INNER] == HIDDEN + 2).all()
    assert np.abs(dn - flat(0.2)).max() <= 20
    dark = flat(0.2)
    dark[:, *INNER] = 100
    dn, item = read(layer(dark, mask), layer(flat(0.1), mask))
    assert (item[INNER] == HIDDEN + 1).all()
    assert (dn[:, *INNER] == 100).all()


def test_masks_grow_but_not_where_nothing_was_observed(layer) -> None:
    mask = np.full((96, 96), 4, np.uint8)
    mask[40, 40] = 9
    mask[80, 80] = 0
    rule = MaskRule(invalid=[0, 9], grow=30)
    of = layer(flat(0.2), mask, rule)
    grid = grid_of(of.bands[0])
    hidden = of.hidden(grid, np.s_[0:96, 0:96])
    expected = np.zeros((96, 96), bool)
    expected[37:44, 37:44] = expected[80, 80] = True
    np.testing.assert_array_equal(hidden, expected)
    # The same whatever the window.
    np.testing.assert_array_equal(of.hidden(grid, np.s_[42:60, 0:38]), expected[42:60, 0:38])
    # What is hidden may be worth fetching, but not what was not observed.
    expected[80, 80] = False
    np.testing.assert_array_equal(of.veiled(grid, np.s_[0:96, 0:96]), expected)


def test_items_on_other_grids_are_read_by_place(layer) -> None:
    """Scenes of one path and row begin elsewhere; masks have larger pixels, whole bands smaller."""
    ramp = np.stack([np.add.outer(np.arange(96), np.arange(96)) * 10.0 + 500] * 3)
    first = layer(holed(ramp, MIDDLE))
    north, west = 5_000_000, 500_000
    shifted = layer(ramp[:, 16:80, 8:72], origin=(west + 80, north - 160))
    dn, item = read(first, shifted)
    np.testing.assert_allclose(dn[:, *MIDDLE], ramp[:, *MIDDLE], atol=4)
    assert (item[MIDDLE] == 2).all()
    twice = layer(ramp[:, ::2, ::2], pixel=20.0)
    dn, _ = read(first, twice)
    np.testing.assert_allclose(dn[:, *MIDDLE], ramp[:, *MIDDLE], atol=24)
    half = layer(ramp.repeat(2, 1).repeat(2, 2), pixel=5.0)
    dn, _ = read(first, half)
    np.testing.assert_allclose(dn[:, *MIDDLE], ramp[:, *MIDDLE], atol=4)


@pytest.mark.parametrize("pixel", [2.5, 4.0, 15.0])
def test_pixels_of_another_size_are_the_nearest_ones_whatever_the_window(
    pixel: float, tmp_path: Path, write_geotiff
) -> None:
    side = int(960 / pixel)
    there = np.random.default_rng(0).integers(0, 30_000, (side, side), np.int16)
    path = write_geotiff(tmp_path / "other.tif", there, pixel=pixel)
    grid = Grid(96, 96, (500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0))
    places = ((np.arange(96) + 0.5) * 10 / pixel).astype(int)
    expected = there[np.ix_(places, places)]
    for window in [np.s_[0:96, 0:96], *grid.windows(40, 56)]:
        np.testing.assert_array_equal(nearest(path, grid, window)[0], expected[window])


# -- Which blocks cover holes ----------------------------------------------------------------------


def test_holes_are_covered_by_blocks() -> None:
    grid = Grid(2000, 1500, (0.0, 10.0, 0.0, 15_000.0, 0.0, -10.0))
    wanted = np.zeros((1500, 2000), bool)
    wanted[5, 700] = wanted[1300, 1999] = True
    holes = Holes.at(grid, lambda window: wanted[window])
    same = Image(2000, 1500, 512, 512)
    assert holes.blocks(same, grid.transform) == {1, 11}
    # An image of half the resolution that begins 2560 m further east and ends before the second.
    coarse = Image(500, 750, 256, 256)
    assert holes.blocks(coarse, (2560.0, 20.0, 0.0, 15_000.0, 0.0, -20.0)) == {0}
    left = holes.without(lambda window: wanted[window] & (window[0].start == 0))
    assert left
    assert left.blocks(same, grid.transform) == {11}
    assert not left.without(lambda window: wanted[window])
    assert not Holes.at(grid, lambda window: wanted[window] & False)


def test_what_is_around_holes_is_covered_too() -> None:
    grid = Grid(2000, 1500, (0.0, 10.0, 0.0, 15_000.0, 0.0, -10.0))
    wanted = np.zeros((1500, 2000), bool)
    wanted[505, 1030] = True
    holes = Holes.at(grid, lambda window: wanted[window])
    same = Image(2000, 1500, 512, 512)
    assert holes.blocks(same, grid.transform, 60.0) == {2}
    assert holes.blocks(same, grid.transform, 65.0) == {2, 1, 6, 5}  # 6.5 pixels are 7
    # In an image that ends before the pixel, but not before what is around it.
    short = Image(1028, 502, 512, 512)
    assert holes.blocks(short, grid.transform, 20.0) == set()
    assert holes.blocks(short, grid.transform, 40.0) == {2}
    far = (30_000.0, 10.0, 0.0, 15_000.0, 0.0, -10.0)
    assert holes.blocks(same, far, 65.0) == set()
