"""Seams of a map: steps of colour across the borders of tiles and zones, and along stripes.

Borders are found in an image of which tile shows in each pixel, so that they are those of valid
pixels, too. A step is the difference of the means of a few pixels on both sides of a border; its
median along a stretch of the border leaves fields and roads out. Steps of lines beside the border,
measured in the same way, tell what the land itself does.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

GAP, WIDTH = 1, 4  # pixels on each side that are left out, and that are averaged
REACH = GAP + WIDTH
BESIDE = 3 * REACH  # pixels from a border to the lines beside it
STRETCH, LEAST = 64, 16  # pixels along a border that have one step, and how many of them must count
SEARCHED = 512  # pixels a side of the image in which a tile's stripes are searched
# A stripe is seen in so many of a tile's rows. Its step is so many times what is usual of lines of
# its direction in the tile, and has so many levels. In each of its stretches the step is at least a
# share of that: edges of forests and valleys are as strong, but not as straight.
ROWS, UNUSUAL, LEVELS, STEADY = 0.75, 4.5, 3.0, 0.4
ORBIT = 0.1495  # cosine of the inclination of the orbits of Sentinel-2 and Landsat, 98.6 degrees
TURN = 0.0701  # the speed of the Earth's surface at the equator over that of a satellite's track
ASTRAY = np.radians(np.arange(-3, 4))  # of stripes from the direction of tracks

RGB = NDArray[np.uint8]
Labels = NDArray[np.int16]  # the number of the tile that shows in each pixel, -1 where none does


class Step(NamedTuple):
    """A step of colour, in levels: the largest of red, green and blue.

    `beside` is that of the lines beside it, NaN if there is none. `x` and `y` are its pixels;
    `tiles` are the numbers of the tiles on both sides.
    """

    size: float
    beside: float
    x: NDArray[np.intp]
    y: NDArray[np.intp]
    tiles: tuple[int, int]


def steps_at_borders(colours: RGB, labels: Labels) -> list[Step]:
    """Return the steps at the borders between tiles in an image (height, width, 3)."""
    upright = _steps_in_rows(colours, labels)
    lying = _steps_in_rows(colours.swapaxes(0, 1), labels.T)
    return upright + [step._replace(x=step.y, y=step.x) for step in lying]


def _steps_in_rows(colours: RGB, labels: Labels) -> list[Step]:
    """Return the steps where the tile changes from one pixel of a row to the next."""
    changes = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] >= 0) & (labels[:, :-1] >= 0)
    y, x = np.nonzero(changes)
    if len(y) == 0:
        return []
    steps = _differences(colours, labels, y, x, across=True)
    beside = np.stack(
        [_differences(colours, labels, y, x + side, across=False) for side in (-BESIDE, BESIDE)]
    )
    pair = np.sort(np.stack([labels[y, x], labels[y, x + 1]]), axis=0)
    places = np.stack([*pair, y // STRETCH, x // STRETCH])
    _, stretch = np.unique(places, axis=1, return_inverse=True)
    found = []
    for members in np.split(
        np.argsort(stretch, kind="stable"), np.cumsum(np.bincount(stretch))[:-1]
    ):
        size = _largest(steps[members])
        if np.isfinite(size):
            controls = [_largest(side[members]) for side in beside]
            known = [control for control in controls if np.isfinite(control)]
            control = sum(known) / len(known) if known else np.nan
            tiles = int(pair[0, members[0]]), int(pair[1, members[0]])
            found.append(Step(size, control, x[members], y[members], tiles))
    return found


def _differences(
    colours: RGB, labels: Labels, y: NDArray, x: NDArray, *, across: bool
) -> NDArray[np.float64]:
    """Return the differences between the means right and left of lines, (n, 3).

    A line is between the pixels x and x + 1. They are NaN unless one tile shows on each side: the
    same one on both, or, with `across`, another one.
    """
    width = labels.shape[1]
    right = x[:, np.newaxis] + 1 + GAP + np.arange(WIDTH)
    left = x[:, np.newaxis] - GAP - np.arange(WIDTH)
    inside = (left[:, -1] >= 0) & (right[:, -1] < width)
    right, left = (at.clip(0, width - 1) for at in (right, left))
    rows = y[:, np.newaxis]
    one, other = labels[rows, left], labels[rows, right]
    whole = (one == one[:, :1]).all(axis=1) & (other == other[:, :1]).all(axis=1) & inside
    whole &= (one[:, 0] >= 0) & (other[:, 0] >= 0) & ((one[:, 0] != other[:, 0]) == across)
    means = [colours[rows, at].mean(axis=1) for at in (right, left)]
    return np.where(whole[:, np.newaxis], means[0] - means[1], np.nan)


def _largest(differences: NDArray[np.float64]) -> float:
    """Return the largest absolute median of three colours, NaN if too few differences count."""
    known = differences[np.isfinite(differences[:, 0])]
    return float(np.abs(np.median(known, axis=0)).max()) if len(known) >= LEAST else np.nan


def stripes(colours: RGB, labels: Labels, latitudes: NDArray[np.float64]) -> list[Step]:
    """Return the steps along stripes inside of tiles; of one tile the strongest first.

    Stripes are sought in the direction of descending orbits at the `latitudes`, in degrees, of the
    rows of an image in a conformal projection. A tile of more than SEARCHED pixels a side is
    searched in an image reduced to fewer.
    """
    found = []
    for tile in np.unique(labels[labels >= 0]).tolist():
        y, x = np.nonzero(labels == tile)
        top, left = int(y.min()), int(x.min())
        window = np.s_[top : y.max() + 1, left : x.max() + 1]
        shown = (labels[window] == tile).astype(np.uint8)
        factor = -(-max(shown.shape) // SEARCHED)
        size = shown.shape[1] // factor, shown.shape[0] // factor
        if min(size) > 2 * BESIDE:
            cut = np.s_[: size[1] * factor, : size[0] * factor]
            reduced = cv2.resize(colours[window][cut], size, interpolation=cv2.INTER_AREA)
            whole = cv2.resize(255 * shown[cut], size, interpolation=cv2.INTER_AREA) == 255
            slopes = _slopes(latitudes[(top + y.max()) // 2])
            found += [
                step._replace(x=step.x * factor + left, y=step.y * factor + top, tiles=(tile, tile))
                for step in _stripes_of(reduced, whole, slopes)
            ]
    return found


def _slopes(latitude: float) -> NDArray[np.float64]:
    """Return slopes, in columns to the right a row, about that of descending tracks at a latitude.

    From the spherical triangle of the orbit, and the turning of the Earth below it.
    """
    cosine = max(np.cos(np.radians(latitude)), 2 * ORBIT)
    north = np.sqrt(1 - (ORBIT / cosine) ** 2)
    return np.tan(ASTRAY - np.arctan((ORBIT / cosine + TURN * cosine) / north))


def _stripes_of(colours: RGB, shown: NDArray[np.bool_], slopes: NDArray[np.float64]) -> list[Step]:
    """Return the steps along stripes in the pixels of one tile, strongest first."""
    steps = _all_differences(colours, shown)
    height, width = shown.shape
    rows = np.arange(height)
    lines = []
    for slope in slopes:
        medians = _medians_along(steps, slope)
        sizes = np.abs(medians).max(axis=1)
        usual = float(np.nanmedian(sizes)) if np.isfinite(sizes).any() else np.inf
        for at in np.flatnonzero(sizes >= max(LEVELS, UNUSUAL * usual)).tolist():
            strength = float(sizes[at]) / max(usual, 0.1)
            lines.append((strength, float(slope), at, medians[at], usual))
    found: list[Step] = []
    for _, slope, at, median, usual in sorted(lines, key=lambda line: line[0], reverse=True):
        x = at + np.rint(slope * rows).astype(np.intp) - _offset(slope, height)
        if any((np.abs(x[step.y] - step.x) <= 2 * REACH).any() for step in found):
            continue
        inside = (x >= 0) & (x < width)
        colour = int(np.abs(median).argmax())
        along = np.full(height, np.nan)
        along[inside] = steps[rows[inside], x[inside], colour] / median[colour]
        if _is_steady(along):
            seen = np.isfinite(along)
            found.append(Step(abs(float(median[colour])), usual, x[seen], rows[seen], (0, 0)))
    return found


def _is_steady(along: NDArray[np.float64]) -> bool:
    """Return whether steps along a line, as shares of their median, are alike in its stretches."""
    parts = [along[start : start + STRETCH] for start in range(0, len(along), STRETCH)]
    known = [part[np.isfinite(part)] for part in parts]
    medians = [float(np.median(part)) for part in known if len(part) >= LEAST]
    return len(medians) >= 3 and min(medians) >= STEADY


def _all_differences(colours: RGB, shown: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the differences of means right and left of all upright lines, (height, width, 3)."""
    height, width = shown.shape
    steps = np.full((height, width, 3), np.nan, np.float32)
    if width <= 2 * REACH:
        return steps
    sums = np.zeros((height, width + 1, 3), np.float32)
    np.cumsum(colours, axis=1, out=sums[:, 1:], dtype=np.float32)
    means = (sums[:, WIDTH:] - sums[:, :-WIDTH]) / WIDTH
    missing = np.zeros((height, width + 1), np.int32)
    np.cumsum(~shown, axis=1, out=missing[:, 1:])
    whole = missing[:, WIDTH:] == missing[:, :-WIDTH]
    # Means begin at a pixel: those right of x at x + 1 + GAP, those left of it end at x - GAP.
    shift = 2 * GAP + WIDTH
    both = whole[:, shift:] & whole[:, :-shift]
    place = np.s_[:, REACH - 1 : REACH - 1 + both.shape[1]]
    steps[place] = np.where(both[..., np.newaxis], means[:, shift:] - means[:, :-shift], np.nan)
    return steps


def _offset(slope: float, height: int) -> int:
    """Return how far the lines of a slope are moved so that none begins left of the first place."""
    return max(0, int(np.rint(slope * (height - 1))))


def _medians_along(steps: NDArray[np.float32], slope: float) -> NDArray[np.float32]:
    """Return the median steps along parallel lines, (places, 3); NaN where too few rows count.

    The line at a place has there its column in the first row, plus `_offset`, and runs to the right
    by `slope` a row.
    """
    height, width = steps.shape[:2]
    offset = _offset(slope, height)
    moved = np.rint(slope * np.arange(height)).astype(int)
    places = width + int(np.abs(moved).max())
    sheared = np.full((height, places, 3), np.nan, np.float32)
    for row, move in enumerate(moved.tolist()):
        start = offset - move
        sheared[row, start : start + width] = steps[row]
    enough = np.isfinite(sheared[..., 0]).sum(axis=0) >= ROWS * height
    medians = np.full((places, 3), np.nan, np.float32)
    medians[enough] = np.nanmedian(sheared[:, enough], axis=0)
    return medians
