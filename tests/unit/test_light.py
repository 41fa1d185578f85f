"""Linear light: to and from colours, and halving images of any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from basemake.pixels.light import FAINT, FULL, halve, to_colours, to_light
from basemake.pixels.raster import RGBA

sides = st.integers(1, 9)
levels = st.one_of(st.sampled_from([0, 1, 2, 127, 254, 255]), st.integers(0, 255))


@st.composite
def images(draw: st.DrawFn) -> RGBA:
    """Images with RGB 0 where alpha is 0, as all of basemake's."""
    image = draw(arrays(np.uint8, st.tuples(sides, sides, st.just(4)), elements=levels))
    image[..., :3] *= image[..., 3:] > 0
    return image


def light_of(level: np.ndarray) -> np.ndarray:
    """Decode levels of 0..255 to linear light in 0..1, in float64."""
    c = level / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def level_of(light: np.ndarray) -> np.ndarray:
    """Encode linear light in 0..1 as levels of 0..255, unrounded."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def exact_half(image: RGBA) -> tuple[np.ndarray, np.ndarray]:
    """Return colours and alpha as float64, a pixel at a time; colours NaN where alpha is 0."""
    height, width = image.shape[:2]
    colours = np.full(((height + 1) // 2, (width + 1) // 2, 3), np.nan)
    alpha = np.zeros(colours.shape[:2])
    for y, x in np.ndindex(*alpha.shape):
        rows = [2 * y, min(2 * y + 1, height - 1)]
        columns = [2 * x, min(2 * x + 1, width - 1)]
        four = image[np.ix_(rows, columns)].reshape(4, 4).astype(np.float64)
        alpha[y, x] = four[:, 3].mean()
        if four[:, 3].any():
            mean = np.average(light_of(four[:, :3]), axis=0, weights=four[:, 3])
            colours[y, x] = level_of(mean)
    return colours, alpha


@given(images())
def test_colours_come_back_from_their_light(image: RGBA) -> None:
    faint = image[..., 3] < 128
    back = to_colours(to_light(image))
    assert (back[..., 3] == image[..., 3]).all()
    assert (back[~faint] == image[~faint]).all()
    assert (back[image[..., 3] == 0] == 0).all()


def test_every_level_comes_back() -> None:
    image = np.full((1, 256, 4), 255, np.uint8)
    image[..., :3] = np.arange(256)[:, np.newaxis]
    assert (to_colours(to_light(image)) == image).all()


@given(images())
def test_each_pixel_is_the_mean_light_of_four_weighted_by_alpha(image: RGBA) -> None:
    colours, alpha = exact_half(image)
    half = to_colours(halve(to_light(image)))
    assert half.dtype == np.uint8
    assert half.shape == (*alpha.shape, 4)
    assert (half[..., 3] == np.floor(alpha + 0.5)).all()
    shown = half[..., 3] > 0
    # The nearest level, but for the 16 bits of light times alpha: a unit is 0.05 of the darkest
    # levels.
    allowed = 0.5 + 0.08 * 255 / alpha[shown, np.newaxis]
    assert (np.abs(half[shown, :3] - colours[shown]) <= allowed).all()
    assert (half[~shown] == 0).all()


@pytest.mark.parametrize("transparent", range(4))
def test_one_transparent_pixel_never_bleeds_into_the_colour(transparent: int) -> None:
    image = np.full((4, 4, 4), (200, 100, 50, 255), np.uint8)
    image[divmod(transparent, 2)] = 0
    half = to_colours(halve(to_light(image)))
    assert half[0, 0].tolist() == [200, 100, 50, 191]  # 3 x 255 / 4
    assert (half.reshape(-1, 4)[1:] == (200, 100, 50, 255)).all()


def test_what_is_too_faint_to_show_has_no_colour() -> None:
    light = np.zeros((1, 2, 4), np.uint16)
    light[0, 0], light[0, 1] = FAINT, FAINT + 1
    assert to_colours(light).tolist() == [[[0, 0, 0, 0], [255, 255, 255, 1]]]


def test_all_of_white_is_never_more_than_white() -> None:
    """Colours multiplied by alpha may be rounded up by more than alpha is."""
    light = np.full((1, FULL, 4), FULL, np.uint16)
    light[0, :, 3] = np.arange(1, FULL + 1)
    colours = to_colours(light)
    assert (colours[colours[..., 3] > 0][:, :3] == 255).all()


@pytest.mark.parametrize("contrast", [12, 60, 255])
def test_brightness_does_not_drift_over_halvings(contrast: int) -> None:
    """Against light in float64 that is never rounded, as a map is halved from z14 to z8."""
    rng = np.random.default_rng(5)
    place = np.add.outer(np.arange(1024), 2 * np.arange(1024)) / 3072
    mean = 10 + 210 * place[..., np.newaxis] * (1, 0.8, 0.5)
    values = np.clip(mean + rng.uniform(-contrast, contrast, mean.shape), 0, 255)
    image = np.dstack([np.rint(values), np.full(mean.shape[:2], 255)]).astype(np.uint8)
    exact = light_of(image[..., :3].astype(float))
    light = to_light(image)
    for _ in range(6):
        light = halve(light)
        exact = exact.reshape(len(light), 2, len(light), 2, 3).mean(axis=(1, 3))
        error = to_colours(light)[..., :3] - level_of(exact)
        assert np.abs(error).max() <= 0.55
        assert abs(error.mean()) <= 0.05


@pytest.mark.parametrize("shape", [(5, 3), (1, 1), (1, 6), (4, 7)])
def test_the_last_row_and_column_of_odd_sides_are_repeated(shape: tuple[int, int]) -> None:
    light = np.random.default_rng(1).integers(0, FULL + 1, (*shape, 4)).astype(np.uint16)
    before = light.copy()
    half = halve(light)
    even = np.pad(light, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), "edge").astype(int)
    four = even.reshape(len(even) // 2, 2, -1, 2, 4)
    assert (half == (four.sum(axis=(1, 3)) + 2) // 4).all()
    assert (light == before).all()
