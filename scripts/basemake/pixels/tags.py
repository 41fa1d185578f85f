"""TIFF tags as GDAL writes them, for files that tifffile writes."""

import io
from collections.abc import Callable, Sequence
from threading import get_ident

import tifffile
from osgeo import gdal, osr

# Pixel scale, tie point, transformation, and geo keys with their numbers and texts.
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
TEXT_TAGS = (33432, 42112)  # copyright, GDAL's metadata
NODATA_TAG = 42113  # GDAL's

Tag = tuple  # code, data type, count, value, and whether it is written once: tifffile's extratags


def geo_tags(transform: Sequence[float], srs: str) -> list[Tag]:
    """Return the tags that place an image, by GDAL's geotransform and its CRS as WKT."""

    def locate(small: gdal.Dataset) -> None:
        small.SetSpatialRef(osr.SpatialReference(srs))
        small.SetGeoTransform(transform)

    return _written_by_gdal(locate, GEO_TAGS)


def metadata_tags(metadata: dict[str, str]) -> list[Tag]:
    """Return the tags that hold items of GDAL's metadata; their values are bytes."""
    return _written_by_gdal(lambda small: small.SetMetadata(metadata), TEXT_TAGS)


def credit(attribution: str) -> dict[str, str]:
    """Return the items of GDAL's metadata for the attribution that a licence asks for."""
    return {"ATTRIBUTION": attribution, "TIFFTAG_COPYRIGHT": attribution}


def _written_by_gdal(
    describe: Callable[[gdal.Dataset], object], codes: tuple[int, ...]
) -> list[Tag]:
    """Return the tags with `codes` that GDAL writes for a dataset.

    `describe` sets georeference or metadata of the dataset.
    """
    name = f"/vsimem/{get_ident()}.tif"
    small = gdal.GetDriverByName("GTiff").Create(name, 1, 1, 1, gdal.GDT_Byte)
    describe(small)
    del small
    content = bytes(gdal.VSIFReadL(1, gdal.VSIStatL(name).size, file := gdal.VSIFOpenL(name, "rb")))
    gdal.VSIFCloseL(file)
    gdal.Unlink(name)
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        return tags_of(tif.pages[0], codes)


def tags_of(page: tifffile.TiffPage, codes: tuple[int, ...]) -> list[Tag]:
    """Return the tags with `codes` of an image."""
    return [
        # Texts as bytes: GDAL's are UTF-8, and tifffile takes only ASCII as str.
        (tag.code, tag.dtype, tag.count, tag.value.encode() if tag.dtype == 2 else tag.value, True)
        for tag in page.tags
        if tag.code in codes
    ]
