"""Rasters: GDAL's settings in a job, and GeoTIFFs opened safely.

Colour arrays are uint8 RGBA, (height, width, 4), with RGB 0 where alpha is 0.
"""

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, osr

from basemake.errors import TileError

RGBA = NDArray[np.uint8]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 32 << 20  # bytes; the largest M_MMAP_THRESHOLD that glibc accepts


def set_up_libraries(cache_mb: int) -> None:
    """Set up GDAL and OpenCV for a job; call it before any other use of them.

    GDAL raises RuntimeError on errors and caches at most `cache_mb` MB of decoded blocks. OpenCV
    uses one thread: jobs run side by side, and a job encodes in threads of its own.
    """
    gdal.UseExceptions()
    osr.UseExceptions()
    gdal.SetCacheMax(cache_mb << 20)
    cv2.setNumThreads(1)


def geotiff(path: Path, level: int = 0) -> gdal.Dataset:
    """Open a file with the GTiff driver only, ignoring sidecar files; RuntimeError if it fails.

    Other drivers follow references from a file to other files. `level` n opens the n-th
    reduced-resolution image, 0 the full one.
    """
    return gdal.OpenEx(
        str(path),
        gdal.OF_RASTER | gdal.OF_VERBOSE_ERROR,
        allowed_drivers=["GTiff"],
        open_options=[f"OVERVIEW_LEVEL={level - 1}"] if level else [],
        sibling_files=[Path(path).name],
    )


def keep_memory() -> None:
    """Make glibc keep freed memory for later use, instead of returning it to the system.

    A job that allocates and frees megabytes for every web tile saves 5 % of its time. Other C
    libraries are left as they are.
    """
    with suppress(AttributeError, OSError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def close(dataset: gdal.Dataset) -> None:
    """Close a dataset that was written; raises RuntimeError where `del` would only print one."""
    if hasattr(dataset, "Close"):  # from GDAL 3.8 on
        try:
            dataset.Close()
        except RuntimeError:
            dataset.thisown = False  # it is freed, though Python would free it once more
            raise
    else:
        dataset.__swig_destroy__(dataset)


@contextmanager
def telling_all() -> Iterator[None]:
    """Add all of GDAL's messages to a RuntimeError: the last one seldom gives the cause.

    Without an error the messages go to the log.
    """
    said: list[str] = []
    gdal.PushErrorHandler(lambda level, number, words: said.append(words))
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError("; ".join(dict.fromkeys([*said, str(error)]))) from error
    finally:
        gdal.PopErrorHandler()
    for words in said:
        logging.warning(words)


@contextmanager
def open_geotiff(path: Path) -> Iterator[gdal.Dataset]:
    """Open a file as `geotiff` does, and close it at the end of the block."""
    dataset = geotiff(path)
    try:
        yield dataset
    finally:
        del dataset  # closes it; Dataset is a context manager only from GDAL 3.8 on


def grid_known(path: Path) -> dict[str, Any]:
    """Return `shape` (height, width) and GDAL's `transform` of a GeoTIFF, for its record."""
    with open_geotiff(path) as dataset:
        return {
            "shape": [dataset.RasterYSize, dataset.RasterXSize],
            "transform": list(dataset.GetGeoTransform()),
        }


@contextmanager
def naming(path: Path | str, what: str = "band") -> Iterator[None]:
    """Name a band, or what else it is, in a TileError if GDAL cannot open or read it."""
    try:
        yield
    except RuntimeError as error:
        raise TileError(
            f"the {what} {path} cannot be read ({error}); delete it and run again to make it anew."
        ) from error


def decode(path: Path) -> None:
    """Decode every block of a GeoTIFF, one at a time; RuntimeError if one cannot be decoded."""
    with open_geotiff(path) as dataset:
        for number in range(dataset.RasterCount):
            band = dataset.GetRasterBand(number + 1)
            for level in (band, *(band.GetOverview(n) for n in range(band.GetOverviewCount()))):
                width, height = level.GetBlockSize()
                for row in range(-(-level.YSize // height)):
                    for column in range(-(-level.XSize // width)):
                        level.ReadBlock(column, row)
