"""Whole cloud-optimized GeoTIFFs, written from blocks that are already encoded.

In such a file the directories of all its images come first, the full one's before those of ever
coarser ones; then the blocks, those of the coarsest image before those of finer ones. So whoever
reads it over a network gets all its tables, and the small images, with the first bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile

from basemake.pixels.codecs import BLOCK
from basemake.pixels.cog import BIG
from basemake.pixels.tags import Tag

SOFTWARE = "basemake"
OFFSETS = 324  # the tag that holds where an image's blocks are


@dataclass(frozen=True)
class Level:
    """An image of uint8: its `shape` (height, width), and its blocks in order, row by row.

    `counts` are the bytes of each block as it is encoded; `blocks` yields them.
    """

    shape: tuple[int, int]
    counts: Sequence[int]
    blocks: Iterable[bytes]


def write_cog(
    path: Path, levels: Sequence[Level], tags: Sequence[Tag], samples: int, **encoding: Any
) -> None:
    """Write the full image and its ever coarser ones, of BLOCK pixels a block, to `path`.

    `tags` are those of the full one, `samples` the bands, and `encoding` tifffile's arguments
    that tell how blocks are encoded and what they show.
    """
    counts = [np.array(level.counts, np.int64) for level in levels]
    with tifffile.TiffWriter(path, bigtiff=sum(count.sum() for count in counts) > BIG) as tif:
        for number, level in enumerate(levels):
            tif.write(
                # Only lengths: tifffile would put each image's blocks after its directory.
                ((b"", int(count)) for count in level.counts),
                shape=(*level.shape, samples)[: 2 + (samples > 1)],
                dtype=np.uint8,
                tile=(BLOCK, BLOCK),
                subfiletype=min(number, 1),  # 1: a reduced-resolution image
                software=SOFTWARE,
                metadata=None,
                extratags=() if number else tags,
                **encoding,
            )
    end = path.stat().st_size
    with tifffile.TiffFile(path, mode="r+") as tif:
        pages = list(tif.pages)
        for page, count in zip(reversed(pages), reversed(counts), strict=True):
            page.tags[OFFSETS].overwrite([int(at) for at in end + np.cumsum(count) - count])
            end += int(count.sum())
    with path.open("ab") as file:
        for level in reversed(levels):
            file.writelines(level.blocks)


def stored(file: IO[bytes], start: int, counts: Iterable[int]) -> Iterator[bytes]:
    """Yield blocks that are stored in `file`, one after another from `start` on."""
    file.seek(start)
    for count in counts:
        yield file.read(count)
