"""The simulated world: repeatable, continuous, and with all kinds of land in the demo region."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from basemake.demo.noise import Floats
from basemake.demo.world import LAT_STEP, reflectance
from basemake.pixels.recipe import highlight_compression, offset_gamma, saturation, srgb

DEMO = Path(__file__).resolve().parents[2] / "config" / "regions" / "demo.geojson"
SEED = 41
METRE = 1 / 111_320  # degrees of latitude

lons = st.floats(-180, 180)
lats = st.floats(-80, 84)


@pytest.fixture(scope="module")
def demo() -> Floats:
    """Reflectance (3, n) at points about 200 m apart, all over the demo region."""
    region = shapely.from_geojson(DEMO.read_text())
    west, south, east, north = region.bounds
    lon, lat = np.meshgrid(np.linspace(west, east, 600), np.linspace(south, north, 600))
    inside = shapely.contains_xy(region, lon, lat)
    return reflectance(lon, lat, SEED)[:, inside]


def test_shape_and_type() -> None:
    assert reflectance(18.0, 43.5, SEED).shape == (3,)
    assert reflectance(np.zeros((1, 4)), np.zeros((5, 1)), SEED).shape == (3, 5, 4)
    assert reflectance([], [], SEED).shape == (3, 0)
    assert reflectance(18.0, 43.5, SEED).dtype == np.float32


@given(lons, lats)
def test_a_point_is_the_same_in_any_company(lon: float, lat: float) -> None:
    alone = reflectance(lon, lat, SEED)
    lon_grid, lat_grid = np.meshgrid(lon + np.arange(-2, 5) * 0.013, lat + np.arange(-2, 5) * 0.013)
    together = reflectance(lon_grid, lat_grid, SEED)[:, 2, 2]
    np.testing.assert_array_equal(alone, together)


def test_points_far_apart_are_the_same_as_alone() -> None:
    lon, lat = np.array([18.0, -120.0, 18.001, 90.0]), np.array([43.5, -30.0, 43.5, 70.0])
    alone = [reflectance(*point, SEED) for point in zip(lon, lat, strict=True)]
    np.testing.assert_array_equal(reflectance(lon, lat, SEED), np.stack(alone, axis=1))


@given(lons, lats, st.sampled_from([(METRE, 0.0), (0.0, METRE)]))
def test_a_metre_changes_little(lon: float, lat: float, step: tuple[float, float]) -> None:
    here = reflectance(lon, lat, SEED)
    there = reflectance(lon + step[0], lat + step[1], SEED)
    change = np.abs(here - there)
    assert (change[~np.isnan(change)] < 0.01).all()


@given(lats)
def test_the_world_closes_at_the_antimeridian(lat: float) -> None:
    change = np.abs(reflectance(-180, lat, SEED) - reflectance(180, lat, SEED))
    assert (change[~np.isnan(change)] < 0.01).all()


def test_interpolation_in_a_90_m_raster_shows_the_world() -> None:
    """Within 3 of 255 levels, for 95 % of land: tests compare web tiles with this function."""

    def display(rgb: Floats) -> Floats:
        return 255 * srgb(
            saturation(offset_gamma(highlight_compression(rgb, 3.0, 0.13), 1.8, 0.01), 1.2)
        )

    lon, lat = np.meshgrid(np.linspace(17.9, 18.6, 211), np.linspace(43.1, 43.9, 213))
    east, north = 45 * METRE / np.cos(np.radians(43.5)), 45 * METRE
    corners = [
        display(reflectance(lon + i * east, lat + j * north, SEED))
        for i in (-1, 1)
        for j in (-1, 1)
    ]
    truth = reflectance(lon, lat, SEED)
    error = np.abs(np.mean(corners, axis=0) - display(truth)).max(axis=0)
    land = (truth[0] > truth[2]) & ~np.isnan(error)
    assert land.mean() > 0.3
    assert np.percentile(error[land], 95) < 3


KINDS: dict[str, tuple[float, Callable[..., NDArray[np.bool_]]]] = {
    "never observed": (2, lambda r, g, b: np.isnan(r)),
    "deep sea": (4, lambda r, g, b: (b < 0.045) & (b > 2 * r) & (b > 1.3 * g)),
    "shallow sea": (4, lambda r, g, b: (b > 1.7 * r) & (g > 0.08)),
    "snow": (0.5, lambda r, g, b: np.minimum(r, b) > 0.6),
    "forest": (5, lambda r, g, b: (g < 0.045) & (g > 1.4 * r) & (g > 1.4 * b)),
    "green fields and meadows": (10, lambda r, g, b: (g > 0.055) & (g > 1.35 * r)),
    "ripe fields": (1, lambda r, g, b: (r > 0.15) & (r > 1.45 * b) & (r < 0.28)),
    "deep shadow": (0.5, lambda r, g, b: (np.maximum(r, g) < 0.014) & (b < 0.012)),
    "beach": (0.05, lambda r, g, b: (r > 0.26) & (r < 0.36) & (r > 1.35 * b)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_demo_region_shows(kind: str, demo: Floats) -> None:
    share, is_kind = KINDS[kind]
    assert 100 * is_kind(*demo).mean() > share


def test_a_town_of_grey_blocks_stands_by_the_bay() -> None:
    red, _, blue = reflectance(
        np.linspace(18.395, 18.415, 60), np.linspace(43.575, 43.595, 60)[:, None], SEED
    )
    assert 0.12 < np.median(blue) < np.median(red) < 1.3 * np.median(blue)
    assert red.std() > 0.02


def test_reflectance_is_in_range(demo: Floats) -> None:
    observed = demo[~np.isnan(demo)]
    assert 0.003 < observed.min() < 0.006
    assert 0.7 < observed.max() < 1.02


def test_gaps_are_gaps_in_all_bands(demo: Floats) -> None:
    gap = np.isnan(demo)
    assert gap.any()
    assert (gap.all(axis=0) == gap.any(axis=0)).all()


def test_gaps_are_a_swath_edge_and_patches() -> None:
    lat = np.linspace(43.4, 44.05, 400)
    edge = 17.80 + 0.385 * (lat - 44.05)
    assert np.isnan(reflectance(edge - 0.03, lat, SEED)).all()
    assert np.isnan(reflectance(edge + 0.03, lat, SEED)).mean() < 0.05
    # ^ ragged, but nowhere by more than 2 km
    assert np.isnan(reflectance(18.478, 43.809, SEED)).all()


def test_a_seed_makes_a_world(demo: Floats) -> None:
    lon, lat = np.linspace(17.9, 18.9, 50), np.linspace(43.1, 43.9, 50)
    first, second = reflectance(lon, lat, SEED), reflectance(lon, lat, SEED + 1)
    assert np.nanmean(np.abs(first - second)) > 0.02
    np.testing.assert_array_equal(first, reflectance(lon, lat, SEED))


def test_the_texture_is_finer_than_the_lattice() -> None:
    lon = 18.5 + np.arange(100) * 20 * METRE
    red = reflectance(lon, 43.9, SEED)[0]
    wiggle = np.diff(np.sign(np.diff(red)))
    assert np.count_nonzero(wiggle) > 20


def test_the_region_file_is_one_polygon_wound_as_rfc_7946_says() -> None:
    (feature,) = json.loads(DEMO.read_text())["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert shapely.LinearRing(ring).is_ccw
    assert len(ring) > 12


def test_points_halfway_between_nodes_are_like_any_other() -> None:
    halfway = (np.arange(24000, 24009) + 0.5) * LAT_STEP
    for first in range(4):  # windows that begin at odd and at even nodes
        lat = halfway[first : first + 5]
        assert np.isfinite(reflectance(18.3 + 0 * lat, lat, 41)).any()
