"""Cloud-optimized GeoTIFFs in part: their header, and sparse GeoTIFFs of some of their blocks.

A cloud-optimized GeoTIFF begins with the directories of all its images, the full one first and
then ever coarser ones, with the place and length of each block. So the blocks that a map needs can
be fetched by themselves, and written, as they are encoded, to a GeoTIFF that has no others.
"""

import io
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident

import numpy as np
import tifffile
from osgeo import gdal

from basemake.pixels.blocks import Image, transform_of
from basemake.pixels.raster import geotiff
from basemake.pixels.tags import NODATA_TAG, geo_tags, metadata_tags

LARGEST_SIDE = 50_000  # pixels; a tile has 10 008, a scene at most 11 000
LARGEST_BLOCK = 1 << 27  # pixels; a whole scene in one block fits
# Compressions whose blocks can be decoded without the tables of their file: none, LZW, DEFLATE
# under both of its numbers, PackBits, LZMA, Zstandard.
COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)
REDUCED, MASK = 1, 4  # bits of NewSubfileType: the image is a reduced one, or a mask of another
LARGEST_COORDINATE = 1e9  # metres or degrees, and of a pixel's sides; NaN is not below it
MOST_IMAGES = 64  # of a file, with masks
BIG = 2**32 - 2**25  # bytes of blocks from which on a file is a BigTIFF


class Unsuitable(Exception):
    """A file of which parts cannot be taken, with the reason."""


class Incomplete(Unsuitable):
    """The beginning of a file that may hold more of its header than what was read."""


@dataclass(frozen=True)
class Header:
    """What the beginning of a cloud-optimized GeoTIFF of one band tells.

    `images` are the full one and the reduced ones, from fine to coarse. `transform` is GDAL's
    geotransform of the full one, and `srs` the CRS as WKT. `encoding` are tifffile's arguments for
    blocks that are encoded as the file's.
    """

    images: tuple[Image, ...]
    transform: tuple[float, ...]
    srs: str
    dtype: str
    byteorder: str
    encoding: dict[str, int]
    nodata: str | None

    def transform_of(self, level: int) -> tuple[float, ...]:
        """Return the geotransform of an image."""
        return transform_of(self.images, self.transform, level)


