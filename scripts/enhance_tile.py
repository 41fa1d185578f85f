"""Enhance one tile: three bands of digital numbers to a true-colour RGBA GeoTIFF."""

import hashlib
import json
import logging
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
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
from basemake.pixels.blocks import Image as BandImage
from basemake.pixels.blocks import numbers_of
from basemake.pixels.codecs import BLOCK, CODECS
from basemake.pixels.cog_writer import Level, stored, write_cog
from basemake.pixels.dn import DnReading
from basemake.pixels.fill import CELL, Composite, Layer, grid_of
from basemake.pixels.light import Light, halve, halve_colours, to_colours
from basemake.pixels.raster import RGBA, naming, open_geotiff
from basemake.pixels.recipe import CompiledRecipe
from basemake.pixels.tags import GEO_TAGS, NODATA_TAG, Tag, geo_tags, metadata_tags, tags_of
from basemake.system.files import writing
from basemake.system.machine import usable_cores

READ_PIXELS = 1 << 20  # read of a band at a time, unless its blocks are larger
LEAST = 64  # pixels a side of the smallest reduced image: what maps of the lowest zooms are made of
MEASURED = ("DIGEST", "HOLES", "SHARES")  # in the metadata of a tile: what its pixels are
# BLAKE2 is fast on every processor; SHA-256 is four times slower on those without SHA instructions.
new_digest = partial(hashlib.blake2b, digest_size=32)

Window = tuple[slice, slice]  # rows, columns
Pixels = Callable[[Window], tuple[RGBA, Light]]  # those of a window, and their half


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


@dataclass(frozen=True)
class Filling:
    """The items that show a tile, best first, whose first bands are the tile's own.

    None is an item of which nothing is needed. `provenance` is the path of a raster of the items.
    """

    layers: Sequence[Layer | None]
    provenance: Path


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
    pixels: Pixels


