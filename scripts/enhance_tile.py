"""Enhance one tile: three bands of digital numbers to a true-colour RGBA GeoTIFF."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from osgeo import gdal, gdal_array, osr

from basemake.errors import TileError
from basemake.pixels.codecs import BLOCK, CODECS
from basemake.pixels.dn import DnReading
from basemake.pixels.light import Light, halve, halve_colours, to_colours
from basemake.pixels.raster import RGBA, open_geotiff
from basemake.pixels.recipe import CompiledRecipe
from basemake.pixels.tags import TEXT_TAGS, geo_tags, metadata_tags
from basemake.system.files import writing
from basemake.system.machine import usable_cores

SOFTWARE = "basemake"
READ_PIXELS = 1 << 20  # read of a band at a time, unless its blocks are larger
LEAST = 64  # pixels a side of the smallest reduced image: what maps of the lowest zooms are made of
# BLAKE2 is fast on every processor; SHA-256 is four times slower on those without SHA instructions.
new_digest = partial(hashlib.blake2b, digest_size=32)

Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Enhancement:
    """How a tile is enhanced.

    `epsg` is the CRS that the bands must have, `steps` a recipe's steps, `dn` how the bands'
    digital numbers are read, and `codec` the compression of the output, a key of CODECS.
    """

    epsg: int
    steps: list[dict]
    dn: DnReading
    codec: str


class Block(NamedTuple):
    """A block of an image, encoded, and the digest of its pixels."""

    encoded: bytes
    digest: bytes


class Part(NamedTuple):
    """The results from one window of an image: its half, and its blocks row by row."""

    half: Light
    blocks: list[list[Block]]


class Image(NamedTuple):
    """An image of `shape` (height, width), whose pixels, and their half, are made by windows."""

    shape: tuple[int, int]
    step: tuple[int, int]  # of windows
    pixels: Callable[[Window], tuple[RGBA, Light]]


def enhance_tile(
    bands: list[Path],
    output: Path,
    enhancement: Enhancement,
    *,
    metadata: dict[str, str],
    threads: int,
) -> None:
    """Write the enhanced tile of `bands` (red, green, blue) to `output`, whole or not at all.

    The output is a GeoTIFF on the bands' grid: uint8 RGBA, with alpha 255 where all three bands
    are valid, in compressed blocks of 512 px, and with reduced-resolution images down to one block.
    Its GDAL metadata are `metadata` and DIGEST, a digest of the grid and of the pixels of all these
    images, which neither codec nor metadata change. Memory is bounded by one row of the bands'
    blocks and by `threads`. Raises TileError if the bands cannot be read, or do not share one grid.
    """
    with ExitStack() as stack:
        datasets = []
        for path in bands:
            with _naming(path):
                datasets.append(stack.enter_context(open_geotiff(path)))
        dtype = _check_agreement(datasets, bands, enhancement.epsg)
        shape = datasets[0].RasterYSize, datasets[0].RasterXSize
        block_width, block_height = datasets[0].GetRasterBand(1).GetBlockSize()
        tags = [
            *geo_tags(datasets[0].GetGeoTransform(), datasets[0].GetSpatialRef().ExportToWkt()),
            *((code, 2, 1, b"\0", True) for code in _texts({**metadata, "DIGEST": "to come"})),
        ]
        grid = [enhancement.epsg, shape, datasets[0].GetGeoTransform()]
    recipe = CompiledRecipe(enhancement.steps, enhancement.dn, dtype)
    # Windows of whole blocks, so that no block is decoded twice. Blocks that are low and as wide as
    # the band are read a few at a time.
    step = _whole_blocks(block_height), _whole_blocks(block_width)
    read_rows = max(block_height, READ_PIXELS // step[1])

    def enhanced(window: Window) -> tuple[RGBA, Light]:
        rows, columns = window
        rgba = np.empty((rows.stop - rows.start, columns.stop - columns.start, 4), np.uint8)
        for top in range(0, len(rgba), read_rows):
            strip = rgba[top : top + read_rows]
            dn = _read(bands, rows.start + top, columns.start, strip.shape[:2], dtype)
            strip[:] = recipe(dn)
        return rgba, halve_colours(rgba)

    with writing(output) as part:
        writer = _Writer(enhancement.codec, threads, json.dumps(grid).encode())
        writer.write_levels(part, Image(shape, step, enhanced), tags)
        _label(part, _texts({**metadata, "DIGEST": writer.digest.hexdigest()}))
    logging.info("%s: %d bytes", output, output.stat().st_size)


def relabel_tile(tile: Path, output: Path, *, metadata: dict[str, str]) -> bool:
    """Write the enhanced tile `tile` with other `metadata` to `output`; return whether it could.

    The bytes are those that enhance_tile would write. Nothing is written if `tile` is incomplete,
    or if only one of the old and the new metadata has a copyright.
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
            if tag.count > tif.tiff.tagoffsetthreshold:  # shorter ones are stored in the directory
                if start - tag.valueoffset - tag.count not in (0, 1):  # each starts at an even byte
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
    """Write `texts`, by tag number, to an enhanced tile whose text tags are empty.

    They are put at its end, where they can be replaced, and so a truncated tile has no DIGEST.
    """
    with tifffile.TiffFile(path, mode="r+") as tif:
        for code, text in texts.items():
            tif.pages[0].tags[code].overwrite(text)


