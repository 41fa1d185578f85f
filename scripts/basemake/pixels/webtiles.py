"""Web tiles: z/x/y of the Web Mercator quad (EPSG:3857), with y counted from the north.

Mercator coordinates are metres in EPSG:3857, on a sphere of radius 6 378 137 m.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    # Shapely is imported where it is used: jobs that render need no more than the numbers here.
    from shapely.geometry.base import BaseGeometry

RADIUS = 6378137.0
HALF_WORLD = math.pi * RADIUS
MAX_LATITUDE = math.degrees(2 * math.atan(math.exp(math.pi)) - math.pi / 2)


class WebTile(NamedTuple):
    """One web tile; `x` and `y` from 0 to 2^z - 1."""

    z: int
    x: int
    y: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north in Mercator metres."""
        size = 2 * HALF_WORLD / 2**self.z
        # Each edge is computed from its own index, so that neighbours share it to the last bit.
        west, east = (x * size - HALF_WORLD for x in (self.x, self.x + 1))
        south, north = (HALF_WORLD - y * size for y in (self.y + 1, self.y))
        return west, south, east, north

    @property
    def parent(self) -> "WebTile":
        """The web tile of the next lower zoom that contains this one."""
        return WebTile(self.z - 1, self.x // 2, self.y // 2)

    @property
    def children(self) -> "tuple[WebTile, WebTile, WebTile, WebTile]":
        """The four web tiles one zoom higher: north-west, north-east, south-west, south-east."""
        z, x, y = self.z + 1, self.x * 2, self.y * 2
        return (
            WebTile(z, x, y),
            WebTile(z, x + 1, y),
            WebTile(z, x, y + 1),
            WebTile(z, x + 1, y + 1),
        )


def metatile_name(metatile: WebTile) -> str:
    """Return the name of a metatile's files, such as 9_277_180."""
    return f"{metatile.z}_{metatile.x}_{metatile.y}"


def metatile_of(name: str) -> WebTile:
    """Return the metatile of a name such as 9_277_180."""
    return WebTile(*map(int, name.split("_")))


def to_mercator(lonlat: NDArray) -> NDArray:
    """Return degrees (n, 2) as Mercator metres (n, 2); latitudes are clipped to the quad."""
    lat = np.radians(np.clip(lonlat[:, 1], -MAX_LATITUDE, MAX_LATITUDE))
    return np.column_stack([np.radians(lonlat[:, 0]), np.arctanh(np.sin(lat))]) * RADIUS


def to_degrees(mercator: NDArray) -> NDArray:
    """Return Mercator metres (..., 2) as longitudes and latitudes in degrees (..., 2)."""
    lon, lat = mercator[..., 0] / RADIUS, np.arctan(np.sinh(mercator[..., 1] / RADIUS))
    return np.degrees(np.stack([lon, lat], axis=-1))


def widest_gap(parts: "Sequence[BaseGeometry]") -> float:
    """Return a longitude, -180 to 180, in the widest gap between single geometries in degrees.

    It is -180 where the widest gap has 180 degrees in it, and where there is none.
    """
    spans = sorted(part.bounds[0::2] for part in parts)
    if not spans:
        return -180.0
    reached, widest, begin = spans[0][1], 0.0, -180.0
    for west, east in spans[1:]:
        if west - reached > widest:
            widest, begin = west - reached, (west + reached) / 2
        reached = max(reached, east)
    return begin if widest > spans[0][0] + 360 - reached else -180.0


def together(geometry: "BaseGeometry") -> "BaseGeometry":
    """Return polygons in degrees with those on both sides of 180 degrees side by side.

    What is west of the widest gap between them gets longitudes above 180 degrees, and what was
    split at 180 degrees is one again.
    """
    import shapely
    from shapely.affinity import translate

    parts = shapely.get_parts(geometry)
    begin = widest_gap(parts)
    moved = [translate(part, 360) if part.bounds[0] < begin else part for part in parts]
    return shapely.union_all(moved) if begin > -180 else geometry


def geometry_to_mercator(geometry: "BaseGeometry") -> "BaseGeometry":
    """Return a geometry in degrees in Mercator metres.

    GeoJSON's edges are straight in longitude and latitude, and curved in Mercator: they are cut
    into pieces of 0.02 degrees first, which is exact to 0.2 m up to 75 degrees north.
    """
    import shapely

    return shapely.transform(shapely.segmentize(geometry, 0.02), to_mercator)


def resolution(zoom: int, tile_size: int) -> float:
    """Return the size of a pixel, in Mercator metres, of web tiles `tile_size` pixels wide."""
    return 2 * HALF_WORLD / 2**zoom / tile_size


def nearest_zoom(pixel_size: float, latitude: float, tile_size: int) -> int:
    """Return the zoom whose pixels are nearest in size to `pixel_size` metres at `latitude`."""
    ground = resolution(0, tile_size) * math.cos(math.radians(latitude))
    return max(0, round(math.log2(ground / pixel_size)))


def overlapping(geometry: "BaseGeometry", zoom: int) -> list[WebTile]:
    """Return the web tiles of `zoom` that share an area with a Mercator geometry, by x, then y."""
    import shapely

    found = []
    for part in getattr(geometry, "geoms", [geometry]):
        columns, rows = reached(part, zoom)
        tiles = [WebTile(zoom, x, y) for x in columns for y in rows]
        boxes = shapely.box(*np.array([tile.bounds for tile in tiles]).T)
        shapely.prepare(part)
        keep = shapely.intersects(part, boxes) & ~shapely.touches(part, boxes)
        found += [tile for tile, kept in zip(tiles, keep, strict=True) if kept]
    return sorted(set(found))


def most_overlapping(geometry: "BaseGeometry", zoom: int) -> int:
    """Return an upper limit of the count of tiles in `overlapping`, from bounds alone."""
    parts = [reached(part, zoom) for part in getattr(geometry, "geoms", [geometry])]
    columns, rows = reached(geometry, zoom)
    return min(len(columns) * len(rows), sum(len(c) * len(r) for c, r in parts))


def reached(geometry: "BaseGeometry", zoom: int) -> tuple[range, range]:
    """Return the ranges of x and y of the web tiles in the bounds of a Mercator geometry."""
    return reached_by(geometry.bounds, zoom)


def reached_by(bounds: tuple[float, float, float, float], zoom: int) -> tuple[range, range]:
    """Return the ranges of x and y of the web tiles in bounds: west, south, east, north."""
    count, size = 2**zoom, 2 * HALF_WORLD / 2**zoom
    west, south, east, north = bounds
    return (
        _indices(west + HALF_WORLD, east + HALF_WORLD, size, count),
        _indices(HALF_WORLD - north, HALF_WORLD - south, size, count),
    )


def _indices(low: float, high: float, size: float, count: int) -> range:
    first = min(max(math.floor(low / size), 0), count - 1)
    last = min(max(math.ceil(high / size) - 1, first), count - 1)
    return range(first, last + 1)