def enhance_tile(
    bands: list[Path],
    output: Path,
    enhancement: Enhancement,
    *,
    metadata: dict[str, str],
    threads: int,
    filling: Filling | None = None,
) -> None:
    """Write the enhanced tile of `bands` (red, green, blue) to `output`, whole or not at all.

    The output is a cloud-optimized GeoTIFF on the bands' grid: uint8 RGBA, with alpha 255 where all
    three bands are valid, in compressed blocks of 512 px, and with reduced-resolution images down
    to LEAST px. Its GDAL metadata are `metadata`, DIGEST, a digest of the grid and of the pixels of
    all these images, which neither codec nor metadata change, and HOLES, the number of its pixels
    without data and of those that were fetched. Memory is bounded by one row of the bands' blocks
    and by `threads`. Raises TileError if the bands cannot be read, or do not share one grid.

    With `filling`, holes show further items (see pixels/fill.py), and a raster on the tile's grid,
    a cloud-optimized GeoTIFF, too, tells which: uint8, 1 for the first item, 0 for none, and HIDDEN
    more for one that its mask hides. SHARES in the metadata are what each, unhidden, has of the
    pixels that show one.
    """
    with ExitStack() as stack:
        datasets = []
        for path in bands:
            with naming(path):
                datasets.append(stack.enter_context(open_geotiff(path)))
        dtype = _check_agreement(datasets, bands, enhancement.epsg)
        shape = datasets[0].RasterYSize, datasets[0].RasterXSize
        block_width, block_height = datasets[0].GetRasterBand(1).GetBlockSize()
        fetched = _pixels_fetched(datasets[0])
        place = geo_tags(datasets[0].GetGeoTransform(), datasets[0].GetSpatialRef().ExportToWkt())
        grid = [enhancement.epsg, shape, datasets[0].GetGeoTransform()]
    recipe = CompiledRecipe(enhancement.steps, enhancement.dn, dtype)
    # Windows of whole blocks, so that no block is decoded twice. Blocks that are low and as wide as
    # the band are read a few at a time.
    step = _whole_blocks(block_height), _whole_blocks(block_width)
    read_rows = max(block_height, READ_PIXELS // step[1])
    shown: dict[tuple[int, int], int] = {}

    def enhanced(window: Window) -> tuple[RGBA, Light]:
        rows, columns = window
        rgba = np.empty((rows.stop - rows.start, columns.stop - columns.start, 4), np.uint8)
        for top in range(0, len(rgba), read_rows):
            strip = rgba[top : top + read_rows]
            dn = _read(bands, rows.start + top, columns.start, strip.shape[:2], dtype)
            strip[:] = recipe(dn)
        return rgba, halve_colours(rgba)

    filled = None
    if filling is not None:
        _check_places(filling.layers, enhancement.epsg)
        filled = _Filled(filling, recipe, step, read_rows)
        filled.match(threads)
    with writing(output) as part, tempfile.TemporaryFile(dir=part.parent) as blocks:
        writer = _Writer(enhancement.codec, threads, json.dumps(grid).encode())
        pixels = _counting(filled or enhanced, shown)
        levels = writer.write_levels(blocks, part.parent, Image(shape, step, pixels))
        # Blocks of items that fill may reach beyond those of the first one.
        holes = [max(0, fetched - sum(shown.values())), fetched]
        found = {"DIGEST": writer.digest.hexdigest(), "HOLES": json.dumps(holes)}
        if filled:
            found["SHARES"] = json.dumps(filled.write(place))
        tags = [*place, *metadata_tags({**metadata, **found})]
        write_cog(part, levels, tags, 4, **_encoding(enhancement.codec))
    logging.info("%s: %d bytes", output, output.stat().st_size)


def _counting(pixels: Pixels, shown: dict[tuple[int, int], int]) -> Pixels:
    """Return `pixels` that also count those with data, by the row and column of a window."""

    def counted(window: Window) -> tuple[RGBA, Light]:
        rgba, half = pixels(window)
        shown[window[0].start, window[1].start] = int(np.count_nonzero(rgba[..., 3]))
        return rgba, half

    return counted


class _Filled:
    """A tile whose holes show further items: the pixels of its windows, and what each shows."""

    def __init__(
        self, filling: Filling, recipe: CompiledRecipe, step: tuple[int, int], read_rows: int
    ) -> None:
        """Make windows of `step`, and read so many rows at a time; call `match` first."""
        first = filling.layers[0]
        assert first is not None
        self._grid, self._output = grid_of(first.bands[0]), filling.provenance
        self._composite = Composite(filling.layers, self._grid)
        self._recipe, self._step, self._rows = recipe, step, -(-read_rows // CELL) * CELL
        self._items = range(1, 1 + len(filling.layers))
        # By the row and column of a block, and by those of a window.
        self._blocks: dict[tuple[int, int], bytes] = {}
        self._counts: dict[tuple[int, int], NDArray[np.int_]] = {}

    def match(self, threads: int) -> None:
        """Match the items to one another, in `threads` threads."""
        with ThreadPoolExecutor(min(threads, usable_cores())) as pool:
            self._composite.match(self._grid.windows(self._rows, self._step[1]), pool)

    def __call__(self, window: Window) -> tuple[RGBA, Light]:
        """Return a window and its half."""
        rows, columns = window
        rgba = np.empty((rows.stop - rows.start, columns.stop - columns.start, 4), np.uint8)
        items = np.empty(rgba.shape[:2], np.uint8)
        for top in range(0, len(rgba), self._rows):
            strip = slice(top, min(top + self._rows, len(rgba)))
            place = slice(rows.start + strip.start, rows.start + strip.stop)
            dn, items[strip] = self._composite.read((place, columns))
            rgba[strip] = self._recipe(dn)
        rgba[items == 0] = 0
        for down, row in enumerate(_blocks(items)):
            for right, block in enumerate(row):
                at = rows.start // BLOCK + down, columns.start // BLOCK + right
                self._blocks[at] = zlib.compress(block.tobytes())
        self._counts[rows.start, columns.start] = np.bincount(items.ravel(), minlength=256)
        return rgba, halve_colours(rgba)

    def write(self, place: list[Tag]) -> list[float]:
        """Write the raster of items, after all windows were made; return the share of each item.

        `place` are the tags of its georeference. Shares are of the pixels that show an item.
        """
        tags = [*place, (NODATA_TAG, 2, 2, b"0\0", True)]
        with writing(self._output) as part:
            write_cog(part, self._levels(), tags, 1, photometric="minisblack", compression="zlib")
        counts = np.sum([*self._counts.values()], axis=0)
        shown = max(1, counts[1:].sum())
        return [round(float(counts[item] / shown), 6) for item in self._items]

    def _levels(self) -> list[Level]:
        """Return the raster of items and its halves, every other pixel, down to one block."""
        encoded = [self._blocks[at] for at in sorted(self._blocks)]
        height, width = self._grid.height, self._grid.width
        levels = [Level((height, width), [len(block) for block in encoded], encoded)]
        down, across = -(-height // BLOCK), -(-width // BLOCK)
        halves = np.empty((down, BLOCK // 2, across, BLOCK // 2), np.uint8)
        for (row, column), block in self._blocks.items():
            pixels = np.frombuffer(zlib.decompress(block), np.uint8).reshape(BLOCK, BLOCK)
            halves[row, :, column] = pixels[::2, ::2]
        image = halves.reshape(down * BLOCK // 2, across * BLOCK // 2)
        image = image[: (height + 1) // 2, : (width + 1) // 2]
        while max(levels[-1].shape) > BLOCK:
            encoded = [zlib.compress(block.tobytes()) for row in _blocks(image) for block in row]
            levels.append(Level(image.shape, [len(block) for block in encoded], encoded))
            image = image[::2, ::2]
        return levels


def found_in(tile: Path) -> dict[str, Any]:
    """Return what an enhanced tile tells of its pixels: `holes`, and `shares` if it was filled.

    `holes` are the numbers of pixels without data and of those that were fetched, `shares` what
    each item has of the pixels that show one.
    """
    with open_geotiff(tile) as dataset:
        texts = {name.lower(): dataset.GetMetadataItem(name) for name in ("HOLES", "SHARES")}
    return {name: json.loads(text) for name, text in texts.items() if text is not None}


def relabel_tile(tile: Path, output: Path, *, metadata: dict[str, str], codec: str) -> None:
    """Write the enhanced tile `tile`, whose codec is `codec`, to `output` with other `metadata`.

    The bytes are those that enhance_tile would write.
    """
    with open_geotiff(tile) as dataset:
        found = {name: dataset.GetMetadataItem(name) for name in MEASURED}
    measured = {name: text for name, text in found.items() if text is not None}
    with tifffile.TiffFile(tile) as tif, tile.open("rb") as file, writing(output) as part:
        levels = [
            Level(
                page.shape[:2],
                page.databytecounts,
                stored(file, page.dataoffsets[0], page.databytecounts),
            )
            for page in tif.pages
        ]
        tags = [*tags_of(tif.pages[0], GEO_TAGS), *metadata_tags({**metadata, **measured})]
        write_cog(part, levels, tags, 4, **_encoding(codec))


def _encoding(codec: str) -> dict[str, Any]:
    """Return tifffile's arguments for the images of a tile."""
    return {"photometric": "rgb", "extrasamples": ("unassalpha",), **CODECS[codec].tifffile}


def _check_agreement(datasets: list[gdal.Dataset], bands: list[Path], epsg: int) -> np.dtype:
    """Return the bands' common data type; TileError unless they share one grid in `epsg`."""
    descriptions = [_describe(dataset) for dataset in datasets]
    if len(set(descriptions)) > 1:
        listing = "; ".join(f"{path.name} {d}" for path, d in zip(bands, descriptions, strict=True))
        raise TileError(
            f"the bands of tile {bands[0].parent.name} do not have one grid: {listing}."
            " Delete them and run again to fetch them anew."
        )
    for dataset, path in zip(datasets, bands, strict=True):
        _check_place(dataset, path, epsg)
    kind = datasets[0].GetRasterBand(1).DataType
    return np.dtype(gdal_array.GDALTypeCodeToNumericTypeCode(kind))


def _check_places(layers: Iterable[Layer | None], epsg: int) -> None:
    """Raise TileError unless all bands and masks of layers are north up in `epsg`."""
    for layer in filter(None, layers):
        for path in [*layer.bands, *([layer.mask] if layer.mask else [])]:
            with naming(path), open_geotiff(path) as dataset:
                _check_place(dataset, path, epsg)


def _check_place(dataset: gdal.Dataset, path: Path, epsg: int) -> None:
    """Raise TileError unless a band is north up in `epsg`."""
    expected = osr.SpatialReference()
    expected.ImportFromEPSG(epsg)
    srs, transform = dataset.GetSpatialRef(), dataset.GetGeoTransform()
    options = ["IGNORE_DATA_AXIS_TO_SRS_AXIS_MAPPING=YES", "CRITERION=EQUIVALENT"]
    if srs is None or not srs.IsSame(expected, options):
        found = f"in {srs.GetName()}" if srs else "without a CRS"
        raise TileError(f"{path} is {found}, but its item says EPSG:{epsg}.")
    if transform[2] or transform[4] or transform[5] >= 0:
        raise TileError(f"{path} is not north up: its geotransform is {transform}.")


def _describe(dataset: gdal.Dataset) -> str:
    """Return a description of a band's grid and data type, equal for bands that agree."""
    x, width, _, y, _, height = dataset.GetGeoTransform()
    dtype = gdal.GetDataTypeName(dataset.GetRasterBand(1).DataType)
    srs = dataset.GetSpatialRef()
    return (
        f"{dataset.RasterXSize}x{dataset.RasterYSize} px of {width:g}x{-height:g} m at ({x:.3f},"
        f" {y:.3f}), {dtype}, {srs.GetName() if srs else 'without a CRS'}"
    )


def _pixels_fetched(band: gdal.Dataset) -> int:
    """Return how many pixels of a band were fetched: those of its BLOCKS, or all if it has none."""
    listed = band.GetMetadataItem("BLOCKS")
    if listed is None:
        return int(band.RasterXSize * band.RasterYSize)
    image = BandImage(band.RasterXSize, band.RasterYSize, *band.GetRasterBand(1).GetBlockSize())
    ends = [run.split("-") for run in listed.split(",") if run]  # of one block its number alone
    numbers = numbers_of((int(run[0]), int(run[-1])) for run in ends)
    down, right = np.divmod(np.array(numbers, int), image.across)
    widths, heights = map(np.diff, image.edges)
    return int((heights[down] * widths[right]).sum())


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
        with naming(path), open_geotiff(path) as dataset:
            dataset.ReadAsArray(left, top, *shape[::-1], buf_obj=band)
    return dn


class _Writer:
    """Encodes the blocks of an image and its reduced-resolution images, with threads.

    `digest` is that of `grid` and then of all blocks written so far.
    """

    def __init__(self, codec: str, threads: int, grid: bytes) -> None:
        """Write by `codec`, a key of CODECS, in `threads` threads, but no more than cores."""
        self.digest = new_digest(grid)
        self._encode = _encoder(CODECS[codec].tifffile)
        self._workers = min(threads, usable_cores())  # more would only wait for one another

    def write_levels(self, file: IO[bytes], folder: Path, image: Image) -> list[Level]:
        """Write the blocks of `image` and then of its halves, down to LEAST pixels, to `file`.

        Each level's half goes to a temporary file in `folder`, from which the next level is made:
        memory holds no more than a row of windows.
        """
        levels = []
        with ThreadPoolExecutor(self._workers) as pool, ExitStack() as stack:
            while True:
                spill = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                start = file.tell()
                counts = [file.write(block) for block in self._encoded(image, spill, pool)]
                levels.append(Level(image.shape, counts, stored(file, start, counts)))
                if max(image.shape) <= LEAST:
                    return levels
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


def _blocks(image: NDArray[np.uint8]) -> Iterator[list[NDArray[np.uint8]]]:
    """Yield the rows of an image's blocks of BLOCK pixels a side, padded with 0."""
    height, width = image.shape[:2]
    for top in range(0, height, BLOCK):
        row = []
        for left in range(0, width, BLOCK):
            block = image[top : top + BLOCK, left : left + BLOCK]
            missing = [(0, BLOCK - side) for side in block.shape[:2]]
            row.append(np.pad(block, [*missing, (0, 0)][: image.ndim]))
        yield row


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.bands import band_path
    from basemake.build.manifest import file_key
    from basemake.build.records import canonical, recorded
    from basemake.pixels.dn import MaskRule
    from basemake.pixels.fill import is_empty
    from basemake.pixels.raster import grid_known, set_up_libraries
    from basemake.pixels.tags import credit
    from basemake.system.job_log import job_log

    def layer_of(rank: int, dn: dict[str, Any]) -> Layer | None:
        """Return an item's bands by its rank; None if nothing of it is needed."""

        def path(key: str) -> Path:
            return band_path(snakemake.wildcards.tile, file_key(key, rank))

        bands = [path(settings["bands"][colour]) for colour in ("red", "green", "blue")]
        if is_empty(bands[0]):
            return None
        mask = settings["mask"]
        if mask is None:
            return Layer(bands, DnReading(**dn))
        return Layer(bands, DnReading(**dn), path(mask["asset"]), MaskRule.of(mask))

    found: dict[str, Any] = {}
    with job_log(snakemake.log[0]), recorded(snakemake, found) as changed:
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        settings, container = snakemake.params.settings, snakemake.params.container
        tile, filling = Path(snakemake.output.tile), None
        metadata = {
            "ITEM": container["item"],
            "QUARTER": container["quarter"],
            "RECIPE": json.dumps(canonical(settings["recipe"])),
            **credit(container["attribution"]),
        }
        if "fill" in settings:
            metadata["ITEMS"] = json.dumps(container["items"])
            readings = enumerate([settings["dn"], *settings["fill"]], 1)
            layers = [layer_of(rank, dn) for rank, dn in readings]
            filling = Filling(layers, Path(snakemake.output.provenance))
        codec = container["codec"]
        if changed is not None and "codec" not in changed:
            relabel_tile(tile, tile, metadata=metadata, codec=codec)
            logging.info("only the metadata changed: the pixels are kept")
        else:
            enhance_tile(
                [Path(snakemake.input[band]) for band in ("red", "green", "blue")],
                tile,
                Enhancement(
                    settings["epsg"],
                    settings["recipe"],
                    DnReading(**settings["dn"]),
                    codec,
                ),
                metadata=metadata,
                threads=snakemake.threads,
                filling=filling,
            )
        found |= grid_known(tile) | found_in(tile)
        if filling is not None:
            found["items"] = container["items"]
