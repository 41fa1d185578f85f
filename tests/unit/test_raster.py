"""Halving images of any size, decoding GeoTIFFs, and settings of libraries."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from osgeo import gdal

from basemake.pixels.raster import RGBA, decode, halve

sides = st.integers(1, 9)
levels = st.one_of(st.sampled_from([0, 1, 2, 127, 254, 255]), st.integers(0, 255))


@st.composite
def images(draw: st.DrawFn) -> RGBA:
    """Images with RGB 0 where alpha is 0, as all of basemake's."""
    image = draw(arrays(np.uint8, st.tuples(sides, sides, st.just(4)), elements=levels))
    image[..., :3] *= image[..., 3:] > 0
    return image


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
            colours[y, x] = np.average(four[:, :3], axis=0, weights=four[:, 3])
    return colours, alpha


SETTINGS = """
import os
import cv2
cv2.setNumThreads(3)
before = dict(os.environ)
import enhance_tile, render_metatile, render_overview
assert cv2.getNumThreads() == 3
assert dict(os.environ) == before
from basemake.pixels.raster import set_up_libraries
set_up_libraries(64)
assert cv2.getNumThreads() == 1
"""


def test_libraries_are_set_up_by_a_job_and_not_by_an_import() -> None:
    scripts = Path(__file__).parents[2] / "scripts"
    subprocess.run([sys.executable, "-c", SETTINGS], cwd=scripts, check=True)


@given(images())
def test_each_pixel_is_the_mean_of_four_weighted_by_alpha(image: RGBA) -> None:
    colours, alpha = exact_half(image)
    half = halve(image)
    assert half.dtype == np.uint8
    assert half.shape == (*alpha.shape, 4)
    # Rounded half up, exactly: a pixel of the fourth halving is still no level off.
    assert (half[..., 3] == np.floor(alpha + 0.5)).all()
    shown = half[..., 3] > 0
    # Means by weights are fractions: float64 may fall on the other side of a half.
    assert (np.abs(half[shown, :3] - colours[shown]) <= 0.5 + 1e-9).all()
    assert (half[~shown] == 0).all()


@pytest.mark.parametrize("transparent", range(4))
def test_one_transparent_pixel_never_bleeds_into_the_colour(transparent: int) -> None:
    image = np.full((4, 4, 4), (200, 100, 50, 255), np.uint8)
    image[divmod(transparent, 2)] = 0
    half = halve(image)
    assert half[0, 0].tolist() == [200, 100, 50, 191]  # 3 x 255 / 4
    assert (half.reshape(-1, 4)[1:] == (200, 100, 50, 255)).all()


def test_what_is_too_faint_to_show_has_no_colour() -> None:
    image = np.zeros((2, 4, 4), np.uint8)
    image[0, 0] = (200, 100, 50, 1)
    image[0, 2] = (200, 100, 50, 2)
    assert halve(image).tolist() == [[[0, 0, 0, 0], [200, 100, 50, 1]]]


@given(arrays(np.uint8, st.tuples(sides, sides, st.just(3))))
def test_opaque_stays_opaque_and_rounds_half_up(rgb: np.ndarray) -> None:
    half = halve(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]))
    assert (half[..., 3] == 255).all()
    even = np.pad(rgb, ((0, len(rgb) % 2), (0, rgb.shape[1] % 2), (0, 0)), "edge").astype(int)
    four = even.reshape(len(even) // 2, 2, -1, 2, 3)
    assert (half[..., :3] == (four.sum(axis=(1, 3)) + 2) // 4).all()


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("shape", [(1100, 5), (1025, 3), (513, 2), (1, 1), (1, 600), (1024, 7)])
def test_a_tall_image_is_halved_as_its_rows_by_twos_are(shape: tuple, opaque: bool) -> None:
    """In any number of strips, opaque ones, which have code of their own, included."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*shape, 4), np.uint8)
    image[..., 3] |= 255 if opaque else 0
    image[-1, -1] = 0  # so that the last strip has a transparent pixel
    image[..., :3] *= image[..., 3:] > 0
    pairs = [halve(image[top : top + 2]) for top in range(0, len(image), 2)]
    assert (halve(image) == np.concatenate(pairs)).all()


def test_the_image_itself_is_left_alone() -> None:
    image = np.random.default_rng(2).integers(0, 256, (5, 5, 4), np.uint8)
    before = image.copy()
    halve(image)
    assert (image == before).all()


@pytest.mark.parametrize("compression", ["NONE", "DEFLATE", "LZW"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "reduced", "COG"])
def test_decoding_finds_every_block_that_is_missing(
    tmp_path: Path, write_geotiff, compression: str, layout: str
) -> None:
    noise = np.random.default_rng(3).integers(1, 9999, (700, 900), dtype=np.int16)
    options = [f"COMPRESS={compression}", *(["TILED=YES"] if layout == "tiles" else [])]
    path = write_geotiff(tmp_path / "a.tif", noise, options=tuple(options))
    if layout == "reduced":
        gdal.Open(str(path), gdal.GA_Update).BuildOverviews("NEAREST", [2])
    elif layout == "COG":
        options = [options[0], "BLOCKSIZE=256"]
        gdal.Translate(str(tmp_path / "b.tif"), str(path), format="COG", creationOptions=options)
        path = tmp_path / "b.tif"
    decode(path)
    content = path.read_bytes()
    for missing in (20, len(content) // 10, len(content) // 2):
        path.write_bytes(content[:-missing])
        with pytest.raises(RuntimeError):
            decode(path)
