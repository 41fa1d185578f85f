"""GDAL VRTs over files in the same folders: with every source, in order, by relative paths."""

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from osgeo import gdal

from basemake.errors import TileError
from basemake.pixels.tags import credit
from basemake.system.files import writing

OVERVIEW_PIXELS = 512  # the largest side of a mosaic's smallest virtual overview


def build_mosaic(
    sources: list[Path], output: Path, resampling: str = "nearest", attribution: str = ""
) -> None:
    """Write a VRT of rasters in one CRS: later ones cover earlier ones, except where transparent.

    `resampling` is used for rasters whose pixel grids do not align. `attribution` is the
    credit that the pixels' licence asks for. Raises TileError if GDAL cannot
    read one, or leaves one out.
    """
    try:
        mosaic = gdal.BuildVRT(
            "",
            [str(path) for path in sources],
            resolution="highest",
            resampleAlg=resampling,
            strict=True,
        )
        document = ElementTree.fromstring(mosaic.GetMetadata("xml:VRT")[0])
    except RuntimeError as error:
        raise TileError(f"{output} cannot be built: {str(error).rstrip('.')}.") from error
    used = len(document.findall("VRTRasterBand[@band='1']/ComplexSource"))
    if used != len(sources):
        raise TileError(f"{output}: GDAL took {used} of {len(sources)} files.")
    _set_transforms(document, {"GeoTransform": mosaic.GetGeoTransform()})
    _add_overviews(document, max(mosaic.RasterXSize, mosaic.RasterYSize))
    _add_credit(document, attribution)
    _write_relative(document, output)


def build_warped(
    source: Path,
    output: Path,
    bounds: list[float],
    pixel: float,
    resampling: str,
    attribution: str = "",
) -> None:
    """Write a VRT of `source` warped to EPSG:3857.

    `bounds` are west, south, east and north, and `pixel` is the size of a pixel, all in metres;
    `attribution` is as in `build_mosaic`.
    """
    dataset = gdal.Open(str(source))
    warped = gdal.Warp(
        "",
        dataset,
        format="VRT",
        dstSRS="EPSG:3857",
        outputBounds=bounds,
        xRes=pixel,
        yRes=pixel,
        resampleAlg=resampling,
        srcAlpha=True,
        dstAlpha=True,
    )
    document = ElementTree.fromstring(warped.GetMetadata("xml:VRT")[0])
    theirs, ours = dataset.GetGeoTransform(), warped.GetGeoTransform()
    transforms = {
        "GeoTransform": ours,
        "SrcGeoTransform": theirs,
        "SrcInvGeoTransform": gdal.InvGeoTransform(theirs),
        "DstGeoTransform": ours,
        "DstInvGeoTransform": gdal.InvGeoTransform(ours),
    }
    _set_transforms(document, transforms)
    _add_credit(document, attribution)
    _write_relative(document, output)


def _set_transforms(document: ElementTree.Element, transforms: dict[str, Sequence[float]]) -> None:
    """Write geotransforms by their elements' names: each version of GDAL has digits of its own."""
    for name, numbers in transforms.items():
        for element in document.iter(name):
            element.text = ", ".join(f"{number:.17g}" for number in numbers)


def _add_overviews(document: ElementTree.Element, pixels: int) -> None:
    """Add virtual overviews, which GDAL reads from the sources' reduced-resolution images."""
    for element in document.findall("OverviewList"):  # GDAL lists only those that all sources have
        document.remove(element)
    factors: list[int] = []
    while pixels >> len(factors) > OVERVIEW_PIXELS:
        factors.append(2 << len(factors))
    if factors:
        element = ElementTree.SubElement(document, "OverviewList", resampling="nearest")
        element.text = " ".join(map(str, factors))


def _add_credit(document: ElementTree.Element, attribution: str) -> None:
    if attribution:
        metadata = ElementTree.SubElement(document, "Metadata")
        for name, text in credit(attribution).items():
            ElementTree.SubElement(metadata, "MDI", key=name).text = text


def _write_relative(document: ElementTree.Element, output: Path) -> None:
    """Write a VRT with the paths of its sources relative to it, so that they can move together."""
    for element in [*document.iter("SourceFilename"), *document.iter("SourceDataset")]:
        element.text = os.path.relpath(str(element.text), output.parent)
        element.set("relativeToVRT", "1")
    with writing(output) as part:
        part.write_bytes(ElementTree.tostring(document) + b"\n")
