"""How many bytes bands take: those that a run fetches, and those of their files.

Where a band was fetched before, its record tells its images and the bytes of each block. Else the
images are assumed to be like those of bands that were fetched here, or as REDUCED_SHARE tells.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from basemake.build.bands import (
    GAP_BYTES,
    HEADER_BYTES,
    Known,
    Need,
    area_in_crs,
    band_path,
    cut_of,
)
from basemake.build.manifest import Tile
from basemake.pixels.blocks import Image, numbers_of

PIXEL_SIZE = 10.0  # metres, where items do not give it
BAND_BYTES = 1.47  # bytes a pixel, where items do not give their size: 147 MB a band on average
MASK_BYTES = 0.03  # of a mask per pixel of a band; they have larger pixels, and few values
# ASSUME: until holes were filled here, each item leaves holes in so many of the blocks it has: a
# quarter's mosaic few, single scenes, of which masks hide clouds, many.
HOLED, CLOUDED = 0.1, 0.6
# ASSUME: a reduced image has 0.275 of the bytes of the next finer one, as those of the quarterly
# mosaics (626 px: 0.6 MB, 313 px: 0.15 MB of 147 MB).
REDUCED_SHARE = 0.275
BLOCK, SMALLEST = 1024, 313  # pixels: sides of a block, and of the smallest reduced image at most
FILE_BYTES = 1_000  # of a sparse file besides its blocks
TABLES = 1_500  # bytes before the first block of a file: the header without what is read beyond it


@dataclass(frozen=True)
class BandSize:
    """The size of what a map needs of a band.

    `pixels` are those of the blocks, `image_bytes` their bytes and `file_bytes` those of the file
    that holds them. `fetched` are the bytes that came, or would come, to an empty directory, and
    `missing` those that a run would still fetch, without regard to an interrupted download.
    """

    pixels: float
    image_bytes: float
    file_bytes: float
    fetched: float
    missing: float


@dataclass(frozen=True)
class Seen:
    """What the bands fetched in this directory are like: their `images`, and bytes of each.

    `shares` are bytes of an image per byte of the whole file. Both are empty if there are none.
    """

    images: tuple[Image, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, known: Iterable[Known]) -> "Seen":
        """Return what bands are like that have as many images as the first one."""
        alike: list[Known] = []
        for band in known:
            if band.images and (not alike or len(band.images) == len(alike[0].images)):
                alike.append(band)
        if not alike:
            return cls((), ())
        shares = np.mean([np.array(band.image_bytes) / band.size for band in alike], axis=0)
        return cls(alike[0].all_images, tuple(map(float, shares)))


def size_of_band(
    tile: Tile,
    key: str,
    pixels: float,
    need: Need | None,
    known: Known | None,
    seen: Seen,
    pixel_bytes: float = BAND_BYTES,
) -> BandSize:
    """Return the size of what a map needs of a band: `need`, or None if it comes whole.

    `pixels` are those of the whole tile, of which a band without a size is assumed to have
    `pixel_bytes` each. `known` is what its record keeps of it.
    """
    band, here = tile.bands[key], band_path(tile.name, key).exists()
    size = pixel_bytes * pixels if band.size is None else float(band.size)
    if known is not None and known.identity != band.identity(tile.updated):
        known = None
    geometry = None if need is None else _geometry(tile, known, seen)
    if need is None or geometry is None:
        missing = 0.0 if known is not None and here else size
        return BandSize(pixels, (1 - REDUCED_SHARE) * size, size, size, missing)
    images, transform = geometry
    cut = cut_of(need, images, transform, tile.epsg)
    counts = _counts(cut.level, images, size, known, seen)
    numbers = numbers_of(cut.blocks)
    old = {*numbers_of(known.blocks)} if known and here and known.level == cut.level else set()
    image, held = images[cut.level], float(counts[numbers].sum())
    coarser = range(cut.level + 1, len(images))  # come before it in the file
    start = TABLES + sum(_counts(level, images, size, known, seen).sum() for level in coarser)
    first = min(need.first_bytes, size)
    lacking = [number for number in numbers if number not in old]
    return BandSize(
        image.width * image.height * held / max(1.0, counts.sum()),
        held,
        held + FILE_BYTES,
        _fetched(counts, numbers, start, first),
        0.0 if known and here and not lacking else _fetched(counts, lacking, start, first),
    )


def size_of_filling(first: BandSize, share: float, known: Known | None, here: bool) -> BandSize:
    """Return the size of what fills holes, of a band of which the first item's has size `first`.

    `share` is the part of it that is assumed to cover holes, unless it is `known`; `here` is
    whether its file is.
    """
    if known is None:
        fetched = share * first.fetched
        return BandSize(0.0, 0.0, share * first.file_bytes, fetched, fetched)
    held = held_bytes(known)
    fetched = held + HEADER_BYTES * bool(known.size)
    return BandSize(0.0, 0.0, held + FILE_BYTES, fetched, 0.0 if here else fetched)


def held_bytes(known: Known) -> float:
    """Return the bytes of the blocks that a band's file holds."""
    if not known.images:
        return float(known.size)
    return float(sum(known.counts[number] for number in numbers_of(known.blocks)))


def _geometry(
    tile: Tile, known: Known | None, seen: Seen
) -> tuple[tuple[Image, ...], tuple[float, ...]] | None:
    """Return a band's images and geotransform, known or assumed; None if it comes whole."""
    if known is not None:
        return (known.all_images, tuple(known.transform)) if known.images else None
    extent = area_in_crs(tile.geometry, tile.epsg)
    if extent is None:
        return None
    west, south, east, north = extent.bounds
    gsd = tile.gsd or PIXEL_SIZE
    width, height = max(1, round((east - west) / gsd)), max(1, round((north - south) / gsd))
    images = seen.images
    if not images or not 0.98 < width / images[0].width < 1.02:
        images = _assumed_images(width, height)
    transform = (west, gsd, 0.0, north, 0.0, -gsd)
    return (images, transform) if len(images) > 1 else None


def _assumed_images(width: int, height: int) -> tuple[Image, ...]:
    """Return the images of a band of `width` x `height` pixels, if it is like most."""
    images = [Image(width, height, BLOCK, BLOCK)]
    while max(width, height) > SMALLEST:
        width, height = math.ceil(width / 2), math.ceil(height / 2)
        images.append(Image(width, height, BLOCK, BLOCK))
    return tuple(images)


def _counts(
    level: int, images: tuple[Image, ...], size: float, known: Known | None, seen: Seen
) -> NDArray:
    """Return the bytes of each block of an image, known or in proportion to their pixels."""
    if known is not None and level == known.level:
        return np.array(known.counts, float)
    if known is not None:
        total = float(known.image_bytes[level])
    elif len(seen.shares) == len(images):
        total = seen.shares[level] * size
    else:
        shares = REDUCED_SHARE ** np.arange(len(images))
        total = size * float(shares[level] / shares.sum())
    across, down = map(np.diff, images[level].edges)
    pixels = np.outer(down, across).ravel()
    return total * pixels / pixels.sum()


def _fetched(counts: NDArray, numbers: list[int], start: float, first: float) -> float:
    """Return the bytes that come for blocks: header, blocks, and small gaps between them.

    `start` is where the blocks of their image begin in the file, of which the `first` bytes come in
    any case.
    """
    ends = start + np.cumsum(counts)
    begins = ends - counts
    came, here = 0.0, first  # all before `here` has come
    for number in numbers:
        if begins[number] - here > GAP_BYTES or number == numbers[0]:
            here = max(here, begins[number])
        came += max(0.0, ends[number] - here)
        here = max(here, ends[number])
    return first + came
