"""Rasters: GDAL's settings in a job, GeoTIFFs opened safely, and halving.

Colour arrays are uint8 RGBA, (height, width, 4), with RGB 0 where alpha is 0.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, osr

cv2.setNumThreads(1)  # jobs run side by side, and windows in a job's own threads
RGBA = NDArray[np.uint8]
STRIP = 64  # rows halved at a time: bounds the memory of padding and wide sums


def use_gdal(cache_mb: int) -> None:
    """Make GDAL raise errors and keep at most `cache_mb` MB of decoded blocks."""
    gdal.UseExceptions()
    osr.UseExceptions()
    gdal.SetCacheMax(cache_mb << 20)


@contextmanager
def open_geotiff(path: Path, level: int = 0) -> Iterator[gdal.Dataset]:
    """Open a file with the GTiff driver only, without sidecar files; RuntimeError if it cannot.

    Other drivers follow references out of a file to other files. `level` n is the file's n-th
    reduced-resolution image.
    """
    dataset = gdal.OpenEx(
        str(path),
        gdal.OF_RASTER | gdal.OF_VERBOSE_ERROR,
        allowed_drivers=["GTiff"],
        open_options=[f"OVERVIEW_LEVEL={level - 1}"] if level else [],
        sibling_files=[Path(path).name],
    )
    try:
        yield dataset
    finally:
        del dataset  # closes it; Dataset is a context manager only from GDAL 3.8 on


def halve(rgba: RGBA) -> RGBA:
    """Return an image at half the size: each pixel the mean of 2x2, colours weighted by alpha.

    Odd sides round up; the last row or column then stands for itself. Rounds half up.
    """
    height, width = rgba.shape[:2]
    out = np.empty(((height + 1) // 2, (width + 1) // 2, 4), np.uint8)
    for top in range(0, height, STRIP):
        strip = rgba[top : top + STRIP]
        strip = np.pad(strip, ((0, len(strip) % 2), (0, width % 2), (0, 0)), "edge")
        out[top // 2 : (top + STRIP) // 2] = _halve_even(strip)
    return out


def _halve_even(rgba: RGBA) -> RGBA:
    # OpenCV's INTER_AREA rounds half up where it halves bytes.
    out = cv2.resize(rgba, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    weights = _sum_2x2(cv2.extractChannel(rgba, 3).astype(np.uint16))
    mixed = (weights > 0) & (weights < 4 * 255)  # few: along edges only
    if mixed.any():
        row, column = np.nonzero(mixed)
        weight = weights[mixed, np.newaxis].astype(np.uint32)
        colours = np.zeros((len(row), 3), np.uint32)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            pixels = rgba[2 * row + down, 2 * column + right].astype(np.uint32)
            colours += pixels[:, :3] * pixels[:, 3:]
        out[mixed, :3] = (2 * colours + weight) // (2 * weight) * (out[mixed, 3:] > 0)
    return out


def _sum_2x2(a: NDArray) -> NDArray:
    return a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]
