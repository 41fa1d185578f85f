"""How the digital numbers (DN) of bands are read.

A module of its own without OpenCV or GDAL: Snakemake's main process imports it, and may have
neither.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DnReading:
    """Reflectance is DN * scale + offset; `nodata` is the DN of invalid pixels, None if none is."""

    scale: float
    offset: float
    nodata: float | None
