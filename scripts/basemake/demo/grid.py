"""The tile grid of the Sentinel-2 quarterly mosaics: 100 080 m squares in UTM, named after MGRS.

Longitudes and latitudes are in degrees (WGS84), eastings and northings in metres. GDAL must raise
exceptions (`basemake.pixels.raster.use_gdal`).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import mgrs
import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from osgeo import osr
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from basemake.pixels.crs import crs

TILE_SIDE = 100_080.0
SQUARE_SIDE = 100_000.0
EDGE_STEP = 5_000.0
SLIVER = 0.01  # degrees: gaps of twice this width are between footprints that are not exact
LARGEST_NAMED = 400.0  # square degrees of a gap whose tiles are named

TILE_NAME = re.compile(r"(?P<square>\d{2}[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])_(?P<i>\d)_(?P<j>\d)")
BANDS = "CDEFGHJKLMNPQRSTUVWX"
COLUMNS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
ROWS = "ABCDEFGHJKLMNPQRSTUV"
# ^ MGRS letters: of the latitude bands of 8 degrees from 80 S on, and of the 100 km squares

# Western and eastern edge in degrees, or None: UTM's irregular zones of Norway and Svalbard.
ZONE_EXCEPTIONS = {
    (31, "V"): (0, 3),
    (32, "V"): (3, 12),
    (31, "X"): (0, 9),
    (32, "X"): None,
    (33, "X"): (9, 21),
    (34, "X"): None,
    (35, "X"): (21, 33),
    (36, "X"): None,
    (37, "X"): (33, 42),
}

Floats = NDArray[np.float64]


class GridTile(NamedTuple):
    """A tile: its name, its CRS as an EPSG code, and its upper-left corner in metres."""

    tile: str
    epsg: int
    ulx: float
    uly: float


def grid_tile(tile: str) -> GridTile:
    """Return the tile named `tile`, e.g. "33TWM_0_0"; ValueError if there is none of that name."""
    match = TILE_NAME.fullmatch(tile)
    if match is None:
        raise ValueError(f"tile {tile!r} is not named like 33TWM_0_0")
    try:
        zone, hemisphere, x, y = mgrs.MGRS().MGRSToUTM(match["square"] + "5000050000")
    except mgrs.core.MGRSError as error:
        raise ValueError(f"tile {tile!r} is not in MGRS: {error}") from error
    south = hemisphere == "S"
    column, top = int(x // SQUARE_SIDE), int(y // SQUARE_SIDE) + 1
    ulx = column * SQUARE_SIDE - 20 * ((3 - column % 3) % 3)
    uly = top * SQUARE_SIDE + 20 * ((top + 2 * south) % 3)
    # ^ The product moves each square's corner outwards to a lattice of 60 m that spans the zone.
    return GridTile(
        tile,
        (32700 if south else 32600) + zone,
        ulx + int(match["i"]) * TILE_SIDE,
        uly - int(match["j"]) * TILE_SIDE,
    )


def to_lonlat(epsg: int, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Return longitudes and latitudes of points in a UTM zone, in the broadcast shape of x and y.

    Longitudes are within 180 degrees of the zone's meridian, so in zones 1 and 60 they can exceed
    180 or fall below -180.
    """
    x, y = np.broadcast_arrays(x, y)
    points = np.column_stack([x.ravel(), y.ravel()])
    lonlat = np.array(osr.CoordinateTransformation(crs(epsg), crs(4326)).TransformPoints(points))
    meridian = 6 * (epsg % 100) - 183
    lon = meridian + (lonlat[:, 0] - meridian + 180) % 360 - 180
    return lon.reshape(x.shape), lonlat[:, 1].reshape(x.shape)


def footprint(grid_tile: GridTile) -> BaseGeometry:
    """Return a tile's outline in longitude and latitude, with a vertex at least every 5 km.

    It is split at the antimeridian (RFC 7946, 3.1.9).
    """
    return _split_at_antimeridian(_outline(grid_tile.epsg, *grid_tile[2:], TILE_SIDE))


