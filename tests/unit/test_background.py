"""The background of web tiles, and imagery that fades into it, against distances on the ground."""

import io

import numpy as np
import pytest
import shapely
from PIL import Image
from test_layout import tiles_at

from basemake.build.layout import Zooms, outline_text, plan_metatiles
from basemake.pixels.archive import read_tile
from basemake.pixels.background import Background
from basemake.pixels.encoding import encoder
from basemake.pixels.webtiles import (
    HALF_WORLD,
    RADIUS,
    WebTile,
    geometry_to_mercator,
    metatile_of,
    overlapping,
)
from render_metatile import Rendering, render_metatile

SEA = "#12304a"
SEA_RGBA = np.array([0x12, 0x30, 0x4A, 255], np.uint8)
LAND = np.array([200, 180, 90, 255], np.uint8)
# A coast with a reflex corner, at 63 N, and an islet.
AREA = shapely.MultiPolygon(
    [
        shapely.Polygon([(15, 63), (16, 63), (16, 63.5), (15.4, 63.6), (15.5, 64), (15, 64)]),
        shapely.box(15.8, 63.9, 15.9, 63.95),
    ]
)
MERCATOR = geometry_to_mercator(AREA)


def centres(tile: WebTile, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mercator metres of the pixels of a web tile."""
    west, south, east, north = tile.bounds
    at = (np.arange(size) + 0.5) / size
    return np.meshgrid(west + at * (east - west), north - at * (north - south))


def shares(tile: WebTile, size: int, fade_km: float) -> np.ndarray:
    """The share of imagery by its definition, from each fifth pixel's distance to the edge."""
    x, y = centres(tile, size)
    x, y = x[::5, ::5], y[::5, ::5]
    points = shapely.points(x, y)
    km = shapely.distance(MERCATOR.boundary, points) / np.cosh(y / RADIUS) / 1000
    t = np.where(shapely.contains(MERCATOR, points), np.minimum(km / fade_km, 1), 0)
    return t * t * (3 - 2 * t)


@pytest.mark.parametrize(("zoom", "fade_km"), [(8, 3), (10, 3), (12, 3), (12, 10), (9, 0.5)])
def test_imagery_fades_by_its_distance_to_the_edge_on_the_ground(zoom, fade_km):
    seen = []
    tiles = overlapping(MERCATOR, zoom)
    for tile in tiles[:: max(1, len(tiles) // 4)]:
        ground = Background(SEA, 256, MERCATOR.wkt, fade_km)
        found = ground.under(np.tile(LAND, (256, 256, 1)), tile)[::5, ::5]
        share = shares(tile, 256, fade_km)[..., np.newaxis]
        wanted = SEA_RGBA + share * (LAND - SEA_RGBA.astype(float))
        pixels_wide = (
            1000 * fade_km * np.cosh(tile.bounds[3] / RADIUS) / (2 * HALF_WORLD / 2**zoom / 256)
        )
        # Between the points of the grid distances are linear, which they are not where the nearest
        # edge changes: there they are off by a third of a step, an eighth of the fade.
        assert np.abs(found - wanted).max() <= 0.5 + 188 * 1.5 * max(1 / 24, 1.4 / pixels_wide)
        assert np.abs(found - wanted).mean() <= 1
        seen.append(share)
    assert np.min(seen) == 0
    assert np.max(seen) > 0.6


def test_a_pixel_without_imagery_has_the_background():
    tile = overlapping(MERCATOR, 10)[3]
    image = np.tile(LAND, (256, 256, 1))
    image[100:120, 90] = 0
    for coverage, fade_km in ((None, 0), (MERCATOR.wkt, 2)):
        found = Background(SEA, 256, coverage, fade_km).under(image, tile)
        assert (found[100:120, 90] == SEA_RGBA).all()
        assert (found[..., 3] == 255).all()
    assert (Background(SEA, 256, None, 0).under(image, tile)[image[..., 3] > 0] == LAND).all()
    assert (Background(SEA, 256, None, 0).under(None, tile) == SEA_RGBA).all()


def test_a_web_tile_fades_alike_in_each_metatile():
    """The area is cut around a metatile, so that only what is near to it makes it stale."""
    plans = {
        zoom: plan_metatiles(AREA, tiles_at({"a": AREA}), Zooms(0, 10, zoom), True, fade_km=4)
        for zoom in (7, 8, 10)
    }
    image = np.tile(LAND, (256, 256, 1))
    leaves = [metatile_of(name) for name in plans[10]]
    found = []
    for plan in plans.values():
        colours = {}
        for leaf in leaves:
            for metatile in plan.values():
                count = 1 << (10 - metatile.webtile.z)
                if (leaf.x // count, leaf.y // count) == metatile.webtile[1:]:
                    coverage = outline_text(metatile.coverage)
                    colours[leaf] = Background(SEA, 256, coverage, 4).under(image, leaf)
        found.append(colours)
    assert found[0].keys() == found[1].keys() == {*leaves}
    for leaf in leaves:
        for other in found[1:]:  # outlines are rounded to a centimetre
            assert np.abs(found[0][leaf].astype(int) - other[leaf]).max() <= 1
    assert any(metatile.coverage is None for metatile in plans[10].values())


def test_beyond_the_area_by_more_than_the_fade_no_tile_shows():
    """Though it may show there by its footprint, which is right to a kilometre."""
    tiles = tiles_at({"a": shapely.box(9, 44, 9.84, 46)})
    region = shapely.box(9.5, 44.9, 10, 45.1)
    plan = plan_metatiles(region, tiles, Zooms(0, 13, 13), True, fade_km=0.02)
    bare = plan_metatiles(region, tiles, Zooms(0, 13, 13), True, fade_km=0)
    assert plan.keys() == bare.keys()
    near = [name for name in plan if bare[name].tiles and not plan[name].tiles]
    assert near
    for name in near:
        west, _, _, _ = plan[name].webtile.bounds
        assert west > geometry_to_mercator(tiles[0].geometry).bounds[2] + 20
        assert plan[name].coverage is None
    assert not any(metatile.coverage and metatile.coverage.is_empty for metatile in plan.values())


# -- Where it fades --------------------------------------------------------------------------------

WHOLE = shapely.box(9, 44, 11, 46)


def halves(gap: float) -> dict:
    return {"a": shapely.box(9, 44, 10 - gap, 46), "b": shapely.box(10, 44, 11, 46)}


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("gap", [-0.01, 0, 1e-7, 0.005])
def test_tiles_that_meet_have_no_edge_between_them(clip, gap):
    """Footprints that overlap, share an edge, or leave a gap of rounding or of 400 m."""
    plan = plan_metatiles(WHOLE, tiles_at(halves(gap)), Zooms(0, 13, 10), clip, fade_km=5)
    outer = geometry_to_mercator(WHOLE).boundary
    for metatile in plan.values():
        away = shapely.box(*metatile.webtile.bounds).distance(outer)
        width = 5000 * np.cosh(max(np.abs(metatile.webtile.bounds[1::2])) / RADIUS)
        assert (metatile.coverage is None) == (away > width * 9 / 8), metatile


def test_a_gap_as_wide_as_a_lake_has_edges():
    plan = plan_metatiles(WHOLE, tiles_at(halves(0.1)), Zooms(0, 13, 10), True, fade_km=5)
    west, south, *_ = geometry_to_mercator(shapely.Point(9.95, 45)).bounds
    lake = shapely.Point(west, south)
    [there] = [
        metatile for metatile in plan.values() if shapely.box(*metatile.webtile.bounds).covers(lake)
    ]
    assert there.coverage is not None
    assert not there.coverage.contains(lake)


@pytest.mark.parametrize("clip", [True, False])
def test_the_antimeridian_is_no_edge(clip):
    sides = {"a": shapely.box(178, -18, 180, -16), "b": shapely.box(-180, -18, -178, -16)}
    region = shapely.MultiPolygon(list(sides.values()))
    plan = plan_metatiles(region, tiles_at(sides), Zooms(0, 13, 9), clip, fade_km=5)
    assert {metatile.webtile.x for metatile in plan.values()} == {0, 1, 2, 509, 510, 511}
    middle = geometry_to_mercator(shapely.Point(0, -17)).y
    beside = [
        metatile
        for metatile in plan.values()
        if metatile.webtile.x in (0, 511)
        and metatile.webtile.bounds[1] < middle < metatile.webtile.bounds[3]
    ]
    assert [metatile.coverage for metatile in beside] == [None, None]


def test_with_a_background_the_map_goes_on_where_there_is_no_tile():
    region = shapely.box(9, 44, 13, 46)
    tiles = tiles_at({"a": shapely.box(9, 44, 10, 46)})
    without = plan_metatiles(region, tiles, Zooms(0, 13, 9), clip=True)
    plan = plan_metatiles(region, tiles, Zooms(0, 13, 9), clip=True, fade_km=0)
    assert without.items() <= plan.items()
    shown = shapely.union_all([metatile.shown for metatile in plan.values()])
    assert shown.symmetric_difference(geometry_to_mercator(region)).area < 1
    assert {(*plan[name].tiles, plan[name].coverage) for name in plan.keys() - without.keys()} == {
        (None,)
    }


# -- Web tiles -------------------------------------------------------------------------------------


def render(folder, tiles, metatile, **options):
    archive = folder / "part.pmtiles"
    drawing = Rendering(
        **{"min_zoom": 8, "max_zoom": 11, "tile_size": 256, "image_format": "png"},
        **{"quality": None, "resampling": "bilinear", "background": SEA, "overlap": "top"},
        **{"outline": None, **options},
    )
    render_metatile(
        metatile, tiles, archive, folder / "root.tif", drawing, threads=2, made_of="these"
    )
    return archive


def pixels(archive, tile):
    return np.asarray(Image.open(io.BytesIO(read_tile(archive, tile))).convert("RGBA"))


def test_plain_web_tiles_are_stored_once(tmp_path, write_tile):
    tile = write_tile(tmp_path / "a.tif", np.tile(LAND, (300, 300, 1)), pixel=100.0)
    metatile = WebTile(8, 138, 92)
    alone = render(tmp_path, [], metatile)
    assert alone.stat().st_size < 2000
    for place in (metatile, metatile.children[1], metatile.children[2].children[0]):
        assert (pixels(alone, place) == SEA_RGBA).all()
    here = overlapping(geometry_to_mercator(shapely.Point(15.1, 45.1).buffer(0.01)), 8)[0]
    archive = render(tmp_path, [tile], here)
    found = pixels(archive, here)
    assert (found[..., 3] == 255).all()
    assert (found == SEA_RGBA).all(axis=-1).mean() > 0.5
    assert (found == LAND).all(axis=-1).sum() > 500


def test_a_map_with_a_background_ends_at_its_outline(tmp_path):
    """And an image that stands for many is not changed by what is cut from one of them."""
    metatile = WebTile(8, 138, 92)
    west, south, east, north = metatile.bounds
    half = shapely.box(west, south, (2 * west + east) / 3, north)
    archive = render(tmp_path, [], metatile, outline=half.wkt)
    found = pixels(archive, metatile)
    assert (found[:, :85] == SEA_RGBA).all()
    assert (found[:, 86:] == 0).all()
    assert (pixels(archive, metatile.children[0].children[0]) == SEA_RGBA).all()
    assert read_tile(archive, metatile.children[1]) is None


def test_jpeg_has_the_background_where_nothing_is_shown():
    rgba = np.tile(LAND, (64, 64, 1))
    rgba[:32] = 0
    for background, wanted in ((None, [255] * 3), (SEA, SEA_RGBA[:3])):
        found = np.asarray(Image.open(io.BytesIO(encoder("jpeg", 95, background)(rgba))))
        assert np.abs(found[:20].astype(int) - wanted).max() <= 3
        assert np.abs(found[44:].astype(int) - LAND[:3]).max() <= 3
