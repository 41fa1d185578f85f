"""A simulated world: surface reflectance as a continuous function of longitude and latitude.

The landscape is computed at the nodes of a lattice of about 200 m and interpolated between them by
quadratic B-splines, so that a 90 m raster shows all details but a faint texture.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from basemake.demo.landscape import colours, gaps, season
from basemake.demo.noise import PERIOD, Floats, texture

WORLD = 1
# ^ raise it when the pixels of a seed change, so that no older file passes for current

LON_STEP = 0.0025
LAT_STEP = 0.001808
NODE_STEP = 201.0
CELL = 360 / PERIOD / LON_STEP
# ^ Degrees, degrees, metres (at 43.7 degrees of latitude, where both steps are as long), and nodes
#   per cell of the coarsest noise: its period spans 360 degrees, so it is continuous at 180.

GRAIN_STEPS = 8
GRAIN_PERIOD = 512 // GRAIN_STEPS
GRAIN_CONTRAST = 0.012
GAP_RAGGEDNESS = 0.05

MAX_NODES = 1_000_000
CHUNK = 16_384
# ^ points interpolated at a time, so that their arrays fit into the processor's cache

Doubles = NDArray[np.float64]


def reflectance(lon: ArrayLike, lat: ArrayLike, seed: int, turn: int = 0) -> Floats:
    """Return the surface reflectance of red, green and blue at points of the world of `seed`.

    It is that of the quarter which is `turn` quarters after 2025Q3. `lon` and `lat` are degrees, of
    shapes that broadcast to one shape S. The result is float32 of shape (3, *S), 0.002 to 1.3, or
    NaN where the ground was never observed; away from the borders of such gaps it is continuous.
    Work grows with the area that the points span as well as with their number, so evaluate a raster
    by windows.
    """
    lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    out = np.empty((3, lon.size), np.float32)
    if lon.size:
        _fill(out, lat.ravel() / LAT_STEP, lon.ravel() / LON_STEP, seed, turn)
    return out.reshape(3, *lon.shape)


def _fill(out: Floats, row: Doubles, column: Doubles, seed: int, turn: int) -> None:
    """Write reflectance into `out` (3, n) for n positions on the lattice."""
    (south, north), (west, east) = _span(row), _span(column)
    if row.size > 1 and (north - south) * (east - west) > MAX_NODES:
        half = row.size // 2
        _fill(out[:, :half], row[:half], column[:half], seed, turn)
        _fill(out[:, half:], row[half:], column[half:], seed, turn)
        return
    nodes = _nodes((south, north), (west, east), seed, turn)
    for start in range(0, row.size, CHUNK):
        part = slice(start, start + CHUNK)
        values = _interpolate(nodes, row[part] - south, column[part] - west)
        grain = _grain(row[part], column[part], seed)
        values[:, :3] *= (1 + GRAIN_CONTRAST * grain)[:, None]
        values[values[:, 3] + GAP_RAGGEDNESS * grain < 0] = np.nan
        out[:, part] = values[:, :3].T


def _nearest(position: Doubles) -> Doubles:
    """Return the number of the nearest node, the higher one of two that are equally near.

    Unlike rounding to even this does not depend on where nodes are counted from.
    """
    return np.floor(position + 0.5)


def _span(position: Doubles) -> tuple[int, int]:
    """Return the first and last node that the spline uses at any of the positions."""
    return int(_nearest(position.min())) - 1, int(_nearest(position.max())) + 1


def _nodes(rows: tuple[int, int], columns: tuple[int, int], seed: int, turn: int) -> Floats:
    """Return (rows, columns, 4): at each node, reflectance, and a number that is < 0 in gaps."""
    (south, north), (west, east) = rows, columns
    across = np.arange(west - 1, east + 2) / CELL
    down = np.arange(south - 1, north + 2)[:, None] / CELL
    x, y = (a.astype(np.float32) for a in np.broadcast_arrays(across, down))
    # ^ one node more on each side, for slopes
    inner = (slice(1, -1), slice(1, -1))
    gap = gaps(x[inner], y[inner], seed, turn)
    ground = colours(x, y, NODE_STEP, seed) * season(x[inner], y[inner], seed, turn)
    return np.concatenate([ground, gap[..., None]], axis=-1)


def _interpolate(nodes: Floats, row: Doubles, column: Doubles) -> Floats:
    """Return (n, 4): the B-spline over `nodes` at n positions, counted from the first node."""
    rows, columns, _ = nodes.shape
    flat = nodes.reshape(rows * columns, -1)
    i, j = _nearest(row).astype(np.int32), _nearest(column).astype(np.int32)
    nearest = i * columns + j
    values = np.zeros((row.size, flat.shape[1]), np.float32)
    for di, wi in zip((-1, 0, 1), _spline((row - i).astype(np.float32)), strict=True):
        for dj, wj in zip((-1, 0, 1), _spline((column - j).astype(np.float32)), strict=True):
            values += flat.take(nearest + (di * columns + dj), axis=0) * (wi * wj)[:, None]
    return values


def _spline(t: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the weights of three nodes (quadratic B-spline) `t` (-0.5 to 0.5) from the middle."""
    return 0.5 * (0.5 - t) ** 2, 0.75 - t * t, 0.5 * (0.5 + t) ** 2


def _grain(row: Doubles, column: Doubles, seed: int) -> Floats:
    """Return a texture with a grain of 25 to 200 m, about -1 to 1."""
    x, y = ((a % GRAIN_PERIOD * GRAIN_STEPS).astype(np.float32) for a in (column, row))
    return texture(x, y, seed)
