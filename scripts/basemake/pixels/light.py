"""Linear light: what images are halved in, and the sRGB curve (IEC 61966-2-1) to and from it.

The eye mixes the light of what is too far away to tell apart. The mean of encoded colours is darker
than that, the more so the greater their contrast.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from basemake.pixels.raster import RGBA

# Linear-light RGBA, uint16 (height, width, 4), 65535 for 1: red, green and blue are multiplied by
# alpha. Halving in 8 bits would brighten by 0.1 levels each time: the mean of two neighbouring
# levels in linear light is a little above their midpoint, and so rounds to the upper one.
Light = NDArray[np.uint16]
FULL = 65535
FAINT = FULL // 510  # the greatest alpha that is 0 in 8 bits
ROWS = 64  # an even number

Floats = NDArray[np.floating]


def srgb(linear: Floats) -> Floats:
    """Encode linear values, clipped to 0..1, by the sRGB transfer curve."""
    c: Any = np.clip(linear, 0, 1)
    return np.where(c <= 0.0031308, 12.92 * c, 1.055 * c**0.41666666666 - 0.055)


def linear_light(encoded: Floats) -> Floats:
    """Decode values in 0..1 that are encoded by the sRGB transfer curve."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def to_light(rgba: RGBA) -> Light:
    """Return the light of uint8 RGBA (height, width, 4); to_colours returns the same RGBA of it."""
    light = cv2.LUT(rgba, _curves()[0])  # right where alpha is 255, and 0 where all is 0
    for row, column, alpha in _partly(rgba):
        light[row, column, :3] = (light[row, column, :3] * alpha + 127) // 255
        light[row, column, 3:] = alpha * (FULL // 255)
    return light


def to_colours(light: Light) -> RGBA:
    """Return the uint8 RGBA (height, width, 4) nearest to `light`; RGB is 0 where alpha is 0."""
    encode = _curves()[1]
    rgba = cv2.LUT(light, encode)
    for row, column, alpha in _partly(light):
        colours = (light[row, column, :3] * np.uint32(FULL) + alpha // 2) // alpha
        rgba[row, column, :3] = encode[np.minimum(colours, FULL)] * (alpha > FAINT)
        rgba[row, column, 3:] = (alpha * 255 + FULL // 2) // FULL
    return rgba


def halve(light: Light) -> Light:
    """Return an image of half the size: each pixel is the mean of 2x2, rounded half up.

    Odd sides are rounded up, and their last row or column is repeated.
    """
    height, width = light.shape[:2]
    if height % 2 or width % 2:
        light = cv2.copyMakeBorder(light, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return cv2.resize(light, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def halve_colours(rgba: RGBA) -> Light:
    """Return halve(to_light(rgba)), made a few rows at a time, which stay in the CPU's cache."""
    return np.concatenate(
        [halve(to_light(rgba[top : top + ROWS])) for top in range(0, len(rgba), ROWS)]
    )


def _partly(image: NDArray) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """Yield rows, columns and alphas, (n, 1), of pixels neither opaque nor transparent, if any.

    They are few: only along edges.
    """
    alpha = cv2.extractChannel(image, 3)
    partly = cv2.inRange(alpha, 1, int(np.iinfo(image.dtype).max) - 1)
    if cv2.countNonZero(partly):
        row, column = np.nonzero(partly)
        yield row, column, alpha[row, column, np.newaxis].astype(np.uint32)


@cache
def _curves() -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return the light of each encoded value of 8 bits, and the encoded value of each light."""
    light = np.rint(FULL * linear_light(np.linspace(0, 1, 256)))
    encoded = np.rint(255 * srgb(np.linspace(0, 1, FULL + 1)))
    return light.astype(np.uint16), encoded.astype(np.uint8)
