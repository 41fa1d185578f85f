"""Images of a tiled TIFF, and numbers of their blocks, which are counted row by row from 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Image:
    """One image of a tiled TIFF: the full one or a reduced one.

    Sides are in pixels. `offsets` and `counts` are the first byte and the bytes of each block, row
    by row; a block of 0 bytes is not in the file.
    """

    width: int
    height: int
    block_width: int
    block_height: int
    offsets: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def across(self) -> int:
        """The blocks in a row."""
        return -(-self.width // self.block_width)

    @property
    def down(self) -> int:
        """The rows of blocks."""
        return -(-self.height // self.block_height)

    @property
    def edges(self) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        """The columns and the rows at which blocks begin, and at which the last ones end."""
        return (
            np.minimum(np.arange(self.across + 1) * self.block_width, self.width),
            np.minimum(np.arange(self.down + 1) * self.block_height, self.height),
        )


def image_of(sides: Sequence[int]) -> Image:
    """Return an image by its width and height, and those of its blocks."""
    width, height, block_width, block_height = sides
    return Image(width, height, block_width, block_height)


def transform_of(
    images: Sequence[Image], transform: Sequence[float], level: int
) -> tuple[float, ...]:
    """Return GDAL's geotransform of an image: each covers the extent of the full one.

    `transform` is that of the full one.
    """
    full, image = images[0], images[level]
    left, width, shear, top, tilt, height = transform
    wider, higher = full.width / image.width, full.height / image.height
    return left, width * wider, shear * higher, top, tilt * wider, height * higher


def runs_of(numbers: Iterable[int]) -> list[list[int]]:
    """Return ascending numbers as runs [first, last]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs


def numbers_of(runs: Iterable[Sequence[int]]) -> list[int]:
    """Return the numbers in runs [first, last]."""
    return [number for first, last in runs for number in range(first, last + 1)]