def _check_agreement(datasets: list[gdal.Dataset], bands: list[Path], epsg: int) -> np.dtype:
    """Return the bands' common data type; TileError unless they share one grid in `epsg`."""
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
    """Return a description of a band's grid and data type, equal for bands that agree."""
    x, width, _, y, _, height = dataset.GetGeoTransform()
    dtype = gdal.GetDataTypeName(dataset.GetRasterBand(1).DataType)
    srs = dataset.GetSpatialRef()
    return (
        f"{dataset.RasterXSize}x{dataset.RasterYSize} px of {width:g}x{-height:g} m at ({x:.3f},"
        f" {y:.3f}), {dtype}, {srs.GetName() if srs else 'without a CRS'}"
    )


def _texts(metadata: dict[str, str]) -> dict[int, bytes]:
    """Return the texts of the TIFF tags that hold `metadata`, by tag number."""
    return {code: text for code, _, _, text, _ in metadata_tags(metadata)}


def _whole_blocks(pixels: int) -> int:
    """Return the least multiple of BLOCK that is at least `pixels`."""
    return -(-pixels // BLOCK) * BLOCK


def _read(
    bands: list[Path], top: int, left: int, shape: tuple[int, int], dtype: np.dtype
) -> NDArray:
    """Return a window of all bands, (bands, height, width); TileError names a band that fails.

    The bands are opened anew, which takes 0.1 ms: a GDAL dataset serves one thread only, and keeps
    decoded blocks while it is open.
    """
    dn = np.empty((len(bands), *shape), dtype)
    for path, band in zip(bands, dn, strict=True):
        with _naming(path), open_geotiff(path) as dataset:
            dataset.ReadAsArray(left, top, *shape[::-1], buf_obj=band)
    return dn


class _Writer:
    """Writes an image and its reduced-resolution images as a GeoTIFF, with threads that encode.

    `digest` is that of `grid` and then of all blocks written so far.
    """

    def __init__(self, codec: str, threads: int, grid: bytes) -> None:
        """Write by `codec`, a key of CODECS, in `threads` threads, but no more than cores."""
        self.digest = new_digest(grid)
        self._codec = CODECS[codec].tifffile
        self._encode = _encoder(self._codec)
        self._workers = min(threads, usable_cores())  # more would only wait for one another

    def write_levels(self, path: Path, image: Image, tags: list[tuple]) -> None:
        """Write `image`, with `tags`, and then its halves, down to LEAST pixels, to `path`.

        Each level's half goes to a temporary file beside `path`, from which the next level is made:
        memory holds no more than a row of windows.
        """
        big = image.shape[0] * image.shape[1] * 4 > 2**32 - 2**27
        with (
            tifffile.TiffWriter(path, bigtiff=big) as tif,
            ThreadPoolExecutor(self._workers) as pool,
            ExitStack() as stack,
        ):
            for level in count():
                spill = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
                tif.write(
                    self._encoded(image, spill, pool),
                    shape=(*image.shape, 4),
                    dtype=np.uint8,
                    tile=(BLOCK, BLOCK),
                    photometric="rgb",
                    extrasamples=("unassalpha",),
                    subfiletype=min(level, 1),  # 1: a reduced-resolution image
                    software=SOFTWARE,
                    metadata=None,
                    extratags=[] if level else tags,
                    **self._codec,
                )
                if max(image.shape) <= LEAST:
                    break
                half = (image.shape[0] + 1) // 2, (image.shape[1] + 1) // 2
                image = Image(half, (BLOCK, BLOCK), partial(_spilled, spill, half))

    def _encoded(self, image: Image, spill: IO[bytes], pool: ThreadPoolExecutor) -> Iterator[bytes]:
        """Yield the encoded blocks of an image in order, and write its half's light to `spill`."""
        windows = _windows(image.shape, image.step)
        parts = self._in_order(pool, partial(self._made, image), chain(*windows))
        while row := list(islice(parts, len(windows[0]))):
            spill.write(np.hstack([part.half for part in row]).data)
            for blocks in zip(*(part.blocks for part in row), strict=True):
                for block in chain(*blocks):
                    self.digest.update(block.digest)
                    yield block.encoded
            del row, blocks, block  # before the next row is made: memory holds one at a time
        spill.flush()

    def _made(self, image: Image, window: Window) -> Part:
        """Return the half and the encoded blocks of a window."""
        rgba, half = image.pixels(window)
        blocks = [
            [Block(self._encode(block), new_digest(block.ravel().data).digest()) for block in row]
            for row in _blocks(rgba)
        ]
        return Part(half, blocks)

    def _in_order(
        self,
        pool: ThreadPoolExecutor,
        function: Callable[[Window], Part],
        windows: Iterable[Window],
    ) -> Iterator[Part]:
        """Yield function(window) of all windows; few are made or waiting at a time."""
        pending: deque[Future[Part]] = deque()
        for window in windows:
            pending.append(pool.submit(function, window))
            if len(pending) >= 2 * self._workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _spilled(spill: IO[bytes], shape: tuple[int, int], window: Window) -> tuple[RGBA, Light]:
    """Return a window, and its half, of the image of `shape` whose light is in the file `spill`.

    The file is mapped anew each time, so that the pages of earlier windows leave memory.
    """
    light = np.array(np.memmap(spill, np.uint16, "r", shape=(*shape, 4))[window])
    return to_colours(light), halve(light)


def _encoder(codec: dict[str, Any]) -> Callable[[RGBA], bytes]:
    """Return a function that encodes a block as tifffile does with these arguments."""
    number = tifffile.COMPRESSION[codec["compression"].upper()]
    compress = partial(tifffile.TIFF.COMPRESSORS[number], **codec["compressionargs"])
    if codec.get("predictor"):
        return lambda block: compress(imagecodecs.delta_encode(block, axis=-2))
    return compress


def _windows(shape: tuple[int, int], step: tuple[int, int]) -> list[list[Window]]:
    """Return windows of at most `step` (height, width) that cover an image of `shape`, by row."""
    rows, columns = (
        [slice(start, min(start + length, side)) for start in range(0, side, length)]
        for side, length in zip(shape, step, strict=True)
    )
    return [[(row, column) for column in columns] for row in rows]


def _blocks(rgba: RGBA) -> Iterator[list[RGBA]]:
    """Yield the rows of an image's (BLOCK, BLOCK, 4) blocks, padded with transparent pixels."""
    height, width = rgba.shape[:2]
    for top in range(0, height, BLOCK):
        row = []
        for left in range(0, width, BLOCK):
            block = rgba[top : top + BLOCK, left : left + BLOCK]
            missing = [(0, BLOCK - side) for side in block.shape[:2]]
            row.append(np.pad(block, (*missing, (0, 0))))
        yield row


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import canonical, recorded
    from basemake.pixels.raster import set_up_libraries
    from basemake.pixels.tags import credit
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake) as changed:
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        settings, container = snakemake.params.settings, snakemake.params.container
        tile = Path(snakemake.output.tile)
        metadata = {
            "ITEM": container["item"],
            "QUARTER": container["quarter"],
            "RECIPE": json.dumps(canonical(settings["recipe"])),
            **credit(container["attribution"]),
        }
        relabel = changed is not None and "codec" not in changed
        if relabel and relabel_tile(tile, tile, metadata=metadata):
            logging.info("only the metadata changed: the pixels are kept")
        else:
            enhance_tile(
                [Path(snakemake.input[band]) for band in ("red", "green", "blue")],
                tile,
                Enhancement(
                    settings["epsg"],
                    settings["recipe"],
                    DnReading(**settings["dn"]),
                    container["codec"],
                ),
                metadata=metadata,
                threads=snakemake.threads,
            )
