"""Steps of colour at borders and along stripes, put into a picture of land made of noise."""

import cv2
import numpy as np
import pytest
from PIL import Image

from basemake.measure.seam_map import COLOURS, draw_seams
from basemake.measure.seams import steps_at_borders, stripes

SIDE = 512
LATITUDES = np.full(SIDE, 46.0)
# The edge of the real scene S2A_33TWM_20230815 at 46.5 degrees north: columns a row.
SLOPE = -0.239


@pytest.fixture(scope="module")
def land() -> np.ndarray:
    """Fields, woods and hills: noise of several sizes, alike in the three colours."""
    rng = np.random.default_rng(1)
    noise = sum(
        weight * cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)).astype(np.float32), (0, 0), size)
        for size, weight in ((1, 12), (6, 40), (40, 200))
    )
    return 110 + noise[..., np.newaxis] * np.array([1.0, 0.8, 0.5])


def as_image(colours: np.ndarray) -> np.ndarray:
    return colours.clip(0, 255).round().astype(np.uint8)


def line(at: int) -> np.ndarray:
    """The columns, by row, of a line in the direction of the orbits."""
    return at + np.rint(SLOPE * np.arange(SIDE)).astype(int)


def striped(land: np.ndarray, at: int, step: float) -> np.ndarray:
    east = np.arange(SIDE) > line(at)[:, np.newaxis]
    return land + step * east[..., np.newaxis] * np.array([1.0, 0.9, 0.6])


def quarters() -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.int16)
    labels[:, SIDE // 2 :] += 1
    labels[SIDE // 2 :] += 2
    return labels


@pytest.mark.parametrize("step", [0, -3, 12])
def test_a_step_is_what_was_added_to_a_tile(step):
    labels = quarters()
    colours = np.full((SIDE, SIDE, 3), 100.0) + np.random.default_rng(2).normal(
        0, 6, (SIDE, SIDE, 3)
    )
    colours[labels == 1] += (step, 0, step / 2)
    found = steps_at_borders(as_image(colours), labels)
    assert sum(len(step.x) for step in found) == 2 * SIDE
    for one in found:
        wanted = abs(step) if 1 in one.tiles else 0
        assert one.size == pytest.approx(wanted, abs=2.5)
        assert one.beside <= 2.5
    assert {one.tiles for one in found} == {(0, 1), (2, 3), (0, 2), (1, 3)}
    for one in found:  # the line is between these pixels and the next
        assert (one.x == SIDE // 2 - 1).all() or (one.y == SIDE // 2 - 1).all()


def test_borders_follow_valid_pixels_and_leave_out_where_nothing_shows(land):
    labels = np.where(np.arange(SIDE) > line(300)[:, np.newaxis], 1, 0).astype(np.int16)
    labels[:, 400:] = -1
    labels[:100] = -1
    colours = land.copy()
    colours[labels == 1] += 10
    colours[labels < 0] = 0
    found = steps_at_borders(as_image(colours), labels)
    assert min(step.y.min() for step in found) >= 100
    sizes = [step.size for step in found]
    assert np.median(sizes) == pytest.approx(10, abs=2)
    assert np.nanmedian([step.beside for step in found]) < 4


def test_without_borders_there_are_no_steps(land):
    assert steps_at_borders(as_image(land), np.zeros((SIDE, SIDE), np.int16)) == []
    assert steps_at_borders(as_image(land), np.full((SIDE, SIDE), -1, np.int16)) == []
    assert stripes(as_image(land), np.full((SIDE, SIDE), -1, np.int16), LATITUDES) == []


@pytest.mark.parametrize("scale", [1, 2])
def test_a_stripe_is_found_where_it_is(land, scale):
    """In a tile as large as is searched, and in a larger one, which is reduced."""
    labels = np.zeros((SIDE, SIDE), np.int16)
    assert stripes(as_image(land), labels, LATITUDES) == []
    picture = as_image(striped(land, 300, 8)).repeat(scale, axis=0).repeat(scale, axis=1)
    labels = labels.repeat(scale, axis=0).repeat(scale, axis=1)
    [found] = stripes(picture, labels, LATITUDES.repeat(scale))
    assert found.size == pytest.approx(8, abs=2)
    assert found.beside < 2
    assert found.tiles == (0, 0)
    assert np.abs(found.x / scale - line(300)[(found.y // scale).clip(0, SIDE - 1)]).max() <= 8


def test_a_tile_with_holes_has_its_stripe_and_no_other(land):
    labels = quarters() * 0 + 3
    labels[100:180, 200:280] = -1
    labels[:, 480:] = 7
    found = stripes(as_image(striped(land, 250, 9)), labels, LATITUDES)
    assert [step.tiles for step in found] == [(3, 3)]


def test_the_picture_has_each_step_in_its_colour(land, tmp_path):
    labels = quarters()
    colours = land.copy()
    colours[labels == 1] += 30
    steps = steps_at_borders(as_image(colours), labels)
    path = tmp_path / "seams.png"
    draw_seams(path, "Seams", as_image(colours), labels, {"tile borders": steps, "stripes": []})
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    strongest = [int(COLOURS[-1][at : at + 2], 16) for at in (1, 3, 5)]
    row = pixels[40 + 6 + SIDE // 4 : 46 + SIDE // 4 + 200 : 20]
    assert (pixels == strongest).all(axis=-1).sum() > 2 * SIDE
    assert (row == strongest).all(axis=-1).any()
