"""The demo, built by real snakemake runs: its pixels are held against the world they come from."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import shapely
from osgeo import gdal
from runs import OWN_WORDS
from shapely.geometry import shape
from webmap import canvas, header, images, metadata, pixel_centres

from basemake.demo.world import reflectance
from basemake.system.machine import usable_memory

SEED = 41  # of config/sources/simulated.yaml
TOP = 10  # the zoom whose pixels are nearest to 90 m at 43.5 degrees north
ZONE_BORDER = 18.0  # degrees east: UTM zones 33 and 34


@pytest.fixture(scope="module")
def demo(new_build, demo_config):
    build = new_build(**demo_config)
    build.build(cores=4)
    return build


@pytest.fixture(scope="module")
def archive(demo):
    return demo.results / "pyramid/demo.pmtiles"


@pytest.fixture(scope="module")
def top(archive):
    """The map at its top zoom, with longitude and latitude of every pixel's centre."""
    rgba, corner = canvas(archive, TOP)
    return rgba, *pixel_centres(corner, rgba.shape, TOP)


@pytest.fixture(scope="module")
def world(top):
    """The reflectance of the world at every pixel's centre."""
    return reflectance(*top[1:], SEED)


def published(rho: np.ndarray) -> np.ndarray:
    """The L2A-optimized colours of reflectance (3, ...), 0..255, in float64 as published."""
    middle, gamma, offset, factor = 0.13 / 3.0, 1.8, 0.01, 1.2
    a = np.clip(np.nan_to_num(rho).astype(float) / 3.0, 0, 1)
    s = a * (a * middle - 1) / (a * (2 * middle - 1) - middle)
    low = offset**gamma
    s = ((s + offset) ** gamma - low) / ((1 + offset) ** gamma - low)
    c = np.clip(s.mean(axis=0) * (1 - factor) + s * factor, 0, 1)
    return 255 * np.where(c <= 0.0031308, 12.92 * c, 1.055 * c**0.41666666666 - 0.055)


