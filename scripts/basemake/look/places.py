"""Places worth looking at when a look is chosen, found by their colours on a map of the region.

Red, green and blue tell water, snow or roofs only roughly: the places are a start, and a user adds
others by longitude and latitude.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from basemake.errors import LookError
from basemake.look.imagery import Imagery
from basemake.look.pictures import Picture

# ASSUME: reflectances at the ground. Water is darker than WATER and bluer than BLUER times its red;
# what is built is grey, which means that its bands differ by less than GREY of their mean, and has
# edges, which rocks have, too, but those mostly near snow.
WATER, BLUER = 0.15, 1.25
GREY, BUILT, SNOW = 0.3, (0.08, 0.32), 0.5
LEAST_VALID = 0.95  # of a place's pixels
SHORE = 0.2  # least share of water, and of land, at a coast
FEW = 0.05  # share of water in dark land, or of snow in a town, that is no longer small

Plane = NDArray[np.floating]
LonLat = tuple[float, float]


class Place(NamedTuple):
    """A place on a map: what it shows, and its middle as column and row of the map."""

    kind: str
    column: float
    row: float


def pictures_of(imagery: Imagery, region: str, at: Iterable[LonLat] = ()) -> list[Picture]:
    """Return the map of a region, crops of places chosen on it, and crops of the places `at`.

    Raises LookError if there is no imagery of the region or of one of the places.
    """
    drawn = imagery.map_of(region)
    side = imagery.crop_side * imagery.finest / drawn.pixel / 2  # what lies in a crop's middle
    chosen = choose_places(imagery.reflectance(drawn), drawn.valid, side)
    pictures = [drawn]
    for place in chosen:
        with suppress(LookError):  # of pixels that a map shows at the very edge of a tile
            pictures.append(imagery.crop(place.kind, *drawn.lonlat(place.column, place.row)))
    return pictures + [imagery.crop("place", lon, lat) for lon, lat in at]


def choose_places(reflectance: Plane, valid: NDArray[np.bool_], side: float) -> list[Place]:
    """Return places that differ: a bright one, a coast, a town, a dark one, as far as there are.

    `reflectance` is (3, height, width), of which pixels that are not `valid` do not count; `side`
    is that of a place, in pixels. Places do not overlap, if there is room.
    """
    shape = valid.shape
    window = [max(3, min(round(side), length // 2) | 1) for length in shape]
    if min(shape) < min(window):
        return []
    rgb = np.where(valid, reflectance, 0).astype(np.float32)
    mean, red, blue = rgb.mean(axis=0), rgb[0], rgb[2]
    water = valid & (blue > BLUER * red) & (mean < WATER)
    water = cv2.medianBlur(water.astype(np.uint8), 3) > 0
    grey = np.ptp(rgb, axis=0) < GREY * mean
    built = valid & ~water & grey & (mean > BUILT[0]) & (mean < BUILT[1])
    edges = cv2.magnitude(cv2.Sobel(mean, -1, 1, 0), cv2.Sobel(mean, -1, 0, 1))

    shown = _share(valid, window)
    wet, light = (_share(plane, window) / np.maximum(shown, 1e-6) for plane in (water, mean))
    town = _share(built * np.minimum(edges, BUILT[0]), window)
    snow = _share(valid & (mean > SNOW), window)
    scores: dict[str, Plane] = {
        "bright": _share(mean**2, window),
        "coast": np.where(np.minimum(wet, 1 - wet) >= SHORE, wet * (1 - wet), 0),
        "town": town / (1 + snow / FEW) ** 2,
        "dark": np.where(wet < FEW, 1 / (1 + light), 0),
    }
    free = shown >= max(min(LEAST_VALID, float(shown.max())), 1e-3)
    free &= _inside(shape, window)
    found = []
    for kind, score in scores.items():
        worth = np.where(free, score, 0)
        row, column = np.unravel_index(int(worth.argmax()), shape)
        if worth[row, column] > 0:
            found.append(Place(kind, float(column) + 0.5, float(row) + 0.5))
            free[
                max(0, int(row) - window[0] + 1) : row + window[0],
                max(0, int(column) - window[1] + 1) : column + window[1],
            ] = False
    return found


def _share(plane: NDArray, window: list[int]) -> Plane:
    """Return the mean of a plane in the window around each pixel; outside of it all is 0."""
    size = (window[1], window[0])
    return cv2.blur(plane.astype(np.float32), size, borderType=cv2.BORDER_CONSTANT)


def _inside(shape: tuple[int, ...], window: list[int]) -> NDArray[np.bool_]:
    """Return where a window lies within the map."""
    inside = np.zeros(shape, bool)
    (top, left), (height, width) = (side // 2 for side in window), shape
    inside[top : height - top, left : width - left] = True
    return inside
