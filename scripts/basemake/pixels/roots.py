"""Roots: the lossless images of metatiles, from which the overview is made.

A root is a TIFF file of linear light, (size, size, 4), that keeps what its metatile was made of.
"""

from pathlib import Path

import numpy as np
from osgeo import gdal, gdal_array

from basemake.pixels.light import Light
from basemake.pixels.raster import close, geotiff, naming
from basemake.system.files import writing

MADE_OF = "MADE_OF"  # the key of its metadata that identifies the inputs of its metatile
OPTIONS = [
    "COMPRESS=DEFLATE",
    "PREDICTOR=2",
    "ZLEVEL=1",
    "INTERLEAVE=PIXEL",
    "PHOTOMETRIC=RGB",
    "ALPHA=YES",
]


def write_root(root: Path, image: Light, made_of: str) -> None:
    """Write a metatile's root; `made_of` is any text."""
    source = gdal_array.OpenArray(np.moveaxis(image, -1, 0))
    source.SetMetadataItem(MADE_OF, made_of)
    with writing(root) as part:
        close(gdal.GetDriverByName("GTiff").CreateCopy(str(part), source, options=OPTIONS))


def read_root(root: Path) -> tuple[Light, str | None]:
    """Return a root's image and what it was made of; TileError, naming it, if it is incomplete."""
    with naming(root, "image"):
        dataset = geotiff(root)
        image = np.empty((dataset.RasterYSize, dataset.RasterXSize, 4), np.uint16)
        dataset.ReadAsArray(buf_obj=image, interleave="pixel")
        return image, dataset.GetMetadataItem(MADE_OF)