def error(rgba: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """The largest difference of a pixel's three colours from the world's, where both show."""
    shown = (rgba[..., 3] == 255) & np.isfinite(rho).all(axis=0)
    expected = np.moveaxis(published(rho), 0, -1)
    return np.abs(rgba[..., :3] - expected).max(axis=-1)[shown]


def test_every_pixel_of_the_top_zoom_is_the_worlds_colour(top, world):
    # Pixels of 90 m, interpolated to 110 m: most are off by rounding alone, and one in a thousand
    # lies on an edge sharper than a pixel.
    difference = error(top[0], world)
    assert difference.size > 500_000
    assert (np.percentile(difference, [50, 95, 99.9]) <= [1, 2.5, 8]).all()


@pytest.mark.parametrize("zone", [33, 34])
def test_both_zones_are_in_place_to_a_fraction_of_a_pixel(top, zone):
    """The error is least where pixels are: half a pixel to any side it is plainly larger."""
    lon = top[1][0]
    inside = (lon < ZONE_BORDER) if zone == 33 else (lon > ZONE_BORDER)
    near = inside & (abs(lon - ZONE_BORDER) < 0.3)
    rgba, lon, lat = (one[:, near] for one in top)
    step = 360 / 2**TOP / 256
    here = error(rgba, reflectance(lon, lat, SEED)).mean()
    for east, north in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
        moved = lon + east * step, lat + north * step * np.cos(np.radians(lat))
        assert error(rgba, reflectance(*moved, SEED)).mean() > 1.3 * here


def test_no_line_at_tile_and_zone_borders(top, world):
    """No step between neighbours that the world does not have: a seam is a whole line of them."""
    rgba = top[0]
    wanted = np.moveaxis(published(world), 0, -1)
    shown = (rgba[..., 3] == 255) & np.isfinite(world).all(axis=0)
    difference = np.where(shown, (rgba[..., :3] - wanted).mean(axis=-1), np.nan)
    rows = np.isfinite(difference).sum(axis=1) > 200
    columns = np.isfinite(difference).sum(axis=0) > 200
    assert np.abs(np.nanmean(difference[rows], axis=1)).max() < 1.5
    assert np.abs(np.nanmean(difference[:, columns], axis=0)).max() < 1.5


def test_alpha_is_where_the_world_was_observed_inside_the_region(demo, top, world):
    rgba, lon, lat = top
    document = json.loads(Path(demo.config["regions"]["demo"]).read_text())
    region = shape(document["features"][0]["geometry"])
    seen = np.isfinite(world).all(axis=0)
    step = 360 / 2**TOP / 256  # a pixel
    inner = shapely.contains_xy(region.buffer(-step), lon, lat)
    outer = shapely.contains_xy(region.buffer(step), lon, lat)
    assert not rgba[~outer].any(), "pixels outside the region"
    # Validity is sampled at 90 m: pixels within two of a nodata edge may differ.
    from_edge = np.ones_like(seen)
    for shift in itertools.product(range(-2, 3), repeat=2):
        from_edge &= np.roll(seen, shift, (0, 1)) == seen
    sure = inner & from_edge
    assert (rgba[..., 3] == 255)[sure & seen].all(), "a hole in the map"
    assert not rgba[sure & ~seen].any(), "pixels that were never observed"
    assert (sure & ~seen).sum() > 100, "the demo has unobserved patches"


@pytest.mark.parametrize("zoom", range(4, TOP))
def test_lower_zooms_are_means_of_their_children_without_halos(archive, zoom):
    """Of their light, weighted by alpha: next to nodata none is darker or lighter than it shows.

    Web tiles of all zooms are rounded to whole levels, each from what was not rounded.
    """
    above, below = images(archive, zoom), images(archive, zoom + 1)
    for (x, y), parent in above.items():
        size = parent.shape[0]
        whole = np.zeros((2 * size, 2 * size, 4))
        for dx in (0, 1):
            for dy in (0, 1):
                child = below.get((2 * x + dx, 2 * y + dy))
                if child is not None:
                    whole[dy * size : (dy + 1) * size, dx * size : (dx + 1) * size] = child
        blocks = whole.reshape(size, 2, size, 2, 4).swapaxes(1, 2).reshape(size, size, 4, 4)
        weights, colours = blocks[..., 3:], blocks[..., :3] / 255
        light = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
        light = (light * weights).sum(axis=2) / np.maximum(weights.sum(axis=2), 1)
        mean = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        difference, solid = parent[..., :3] - 255 * mean, parent[..., 3] == 255
        assert np.abs(difference)[solid].max() <= 1.05
        assert abs(difference[solid].mean()) <= 0.15
        assert np.abs(parent[..., 3] - weights.mean(axis=2)[..., 0]).max() <= 1.01


def test_archive_says_what_it_holds(archive):
    head = header(archive)
    assert (head["min_zoom"], head["max_zoom"], head["clustered"]) == (0, TOP, True)
    assert head["tile_type"].name == "WEBP"
    west, south, east, north = (
        head[key] / 1e7 for key in ("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7")
    )
    assert west < head["center_lon_e7"] / 1e7 < east
    assert south < head["center_lat_e7"] / 1e7 < north
    assert metadata(archive)["attribution"] == "Simulated imagery (basemake)"
    assert metadata(archive)["name"] == "demo"
    for zoom in range(TOP + 1):
        for image in images(archive, zoom).values():
            assert image[..., 3].any(), "a fully transparent web tile"


def test_mosaic_opens_and_shows_what_the_map_shows(demo, top):
    rgba, lon, lat = top
    mosaic = gdal.Open(str(demo.results / "mosaic/demo.vrt"))
    assert mosaic.GetSpatialRef().GetAuthorityCode(None) == "3857"
    west, pixel, _, north, _, _ = mosaic.GetGeoTransform()
    world = 2 * np.pi * 6378137
    column = round((lon[0, 0] / 360 * world - pixel / 2 - west) / pixel)
    y = np.arctanh(np.sin(np.radians(lat[0, 0]))) * 6378137
    row = round((north - y - pixel / 2) / pixel)
    size = rgba.shape[1], rgba.shape[0]
    left, top_ = max(0, -column), max(0, -row)
    width = min(size[0] - left, mosaic.RasterXSize - (column + left))
    height = min(size[1] - top_, mosaic.RasterYSize - (row + top_))
    window = mosaic.ReadAsArray(column + left, row + top_, width, height)
    shown = rgba[top_ : top_ + height, left : left + width]
    both = (shown[..., 3] == 255) & (window[3] == 255)
    assert both.sum() > 0.99 * (shown[..., 3] == 255).sum()
    # The mosaic interpolates twice where tiles of 90 m do not share a lattice.
    difference = np.abs(np.moveaxis(window[:3], 0, -1).astype(int) - shown[..., :3])[both]
    assert np.median(difference) <= 1
    assert np.percentile(difference, 99) <= 16
    for zone in ("32633", "32634"):
        assert gdal.Open(str(demo.results / f"mosaic/demo_{zone}.vrt")).RasterCount == 4


def test_a_second_run_has_nothing_to_do(demo):
    assert "Nothing to be done" in demo.run("--cores", "4")


def test_same_bytes_with_one_core(demo, new_build, demo_config):
    other = new_build(**demo_config)
    shutil.copytree(demo.directory / "simulated", other.directory / "simulated")
    other.build(cores=1)
    for pattern in ("manifest.geojson", "tiles/*", "mosaic/*", "metatiles/**/*", "pyramid/*"):
        expected = demo.files(pattern)
        assert expected
        assert other.files(pattern) == expected


def test_a_touched_manifest_and_a_repeated_search_rebuild_nothing(demo):
    manifest = demo.results / "manifest.geojson"
    before = manifest.stat().st_mtime_ns
    assert "unchanged" in demo.run("manifest")
    assert manifest.stat().st_mtime_ns == before
    manifest.touch()
    assert "Nothing to be done" in demo.run("--cores", "2")


@contextmanager
def one_core() -> Iterator[None]:
    """Let this process and those it starts use one core only."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(allowed)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [([], 1), (["--cores", "6"], 3), (["--cores", "64"], 4), (["--jobs", "9"], 4)],
)
def test_threads_are_a_share_of_the_cores_but_not_of_a_login_nodes(demo, arguments, threads):
    with one_core():
        printed = demo.run("--dry-run", "--forceall", OWN_WORDS, *arguments)
    jobs = re.findall(r"^rule enhance_tile:(.*?mem_mb=\d+)", printed, re.MULTILINE | re.DOTALL)
    assert len(jobs) == 6
    for job in jobs:
        assert (f"threads: {threads}\n" in job) == (threads > 1)
        snakemake = 350 if "--jobs" in arguments else 0  # which takes memory on another machine
        assert job.endswith(f"mem_mb={120 + 64 * threads + 64 + snakemake}")


@pytest.mark.parametrize(
    ("arguments", "megabytes"),
    [
        ([], int(0.75 * usable_memory() / 1e6)),
        (["--resources", "mem_mb=700"], 700),
        (["--jobs", "9"], None),
    ],
)
def test_jobs_here_keep_to_the_memory_of_this_machine(demo, arguments, megabytes):
    provided = re.findall(r'"mem_mb", (\d+)', demo.run("manifest", OWN_WORDS, *arguments))
    assert provided == ([] if megabytes is None else [str(megabytes)])


def test_threads_and_cache_rebuild_nothing(demo):
    demo.config |= {"threads": {"enhance": 1, "render": 1}, "gdal_cache_mb": 32}
    assert demo.planned() == set()


def test_quality_remakes_only_the_pyramid(demo, new_build):
    demo.config["pyramid"]["quality"] = 80
    pyramid = {"render_metatile", "render_overview", "pack_pyramid"}
    pyramid |= {"build_preview", "build_index", "build_web", "build_stac"}
    assert demo.planned() == pyramid
    demo.config["pyramid"]["quality"] = "lossless"
    assert demo.planned() == set()


def test_recipe_remakes_tiles_and_what_follows_but_no_band(demo):
    demo.config["recipe"] = "simple-gain"
    assert demo.planned() == {
        "enhance_tile",
        "build_zone_vrt",
        "build_vrt",
        "render_metatile",
        "render_overview",
        "pack_pyramid",
        "build_preview",
        "build_web",
        "build_index",
        "build_stac",
    }
    del demo.config["recipe"]


def test_a_changed_request_stops_in_one_line(demo):
    demo.config["quarter"] = "2025Q2"
    printed = demo.run("--dry-run", check=False)
    demo.config["quarter"] = "2025Q3"
    assert (
        "holds 2025Q3, and 2025Q2 is asked for: build it in another one, by --directory" in printed
    )
    assert "Traceback" not in printed
