"""Enhance one tile: three bands of digital numbers to a true-colour RGBA GeoTIFF."""

import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from osgeo import gdal, gdal_array, osr

from basemake.errors import TileError
from basemake.pixels.codecs import CODECS
from basemake.pixels.raster import RGBA, halve, open_geotiff
from basemake.pixels.recipe import CompiledRecipe
from basemake.system.files import writing
from basemake.system.machine import usable_cores

SOFTWARE = "basemake"
BLOCK = 512  # pixels: lossless WebP blocks of 512 compress about 3 times faster than of 256
READ_PIXELS = 1 << 20  # read of a band at a time, unless its blocks are larger
# Pixel scale, tie point, transformation, geo keys with their numbers and texts.
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
TEXT_TAGS = (33432, 42112)  # copyright, GDAL's metadata
# As fast on any processor, where SHA-256 is four times slower on those that have no instructions
# for it.
new_digest = partial(hashlib.blake2b, digest_size=32)

Window = tuple[slice, slice]  # rows, columns


class Block(NamedTuple):
    """A block of an image, encoded, and the digest of its pixels."""

    encoded: bytes
    digest: bytes


class Part(NamedTuple):
    """What is made of a window of an image: its half, and its blocks, row by row."""

    half: RGBA
    blocks: list[list[Block]]


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
    and as GDAL metadata `metadata` and DIGEST, a digest of its grid and of the pixels of all these
    images: neither codec nor metadata change it. `epsg` is the CRS that the bands must have;
    `steps` and `dn` as in CompiledRecipe. Memory is bounded by a row of the bands' blocks and
    `threads`. Raises TileError if the bands do not fit together.
    """
    with ExitStack() as stack:
        datasets = []
        for path in bands:
            with _naming(path):
                datasets.append(stack.enter_context(open_geotiff(path)))
        dtype = _check_agreement(datasets, bands, epsg)
        shape = datasets[0].RasterYSize, datasets[0].RasterXSize
        block_width, block_height = datasets[0].GetRasterBand(1).GetBlockSize()
        tags = [
            *_geo_tags(datasets[0]),
            *((code, 2, 1, b"\0", True) for code in _texts({**metadata, "DIGEST": "to come"})),
        ]
        digest = new_digest(json.dumps([epsg, shape, datasets[0].GetGeoTransform()]).encode())
    recipe = CompiledRecipe(steps, dn, dtype)
    # Windows of whole blocks: none is decoded twice. Where blocks are low and as wide as the band
    # they are read a few at a time.
    step = _whole_blocks(block_height), _whole_blocks(block_width)
    read_rows = max(block_height, READ_PIXELS // step[1])

    def enhanced(window: Window) -> RGBA:
        rows, columns = window
        rgba = np.empty((rows.stop - rows.start, columns.stop - columns.start, 4), np.uint8)
        for top in range(0, len(rgba), read_rows):
            strip = rgba[top : top + read_rows]
            dn = _read(bands, rows.start + top, columns.start, strip.shape[:2], dtype)
            strip[:] = recipe(dn)
        return rgba

    big = shape[0] * shape[1] * 4 > 2**32 - 2**27
    workers = min(threads, usable_cores())  # more only wait for one another
    with writing(output) as part:
        with tifffile.TiffWriter(part, bigtiff=big) as tif, ThreadPoolExecutor(workers) as pool:
            run = partial(_in_order, pool, 2 * workers)
            _write_levels(tif, enhanced, shape, step, CODECS[codec].tifffile, tags, run, digest)
        _label(part, _texts({**metadata, "DIGEST": digest.hexdigest()}))
    logging.info("%s: %d bytes", output, output.stat().st_size)


def relabel_tile(tile: Path, output: Path, *, metadata: dict[str, str]) -> bool:
    """Write the enhanced tile `tile` with other `metadata` to `output`; tell whether that is done.

    The bytes are those that enhance_tile would write. It writes nothing if `tile` is not whole, or
    if only one of both has a copyright.
    """
    try:
        with open_geotiff(tile) as dataset:
            digest = dataset.GetMetadataItem("DIGEST")
    except RuntimeError:
        return False
    texts = _texts({**metadata, "DIGEST": digest or ""})
    with tifffile.TiffFile(tile) as tif:
        tags = [tag for tag in tif.pages[0].tags if tag.code in TEXT_TAGS]
        start = tif.filehandle.size
        for tag in reversed(tags):
            if tag.count > tif.tiff.tagoffsetthreshold:  # a shorter one lies in the directory
                if start - tag.valueoffset - tag.count not in (0, 1):  # each at an even byte
                    return False
                start = tag.valueoffset
    if digest is None or [tag.code for tag in tags] != list(texts):
        return False
    with writing(output) as part:
        shutil.copyfile(tile, part)
        _label(part, dict.fromkeys(texts, b""))
        os.truncate(part, start)
        _label(part, texts)
    return True


def _label(path: Path, texts: dict[int, bytes]) -> None:
    """Write the texts of an enhanced tile, by tag, that has them empty.

    They go to its end: others can take their place, and a tile that was cut off has no DIGEST.
    """
    with tifffile.TiffFile(path, mode="r+") as tif:
        for code, text in texts.items():
            tif.pages[0].tags[code].overwrite(text)


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


def _geo_tags(dataset: gdal.Dataset) -> list[tuple]:
    """Return tifffile's extratags for the georeference of a dataset."""

    def locate(small: gdal.Dataset) -> None:
        small.SetSpatialRef(dataset.GetSpatialRef())
        small.SetGeoTransform(dataset.GetGeoTransform())

    return _written_by_gdal(locate, GEO_TAGS)


