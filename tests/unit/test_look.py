"""What looks are chosen by: places found by their colours, histograms, and a map's frame."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from basemake.look.figures import figures_of, share_text
from basemake.look.pictures import Frame, Picture, Reading, frame_of, mask_of
from basemake.look.places import choose_places
from basemake.look.sheet import CELL, EDGE, GAP, HEAD, LABELS, Look, Sheet, draw_sheet
from basemake.pixels.dn import DnReading

WATER, MEADOW, FOREST = (0.02, 0.04, 0.06), (0.08, 0.12, 0.06), (0.02, 0.035, 0.02)
SNOW, ROOF, ROAD = (0.8, 0.8, 0.8), (0.24, 0.23, 0.22), (0.12, 0.12, 0.12)


def landscape() -> np.ndarray:
    """Reflectance (3, 120, 160): meadow with a lake, snow, a forest and a town of roofs."""
    ground = np.empty((120, 160, 3), np.float32)
    ground[:] = MEADOW
    ground[10:50, 10:50] = WATER
    ground[10:40, 110:140] = SNOW
    ground[70:110, 10:50] = FOREST
    ground[75:105, 110:150] = ROAD
    ground[75:105:3, 110:150:2] = ROOF
    return np.moveaxis(ground, -1, 0)


def test_each_place_shows_what_it_is_called() -> None:
    reflectance = landscape()
    valid = np.full(reflectance.shape[1:], True)
    found = {p.kind: (p.row, p.column) for p in choose_places(reflectance, valid, 20)}
    assert [*found] == ["bright", "coast", "town", "dark"]
    boxes = {
        "bright": (10, 40, 110, 140),
        "coast": (0, 60, 0, 60),
        "town": (70, 110, 105, 155),
        "dark": (70, 110, 10, 50),
    }
    for kind, (top, bottom, left, right) in boxes.items():
        row, column = found[kind]
        assert top <= row <= bottom, kind
        assert left <= column <= right, kind


def test_a_place_has_few_missing_pixels_and_lies_inside() -> None:
    reflectance = landscape()
    valid = np.full(reflectance.shape[1:], True)
    valid[5:45, 105:145] = False  # all of the snow
    for place in choose_places(reflectance, valid, 20):
        row, column = int(place.row), int(place.column)
        window = valid[row - 10 : row + 11, column - 10 : column + 11]
        assert window.shape == (21, 21)
        assert window.mean() >= 0.95


@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (5, 5)])
def test_a_map_of_few_pixels_has_few_places_or_none(shape: tuple[int, int]) -> None:
    grey = np.full((3, *shape), 0.1, np.float32)
    assert len(choose_places(grey, np.full(shape, True), 30)) <= 4
    assert choose_places(grey, np.full(shape, False), 30) == []


def test_figures_are_those_of_opaque_pixels() -> None:
    rgba = np.full((4, 5, 4), 100, np.uint8)
    rgba[0] = 0  # 5 transparent ones
    rgba[1, 0] = (0, 50, 60, 255)
    rgba[1, 1] = (0, 255, 60, 255)
    rgba[1:, 2:, 3] = 255
    rgba[2:, :2, 3] = 255
    figures = figures_of(rgba)
    assert figures.histogram.sum(axis=1).tolist() == [15, 15, 15]
    assert figures.histogram[0, 0] == 2
    assert (figures.shadows, figures.highlights) == (2 / 15, 1 / 15)
    assert figures.heights.max() == 1
    assert figures_of(np.zeros((2, 2, 4), np.uint8)).shadows == 0


def test_a_share_above_zero_never_reads_as_zero() -> None:
    assert [share_text(share) for share in (0, 1e-6, 0.0006, 0.25)] == [
        *("0.0 %", "< 0.1 %", "0.1 %", "25.0 %")
    ]


def test_a_point_of_a_map_has_the_degrees_from_which_it_was_drawn() -> None:
    area = shapely.box(7, 46, 9, 47)
    frame, (height, width) = frame_of(area, 10.0)
    assert max(height, width) == 1200
    west, south, east, north = frame.located(area).bounds
    assert (west, south, east, north) == pytest.approx((0, 0, width, height), abs=1)
    for point in ((0, 0), (width, height), (300, 200)):
        lon, lat = frame.lonlat(*point)
        assert frame.located(shapely.Point(lon, lat)).bounds[:2] == pytest.approx(point, abs=1e-6)


def test_a_region_across_180_degrees_is_one_map_of_its_own_width() -> None:
    area = shapely.MultiPolygon(
        [shapely.box(178, -20, 180, -17), shapely.box(-180, -20, -179, -17)]
    )
    frame, (height, width) = frame_of(area, 10.0)
    assert frame.middle == pytest.approx(179.5)
    assert height == pytest.approx(width, rel=0.1)
    assert mask_of(frame.located(area), (height, width)).mean() > 0.99
    assert frame.lonlat(width, height / 2)[0] == pytest.approx(-179, abs=0.01)


def test_pixels_of_a_map_below_a_drafts_are_not_asked_for() -> None:
    frame, shape = frame_of(shapely.box(7, 46, 7.2, 46.1), 320.0)
    assert frame.pixel == pytest.approx(320 / np.cos(np.radians(46.05)))
    assert max(shape) < 60


def test_a_mask_has_the_holes_of_its_area() -> None:
    area = shapely.box(2, 3, 12, 13).difference(shapely.box(5, 6, 8, 9))
    mask = mask_of(area, (20, 20))
    assert mask[4, 3] == 1
    assert mask[7, 6] == 0
    assert mask[1, 1] == mask[15, 15] == 0
    assert 0 <= int(mask.sum()) - area.area <= 26  # of 91: by the pixels on its edges


def test_the_sheet_shows_a_map_whole_and_the_middle_of_a_crop(tmp_path: Path) -> None:
    corner, middle = (200, 20, 20, 255), (20, 20, 200, 255)
    picture = np.full((600, 600, 4), 90, np.uint8)
    picture[..., 3] = 255
    picture[:50, :50], picture[275:325, 275:325] = corner, middle
    dn = np.zeros((600, 600, 4), np.uint16)
    pictures = [
        Picture("map", dn, 10, (8, 46), Frame(8, 0, 0, 10)),
        Picture("dark", dn, 10, (8, 46)),
    ]
    figures = figures_of(picture)
    name = "a-name-that-is-much-longer-than-its-column-is-wide"
    look = Look(name, "words " * 90, True, [picture, picture], [figures, figures])
    draw_sheet(tmp_path / "sheet.png", Sheet("title", "notes", "credit", pictures, [look]))
    with Image.open(tmp_path / "sheet.png") as sheet:
        left, top = EDGE + LABELS, HEAD
        assert sheet.getpixel((left + 5, top + 5)) == corner[:3]  # of the map
        assert sheet.getpixel((left + CELL // 2, top + CELL // 2)) == middle[:3]
        left += CELL + GAP
        assert sheet.getpixel((left + 5, top + 5)) == (90, 90, 90)  # of the crop
        assert sheet.getpixel((left + CELL // 2 - 20, top + CELL // 2 - 20)) == middle[:3]
        labels = np.asarray(sheet.crop((EDGE + LABELS - 25, top, EDGE + LABELS, top + CELL)))
        assert (labels == labels[0, 0]).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_the_bits_of_digital_numbers_give_them_back(dtype: str) -> None:
    reading = Reading(DnReading(1, 0, None), dtype)
    limits = np.iinfo(dtype)
    dn = np.array([[limits.min, 0, 1, limits.max]], dtype)
    bits = reading.bits(dn)
    assert bits.dtype == np.uint16
    back = reading.of(bits)
    assert back.dtype == dn.dtype
    assert (back == dn).all()
