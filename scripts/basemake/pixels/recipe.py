"""Recipes: ordered, named steps from reflectance to 8-bit colour, compiled to tables.

Arrays are bands first, (3, ...) in the order red, green, blue. A step is either *per band*, a pure
function of one value, or it *mixes* the bands of a pixel. A digital number (DN) is one of at most
65 536 values, so all per-band steps before the first mixing step are compiled to one table over DN;
those between two mixing steps, or after the last, to a table over 0..1 in 65 536 steps.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from basemake.pixels.dn import DnReading
from basemake.pixels.light import Floats, linear_light, srgb

BANDS = ("red", "green", "blue")
TABLE_SIZE = 65536
STRIP_PIXELS = 1 << 16  # coloured at a time: the arrays of mixing steps then fit in the CPU cache


def gain(x: Floats, factor: float) -> Floats:
    """Multiply by `factor`."""
    return x * factor


def haze(x: Floats, amount: float) -> Floats:
    """Subtract `amount`, the light that haze adds (dark-object subtraction, Chavez 1988)."""
    return x - amount


def levels(x: Floats, black: float, white: float) -> Floats:
    """Stretch black..white to 0..1; not clipped."""
    return (x - black) / (white - black)


def power(x: Floats, exponent: float) -> Floats:
    """x^exponent of values clipped to 0..1."""
    return _clip01(x) ** exponent


def gamma(x: Floats, gamma: float) -> Floats:
    """x^(1/gamma) of values clipped to 0..1 (rio-color's `gamma`)."""
    return _clip01(x) ** (1 / gamma)


def sigmoidal(x: Floats, contrast: float, bias: float) -> Floats:
    """Sigmoidal contrast about `bias` of values clipped to 0..1 (rio-color, after ImageMagick)."""

    def sigmoid(v: Any) -> Any:
        return 1 / (1 + np.exp(contrast * (bias - v)))

    return (sigmoid(_clip01(x)) - sigmoid(0)) / (sigmoid(1) - sigmoid(0))


def highlight_compression(x: Floats, maximum: float, midpoint: float) -> Floats:
    """Compress reflectance 0..maximum to 0..1, with 1/2 near `midpoint` (Sentinel Hub's `adj`)."""
    a = _clip01(x / maximum)
    middle = midpoint / maximum
    return a * (a * middle - 1) / (a * (2 * middle - 1) - middle)


def offset_gamma(x: Floats, gamma: float, offset: float) -> Floats:
    """(x + offset)^gamma of values clipped to 0..1, scaled to 0..1 (Sentinel Hub's `adjGamma`)."""
    low = offset**gamma
    return ((_clip01(x) + offset) ** gamma - low) / ((1 + offset) ** gamma - low)


def saturation(rgb: Floats, factor: float) -> Floats:
    """Scale the distance of each band from the bands' mean by `factor`; clipped to 0..1."""
    scaled = rgb * factor
    scaled += rgb.mean(axis=0) * (1 - factor)
    return np.clip(scaled, 0, 1, out=scaled)


def lch_saturation(rgb: Floats, factor: float) -> Floats:
    """Scale chroma in CIE LCH(ab), D65, of sRGB values by `factor`; clipped to 0..1."""
    fx, fy, fz = _lab_curve(_mix(XYZ_FROM_RGB, linear_light(rgb)))
    # Chroma is the length of (a, b) = (500 (fx - fy), 200 (fy - fz)): scaling it scales both.
    scaled = np.stack([fy + (fx - fy) * factor, fy, fy + (fz - fy) * factor])
    return srgb(_mix(RGB_FROM_XYZ, _lab_curve_inverse(scaled))).astype(rgb.dtype)


PER_BAND: dict[str, Callable[..., Floats]] = {
    "gain": gain,
    "haze": haze,
    "levels": levels,
    "power": power,
    "gamma": gamma,
    "sigmoidal": sigmoidal,
    "highlight_compression": highlight_compression,
    "offset_gamma": offset_gamma,
    "srgb": srgb,
}
WHITE_BALANCE = "white_balance"  # a gain of each band by its own factor
MIXING: dict[str, Callable[..., Floats]] = {
    "saturation": saturation,
    "lch_saturation": lch_saturation,
}


def apply_steps(steps: list[dict], rgb: Floats) -> Floats:
    """Return `steps` applied to reflectance (3, ...), without tables: not rounded, nor clipped."""
    groups, mixes = _split(steps)
    for number, group in enumerate(groups):
        rgb = mixes[number - 1](_clip01(rgb)) if number else rgb
        rgb = np.stack(list(map(_per_band, _steps_of_bands(group), rgb)))
    return rgb


class CompiledRecipe:
    """A recipe compiled to tables, for bands of one data type and DN reading.

    Calling it returns uint8 RGBA (height, width, 4) of DN (3, height, width) of the given dtype:
    alpha is 255 where all three bands are valid, else 0, with RGB 0.
    """

    def __init__(self, steps: list[dict], reading: DnReading, dtype: np.dtype) -> None:
        """Compile `steps` (a recipe's `steps`) for bands of `dtype` that are read by `reading`.

        `dtype` is an integer type of at most 16 bits. `tables` are (3, values of the index): the
        first one's index is a DN's bits as an unsigned integer, that of the others 0..1 in
        TABLE_SIZE steps. They are float32 in 0..1, but for the last, which is uint8.
        """
        self._index_type = np.dtype(f"u{dtype.itemsize}")
        self._nodata = reading.nodata
        # In the order of the DN's bits read as an unsigned integer, which is the index.
        every_dn = np.arange(2 ** (8 * dtype.itemsize)).astype(self._index_type).view(dtype)
        reflectance = every_dn * float(reading.scale) + float(reading.offset)
        unit = np.linspace(0, 1, TABLE_SIZE)

        groups, self._mixes = _split(steps)
        last = len(groups) - 1
        self.tables = [
            _table(group, unit if number else reflectance, as_bytes=number == last)
            for number, group in enumerate(groups)
        ]

    def __call__(self, dn: NDArray) -> NDArray[np.uint8]:
        """Return uint8 RGBA (height, width, 4) of `dn` (3, height, width)."""
        rgba = np.empty((*dn.shape[1:], 4), np.uint8)
        rows = max(1, STRIP_PIXELS // dn.shape[2])
        for top in range(0, dn.shape[1], rows):
            rgba[top : top + rows] = self._colour(dn[:, top : top + rows])
        return rgba

    def _colour(self, dn: NDArray) -> NDArray[np.uint8]:
        """Return RGBA (height, width, 4) of `dn` (3, height, width)."""
        colours = _look_up(self.tables[0], dn.view(self._index_type))
        for mix, table in zip(self._mixes, self.tables[1:], strict=True):
            scaled = mix(colours)
            scaled *= TABLE_SIZE - 1
            scaled += 0.5
            colours = _look_up(table, scaled.astype(np.uint16))
        alpha = self._alpha(dn)
        colours &= alpha
        return cv2.merge([*colours, alpha])

    def _alpha(self, dn: NDArray) -> NDArray[np.uint8]:
        """Return 255 where all bands of `dn` (3, height, width) are valid, else 0."""
        if self._nodata is None:
            return np.full(dn.shape[1:], 255, np.uint8)
        red, green, blue = dn != self._nodata
        return (red & green & blue) * np.uint8(255)


def _split(steps: list[dict]) -> tuple[list[list[dict]], list[Callable[[Floats], Floats]]]:
    """Return the groups of per-band steps, and the mixing steps between the groups."""
    groups: list[list[dict]] = [[]]
    mixes = []
    for step in steps:
        if step["step"] == WHITE_BALANCE:
            groups[-1] += [
                {"step": "gain", "factor": step[band], "bands": [band]} for band in BANDS
            ]
        elif step["step"] in MIXING:
            mixes.append(_bind(MIXING, step))
            groups.append([])
        else:
            groups[-1].append(step)
    return groups, mixes


def _table(steps: list[dict], x: Floats, as_bytes: bool) -> NDArray:
    """Return `steps` applied to `x` per band, (3, len(x)), as uint8 or as float32 in 0..1."""
    rows: dict[str, Floats] = {}  # by steps: bands often have the same
    for own in _steps_of_bands(steps):
        if str(own) not in rows:
            rows[str(own)] = _clip01(_per_band(own, x))
    table = np.stack([rows[str(own)] for own in _steps_of_bands(steps)])
    return np.floor(255 * table + 0.5).astype(np.uint8) if as_bytes else table.astype(np.float32)


def _steps_of_bands(steps: list[dict]) -> list[list[dict]]:
    """Return those of `steps` that change red, green, and blue."""
    return [[step for step in steps if band in step.get("bands", BANDS)] for band in BANDS]


def _per_band(steps: list[dict], x: Floats) -> Floats:
    for step in steps:
        x = _bind(PER_BAND, step)(x)
    return x


def _bind(functions: dict[str, Callable[..., Floats]], step: dict) -> Callable[[Floats], Floats]:
    """Return the function of a recipe's step, with the step's numbers as arguments."""
    numbers = {key: value for key, value in step.items() if key not in ("step", "bands")}
    return lambda x: functions[step["step"]](x, **numbers)


def _look_up(table: NDArray, index: NDArray) -> NDArray:
    """Return table[band, index[band]] of each band; OpenCV does it 3 times as fast as NumPy."""
    found = np.empty(index.shape, table.dtype)
    for row, band, out in zip(table, index, found, strict=True):
        cv2.LUT(band, row, out)
    return found


def _clip01(x: Floats) -> Floats:
    return np.clip(x, 0, 1)


# sRGB primaries and D65 white; XYZ is divided by the white point.
XYZ_FROM_RGB = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
) / np.array([[0.95047], [1.0], [1.08883]])
RGB_FROM_XYZ = np.linalg.inv(XYZ_FROM_RGB)


def _mix(matrix: NDArray, colours: Floats) -> Floats:
    return np.tensordot(matrix.astype(colours.dtype), colours, axes=1)


def _lab_curve(t: Floats) -> Floats:
    return np.where(t > 216 / 24389, np.cbrt(t), (t * (24389 / 27) + 16) / 116)


def _lab_curve_inverse(f: Floats) -> Floats:
    return np.where(f > 6 / 29, f**3, (116 * f - 16) * (27 / 24389))