def _texts(metadata: dict[str, str]) -> dict[int, bytes]:
    """Return the texts of the tags that hold `metadata`, by the tags' numbers."""
    tags = _written_by_gdal(lambda small: small.SetMetadata(metadata), TEXT_TAGS)
    return {code: text for code, _, _, text, _ in tags}


def _written_by_gdal(
    describe: Callable[[gdal.Dataset], object], codes: tuple[int, ...]
) -> list[tuple]:
    """Return, as tifffile's extratags, those of `codes` that GDAL writes for a dataset.

    `describe` sets what the dataset says of itself.
    """
    name = "/vsimem/tags.tif"
    small = gdal.GetDriverByName("GTiff").Create(name, 1, 1, 1, gdal.GDT_Byte)
    describe(small)
    del small
    content = bytes(gdal.VSIFReadL(1, gdal.VSIStatL(name).size, file := gdal.VSIFOpenL(name, "rb")))
    gdal.VSIFCloseL(file)
    gdal.Unlink(name)
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        tags = [tag for tag in tif.pages[0].tags if tag.code in codes]
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


def _whole_blocks(pixels: int) -> int:
    """Return the least multiple of BLOCK that holds so many pixels."""
    return -(-pixels // BLOCK) * BLOCK


def _read(
    bands: list[Path], top: int, left: int, shape: tuple[int, int], dtype: np.dtype
) -> NDArray:
    """Return a window of all bands, (bands, height, width); TileError names one that fails.

    Opens them anew, which takes a ten-thousandth of a second: GDAL's datasets serve one thread
    only, and keep what they decoded as long as they are open.
    """
    dn = np.empty((len(bands), *shape), dtype)
    for path, band in zip(bands, dn, strict=True):
        with _naming(path), open_geotiff(path) as dataset:
            dataset.ReadAsArray(left, top, *shape[::-1], buf_obj=band)
    return dn


def _write_levels(
    tif: tifffile.TiffWriter,
    pixels: Callable[[Window], RGBA],
    shape: tuple[int, int],
    step: tuple[int, int],
    codec: dict[str, Any],
    tags: list[tuple],
    run: Callable[[Callable[[Window], Part], Iterable[Window]], Iterator[Part]],
    digest: hashlib.blake2b,
    reduced: bool = False,
) -> None:
    """Write an image and then its reduced ones, each half the size of the last.

    `run` makes its windows of `step` (height, width) out of `pixels`. The halves go in rows to a
    file on disk, from which they are written next: memory holds no more than a row of windows.
    `digest` takes in the digests of all blocks.
    """
    encode = _encoder(codec)

    def make(window: Window) -> Part:
        rgba = pixels(window)
        return Part(halve(rgba), [[finish(block) for block in row] for row in _blocks(rgba)])

    def finish(block: RGBA) -> Block:
        return Block(encode(block), new_digest(block.ravel().data).digest())

    windows = _windows(shape, step)
    with tempfile.TemporaryFile(dir=Path(tif.filehandle.path).parent) as spill:
        tif.write(
            _spilling_halves(run(make, chain(*windows)), len(windows[0]), spill, digest),
            shape=(*shape, 4),
            dtype=np.uint8,
            tile=(BLOCK, BLOCK),
            photometric="rgb",
            extrasamples=("unassalpha",),
            subfiletype=int(reduced),
            software=SOFTWARE,
            metadata=None,
            extratags=tags,
            **codec,
        )
        if max(shape) > BLOCK:
            half = (shape[0] + 1) // 2, (shape[1] + 1) // 2
            spill.flush()

            def spilled(window: Window) -> RGBA:
                return np.memmap(spill, np.uint8, "r", shape=(*half, 4))[window]

            _write_levels(tif, spilled, half, (BLOCK, BLOCK), codec, [], run, digest, True)


def _encoder(codec: dict[str, Any]) -> Callable[[RGBA], bytes]:
    """Return what encodes a block just as tifffile would with these arguments."""
    number = tifffile.COMPRESSION[codec["compression"].upper()]
    compress = partial(tifffile.TIFF.COMPRESSORS[number], **codec["compressionargs"])
    if codec.get("predictor"):
        return lambda block: compress(imagecodecs.delta_encode(block, axis=-2))
    return compress


def _windows(shape: tuple[int, int], step: tuple[int, int]) -> list[list[Window]]:
    """Return rows of windows of at most `step` that make up an image of `shape`."""
    rows, columns = (
        [slice(start, min(start + length, side)) for start in range(0, side, length)]
        for side, length in zip(shape, step, strict=True)
    )
    return [[(row, column) for column in columns] for row in rows]


def _blocks(rgba: RGBA) -> Iterator[list[RGBA]]:
    """Yield rows of (BLOCK, BLOCK, 4) blocks, padded with transparent pixels."""
    height, width = rgba.shape[:2]
    for top in range(0, height, BLOCK):
        row = []
        for left in range(0, width, BLOCK):
            block = rgba[top : top + BLOCK, left : left + BLOCK]
            missing = [(0, BLOCK - side) for side in block.shape[:2]]
            row.append(np.pad(block, (*missing, (0, 0))))
        yield row


def _in_order(
    pool: Executor, ahead: int, function: Callable[[Window], Part], windows: Iterable[Window]
) -> Iterator[Part]:
    """Yield function(window) of all windows; at most `ahead` are made or waiting at a time."""
    pending: deque = deque()
    for window in windows:
        pending.append(pool.submit(function, window))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _spilling_halves(
    parts: Iterator[Part], columns: int, spill: IO[bytes], digest: hashlib.blake2b
) -> Iterator[bytes]:
    """Yield the encoded blocks of an image in order, and write its half, raw, to `spill`."""
    while row := list(islice(parts, columns)):
        spill.write(np.hstack([part.half for part in row]).data)
        for blocks in zip(*(part.blocks for part in row), strict=True):
            for block in chain(*blocks):
                digest.update(block.digest)
                yield block.encoded
        del row, blocks, block  # memory holds one row: this one goes before the next is made


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import canonical, recorded
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake) as changed:
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        settings, container = snakemake.params.settings, snakemake.params.container
        tile = Path(snakemake.output.tile)
        metadata = {
            "ITEM": container["item"],
            "QUARTER": container["quarter"],
            "RECIPE": json.dumps(canonical(settings["recipe"])),
            "ATTRIBUTION": container["attribution"],
            "TIFFTAG_COPYRIGHT": container["attribution"],
        }
        relabel = changed is not None and "codec" not in changed
        if relabel and relabel_tile(tile, tile, metadata=metadata):
            logging.info("only its metadata changed: its pixels are kept")
        else:
            enhance_tile(
                [Path(snakemake.input[band]) for band in ("red", "green", "blue")],
                tile,
                epsg=settings["epsg"],
                steps=settings["recipe"],
                dn=settings["dn"],
                codec=container["codec"],
                metadata=metadata,
                threads=snakemake.threads,
            )
