"""How colours spread: histograms, and shares of pixels whose shadows or highlights are clipped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from basemake.pixels.raster import RGBA


@dataclass(frozen=True)
class Figures:
    """The figures of a picture: those of its opaque pixels.

    `histogram` is (3, 256), the pixels of each level of red, green and blue. `shadows` and
    `highlights` are the shares, 0 to 1, of pixels with a band at 0 and at 255.
    """

    histogram: NDArray[np.int64]
    shadows: float
    highlights: float

    @property
    def heights(self) -> NDArray[np.float64]:
        """The histogram as heights 0 to 1: square roots, so that few pixels are seen, too.

        The first and last level do not count for the scale: clipped pixels may be most of all.
        """
        heights = np.sqrt(self.histogram)
        return np.minimum(1, heights / max(1, heights[:, 1:-1].max()))


def figures_of(rgba: RGBA) -> Figures:
    """Return the figures of uint8 RGBA (height, width, 4)."""
    colours = rgba[rgba[..., 3] > 0][:, :3]
    count = max(1, len(colours))
    return Figures(
        np.stack([np.bincount(band, minlength=256) for band in colours.T]),
        float((colours == 0).any(axis=1).sum() / count),
        float((colours == 255).any(axis=1).sum() / count),
    )


def share_text(share: float) -> str:
    """Return a share of 0 to 1 as a percentage with one decimal; none that is above 0 reads 0.0."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"
