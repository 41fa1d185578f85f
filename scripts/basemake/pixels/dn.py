"""How the digital numbers (DN) of bands, and of masks of clouds and the like, are read.

A module of its own without OpenCV or GDAL: Snakemake's main process imports it, and may have
neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class DnReading:
    """Reflectance is DN * scale + offset; `nodata` is the DN of invalid pixels, None if none is."""

    scale: float
    offset: float
    nodata: float | None


@dataclass(frozen=True)
class MaskRule:
    """Which values of a mask hide a pixel: the classes `invalid`, or those with one of `bits`.

    The first of them stands for pixels that were not observed. What the others hide is grown by
    `grow` metres.
    """

    invalid: Sequence[int] = ()
    bits: Sequence[int] = ()
    grow: float = 0.0

    @classmethod
    def of(cls, mask: dict[str, Any]) -> "MaskRule":
        """Return the rule of a source's checked `mask`."""
        return cls(mask.get("invalid", ()), mask.get("bits", ()), mask.get("grow", 0.0))

    @property
    def unobserved(self) -> int:
        """A value of pixels that were not observed: what is written where none is fetched."""
        return self.invalid[0] if self.invalid else 1 << self.bits[0]

    def hides(self, values: NDArray) -> tuple[Bools, Bools]:
        """Return where values of a mask hide a pixel, and where they do so and are to be grown."""
        unsigned = values.view(f"u{values.itemsize}")
        every = np.arange(1 << 8 * values.itemsize)
        hiding = [every == value for value in self.invalid]
        hiding += [every >> bit & 1 > 0 for bit in self.bits]
        growing = np.logical_or.reduce(hiding[1:] or [every < 0]) & ~hiding[0]
        return (growing | hiding[0])[unsigned], growing[unsigned]
