"""Enhance one tile: three bands of digital numbers to a true-colour RGBA GeoTIFF."""

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from osgeo import gdal, gdal_array, osr

from basemake.codecs import CODECS, check_codec
from basemake.errors import TileError
from basemake.raster import RGBA, halve, open_geotiff
from basemake.recipe import CompiledRecipe

SOFTWARE = "basemake"
BLOCK = 512  # pixels: lossless WebP blocks of 512 compress about 3 times faster than of 256
# tifffile encodes this many bytes of blocks before it writes them.
ENCODE_BUFFER = 16 << 20
# Pixel scale, tie point, transformation, geo keys with their numbers and texts; GDAL's metadata;
# copyright.
COPIED_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 33432)


def enhance_tile(
    bands: list[Path],
    output: Path,
    *,
    epsg: int,
    steps: list[dict],
    dn: dict,
    codec: str,
    metadata: dict[str, str],
    threads: int,
) -> None:
    """Write the enhanced tile of `bands` (red, green, blue) to `output`, whole or not at all.

    The output has the bands' grid, uint8 RGBA with alpha 255 where all three are valid, blocks of
    512 px compressed by `codec` (a key of CODECS), reduced-resolution images down to one block,
    and `metadata` as GDAL metadata. `epsg` is the CRS that the bands must have; `steps` and `dn`
    as in CompiledRecipe. Memory is bounded by a row of blocks and `threads`. Raises TileError if
    the bands do not fit together.
    """
    with ExitStack() as stack:
        datasets = []
        for path in bands:
            with _naming(path):
                datasets.append(stack.enter_context(open_geotiff(path)))
        dtype = _check_agreement(datasets, bands, epsg)
        recipe = CompiledRecipe(steps, dn, dtype)
        shape = datasets[0].RasterYSize, datasets[0].RasterXSize
        tags = _geo_tags(datasets[0], metadata)
        part = output.with_name(output.name + ".part")
        big = shape[0] * shape[1] * 4 > 2**32 - 2**27
        with tifffile.TiffWriter(part, bigtiff=big) as tif:
            rows = _enhanced_rows(datasets, dtype, recipe)
            _write_levels(tif, rows, shape, CODECS[codec].tifffile, tags, threads)
    part.replace(output)
    logging.info("%s: %d bytes", output, output.stat().st_size)


