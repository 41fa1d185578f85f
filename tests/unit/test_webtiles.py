"""Tile maths by property, exhaustive at low zooms, and against GDAL's own Web Mercator."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from osgeo import osr
from shapely.affinity import scale

from basemake.pixels.webtiles import (
    HALF_WORLD,
    MAX_LATITUDE,
    WebTile,
    geometry_to_mercator,
    nearest_zoom,
    overlapping,
    resolution,
    to_degrees,
    to_mercator,
    together,
)


@st.composite
def tiles(draw: st.DrawFn, least: int = 0, most: int = 24) -> WebTile:
    z = draw(st.integers(least, most))
    return WebTile(z, draw(st.integers(0, 2**z - 1)), draw(st.integers(0, 2**z - 1)))


def all_tiles(zoom: int) -> list[WebTile]:
    return [WebTile(zoom, x, y) for x in range(2**zoom) for y in range(2**zoom)]


# -- Tiles ----------------------------------------------------------------------------------------


@given(tiles())
def test_children_tile_their_parent_without_gap_or_overlap(tile: WebTile) -> None:
    north_west, north_east, south_west, south_east = (child.bounds for child in tile.children)
    west, south, east, north = tile.bounds
    assert all(child.parent == tile for child in tile.children)
    assert (north_west[0], north_west[3], south_east[1], south_east[2]) == (
        west,
        north,
        south,
        east,
    )
    assert north_west[2] == north_east[0] == south_west[2] == south_east[0]
    assert north_west[1] == south_west[3] == north_east[1] == south_east[3]
    assert (south_west[0], south_west[1], north_east[2]) == (west, south, east)


@given(tiles(least=1))
def test_a_tile_is_a_child_of_its_parent_and_shares_edges_with_its_neighbours(
    tile: WebTile,
) -> None:
    assert tile in tile.parent.children
    if tile.x:
        assert WebTile(tile.z, tile.x - 1, tile.y).bounds[2] == tile.bounds[0]
    if tile.y:
        assert WebTile(tile.z, tile.x, tile.y - 1).bounds[1] == tile.bounds[3]


def test_bounds_are_those_of_the_quad() -> None:
    world = (-20037508.342789244, -20037508.342789244, 20037508.342789244, 20037508.342789244)
    assert WebTile(0, 0, 0).bounds == world
    # Published: tile 5/17/10 starts at 11.25 E and ends at 55.77657 N.
    west, _, _, north = WebTile(5, 17, 10).bounds
    assert west == pytest.approx(1252344.271424327, abs=1e-6)
    assert north == pytest.approx(7514065.628545966, abs=1e-6)


# -- Mercator -------------------------------------------------------------------------------------


def test_mercator_is_epsg_3857() -> None:
    rng = np.random.default_rng(1)
    lonlat = np.column_stack([rng.uniform(-180, 180, 500), rng.uniform(-85.05, 85.05, 500)])
    lonlat = np.vstack([lonlat, [[0, 0], [180, 85.05], [-180, -85.05]]])
    wgs84, mercator = osr.SpatialReference(), osr.SpatialReference()
    wgs84.ImportFromEPSG(4326)
    mercator.ImportFromEPSG(3857)
    wgs84.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    expected = osr.CoordinateTransformation(wgs84, mercator).TransformPoints(lonlat)
    # A micrometre: both are double precision.
    assert np.abs(to_mercator(lonlat) - np.array(expected)[:, :2]).max() < 1e-6


def test_latitudes_beyond_the_quad_are_cut_at_its_edge() -> None:
    assert pytest.approx(85.05112877980659, abs=1e-12) == MAX_LATITUDE
    got = to_mercator(np.array([[180.0, 90.0], [-180.0, -90.0], [0.0, 85.06]]))
    edge = np.array([[1, 1], [-1, -1], [0, 1]]) * HALF_WORLD
    assert np.abs(got - edge).max() < 1e-6


def test_edges_stay_straight_in_longitude_and_latitude() -> None:
    start, end = np.array([3.0, 40.0]), np.array([33.0, 75.0])
    line = geometry_to_mercator(shapely.LineString([start, end]))
    lon, lat = np.array([start + (end - start) * t for t in np.linspace(0, 1, 4321)]).T
    radians = np.radians(lat)
    y = 6378137 * np.log(np.tan(np.pi / 4 + radians / 2))
    away = shapely.distance(line, shapely.points(6378137 * np.radians(lon), y))
    assert away.max() < 0.2  # metres, as documented


# -- Zooms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixel_size", "latitude", "tile_size", "zoom"),
    [
        (10, 45, 256, 13),
        (10, -45, 256, 13),
        (10, 45, 512, 12),
        (10, 0, 256, 14),
        (10, 60, 256, 13),
        (10, 75, 256, 12),
        (30, 45, 256, 12),
        (90, 45, 256, 10),
        (120, 45, 256, 10),
        (1e6, 45, 256, 0),
    ],
)
def test_nearest_zoom(pixel_size: float, latitude: float, tile_size: int, zoom: int) -> None:
    assert nearest_zoom(pixel_size, latitude, tile_size) == zoom
    # No other zoom's pixels are nearer, as a ratio.
    on_the_ground = [
        40_075_016.686 / 2**z / tile_size * math.cos(math.radians(latitude)) for z in range(22)
    ]
    off = [abs(math.log(size / pixel_size)) for size in on_the_ground]
    assert off[zoom] == min(off)


def test_resolution_is_a_pixel_of_a_tile() -> None:
    assert resolution(0, 256) == pytest.approx(156543.03392804097)
    west, _, east, _ = WebTile(7, 3, 5).bounds
    assert resolution(7, 512) * 512 == pytest.approx(east - west)


# -- Which tiles a geometry overlaps --------------------------------------------------------------


def on_quarters(zoom: int, *corners: int) -> shapely.Polygon:
    """A box (west, south, east, north) in quarters of a tile of `zoom` from the south-west."""
    quarter, count = HALF_WORLD / 2 / 2**zoom, 4 * 2**zoom
    west, east = (corner * quarter - HALF_WORLD for corner in corners[::2])
    # Counted from the north, as web tiles are: the same numbers to the last bit.
    south, north = (HALF_WORLD - (count - corner) * quarter for corner in corners[1::2])
    return shapely.box(west, south, east, north)


@pytest.mark.parametrize("zoom", range(6))
def test_a_tiles_own_square_overlaps_it_alone(zoom: int) -> None:
    for tile in all_tiles(zoom):
        assert overlapping(shapely.box(*tile.bounds), zoom) == [tile]


@given(tiles(least=6, most=22))
def test_a_tiles_own_square_overlaps_it_alone_at_any_zoom(tile: WebTile) -> None:
    assert overlapping(shapely.box(*tile.bounds), tile.z) == [tile]
    assert overlapping(shapely.box(*tile.bounds), tile.z + 1) == sorted(tile.children)


@pytest.mark.parametrize("zoom", range(3))
def test_exactly_the_tiles_of_every_box_on_quarters(zoom: int) -> None:
    """All boxes whose corners lie on quarters of tiles: also those that only touch a tile."""
    count = 2**zoom
    spans = [(a, b) for a in range(4 * count) for b in range(a + 1, 4 * count + 1)]
    for west, east in spans:
        columns = {i // 4 for i in range(west, east)}
        for south, north in spans[:: 1 if zoom < 2 else 7]:
            rows = {count - 1 - i // 4 for i in range(south, north)}
            expected = sorted(WebTile(zoom, x, y) for x in columns for y in rows)
            assert overlapping(on_quarters(zoom, west, south, east, north), zoom) == expected


corner = st.floats(-1.02, 1.02, allow_subnormal=False)


@given(st.lists(st.tuples(corner, corner), min_size=3, max_size=7), st.integers(0, 5))
def test_finds_what_brute_force_finds_for_any_polygon(points: list, zoom: int) -> None:
    hull = scale(shapely.MultiPoint(points).convex_hull, HALF_WORLD, HALF_WORLD, origin=(0, 0))
    size = 2 * HALF_WORLD / 2**zoom
    if hull.area < 1e-3 * size**2:
        return
    found = set(overlapping(hull, zoom))
    boxes = {tile: shapely.box(*tile.bounds) for tile in all_tiles(zoom)}
    shares = {tile: hull.intersection(box).area / size**2 for tile, box in boxes.items()}
    # Slivers of less than a millionth of a tile may be either way: coordinates are rounded.
    assert {tile for tile, share in shares.items() if share > 1e-6} <= found
    assert all(boxes[tile].distance(hull) < 1e-6 * size for tile in found)


def test_of_a_geometry_in_parts_each_tile_is_listed_once_in_order() -> None:
    parts = [on_quarters(3, 20, 20, 22, 22), on_quarters(3, 2, 2, 3, 3), on_quarters(3, 1, 1, 5, 3)]
    found = overlapping(shapely.MultiPolygon([parts[0], parts[2]]), 3)
    assert found == [WebTile(3, 0, 7), WebTile(3, 1, 7), WebTile(3, 5, 2)]
    assert overlapping(shapely.GeometryCollection(parts), 3) == found


def test_a_concave_polygon_leaves_out_what_lies_in_its_bay() -> None:
    bay = on_quarters(2, 0, 0, 16, 16).difference(on_quarters(2, 4, 4, 16, 12))
    expected = [tile for tile in all_tiles(2) if tile.x == 0 or tile.y in (0, 3)]
    assert overlapping(bay, 2) == expected


# -- Degrees ---------------------------------------------------------------------------------------


@given(st.floats(-180, 180), st.floats(-MAX_LATITUDE, MAX_LATITUDE))
def test_degrees_of_mercator_metres_are_those_they_were_made_of(lon: float, lat: float) -> None:
    place = np.array([[lon, lat]])
    assert to_degrees(to_mercator(place)) == pytest.approx(place, abs=1e-9)


@pytest.mark.parametrize(
    ("parts", "bounds"),
    [
        ([(8, 9)], (8, 9)),
        ([(178, 180), (-180, -177)], (178, 183)),  # Fiji, split
        ([(-160, -155), (177, 180), (-180, -178)], (177, 205)),  # and Hawaii
        ([(170, 175), (-170, -165)], (170, 195)),
        ([(-170, -100), (-60, -50)], (-170, -50)),
        ([(-180, -20), (-10, 10), (25, 180)], (25, 370)),  # all around
        ([(-180, 180)], (-180, 180)),
    ],
)
def test_a_geometry_is_together_in_the_least_width(parts: list, bounds: tuple) -> None:
    geometry = shapely.union_all([shapely.box(west, 0, east, 1) for west, east in parts])
    found = together(geometry)
    assert found.bounds == pytest.approx((bounds[0], 0, bounds[1], 1))
    assert found.area == pytest.approx(geometry.area)