def read_header(beginning: bytes, size: int, reduced: bool = True) -> Header:
    """Return the header of a GeoTIFF of `size` bytes, of which `beginning` are the first.

    Raises Unsuitable if it is not that of a tiled GeoTIFF of one band and, if `reduced`, reduced
    images, and Incomplete if they may not hold the whole header. Whatever it claims is checked
    before it is believed.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # exceptions say the same
    try:
        with tifffile.TiffFile(io.BytesIO(beginning)) as tif:
            every = list(itertools.islice(iter(tif.pages), MOST_IMAGES + 1))  # they may be a loop
            if len(every) > MOST_IMAGES:
                raise Unsuitable("it claims to have too many images")
            pages = [every[0], *(page for page in every[1:] if page.subfiletype & REDUCED)]
            pages = [page for page in pages if not page.subfiletype & MASK]
            images = tuple(_image(page, size) for page in pages)
            full = pages[0]
            nodata = full.tags.get(NODATA_TAG)
            header = Header(
                images,
                *_georeference(beginning),
                str(np.dtype(full.dtype)),
                tif.byteorder,
                {"compression": int(full.compression), "predictor": int(full.predictor)},
                nodata and str(nodata.value).strip("\0 "),
            )
    except Unsuitable:
        raise
    except Exception:  # tifffile raises anything for what is no TIFF
        kind = Incomplete if beginning[:2] in (b"II", b"MM") else Unsuitable
        raise kind("it does not begin with the tables of a GeoTIFF") from None
    _check(header, pages, reduced)
    return header


def _image(page: tifffile.TiffPage, size: int) -> Image:
    """Return an image of a file of `size` bytes; Unsuitable if its directory cannot be right."""
    if not page.is_tiled:
        raise Unsuitable("it is not tiled")
    image = Image(page.imagewidth, page.imagelength, page.tilewidth, page.tilelength)
    sides = image.width, image.height, image.block_width, image.block_height
    if not 0 < min(sides) <= max(sides) <= LARGEST_SIDE or image.block_width % 16:
        raise Unsuitable("it claims an impossible size")
    if image.block_height % 16:
        raise Unsuitable("its blocks have sides that are no multiples of 16")
    for tag in (page.tags.get(324), page.tags.get(325)):  # of offsets and byte counts
        if tag is None:
            raise Incomplete("its tables are not at its beginning")
        if tag.count != image.across * image.down or page.samplesperpixel != 1:
            raise Unsuitable("its tables are not those of one band")
    offsets, counts = tuple(page.dataoffsets), tuple(page.databytecounts)
    # A block of noise can be a little larger than its pixels are.
    most = 2 * image.block_width * image.block_height * page.bitspersample // 8 + 65_536
    for offset, count in zip(offsets, counts, strict=True):
        if count and not (offset >= 8 and 0 < count <= most and offset + count <= size):
            raise Unsuitable("its tables point outside of it")
    return Image(*sides, offsets, counts)


def _georeference(beginning: bytes) -> tuple[tuple[float, ...], str]:
    """Return geotransform and CRS, as WKT, of the file that begins with these bytes."""
    name = f"/vsimem/{get_ident()}.tif"
    gdal.FileFromMemBuffer(name, beginning)
    try:
        dataset = geotiff(Path(name))
        srs = dataset.GetSpatialRef()
        return tuple(dataset.GetGeoTransform()), srs.ExportToWkt() if srs else ""
    except RuntimeError:
        raise Unsuitable("GDAL cannot read its header") from None
    finally:
        gdal.Unlink(name)


def _check(header: Header, pages: list[tifffile.TiffPage], need_reduced: bool) -> None:
    """Raise Unsuitable unless the images are one picture, ever coarser and encoded alike."""
    full, *reduced = pages
    kinds = {(page.compression, page.predictor, page.dtype, page.fillorder) for page in pages}
    if need_reduced and not reduced:
        raise Unsuitable("it has no reduced images")
    if len(kinds) > 1 or full.compression not in COMPRESSIONS or full.fillorder != 1:
        raise Unsuitable("its blocks cannot be decoded by themselves")
    pixel = [abs(header.transform[number]) for number in (1, 5)]
    sane = all(abs(number) < LARGEST_COORDINATE for number in header.transform)
    if not sane or min(pixel) < 1e-9:
        raise Unsuitable("its place is not one that can be")
    if full.dtype is None or full.bitspersample not in (8, 16):
        raise Unsuitable("its pixels do not have 8 or 16 bits")
    first = header.images[0]
    for finer, image in zip(header.images, header.images[1:], strict=False):
        # The sides of a reduced image are rounded, at each of several halvings.
        stretch = (first.width / image.width) / (first.height / image.height)
        if not image.width < finer.width or not 0.9 < stretch < 1.1:
            raise Unsuitable("its other images are not its reduced ones")


def write_blocks(
    path: Path,
    header: Header,
    level: int,
    block: Callable[[int], bytes],
    *,
    nodata: str | None,
    metadata: dict[str, str],
) -> None:
    """Write a GeoTIFF with blocks of the image `level` of `header`, as they are encoded.

    `block` returns the bytes of a block by its number, none for one that is to be missing: it reads
    as `nodata`. `metadata` are items of GDAL's.
    """
    image = header.images[level]

    def blocks() -> Iterator[bytes]:
        for number in range(image.across * image.down):
            yield block(number)

    texts = metadata_tags(metadata)
    if nodata is not None:
        text = nodata.encode() + b"\0"
        texts.append((NODATA_TAG, 2, len(text), text, True))
    with tifffile.TiffWriter(
        path, byteorder=header.byteorder, bigtiff=sum(image.counts) > BIG
    ) as tif:
        tif.write(
            blocks(),
            shape=(image.height, image.width),
            dtype=header.dtype,
            tile=(image.block_height, image.block_width),
            photometric="minisblack",
            metadata=None,
            software="basemake",
            extratags=[*geo_tags(header.transform_of(level), header.srs), *texts],
            **header.encoding,
        )