def _check_agreement(datasets: list[gdal.Dataset], bands: list[Path], epsg: int) -> np.dtype:
    """Return the common data type of three bands that share one grid in `epsg`, else TileError."""
    expected = osr.SpatialReference()
    expected.ImportFromEPSG(epsg)
    descriptions = [_describe(dataset) for dataset in datasets]
    if len(set(descriptions)) > 1:
        listing = "; ".join(f"{path.name} {d}" for path, d in zip(bands, descriptions, strict=True))
        raise TileError(
            f"the bands of tile {bands[0].parent.name} do not have one grid: {listing}."
            " Delete them and run again to fetch them anew."
        )
    options = ["IGNORE_DATA_AXIS_TO_SRS_AXIS_MAPPING=YES", "CRITERION=EQUIVALENT"]
    for dataset, path in zip(datasets, bands, strict=True):
        srs, transform = dataset.GetSpatialRef(), dataset.GetGeoTransform()
        if srs is None or not srs.IsSame(expected, options):
            found = f"in {srs.GetName()}" if srs else "without a CRS"
            raise TileError(f"{path} is {found}, but its item says EPSG:{epsg}.")
        if transform[2] or transform[4] or transform[5] >= 0:
            raise TileError(f"{path} is not north up: its geotransform is {transform}.")
    kind = datasets[0].GetRasterBand(1).DataType
    return np.dtype(gdal_array.GDALTypeCodeToNumericTypeCode(kind))


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Name a band in a TileError if GDAL cannot open or read it."""
    try:
        yield
    except RuntimeError as error:
        raise TileError(
            f"the band {path} cannot be read ({error}); delete it and run again to fetch it anew."
        ) from error


def _describe(dataset: gdal.Dataset) -> str:
    """Return a text that is equal for bands of one grid."""
    x, width, _, y, _, height = dataset.GetGeoTransform()
    dtype = gdal.GetDataTypeName(dataset.GetRasterBand(1).DataType)
    srs = dataset.GetSpatialRef()
    return (
        f"{dataset.RasterXSize}x{dataset.RasterYSize} px of {width:g}x{-height:g} m at ({x:.3f},"
        f" {y:.3f}), {dtype}, {srs.GetName() if srs else 'without a CRS'}"
    )


def _geo_tags(dataset: gdal.Dataset, metadata: dict[str, str]) -> list[tuple]:
    """Return tifffile's extratags for the dataset's georeference and `metadata`, made by GDAL."""
    name = "/vsimem/tags.tif"
    small = gdal.GetDriverByName("GTiff").Create(name, 1, 1, 1, gdal.GDT_Byte)
    small.SetSpatialRef(dataset.GetSpatialRef())
    small.SetGeoTransform(dataset.GetGeoTransform())
    small.SetMetadata(metadata)
    del small
    content = bytes(gdal.VSIFReadL(1, gdal.VSIStatL(name).size, file := gdal.VSIFOpenL(name, "rb")))
    gdal.VSIFCloseL(file)
    gdal.Unlink(name)
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        tags = [tag for tag in tif.pages[0].tags if tag.code in COPIED_TAGS]
        return [
            # Texts go as bytes: GDAL's are UTF-8, and tifffile would refuse all but ASCII.
            (
                tag.code,
                tag.dtype,
                tag.count,
                tag.value.encode() if tag.dtype == 2 else tag.value,
                True,
            )
            for tag in tags
        ]


def _enhanced_rows(
    datasets: list[gdal.Dataset], dtype: np.dtype, recipe: CompiledRecipe
) -> Iterator[RGBA]:
    """Yield the enhanced tile as rows of blocks, (at most BLOCK, width, 4), from the top."""
    height = datasets[0].RasterYSize
    for top in range(0, height, BLOCK):
        count = min(BLOCK, height - top)
        dn = np.empty((len(datasets), count, datasets[0].RasterXSize), dtype)
        for dataset, band in zip(datasets, dn, strict=True):
            with _naming(dataset.GetDescription()):
                dataset.ReadAsArray(0, top, *band.shape[::-1], buf_obj=band)
        yield recipe(dn)


def _write_levels(
    tif: tifffile.TiffWriter,
    rows: Iterator[RGBA],
    shape: tuple[int, int],
    codec: dict,
    tags: list[tuple],
    threads: int,
    reduced: bool = False,
) -> None:
    """Write an image and then its reduced ones, each half the size of the last.

    While an image is written, its half goes row by row to a file on disk, from which it is written
    next: memory holds no more than a few rows of blocks.
    """
    with tempfile.TemporaryFile(dir=Path(tif.filehandle.path).parent) as spill:
        tif.write(
            _blocks(_spilling_halves(rows, spill)),
            shape=(*shape, 4),
            dtype=np.uint8,
            tile=(BLOCK, BLOCK),
            photometric="rgb",
            extrasamples=("unassalpha",),
            subfiletype=int(reduced),
            software=SOFTWARE,
            metadata=None,
            extratags=tags,
            maxworkers=threads,
            buffersize=ENCODE_BUFFER,
            **codec,
        )
        if max(shape) > BLOCK:
            half = (shape[0] + 1) // 2, (shape[1] + 1) // 2
            spill.seek(0)
            _write_levels(tif, _rows_of(spill, half), half, codec, [], threads, reduced=True)


def _blocks(rows: Iterator[RGBA]) -> Iterator[RGBA]:
    """Yield (BLOCK, BLOCK, 4) blocks from the left, padded with transparent pixels."""
    for row in rows:
        for left in range(0, row.shape[1], BLOCK):
            block = row[:, left : left + BLOCK]
            if block.shape[:2] != (BLOCK, BLOCK):
                height, width = block.shape[:2]
                block = np.pad(block, ((0, BLOCK - height), (0, BLOCK - width), (0, 0)))
            yield np.ascontiguousarray(block)


def _spilling_halves(rows: Iterator[RGBA], spill: IO[bytes]) -> Iterator[RGBA]:
    for row in rows:
        spill.write(halve(row).data)
        yield row


def _rows_of(spill: IO[bytes], shape: tuple[int, int]) -> Iterator[RGBA]:
    """Yield rows of blocks of a raw RGBA image of `shape` (height, width)."""
    for top in range(0, shape[0], BLOCK):
        count = min(BLOCK, shape[0] - top)
        data = spill.read(count * shape[1] * 4)
        yield np.frombuffer(data, np.uint8).reshape(count, shape[1], 4)


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log
    from basemake.raster import use_gdal

    with job_log(snakemake.log[0]):
        use_gdal(snakemake.config["gdal_cache_mb"])
        check_codec(snakemake.params.codec)
        enhance_tile(
            [Path(snakemake.input[band]) for band in ("red", "green", "blue")],
            Path(snakemake.output[0]),
            epsg=snakemake.params.epsg,
            steps=snakemake.params.steps,
            dn=snakemake.params.dn,
            codec=snakemake.params.codec,
            metadata=snakemake.params.metadata,
            threads=snakemake.threads,
        )
