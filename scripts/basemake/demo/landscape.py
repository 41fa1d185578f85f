"""The landscape of the simulated world: relief, water and land cover.

Arrays are float32. `x` (east) and `y` (north) are in noise cells of 113 km, heights and distances
in metres; colours are reflectances of red, green and blue in the last axis.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from basemake.demo.noise import Floats, bricks, fractal, gradient_noise, mix, ridged, smoothstep


def _reflectance(red: float, green: float, blue: float) -> Floats:
    return np.array([red, green, blue], np.float32)


DEEP_SEA = _reflectance(0.010, 0.018, 0.034)
SHELF = _reflectance(0.018, 0.052, 0.070)
LAGOON = _reflectance(0.070, 0.150, 0.155)
BEACH = _reflectance(0.34, 0.29, 0.21)
RIVER = _reflectance(0.030, 0.048, 0.045)
FOREST = _reflectance(0.019, 0.036, 0.018)
GROVE = _reflectance(0.034, 0.055, 0.024)
MEADOW = _reflectance(0.062, 0.086, 0.036)
SCRUB = _reflectance(0.125, 0.120, 0.075)
HEATH = _reflectance(0.085, 0.088, 0.050)
ROCK = _reflectance(0.190, 0.172, 0.148)
SNOW = _reflectance(0.70, 0.72, 0.75)
ROOFS = _reflectance(0.250, 0.225, 0.205)
GREEN_CROP = _reflectance(0.038, 0.078, 0.026)
STRAW = _reflectance(0.225, 0.185, 0.110)
TILLED = _reflectance(0.105, 0.082, 0.062)

SHADE = 0.004
# ^ the least reflectance of valid ground, so that a mountain's shadow is not taken for a gap

SWATH_LEAN = 0.278
SWATH_START = 0.507
SWATH_SPACING = 4
SWATH_HALF_WIDTH = 0.11
SWATH_SHIFT = 0.37
# ^ The gaps between swaths: their slope, in cells of longitude per cell of latitude; the x of one
#   on the equator, in cells; the cells between two, a divisor of the noise's period, so that they
#   are continuous at 180 degrees; half their width, and by how much they shift each quarter, in
#   cells.

SEASONS = np.array(
    [(1, 1, 1), (1.04, 0.92, 0.98), (0.92, 0.84, 0.96), (0.84, 1.04, 0.90)], np.float32
)
# ^ what reflectances of summer, autumn, winter and spring are multiplied by


class Terrain(NamedTuple):
    """Fields on the inner nodes of a lattice, all of one shape."""

    x: Floats
    y: Floats
    shore: Floats  # the land's broad height, without unit; 0 on the coast
    inland: Floats  # 0 on lowlands, 1 where mountains stand
    elevation: Floats
    slope: Floats  # metres up per metre
    light: Floats  # 1 on flat ground
    river: Floats  # distance to the nearest river's middle
    patch: Floats  # -1 to 1: the patchiness of vegetation
    dry: Floats  # -1 to 1


def colours(x: Floats, y: Floats, step: float, seed: int) -> Floats:
    """Return reflectance (rows - 2, columns - 2, 3) on the inner nodes of a lattice.

    `x` and `y` are (rows, columns), of nodes `step` metres apart.
    """
    terrain = _terrain(x, y, step, seed)
    land = np.clip(_land(terrain, seed) * terrain.light[..., None], SHADE, 1)
    return _lay(_sea(terrain, seed), land, smoothstep(-0.004, 0.004, terrain.shore))


def season(x: Floats, y: Floats, seed: int, turn: int) -> Floats:
    """Return by what reflectance is multiplied, (rows, columns, 3), `turn` quarters after 2025Q3.

    It is 1 in that quarter. In others vegetation and sun are different, and a little from place to
    place, too.
    """
    if not turn:
        return np.ones((*x.shape, 3), np.float32)
    haze = 1 + 0.12 * gradient_noise(x * 3, y * 3, seed, 140 + turn)
    return haze[..., None] * SEASONS[turn % 4]


def gaps(x: Floats, y: Floats, seed: int, turn: int = 0) -> Floats:
    """Return -1 to 1: below 0 where clouds hid the ground always, and between swaths.

    Each quarter, `turn` after 2025Q3, has clouds and swaths of its own.
    """
    clouds = 0.84 - fractal(x * 5, y * 5, seed, 120 + 17 * turn, 5, 0.42)
    rag = 0.012 * gradient_noise(x * 30, y * 60, seed, 130)
    across = x - SWATH_LEAN * y - SWATH_START + rag - SWATH_SHIFT * turn
    across -= SWATH_SPACING * np.rint(across / SWATH_SPACING)
    strips = np.abs(across) - SWATH_HALF_WIDTH
    return np.clip(np.minimum(clouds * 4, strips * 50), -1, 1)


def _terrain(x: Floats, y: Floats, step: float, seed: int) -> Terrain:
    east = x + 0.09 * fractal(x * 2, y * 2, seed, 10, 2, 0.35)
    north = y + 0.09 * fractal(x * 2, y * 2, seed, 20, 2, 0.35)
    broad = fractal(east, north, seed, 30, 3)
    shore = broad + 0.11 * fractal(x * 8, y * 8, seed, 33, 5, 0.55)
    inland = smoothstep(0.08, 0.50, broad)
    course = fractal(east * 2, north * 2, seed, 50, 2, 0.35)
    course += 0.06 * fractal(x * 10, y * 10, seed, 52, 3, 0.45)
    # ^ rivers run where this is 0; the relief is lower near them
    open_ground = smoothstep(0, 0.30, np.abs(course))
    crest = ridged(east * 4, north * 4, seed, 60, 6)
    hills = (fractal(x * 14, y * 14, seed, 70, 4) + 0.6) * (0.15 + 0.85 * open_ground)
    elevation = 200 * np.maximum(shore, 0)
    elevation += hills * (50 + 200 * inland) * smoothstep(0, 0.12, shore)
    elevation += crest * np.sqrt(crest) * (400 + 2300 * open_ground) * inland
    up_east, up_north = _gradient(elevation, step)
    slope = np.sqrt(up_east**2 + up_north**2)
    run_east, run_north = _gradient(course, step)
    inner = (slice(1, -1), slice(1, -1))
    x, y = x[inner], y[inner]
    return Terrain(
        x=x,
        y=y,
        shore=shore[inner],
        inland=inland[inner],
        elevation=elevation[inner],
        slope=slope,
        light=_light(up_east, up_north),
        river=np.abs(course[inner]) / (np.sqrt(run_east**2 + run_north**2) + 1e-6),
        patch=fractal(x * 20, y * 20, seed, 90, 5, 0.6),
        dry=gradient_noise(x * 4, y * 4, seed, 95),
    )


def _gradient(field: Floats, step: float) -> tuple[Floats, Floats]:
    """Return the change per metre to the east and to the north, on inner nodes."""
    per_metre = 0.5 / step
    east = field[1:-1, 2:] - field[1:-1, :-2]
    north = field[2:, 1:-1] - field[:-2, 1:-1]
    return east * per_metre, north * per_metre


def _light(up_east: Floats, up_north: Floats) -> Floats:
    """Return Lambertian hillshade, 1 on flat ground, of relief exaggerated twice.

    The light comes from the northwest, as is usual on maps.
    """
    facing = 1 + 1.7 * (up_east - up_north)
    return np.clip(facing / np.sqrt(1 + 4 * (up_east**2 + up_north**2)), 0.05, 1.6)


def _lay(ground: Floats, cover: ArrayLike, share: Floats) -> Floats:
    """Return `ground` mixed with `cover`, one colour or one per node, by its share (0 to 1)."""
    return mix(ground, np.asarray(cover, np.float32), share[..., None])


def _sea(terrain: Terrain, seed: int) -> Floats:
    depth = -terrain.shore
    depth += 0.03 * fractal(terrain.x * 12, terrain.y * 12, seed, 80, 2)
    shallow = _lay(LAGOON, SHELF, smoothstep(0.0, 0.08, depth))
    return _lay(shallow, DEEP_SEA, smoothstep(0.05, 0.40, depth))


def _land(terrain: Terrain, seed: int) -> Floats:
    """Return the reflectance of the land cover, without hillshade."""
    ground = _uplands(_lowlands(terrain, seed), terrain)
    built = bricks(terrain.x * 200 + terrain.y * 60, terrain.y * 220 - terrain.x * 56, seed, 0.5)
    roofs = ROOFS * (0.5 + 0.8 * built[..., :1])
    ground = _lay(ground, roofs, _town(terrain, seed))
    sand = smoothstep(0.012, 0.0, terrain.shore + 0.01 * terrain.patch)
    ground = _lay(ground, BEACH, sand * 0.8)
    return _lay(ground, RIVER, _river(terrain))


def _lowlands(terrain: Terrain, seed: int) -> Floats:
    patch, dry = terrain.patch, terrain.dry
    meadow = _lay(MEADOW, GROVE, smoothstep(-0.5, 0.4, patch))
    coastal = smoothstep(0.35, 0.05, terrain.shore)
    meadow = _lay(meadow, SCRUB, coastal * smoothstep(-0.1, 0.4, dry - patch * 0.5) * 0.7)
    low = smoothstep(380, 240, terrain.elevation + 220 * patch)
    flat = smoothstep(0.10, 0.05, terrain.slope)
    tilled = smoothstep(-0.35, -0.1, dry + patch * 0.5)
    return _lay(meadow, _crops(terrain, seed), low * flat * tilled)


def _crops(terrain: Terrain, seed: int) -> Floats:
    """Return the reflectance of fields of about 1 km, in rows that follow a smooth curve."""
    x, y = terrain.x, terrain.y
    y = y + 0.05 * gradient_noise(x * 6, y * 6, seed, 97)
    chance = bricks(x * 80 + y * 35, y * 115 - x * 48, seed, 0.3)
    ripe, tilled, bright = chance[..., :1], chance[..., 1], chance[..., 2:3]
    crop = mix(GREEN_CROP, STRAW, ripe * ripe)
    crop = _lay(crop, TILLED, smoothstep(0.7, 0.9, tilled))
    return crop * (0.8 + 0.4 * bright)


def _uplands(ground: Floats, terrain: Terrain) -> Floats:
    """Return `ground` with forest, heath, rock and snow laid over it by height and slope."""
    patch, slope = terrain.patch, terrain.slope
    level = terrain.elevation + 220 * patch
    wooded = smoothstep(-0.23, 0.37, 0.8 * patch + 0.3 * smoothstep(0.03, 0.15, slope))
    belt = smoothstep(110, 330, level) * smoothstep(1700, 1300, level)
    ground = _lay(ground, FOREST, wooded * belt)
    ground = _lay(ground, HEATH, smoothstep(1100, 1500, level))
    bare = smoothstep(1350, 1700, level + 900 * smoothstep(0.35, 0.8, slope))
    ground = _lay(ground, ROCK, bare * smoothstep(700, 1000, level))
    snow = smoothstep(1800, 2100, level + 250 * patch) * smoothstep(0.9, 0.5, slope)
    return _lay(ground, SNOW, snow)


def _town(terrain: Terrain, seed: int) -> Floats:
    """Return the built-up share (0 to 1) of each node: a few towns on low and level land."""
    peak = gradient_noise(terrain.x * 6, terrain.y * 6, seed, 110)
    dense = smoothstep(0.50, 0.68, peak + 0.25 * terrain.patch)
    level = smoothstep(0.12, 0.05, terrain.slope) * smoothstep(420, 250, terrain.elevation)
    return dense * level * smoothstep(0.0, 0.02, terrain.shore)


def _river(terrain: Terrain) -> Floats:
    """Return the share (0 to 1) of rivers, from brooks to half a kilometre wide at the sea."""
    half_width = 110 + 240 * smoothstep(0.35, 0.0, terrain.shore)
    return smoothstep(1.25, 0.6, terrain.river / half_width)
