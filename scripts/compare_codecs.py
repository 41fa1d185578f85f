"""Compare codecs on one's own enhanced tiles: bytes, seconds to encode and decode, exactness."""

import csv
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np

from basemake.errors import TileError
from basemake.measure.chart import Row, draw_bars
from basemake.pixels.raster import RGBA, open_geotiff

BLOCK = 512  # pixels a side, as enhanced tiles have
MOST_BLOCKS = 24
LEAST_VALID = 0.9  # share of a block: transparent pixels cost nothing in any codec
# Method and quality, which is a second effort where WebP is lossless.
WEBP = ((0, 0), (1, 20), (2, 25), (3, 30), (4, 75), (5, 75), (6, 75), (4, 100))
AS_GDAL = 4, 100  # the only one that GDAL's GTiff driver knows
HEADINGS = ("bytes/px", "encode Mpx/s", "decode Mpx/s", "MB a tile", "encode s", "decode s")


Coder = Callable[..., bytes | bytearray]


class Profile(NamedTuple):
    """A codec at one effort; `used_as` is the value of tile_codec that takes it, if one does."""

    name: str
    encode: Coder
    decode: Callable[[bytes | bytearray, tuple[int, ...]], RGBA]
    used_as: str = ""


class Outcome(NamedTuple):
    """What a profile took for `pixels` pixels: bytes, CPU seconds of one core; all came back."""

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


def compare_codecs(tiles: list[Path], folder: Path, seconds: float) -> str:
    """Return a table for people of all profiles; write it to `folder` as codecs.tsv and .png.

    Blocks of `tiles` of which most is valid are encoded and decoded by every profile in turn until
    `seconds` of CPU are spent. Raises TileError if there is no such block.
    """
    blocks, tile_pixels = _sample(tiles)
    outcomes = measure(profiles(), blocks, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(outcome, outcome.figures(tile_pixels)) for outcome in outcomes]
    with (folder / "codecs.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["codec", *HEADINGS, "exact", "tile_codec"])
        for outcome, figures in rows:
            numbers = [f"{figure:.4g}" for figure in figures]
            exact = "yes" if outcome.exact else "no"
            writer.writerow([outcome.profile.name, *numbers, exact, outcome.profile.used_as])
    sampled = f"{outcomes[0].pixels / 1e6:.1f} Mpx of {len(tiles)} enhanced tile(s)"
    title = f"Lossless codecs on {sampled}, one core"
    chart = [Row(_label(o.profile), list(f[3:]), bool(o.profile.used_as)) for o, f in rows]
    draw_bars(folder / "codecs.png", title, list(HEADINGS[3:]), {"a whole tile": chart})
    logging.info("%s; %s", title, ", ".join(map(str, tiles)))
    side = round(tile_pixels**0.5)
    return (
        f"{title}; a tile of {side} x {side} px\n{_table(rows)}\n"
        f"{folder}/codecs.tsv, {folder}/codecs.png: written"
    )


def profiles() -> list[Profile]:
    """Return all that is compared: codec by codec, from the fastest effort to the slowest."""
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
    """Coder what each pixel differs from its left neighbour, as TIFF's predictor 2 does."""
    return encode(imagecodecs.delta_encode(block, axis=-2), level)


def _unpredicted(decode: Coder, data: bytes | bytearray, shape: tuple[int, ...]) -> RGBA:
    plain = np.frombuffer(decode(data, out=math.prod(shape)), np.uint8)
    return imagecodecs.delta_decode(plain.reshape(shape), axis=-2)


def measure(compared: list[Profile], blocks: list[RGBA], seconds: float) -> list[Outcome]:
    """Return what each profile takes; all have the same blocks, as many as `seconds` allow."""
    outcomes = [Outcome(profile, 0, 0, 0.0, 0.0, True) for profile in compared]
    start = time.process_time()
    for done, block in enumerate(blocks, 1):
        outcomes = [_add(outcome, block) for outcome in outcomes]
        spent = time.process_time() - start
        if spent / done * (done + 1) > seconds:
            break
    return outcomes


def _add(outcome: Outcome, block: RGBA) -> Outcome:
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


def _sample(tiles: list[Path]) -> tuple[list[RGBA], int]:
    """Return blocks from all over the tiles, the same each time, and a tile's size in pixels."""
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


def _label(profile: Profile) -> str:
    return profile.name + (f"  ({profile.used_as})" if profile.used_as else "")


def _table(rows: list[tuple[Outcome, list[float]]]) -> str:
    """Return the outcomes as lines of text."""
    lines = [f"{'codec':<36}" + "".join(f"{heading:>14}" for heading in HEADINGS) + "  exact"]
    for outcome, figures in rows:
        numbers = "".join(
            f"{figure:>14.{digits}f}"
            for figure, digits in zip(figures, (3, 1, 1, 1, 1, 1), strict=True)
        )
        lines.append(f"{_label(outcome.profile):<36}{numbers}  {'yes' if outcome.exact else 'NO'}")
    return "\n".join([*lines, "In brackets: the value of tile_codec that stands for it."])


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        table = compare_codecs(
            [Path(path) for path in snakemake.input],
            Path(snakemake.params.folder),
            snakemake.params.seconds,
        )
        print(table, flush=True)
