"""Measuring lossless codecs on blocks of enhanced tiles: bytes, CPU seconds and exactness."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np

from basemake.errors import TileError
from basemake.pixels.codecs import BLOCK
from basemake.pixels.raster import RGBA, open_geotiff

MOST_BLOCKS = 24
LEAST_VALID = 0.9  # share of a block's pixels: transparent ones cost nothing in any codec
# Method and quality, which is a second effort where WebP is lossless.
WEBP = ((0, 0), (1, 20), (2, 25), (3, 30), (4, 75), (5, 75), (6, 75), (4, 100))
AS_GDAL = 4, 100  # what GDAL's GTiff driver uses always
HEADINGS = ("bytes/px", "encode Mpx/s", "decode Mpx/s", "MB a tile", "encode s", "decode s")


Coder = Callable[..., bytes | bytearray]


class Profile(NamedTuple):
    """A codec at one effort; `used_as` is the value of tile_codec that selects it, or empty."""

    name: str
    encode: Coder
    decode: Callable[[bytes | bytearray, tuple[int, ...]], RGBA]
    used_as: str = ""


class Outcome(NamedTuple):
    """The bytes and CPU seconds of a profile for `pixels` pixels, and whether it was lossless."""

    profile: Profile
    pixels: int
    size: int
    encoding: float
    decoding: float
    exact: bool

    def figures(self, tile_pixels: int) -> list[float]:
        """Return the figures under HEADINGS for tiles of `tile_pixels`, on one core."""
        times = max(self.encoding, 1e-9), max(self.decoding, 1e-9)
        rates = [self.pixels / 1e6 / seconds for seconds in times]
        share = tile_pixels / self.pixels
        return [
            self.size / self.pixels,
            *rates,
            self.size * share / 1e6,
            *(seconds * share for seconds in times),
        ]


def profiles() -> list[Profile]:
    """Return the profiles to compare: codec by codec, from the fastest effort to the slowest."""
    found = [
        Profile(
            f"WebP method {method}, quality {quality}"
            + (", as GDAL" if (method, quality) == AS_GDAL else ""),
            partial(imagecodecs.webp_encode, level=quality, lossless=True, method=method),
            lambda data, shape: imagecodecs.webp_decode(data, hasalpha=True),
            "webp" if method == 0 else "",
        )
        for method, quality in WEBP
    ]
    found += [
        Profile(
            f"JPEG XL effort {effort}",
            partial(imagecodecs.jpegxl_encode, effort=effort, lossless=True, numthreads=1),
            lambda data, shape: imagecodecs.jpegxl_decode(data, numthreads=1),
            "jxl" if effort == 1 else "",
        )
        for effort in (1, 3, 5, 7)
    ]
    for name, encode, decode, levels, own in (
        ("ZSTD", imagecodecs.zstd_encode, imagecodecs.zstd_decode, (1, 9, 19), 9),
        ("DEFLATE", imagecodecs.deflate_encode, imagecodecs.deflate_decode, (6, 9), 6),
    ):
        found += [
            Profile(
                f"{name} level {level}, predictor",
                partial(_predicted, encode, level),
                partial(_unpredicted, decode),
                name.lower() if level == own else "",
            )
            for level in levels
        ]
    return found


def _predicted(encode: Coder, level: int, block: RGBA) -> bytes | bytearray:
    """Encode each pixel's difference from its left neighbour (TIFF's predictor 2)."""
    return encode(imagecodecs.delta_encode(block, axis=-2), level)


def _unpredicted(decode: Coder, data: bytes | bytearray, shape: tuple[int, ...]) -> RGBA:
    """Reverse `_predicted`."""
    plain = np.frombuffer(decode(data, out=math.prod(shape)), np.uint8)
    return imagecodecs.delta_decode(plain.reshape(shape), axis=-2)


def measure(compared: list[Profile], blocks: list[RGBA], seconds: float) -> list[Outcome]:
    """Return the outcome of each profile on the same blocks: as many as fit in `seconds` of CPU.

    The first block is measured in any case.
    """
    outcomes = [Outcome(profile, 0, 0, 0.0, 0.0, True) for profile in compared]
    start = time.process_time()
    for done, block in enumerate(blocks, 1):
        outcomes = [_add(outcome, block) for outcome in outcomes]
        spent = time.process_time() - start
        if spent / done * (done + 1) > seconds:
            break
    return outcomes


def _add(outcome: Outcome, block: RGBA) -> Outcome:
    """Return the outcome with one more block encoded and decoded."""
    start = time.process_time()
    data = outcome.profile.encode(block)
    encoded = time.process_time()
    back = outcome.profile.decode(data, block.shape)
    decoded = time.process_time()
    return outcome._replace(
        pixels=outcome.pixels + block.shape[0] * block.shape[1],
        size=outcome.size + len(data),
        encoding=outcome.encoding + encoded - start,
        decoding=outcome.decoding + decoded - encoded,
        exact=outcome.exact and np.array_equal(back, block),
    )


def sample(tiles: list[Path]) -> tuple[list[RGBA], int]:
    """Return blocks spread over enhanced tiles, the same each time, and the mean pixels of a tile.

    Blocks are uint8 RGBA of up to BLOCK x BLOCK pixels, most of them valid. Raises TileError if
    there is no such block.
    """
    places, pixels = [], 0
    for path in tiles:
        with open_geotiff(path) as dataset:
            width, height = dataset.RasterXSize, dataset.RasterYSize
        pixels += width * height
        side = min(BLOCK, width, height)
        places += [
            (path, left, top, side)
            for top in range(0, height - side + 1, side)
            for left in range(0, width - side + 1, side)
        ]
    blocks: list[RGBA] = []
    for number in np.random.default_rng(0).permutation(len(places)):
        path, left, top, side = places[number]
        with open_geotiff(path) as dataset:
            block = np.moveaxis(dataset.ReadAsArray(left, top, side, side), 0, -1)
        if (block[..., 3] > 0).mean() >= LEAST_VALID:
            blocks.append(np.ascontiguousarray(block))
        if len(blocks) == MOST_BLOCKS:
            break
    if not blocks:
        names = ", ".join(map(str, tiles))
        raise TileError(f"no block of {names} has enough valid pixels to compare codecs on.")
    return blocks, pixels // len(tiles)
