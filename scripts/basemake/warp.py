"""Warping enhanced tiles to Web Mercator: a grid of exact coordinates, and OpenCV's remap.

GDAL's warper takes two to three times as long for the same pixels. Everything here runs in one
thread, so the bytes depend on nothing but the tiles.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, osr

from basemake.raster import RGBA, open_geotiff

GRID_STEP = 32  # pixels between points that PROJ transforms, for web pixels up to GRID_PIXEL metres
GRID_PIXEL = 500.0
# ^ interpolating between them is off by 0.0005 of a pixel of 13 m, and grows with pixel and step²
STRIP = 256  # rows warped at a time
INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
}
OPAQUE = 255 << 8  # alpha in 16 bits
HALF = 127 << 8  # with room for rounding
OUTSIDE = -1e6  # a column and row for what has none: not in any tile
MARGIN = 3  # source pixels that the kernels reach beyond a coordinate

Coordinates = NDArray[np.floating]


def warp_onto(
    canvas: RGBA, bounds: tuple[float, float, float, float], path: Path, resampling: str
) -> None:
    """Draw the enhanced tile at `path` over `canvas`, (n, n, 4), where it is valid.

    `bounds` are the canvas's west, south, east and north in Mercator metres; n is a multiple of
    STRIP; `resampling` is a key of INTERPOLATION. A pixel is drawn, opaque, where the tile's
    nearest one is valid, with the colours of what is valid near it. Where the canvas is coarser
    than the tile it is smoothed first, so that nothing aliases: from a reduced-resolution image,
    then by a kernel that together with the interpolation is as wide as GDAL's. RuntimeError if
    GDAL cannot read the tile.
    """
    with open_geotiff(path) as dataset:
        step = _grid_step((bounds[2] - bounds[0]) / len(canvas))
        columns, rows = _grid(dataset, bounds, len(canvas), step)
        scale = _scale(columns, rows, step)
        level = min(int(math.log2(max(scale, 1))), dataset.GetRasterBand(1).GetOverviewCount())
    with open_geotiff(path, level) as dataset:
        columns, rows = ((a + 0.5) / 2**level - 0.5 for a in (columns, rows))
        kernel = _smoothing(scale / 2**level) if resampling != "nearest" else None
        for top, x, y in _strips(columns, rows, step):
            drawn = _remap(dataset, x, y, kernel, INTERPOLATION[resampling])
            if drawn is not None:
                strip = canvas[top : top + STRIP]
                # As one number a pixel: numpy copies bytes under a mask four times as slowly.
                shown = drawn[..., 3:] > 0
                np.copyto(strip.view(np.uint32), drawn.view(np.uint32), where=shown)


def web_mercator() -> osr.SpatialReference:
    """Return EPSG:3857 with coordinates in the order x, y."""
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(3857)
    srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return srs


def _grid_step(pixel: float) -> int:
    """Return the pixels between transformed points for web pixels of `pixel` metres."""
    step = GRID_STEP * math.sqrt(min(1.0, GRID_PIXEL / pixel))
    return 1 << int(math.log2(max(step, 1)))


def _grid(
    dataset: gdal.Dataset, bounds: tuple[float, float, float, float], pixels: int, step: int
) -> tuple[Coordinates, Coordinates]:
    """Return columns and rows of the tile, 0 at the first pixel's centre, at each step of canvas.

    Both are (pixels / step + 1) squared: at the centres of canvas pixels 0, step, 2 step, ...
    """
    west, _, east, north = bounds
    pixel = (east - west) / pixels
    at = np.arange(0, pixels + 1, step) + 0.5
    x, y = np.meshgrid(west + at * pixel, north - at * pixel)
    tile = dataset.GetSpatialRef()
    tile.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    transform = osr.CoordinateTransformation(web_mercator(), tile)
    points = _transformed(np.column_stack([x.ravel(), y.ravel()]), transform)
    left, width, _, top, _, height = dataset.GetGeoTransform()
    columns = (points[:, 0] - left) / width - 0.5
    rows = (points[:, 1] - top) / height - 0.5
    return columns.reshape(x.shape), rows.reshape(x.shape)


def _transformed(points: Coordinates, transform: osr.CoordinateTransformation) -> Coordinates:
    """Return the points, (n, 2), transformed; NaN for those where the target is not defined."""
    try:
        return np.array(transform.TransformPoints(points.tolist()))
    except RuntimeError:  # one is enough; only maps of half a world have some
        found = np.full((len(points), 3), np.nan)
        for number, point in enumerate(points.tolist()):
            with suppress(RuntimeError):
                found[number] = transform.TransformPoint(*point)
        found[~np.isfinite(found).all(axis=1)] = np.nan
        return found


def _scale(columns: Coordinates, rows: Coordinates, step: int) -> float:
    """Return how many source pixels a canvas pixel is wide, from the middle of the grid."""
    i = len(rows) // 2 - 1
    across = math.hypot(columns[i, i + 1] - columns[i, i], rows[i, i + 1] - rows[i, i])
    down = math.hypot(columns[i + 1, i] - columns[i, i], rows[i + 1, i] - rows[i, i])
    return math.sqrt(across * down) / step


def _smoothing(scale: float) -> Coordinates | None:
    """Return the kernel to smooth with before interpolating at `scale` source pixels a pixel.

    Interpolation is a triangle one pixel wide on each side, of variance 1/6. One `scale` wide has
    scale²/6; three taps have what is missing (up to the scale of 2.2 at which they would overflow).
    """
    variance = min((scale * scale - 1) / 6, 2 / 3)
    if variance <= 0:
        return None
    return np.array([variance / 2, 1 - variance, variance / 2], np.float32)


def _strips(
    columns: Coordinates, rows: Coordinates, step: int
) -> Iterator[tuple[int, Coordinates, Coordinates]]:
    """Yield (first row, x, y): the grid interpolated to every pixel of STRIP rows of the canvas."""
    x, y = _stretch(columns, step), _stretch(rows, step)
    below = (np.arange(STRIP, dtype=np.float32) % step / step)[:, np.newaxis]
    for top in range(0, (len(rows) - 1) * step, STRIP):
        above = (top + np.arange(STRIP)) // step
        across, down = (a[above] + (a[above + 1] - a[above]) * below for a in (x, y))
        yield top, np.nan_to_num(across, nan=OUTSIDE), np.nan_to_num(down, nan=OUTSIDE)


def _stretch(grid: Coordinates, step: int) -> Coordinates:
    """Interpolate a grid along its rows to every pixel."""
    right = np.arange(step) / step
    stretched = grid[:, :-1, np.newaxis] * (1 - right) + grid[:, 1:, np.newaxis] * right
    return stretched.reshape(len(grid), -1).astype(np.float32)  # right to 0.001 pixels


def _remap(
    dataset: gdal.Dataset,
    x: Coordinates,
    y: Coordinates,
    kernel: Coordinates | None,
    interpolation: int,
) -> RGBA | None:
    """Return the tile at columns `x` and rows `y`, or None where it does not reach."""
    width, height = dataset.RasterXSize, dataset.RasterYSize
    left, right = _window(x, width)
    top, bottom = _window(y, height)
    if left >= right or top >= bottom:
        return None
    source = np.empty((bottom - top, right - left, 4), np.uint8)
    dataset.ReadAsArray(left, top, right - left, bottom - top, buf_obj=source, interleave="pixel")
    if not source[..., 3].any():
        return None
    to = x - np.float32(left), y - np.float32(top)
    if source[..., 3].all() and left > 0 and top > 0 and right < width and bottom < height:
        return _interpolate(source, to, kernel, interpolation)
    # RGB is 0 under alpha 0, so colours mix premultiplied; in 16 bits, as a small alpha magnifies.
    valid = cv2.remap(source[..., 3], *to, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    wide = source.astype(np.uint16) << 8
    mixed = _interpolate(wide, to, kernel, interpolation)
    if interpolation == cv2.INTER_CUBIC:  # its negative lobes overshoot where pixels are missing
        linear = _interpolate(wide, to, kernel, cv2.INTER_LINEAR)
        mixed = np.where(linear[..., 3:] < OPAQUE, linear, mixed)
    return _solid(mixed, valid)


def _interpolate(
    source: NDArray,
    to: tuple[Coordinates, Coordinates],
    kernel: Coordinates | None,
    interpolation: int,
) -> NDArray:
    """Return `source` smoothed and sampled at columns and rows `to`; outside of it all is 0."""
    if kernel is not None:
        source = cv2.sepFilter2D(source, -1, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
    return cv2.remap(source, *to, interpolation, borderMode=cv2.BORDER_CONSTANT)


def _window(at: Coordinates, size: int) -> tuple[int, int]:
    """Return the first source pixel that coordinates need, and the first one after."""
    low, high = float(at.min()), float(at.max())
    return max(0, math.floor(low) - MARGIN), min(size, math.ceil(high) + MARGIN + 1)


def _solid(mixed: NDArray, valid: NDArray) -> RGBA:
    """Return 8-bit colours of the valid part of premultiplied 16-bit ones, opaque where valid.

    A pixel is valid where the nearest one is. Abutting tiles then leave no gap at corners, where
    each is less than half; at their edges, where rounding may put a pixel in neither, half will do.
    """
    alpha = mixed[..., 3]
    solid = ((mixed + 128) >> 8).astype(np.uint8)
    partly = (alpha > 0) & (alpha < OPAQUE)
    weight = alpha[partly, np.newaxis].astype(np.uint32)
    colours = (mixed[partly, :3] * np.uint32(255) + weight // 2) // weight
    solid[partly, :3] = np.minimum(colours, 255)
    solid[..., 3] = 255
    solid *= ((valid > 0) | (alpha >= HALF))[..., np.newaxis]
    return solid
