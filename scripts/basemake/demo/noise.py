"""Seeded noise over the plane with a period of 256 cells, the same to the bit on every machine.

For that only sums, products, quotients and square roots are used, which IEEE 754 rounds exactly.
Coordinates are float32 arrays in cells; results are float32 arrays of their shape.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PERIOD = 256

Floats = NDArray[np.float32]


@lru_cache(maxsize=8)
def _gradients(seed: int) -> tuple[Floats, Floats]:
    """Return x and y of a vector of length 1.5 for each of the 65536 lattice points."""
    x, y = np.random.default_rng(seed).uniform(-1, 1, (2, PERIOD * PERIOD))
    scale = 1.5 / np.sqrt(x * x + y * y)
    return (x * scale).astype(np.float32), (y * scale).astype(np.float32)


@lru_cache(maxsize=8)
def _values(seed: int) -> Floats:
    """Return (65536, 4): four numbers in 0..1 for each lattice point."""
    return np.random.default_rng([seed, 1]).random((PERIOD * PERIOD, 4), np.float32)


def values(i: NDArray[np.int32], j: NDArray[np.int32], seed: int) -> Floats:
    """Return four numbers in 0..1 for each lattice point, in a new last axis."""
    return _values(seed)[(j & 255) * PERIOD + (i & 255)]


def cells(x: Floats, salt: int) -> tuple[NDArray[np.int32], Floats]:
    """Return each coordinate's cell number, shifted by `salt`, and its position in it (0..1)."""
    whole = np.floor(x)
    return whole.astype(np.int32) + salt, x - whole


def fade(t: Floats) -> Floats:
    """Return 6t^5 - 15t^4 + 10t^3 (Perlin 2002), with zero slope and curvature at 0 and 1."""
    return t * t * t * (t * (t * 6 - 15) + 10)


def smoothstep(low: float, high: float, x: Floats) -> Floats:
    """Return 0 below `low`, 1 above `high`, and 3t^2 - 2t^3 between; `low` may exceed `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Floats | float, b: Floats | float, t: Floats) -> Floats:
    """Return `a` where `t` is 0, `b` where it is 1, and linear interpolation between."""
    return a + (b - a) * t


def gradient_noise(x: Floats, y: Floats, seed: int, salt: int) -> Floats:
    """Return Perlin's gradient noise, about -1..1, zero at lattice points; `salt` picks a field."""
    gradient_x, gradient_y = _gradients(seed)
    i, u = cells(x, salt * 37)
    j, v = cells(y, salt * 101)
    su, sv = fade(u), fade(v)

    def corner(di: int, dj: int) -> Floats:
        point = ((j + dj) & 255) * PERIOD + ((i + di) & 255)
        return gradient_x[point] * (u - di) + gradient_y[point] * (v - dj)

    low = mix(corner(0, 0), corner(1, 0), su)
    return mix(low, mix(corner(0, 1), corner(1, 1), su), sv)


def fractal(x: Floats, y: Floats, seed: int, salt: int, octaves: int, gain: float = 0.5) -> Floats:
    """Return a sum of octaves of gradient noise, each twice as fine and `gain` times as high."""
    total = gradient_noise(x, y, seed, salt)
    for octave in range(1, octaves):
        scale = 2**octave
        total += gain**octave * gradient_noise(x * scale, y * scale, seed, salt + octave)
    return total


def ridged(x: Floats, y: Floats, seed: int, salt: int, octaves: int) -> Floats:
    """Return ridged noise, about 0..1: each octave is weighted by the crests of the last one."""
    total = np.zeros_like(x)
    weight = np.ones_like(x)
    for octave in range(octaves):
        scale = 2**octave
        crest = 1 - np.abs(gradient_noise(x * scale, y * scale, seed, salt + octave))
        crest = np.maximum(crest, 0) ** 2 * weight
        total += crest * 0.55**octave
        weight = np.clip(crest * 1.6, 0, 1)
    return total * 0.56


def bricks(x: Floats, y: Floats, seed: int, joint: float) -> Floats:
    """Return four numbers in 0..1, in a last axis, of unit cells that are laid like bricks.

    Each cell blends into the next over its last part `joint` (0..1). The pattern repeats after 256
    in x and 2048 in y.
    """

    def soften(remainder: Floats) -> Floats:
        return smoothstep(1 - joint, 1, remainder)[..., None]

    def course(j: NDArray[np.int32]) -> Floats:
        i, u = cells(x + j.astype(np.float32) * 0.375, 0)
        return mix(values(i, j, seed), values(i + 1, j, seed), soften(u))

    j, v = cells(y, 0)
    return mix(course(j), course(j + 1), soften(v))


@lru_cache(maxsize=8)
def _grain(seed: int) -> Floats:
    """Return (262144,): one period of 512 x 512 cells of smooth grain, about -1..1."""
    rng = np.random.default_rng([seed, 2])
    grain = np.zeros((512, 512), np.float32)
    for size in (1, 2, 4, 8):
        coarse = rng.uniform(-1, 1, (512 // size, 512 // size)).astype(np.float32)
        octave = coarse.repeat(size, 0).repeat(size, 1)
        for axis in (0, 1):
            octave = np.mean([np.roll(octave, step, axis) for step in range(size)], axis=0)
        grain += octave * 0.4
    return grain.ravel()


def texture(x: Floats, y: Floats, seed: int) -> Floats:
    """Return grain of 1 to 8 cells, about -1..1, bilinear between cells, of period 512 cells."""
    table = _grain(seed)
    i, u = cells(x, 0)
    j, v = cells(y, 0)
    left, right = i & 511, (i + 1) & 511
    low, high = (j & 511) * 512, ((j + 1) & 511) * 512
    return mix(
        mix(table[low + left], table[low + right], u),
        mix(table[high + left], table[high + right], u),
        v,
    )