def tiles_covering(region: BaseGeometry) -> list[GridTile]:
    """Return the tiles `_0_0` that share area with `region` (longitude, latitude), by name.

    As in the product, a 100 km square has one tile in each UTM zone that it reaches into, named
    after the latitude band of its centre; the tile extends across the zone's border.
    """
    names = {name for part in shapely.get_parts(region) for name in _squares(*part.bounds)}
    shapely.prepare(region)
    tiles = (grid_tile(f"{name}_0_0") for name in sorted(names))
    return [tile for tile in tiles if _share_area(region, footprint(tile))]


def missing_tiles(region: BaseGeometry, here: dict[str, BaseGeometry]) -> list[str]:
    """Return the names of the tiles that would show what of `region` no tile that is `here` does.

    `here` are footprints by name. The list is empty if their names are not those of this grid, or
    the gap is so large that its tiles are too many.
    """
    if not all(map(TILE_NAME.fullmatch, here)):
        return []
    gap = region.difference(shapely.union_all([*here.values()])).buffer(-SLIVER)
    if gap.is_empty or gap.area >= LARGEST_NAMED:
        return []
    return [tile.tile for tile in tiles_covering(gap) if tile.tile not in here]


def _squares(west: float, south: float, east: float, north: float) -> Iterator[str]:
    """Yield the names of the 100 km squares near the bounds, e.g. "33TWM"."""
    reach = 1.5 / np.cos(np.radians(min(max(abs(south), abs(north)), 84)))
    # ^ degrees of longitude by which a tile can extend beyond its zone; 1.5 degrees of latitude
    #   are more than a tile's side
    for zone in range(1, 61):
        zone_west = 6 * zone - 186
        near = any(
            west - reach < zone_west + 6 + turn and zone_west + turn < east + reach
            for turn in (-360, 0, 360)
        )
        if near:
            yield from _squares_of_zone(zone, south - 1.5, north + 1.5)


def _squares_of_zone(zone: int, south: float, north: float) -> Iterator[str]:
    """Yield the names of a zone's squares whose centre lies between two latitudes."""
    for hemisphere, rows in ((32600, range(94)), (32700, range(11, 100))):
        epsg = hemisphere + zone
        column, row = (a.ravel() for a in np.meshgrid(np.arange(1, 9), rows))
        _, lat = to_lonlat(epsg, (column + 0.5) * SQUARE_SIDE, (row + 0.5) * SQUARE_SIDE)
        for c, r, centre in zip(column, row, lat, strict=True):
            band = BANDS[int(np.clip((centre + 80) // 8, 0, 19))]
            if south < centre < north and _reaches_zone(epsg, band, int(c), int(r)):
                letters = COLUMNS[(zone - 1) % 3 * 8 + c - 1] + ROWS[(r + (zone + 1) % 2 * 5) % 20]
                yield f"{zone:02}{band}{letters}"


def _reaches_zone(epsg: int, band: str, column: int, row: int) -> bool:
    """Return whether a 100 km square has area in its own zone and latitude band."""
    zone = epsg % 100
    span = ZONE_EXCEPTIONS.get((zone, band), (6 * zone - 186, 6 * zone - 180))
    if span is None:
        return False
    south = 8 * BANDS.index(band) - 80
    own = shapely.box(span[0], south, span[1], 84 if band == "X" else south + 8)
    x, y = column * SQUARE_SIDE, (row + 1) * SQUARE_SIDE
    return _share_area(own, _outline(epsg, x, y, SQUARE_SIDE))


def _outline(epsg: int, ulx: float, uly: float, side: float) -> BaseGeometry:
    square = shapely.box(ulx, uly - side, ulx + side, uly).segmentize(EDGE_STEP)
    x, y = np.array(square.exterior.coords).T
    return shapely.Polygon(np.column_stack(to_lonlat(epsg, x, y)))


def _split_at_antimeridian(polygon: BaseGeometry) -> BaseGeometry:
    west, _, east, _ = polygon.bounds
    if west >= -180 and east <= 180:
        return polygon
    inside = polygon.intersection(shapely.box(-180, -90, 180, 90))
    turn = -360 if east > 180 else 360
    outside = translate(polygon, turn).intersection(shapely.box(-180, -90, 180, 90))
    return shapely.MultiPolygon([inside, outside])


def _share_area(a: BaseGeometry, b: BaseGeometry) -> bool:
    return bool(shapely.intersects(a, b) and shapely.relate_pattern(a, b, "T********"))
