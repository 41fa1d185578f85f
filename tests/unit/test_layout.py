"""The layout of a build: zooms, metatiles, and the tiles that each metatile is made of."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from osgeo import osr

from basemake.build.layout import (
    MOST_METATILES,
    Layout,
    Zooms,
    mercator_grid,
    plan_metatiles,
    plan_zooms,
    read_layout,
)
from basemake.build.manifest import Tile, describe_request, write_manifest
from basemake.build.quarter import Quarter
from basemake.build.region import read_region
from basemake.errors import ConfigError
from basemake.pixels.webtiles import (
    HALF_WORLD,
    WebTile,
    geometry_to_mercator,
    metatile_name,
    metatile_of,
    most_overlapping,
    overlapping,
    to_mercator,
)
from sources import source

OPTIONS = {
    **{"min_zoom": 0, "max_zoom": "auto", "metatile_zoom": "auto", "tile_size": 256},
    "background": "none",
}
MILAN = shapely.box(9, 45, 10, 46)


def tiles_at(footprints: dict[str, Any], gsd: Any = 10) -> list[Tile]:
    """Tiles with these footprints (degrees)."""
    sizes = gsd if isinstance(gsd, list) else [gsd] * len(footprints)
    return [
        Tile("item", None, {}, {}, name, 32632, size, ["here"], footprint)
        for (name, footprint), size in zip(footprints.items(), sizes, strict=True)
    ]


# -- Zooms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latitude", "gsd", "changes", "zooms"),
    [
        (45, 10, {}, (0, 13, 8)),
        (45, 10, {"tile_size": 512}, (0, 12, 8)),
        (0, 10, {}, (0, 14, 9)),
        (-45, 90, {}, (0, 10, 5)),
        (45, 20_000, {}, (0, 2, 0)),
        (45, 10, {"max_zoom": 11, "min_zoom": 11}, (11, 11, 6)),
        (45, 10, {"max_zoom": 3}, (0, 3, 0)),
        (45, 10, {"metatile_zoom": 9}, (0, 13, 9)),
        (45, 10, {"metatile_zoom": 13}, (0, 13, 13)),
        (45, 10, {"max_zoom": 0, "metatile_zoom": 0}, (0, 0, 0)),
        (45, [30, 10], {}, (0, 13, 8)),
        (45, [None, 10], {"max_zoom": 12}, (0, 12, 7)),
    ],
)
def test_auto_zooms_follow_pixel_size_and_latitude(
    latitude: float, gsd: Any, changes: dict, zooms: tuple
) -> None:
    region = shapely.box(9, latitude - 0.5, 10, latitude + 0.5)
    tiles = tiles_at({"a": region, "b": region}, gsd)
    assert plan_zooms({**OPTIONS, **changes}, region, tiles) == Zooms(*zooms)


@pytest.mark.parametrize(
    ("changes", "gsd", "said"),
    [
        ({"min_zoom": 14}, 10, "pyramid.min_zoom is 14; allowed: at most max_zoom, here 13."),
        ({"metatile_zoom": 14}, 10, "pyramid.metatile_zoom is 14; allowed: at most max_zoom, here"),
        ({"metatile_zoom": 7}, 10, "makes metatiles of 16384 pixels a side; allowed: at most 8192"),
        ({"metatile_zoom": 7}, 10, "so at least zoom 8."),
        ({"metatile_zoom": 7, "tile_size": 512}, 10, "so at least zoom 8."),
        ({}, [10, None], "pyramid.max_zoom is auto, but the items do not say how large pixels"),
    ],
)
def test_zooms_that_contradict_each_other_are_refused(changes: dict, gsd: Any, said: str) -> None:
    tiles = tiles_at({"a": MILAN, "b": MILAN}, gsd)
    with pytest.raises(ConfigError) as refusal:
        plan_zooms({**OPTIONS, **changes}, MILAN, tiles)
    assert said in str(refusal.value)
    if (least := said.removeprefix("so at least zoom ").rstrip(".")).isdigit():
        plan_zooms({**OPTIONS, **changes, "metatile_zoom": int(least)}, MILAN, tiles)


# -- Metatiles ------------------------------------------------------------------------------------

ZOOMS = Zooms(0, 13, 9)
# Four quarters of a square of 2 degrees, given out of order
QUARTERS = {
    "d_se": shapely.box(10, 44, 11, 45),
    "a_nw": shapely.box(9, 45, 10, 46),
    "c_sw": shapely.box(9, 44, 10, 45),
    "b_ne": shapely.box(10, 45, 11, 46),
}
# A region with an oblique edge, a hole, and metatiles wholly inside
REGION = shapely.Polygon(
    [(9.1, 44.2), (10.9, 44.1), (10.8, 45.9), (9.3, 45.7)],
    [[(9.5, 44.5), (9.6, 44.5), (9.6, 44.6), (9.5, 44.5)]],
)


def test_metatiles_show_the_region_once_and_nothing_else() -> None:
    plan = plan_metatiles(REGION, tiles_at(QUARTERS), ZOOMS, clip=True)
    region = geometry_to_mercator(REGION)
    parts = [metatile.shown for metatile in plan.values()]
    assert all(part.is_valid and part.area > 0 for part in parts)
    for metatile, part in zip(plan.values(), parts, strict=True):
        expected = shapely.box(*metatile.webtile.bounds).intersection(region)
        # Outlines are written to a centimetre.
        assert part.symmetric_difference(expected).area < 0.02 * expected.length
    assert sum(part.area for part in parts) == pytest.approx(region.area, rel=1e-6)


def test_a_tile_reaches_as_far_on_the_ground_at_any_latitude() -> None:
    """Footprints are assumed right to 1 km on the ground, 3 km in Mercator metres at 70 N."""
    box = WebTile(9, 270, 117).bounds
    edge = to_lonlat(box[0], box[3])
    tiles = {
        "near": shapely.box(edge[0], edge[1] + 900 / 111_000, edge[0] + 1, edge[1] + 1),
        "far": shapely.box(edge[0], edge[1] + 4000 / 111_000, edge[0] + 1, edge[1] + 1),
        "inside": shapely.box(edge[0], edge[1] - 0.1, edge[0] + 0.5, edge[1]),
    }
    region = shapely.box(edge[0] + 0.1, edge[1] - 0.05, edge[0] + 0.2, edge[1])
    assert edge[1] == pytest.approx(70, abs=1)
    [metatile] = plan_metatiles(region, tiles_at(tiles), ZOOMS, clip=True).values()
    assert metatile.tiles == ["near", "inside"]


def to_lonlat(x: float, y: float) -> tuple[float, float]:
    """Convert Mercator metres to degrees."""
    radius = HALF_WORLD / math.pi
    return math.degrees(x / radius), math.degrees(math.atan(math.sinh(y / radius)))


def test_the_outline_is_none_where_a_metatile_is_wholly_inside() -> None:
    plan = plan_metatiles(REGION, tiles_at(QUARTERS), ZOOMS, clip=True)
    region = geometry_to_mercator(REGION)
    inside = [region.contains(shapely.box(*found.webtile.bounds)) for found in plan.values()]
    assert [metatile.outline is None for metatile in plan.values()] == inside
    assert 0 < sum(inside) < len(inside)


def test_tiles_of_a_metatile_reach_it_and_keep_the_order_of_the_table() -> None:
    plan = plan_metatiles(REGION, tiles_at(QUARTERS), ZOOMS, clip=True)
    footprints = {name: geometry_to_mercator(box) for name, box in QUARTERS.items()}
    for metatile in plan.values():
        away = {name: metatile.shown.distance(box) for name, box in footprints.items()}
        assert metatile.tiles == [name for name in QUARTERS if name in metatile.tiles]
        assert set(metatile.tiles) >= {name for name in away if away[name] == 0}
        # 1 km on the ground and what edges bend are at most 1.8 km in Mercator metres at 46 N.
        assert all(away[name] < 1800 for name in metatile.tiles)
    assert {len(metatile.tiles) for metatile in plan.values()} >= {1, 2, 4}


def test_the_order_of_metatiles_does_not_depend_on_that_of_tiles() -> None:
    plan = plan_metatiles(REGION, tiles_at(QUARTERS), ZOOMS, clip=True)
    shuffled = plan_metatiles(REGION, tiles_at(dict(sorted(QUARTERS.items()))), ZOOMS, clip=True)
    in_order = [(name, replace(found, tiles=sorted(found.tiles))) for name, found in plan.items()]
    assert in_order == list(shuffled.items())
    webtiles = [metatile.webtile for metatile in plan.values()]
    assert webtiles == sorted(webtiles) == [metatile_of(name) for name in plan]


def test_without_clip_the_tiles_are_shown_whole() -> None:
    plan = plan_metatiles(REGION, tiles_at(QUARTERS), ZOOMS, clip=False)
    assert all(metatile.outline is None for metatile in plan.values())
    shown = shapely.union_all([metatile.shown for metatile in plan.values()])
    square = geometry_to_mercator(shapely.box(9, 44, 11, 46))
    assert shown.contains(square)
    assert all(metatile.shown.intersects(square) for metatile in plan.values())


@pytest.mark.parametrize("clip", [True, False])
def test_a_tile_that_is_gone_leaves_its_metatiles_and_empty_ones_go(clip: bool) -> None:
    before = plan_metatiles(REGION, tiles_at(QUARTERS), ZOOMS, clip)
    rest = {name: box for name, box in QUARTERS.items() if name != "a_nw"}
    after = plan_metatiles(REGION, tiles_at(rest), ZOOMS, clip)
    alone = {name for name, found in before.items() if found.tiles == ["a_nw"]}
    assert alone
    assert after.keys() == before.keys() - alone
    for name, metatile in after.items():
        assert metatile.tiles == [tile for tile in before[name].tiles if tile != "a_nw"]


def test_a_part_of_the_region_without_tiles_has_no_metatiles() -> None:
    region = shapely.MultiPolygon([MILAN, shapely.box(60, 10, 61, 11)])
    plan = plan_metatiles(region, tiles_at({"milan": MILAN}), ZOOMS, clip=True)
    west, _, east, _ = geometry_to_mercator(MILAN).bounds
    bounds = [metatile.webtile.bounds for metatile in plan.values()]
    assert all(right > west and left < east for left, _, right, _ in bounds)


def test_a_region_across_the_antimeridian_has_metatiles_on_both_sides() -> None:
    sides = [shapely.box(179, -18, 180, -16), shapely.box(-180, -18, -179, -16)]
    tiles = tiles_at(
        {
            "60K": shapely.box(178.5, -18, 179.6, -16),
            "01K": shapely.MultiPolygon(
                [shapely.box(179.5, -18, 180, -16), shapely.box(-180, -18, -178.9, -16)]
            ),
        }
    )
    plan = plan_metatiles(shapely.MultiPolygon(sides), tiles, Zooms(0, 12, 8), clip=True)
    assert {metatile.webtile.x for metatile in plan.values()} == {0, 255}
    for metatile in plan.values():
        # 179 E lies at x 255.3, the western footprint ends at 255.7 and the other begins there.
        assert metatile.tiles == (["01K"] if metatile.webtile.x == 0 else ["60K", "01K"])
    assert sum(metatile.shown.area for metatile in plan.values()) == pytest.approx(
        geometry_to_mercator(shapely.MultiPolygon(sides)).area, rel=1e-6
    )


def test_a_map_of_the_world_has_as_many_metatiles_as_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = geometry_to_mercator(shapely.box(-180, -90, 180, 90))
    assert most_overlapping(world, 9) == MOST_METATILES
    monkeypatch.setattr("basemake.build.layout.MOST_METATILES", 4**4)
    world = shapely.box(-180, -90, 180, 90)
    plan = plan_metatiles(world, tiles_at({"a": world}), Zooms(0, 9, 4), clip=True)
    assert len(plan) == 4**4
    with pytest.raises(ConfigError, match="makes up to 1,024 metatiles"):
        plan_metatiles(world, tiles_at({"a": world}), Zooms(0, 9, 5), clip=True)


@pytest.mark.parametrize("clip", [True, False])
def test_too_many_metatiles_are_refused_before_they_are_listed(
    monkeypatch: pytest.MonkeyPatch, clip: bool
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("lists them")

    monkeypatch.setattr("basemake.build.layout.overlapping", fail)
    with pytest.raises(ConfigError) as refusal:
        plan_metatiles(MILAN, tiles_at({"a": MILAN}), Zooms(0, 18, 18), clip)
    # A degree of longitude is 728.2 metatiles, one of latitude at 45.5 N 1038.9; the first begins
    # and the last ends anywhere.
    assert str(refusal.value) == (
        "pyramid.metatile_zoom is 18, which makes up to 758,160 metatiles, a job each; allowed: at"
        " most 262,144, so at most zoom 17 for this region; lower it, or max_zoom where it is auto."
    )
    with pytest.raises(AssertionError, match="lists them"):
        plan_metatiles(MILAN, tiles_at({"a": MILAN}), Zooms(0, 18, 17), clip)


@pytest.mark.parametrize("clip", [True, False])
def test_the_plan_is_the_same_wherever_rings_begin(tmp_path: Path, clip: bool) -> None:
    shell, hole = np.array(REGION.exterior.coords), np.array(REGION.interiors[0].coords)
    plans = []
    for turn in range(len(shell) - 1):
        for step in (1, -1):
            begun = [np.roll(ring[:-1], turn, axis=0)[::step] for ring in (shell, hole)]
            polygon = shapely.geometry.mapping(shapely.Polygon(begun[0], [begun[1]]))
            path = tmp_path / "region.geojson"
            path.write_text(json.dumps(polygon))
            regions = {"here": read_region("here", path)}
            plans.append(plan_of(tmp_path / "manifest.geojson", regions, clip))
    first = plans[0]
    for plan in plans[1:]:
        assert list(plan.metatiles["here"].items()) == list(first.metatiles["here"].items())
        assert plan.extent("here").wkt == first.extent("here").wkt
        assert plan.regions["here"].wkt == first.regions["here"].wkt


ROW = {"item": "item", "updated": None, "regions": ["here"], "bands": {}}


def plan_of(manifest: Path, regions: dict[str, Any], clip: bool) -> Layout:
    """The plan for a manifest of QUARTERS."""
    features = [
        {
            "type": "Feature",
            "id": name,
            "properties": {**ROW, "epsg": 32632, "gsd": 10},
            "geometry": shapely.geometry.mapping(footprint),
        }
        for name, footprint in QUARTERS.items()
    ]
    write_manifest(manifest, describe_request(source(), Quarter(2025, 3), regions), features)
    pyramid = {**OPTIONS, "clip": clip, "outputs": []}
    return read_layout(
        manifest,
        {"quarter": "2025Q3", "fill": [], "fetch": "needed", "pyramid": pyramid},
        source(),
        regions,
    )


def test_islands_far_apart_count_by_themselves() -> None:
    spots = [shapely.box(x, 1, x + 0.001, 1.001) for x in (-170, 10, 170)]
    islands = geometry_to_mercator(shapely.MultiPolygon(spots))
    assert len(overlapping(islands, 18)) <= most_overlapping(islands, 18) < 20
    plan = plan_metatiles(
        shapely.MultiPolygon(spots), tiles_at({"a": spots[1]}), Zooms(0, 18, 18), True
    )
    assert 0 < len(plan) < 10


def test_metatile_names_read_back() -> None:
    assert metatile_name(WebTile(9, 277, 180)) == "9_277_180"
    assert metatile_of("9_277_180") == WebTile(9, 277, 180)


# -- Tiles are squares in UTM, while footprints have straight edges in degrees --------------------


def utm_tile(northing: float) -> tuple[Any, np.ndarray]:
    """The footprint by its corners (degrees) and the true edge (Mercator) of a tile in UTM 33."""
    utm, wgs84 = osr.SpatialReference(), osr.SpatialReference()
    utm.ImportFromEPSG(32633)
    wgs84.ImportFromEPSG(4326)
    wgs84.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    transformation = osr.CoordinateTransformation(utm, wgs84)
    corners = [(500_000, northing), (600_080, northing)]
    corners += [(x, y - 100_080) for x, y in corners[::-1]]
    edge = np.array(shapely.segmentize(shapely.Polygon(corners), 500).exterior.coords)
    edge = np.array(transformation.TransformPoints(edge))[:, :2]
    footprint = shapely.Polygon(np.array(transformation.TransformPoints(corners))[:, :2])
    return footprint, to_mercator(edge)


@pytest.mark.parametrize("northing", [200_000, 5_100_000, 7_200_000, 8_800_000])
def test_the_grid_of_a_mosaic_holds_its_tiles_at_any_latitude(northing: float) -> None:
    footprint, edge = utm_tile(northing)
    (west, south, east, north), pixel = mercator_grid(tiles_at({"a": footprint}), 13, 256)
    assert pixel == pytest.approx(2 * HALF_WORLD / 2**13 / 256)
    assert (edge > (west, south)).all()
    assert (edge < (east, north)).all()
    steps = (np.array([west, south, east, north]) + HALF_WORLD) / pixel
    assert np.abs(steps - steps.round()).max() < 1e-6
    # It is not much larger: 1 km and what edges bend, in Mercator metres of the footprint.
    margin = 2 * (2800 / np.cos(np.radians(footprint.bounds[3])) + pixel)
    assert east - west < np.ptp(edge[:, 0]) + margin
    assert north - south < np.ptp(edge[:, 1]) + margin


@pytest.mark.parametrize("northing", [200_000, 5_100_000, 7_200_000, 8_800_000])
def test_a_metatile_has_each_tile_whose_pixels_lie_in_it(northing: float) -> None:
    footprint, edge = utm_tile(northing)
    everywhere = shapely.box(10, footprint.bounds[1] - 3, 22, footprint.bounds[3] + 3)
    plan = plan_metatiles(everywhere, tiles_at({"a": footprint}), Zooms(0, 14, 11), clip=True)
    inside = shapely.Polygon(edge)
    west, south, east, north = inside.bounds
    size = 2 * HALF_WORLD / 2**11
    expected = {
        WebTile(11, x, y)
        for x in range(int((west + HALF_WORLD) / size), int((east + HALF_WORLD) / size) + 1)
        for y in range(int((HALF_WORLD - north) / size), int((HALF_WORLD - south) / size) + 1)
        if inside.intersects(shapely.box(*WebTile(11, x, y).bounds))
    }
    assert expected <= {metatile.webtile for metatile in plan.values()}


@pytest.mark.parametrize("clip", [True, False])
def test_a_map_is_bounded_by_its_polygon_and_its_tiles(clip: bool) -> None:
    tiles = {tile.name: tile for tile in tiles_at({"a": shapely.box(9, 44, 10, 45)})}
    region = shapely.box(9.5, 43, 9.75, 44.25)
    plan = Layout(tiles, {"here": region}, {**OPTIONS, "clip": clip})
    west, south, east, north = plan.bounds("here")
    shown = shapely.box(9.5, 44, 9.75, 44.25) if clip else shapely.box(9, 44, 10, 45)
    wanted = geometry_to_mercator(shown).bounds
    assert (west, east) == pytest.approx((wanted[0], wanted[2]), abs=0.1 if clip else 2500)
    assert 0 <= wanted[1] - south < 2500  # what tiles may reach beyond their footprints
    assert 0 <= north - wanted[3] < (0.1 if clip else 2500)


def test_the_grid_ends_with_the_world() -> None:
    tiles = tiles_at(
        {"01K": shapely.box(-180, -18, -179, -16), "60K": shapely.box(179, 80, 180, 85)}
    )
    (west, _, east, north), _ = mercator_grid(tiles, 10, 256)
    assert (west, east) == (-HALF_WORLD, HALF_WORLD)
    assert north <= HALF_WORLD
