"""The tile grid, against genuine items and by its own laws."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from basemake.demo.grid import (
    BANDS,
    COLUMNS,
    ROWS,
    TILE_SIDE,
    footprint,
    grid_tile,
    tiles_covering,
    to_lonlat,
)

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
METRES = 111_320  # per degree of latitude

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="skipped: real data not beside the checkout"
)


def genuine_items() -> list[Path]:
    """Both hemispheres, all three column offsets: the rule was measured on these origins."""
    return sorted((DATA / "stac" / "cdse_items").glob("Sentinel-2_*.json"))


@needs_data
@pytest.mark.parametrize("path", genuine_items(), ids=lambda path: path.stem)
def test_corners_are_those_of_genuine_items(path: Path) -> None:
    item = json.loads(path.read_text())
    tile = grid_tile(item["id"].split("_", 4)[-1])
    west, east = tile.ulx, tile.ulx + TILE_SIDE
    south, north = tile.uly - TILE_SIDE, tile.uly
    lon, lat = to_lonlat(tile.epsg, [west, west, east, east], [south, north, north, south])
    corners = np.array(item["geometry"]["coordinates"][0][:4])
    assert f"EPSG:{tile.epsg}" == item["properties"]["proj:code"]
    assert np.abs(np.column_stack([lon, lat]) - corners).max() * METRES < 0.01


@needs_data
def test_the_genuine_items_are_all_there() -> None:
    assert len(genuine_items()) == 5


squares = st.builds(
    lambda lon, lat: shapely.box(lon, lat, lon + 0.5, lat + 0.5),
    st.floats(-180, 179.5),
    st.floats(-79.5, 83),
)


@settings(max_examples=20)
@given(squares)
def test_a_region_is_covered(region: shapely.Polygon) -> None:
    tiles = tiles_covering(region)
    union = shapely.union_all([footprint(tile) for tile in tiles])
    # A footprint's edges are straight between vertices 5 km apart: slivers of metres are theirs.
    assert region.difference(union.buffer(1e-5)).area == 0
    assert [tile.tile for tile in tiles] == sorted({tile.tile for tile in tiles})
    assert all(grid_tile(tile.tile) == tile for tile in tiles)


@settings(max_examples=20)
@given(squares)
def test_origins_of_a_zone_share_a_lattice_of_20_metres(region: shapely.Polygon) -> None:
    for tile in tiles_covering(region):
        assert tile.ulx % 20 == 0
        assert tile.uly % 20 == 0
        assert (tile.ulx % 60, tile.uly % 60) == (0, 10_000_000 % 60 * (tile.epsg > 32700))


@settings(max_examples=20)
@given(squares)
def test_neighbours_of_a_zone_overlap_by_60_or_120_metres(region: shapely.Polygon) -> None:
    tiles = tiles_covering(region)
    for epsg in {tile.epsg for tile in tiles}:
        wests = sorted({tile.ulx for tile in tiles if tile.epsg == epsg})
        tops = sorted({tile.uly for tile in tiles if tile.epsg == epsg})
        steps = [b - a for a, b in [*pairwise(wests), *pairwise(tops)]]
        assert {TILE_SIDE - step for step in steps} <= {60, 120}


def test_siblings_abut() -> None:
    first, second = grid_tile("33TWM_0_0"), grid_tile("33TWM_1_2")
    assert second.ulx - first.ulx == TILE_SIDE
    assert first.uly - second.uly == 2 * TILE_SIDE


def test_a_tile_across_the_antimeridian_is_split() -> None:
    east, west = sorted(
        shapely.get_parts(footprint(grid_tile("60KZG_0_0"))), key=lambda part: part.bounds[0]
    )
    assert east.bounds[0] == -180 < east.bounds[2] < -179
    assert west.bounds[2] == 180 > west.bounds[0] > 179
    assert footprint(grid_tile("33TWM_0_0")).geom_type == "Polygon"


@pytest.mark.parametrize("west", [179.9, -180])
def test_beside_the_antimeridian_tiles_of_both_zones_are_needed(west: float) -> None:
    region = shapely.box(west, -16.5, west + 0.05, -16.4)
    assert {tile.epsg for tile in tiles_covering(region)} == {32701, 32760}


def test_a_square_on_a_zone_border_has_a_tile_in_each_zone() -> None:
    tiles = {tile.tile for tile in tiles_covering(shapely.box(17.9, 43.6, 18.1, 43.7))}
    assert tiles == {"33TYJ_0_0", "34TBP_0_0"}


def test_a_square_on_a_band_border_has_one_tile() -> None:
    # 48 N cuts this row of squares; the genuine 39UUP is of the same row.
    tiles = {tile.tile for tile in tiles_covering(shapely.box(16, 47.95, 16.2, 48.05))}
    assert tiles == {"33UWP_0_0"}


def test_norway_and_svalbard_have_their_own_zones() -> None:
    assert {tile.epsg for tile in tiles_covering(shapely.box(2.9, 60, 3.1, 60.1))} == {32631, 32632}
    assert {tile.epsg for tile in tiles_covering(shapely.box(8.9, 75, 9.1, 75.1))} == {32631, 32633}


def test_a_region_that_only_touches_a_tile_does_not_need_it() -> None:
    west, _, _, _ = footprint(grid_tile("33TWM_0_0")).bounds
    region = shapely.box(west - 0.1, 46.4, west, 46.5)
    assert "33TWM_0_0" not in {tile.tile for tile in tiles_covering(region)}


def test_edges_of_a_footprint_are_dense() -> None:
    tile = grid_tile("33TYJ_0_0")
    assert shapely.get_num_coordinates(footprint(tile)) >= 4 * TILE_SIDE / 5_000


@pytest.mark.parametrize("name", ["33TWM", "33TWM_0", "33IWM_0_0", "33TAA_0_0", "../33TWM_0_0", ""])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        grid_tile(name)


def test_letters_leave_out_i_and_o() -> None:
    assert [len(letters) for letters in (BANDS, COLUMNS, ROWS)] == [20, 24, 20]
    assert not set("IO") & {*BANDS, *COLUMNS, *ROWS}
