"""Web tiles against a world that is a smooth function of longitude and latitude.

The world is cut into tiles as the mosaics are: two UTM zones, overlaps of 6 pixels, siblings that
abut, and lattices that do not agree. Pixels are of 100 m, so that a metatile is small.
"""

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from osgeo import gdal, osr
from PIL import Image
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import Compression, TileType

import basemake.pixels.warp
import cogs
from basemake.errors import TileError
from basemake.pixels.archive import write_part
from basemake.pixels.encoding import encoder
from basemake.pixels.light import to_colours, to_light
from basemake.pixels.roots import read_root, write_root
from basemake.pixels.warp import Warper
from basemake.pixels.webtiles import WebTile
from build_preview import Told, build_preview
from enhance_tile import relabel_tile
from export_cog import Part, export_cog
from export_folder import export_folder
from export_mbtiles import export_mbtiles
from pack_pyramid import pack_pyramid
from render_metatile import Rendering, digest_inputs, is_made_of, render_metatile
from render_overview import render_overview

SCRIPTS = Path(__file__).parents[2] / "scripts"
RADIUS = 6378137.0
PIXEL = 100.0
WEST, EAST = WebTile(8, 140, 91), WebTile(8, 141, 91)  # 18 E, a zone's border, is in WEST
MAX_ZOOM = 10
BRIGHT = np.array([230, 150, 90, 255], np.uint8)

Colours = Callable[[NDArray, NDArray], NDArray]


def waves(lon: NDArray, lat: NDArray) -> NDArray:
    """Colours (..., 3): red runs with longitude, green with latitude, blue with both.

    A wave is 36 pixels long at the top zoom at 46 N and goes on across 180 degrees.
    """
    phases = np.stack([20 * lon, 28 * lat, 10 * lon + 14 * lat], axis=-1)
    return 128 + 100 * np.sin(2 * np.pi * phases)


# The steepest slope is 100 * 2 pi / 36 = 17.4 levels a pixel. A pixel is right to this: rounded
# twice (1), interpolated on waves of 38 source pixels (2 * 0.34), at coordinates interpolated to
# 0.05 pixels (0.9). Half a pixel is 8.7.
RIGHT = 2.8
# Where a tile ends, its outermost pixel stands for what is up to half a pixel beyond its centre.
RIGHT_AT_EDGES = RIGHT + 8.7


def on_a_fine_grid(
    function: Callable[[float, float], tuple], x: NDArray, y: NDArray
) -> tuple[NDArray, NDArray]:
    """Both results of `function` at all x and y, linear between each 16th: right to 0.1 m."""
    coarse_x, coarse_y = (np.linspace(v[0], v[-1], len(v) // 16 + 2) for v in (x, y))
    coarse = np.array([[function(a, b)[:2] for a in coarse_x] for b in coarse_y])
    weights = [
        np.array([np.interp(fine, knots, row) for row in np.eye(len(knots))])
        for fine, knots in ((x, coarse_x), (y[::-1], coarse_y[::-1]))
    ]
    across, down = weights[0], weights[1][::-1, ::-1].T
    return down @ coarse[..., 0] @ across, down @ coarse[..., 1] @ across


def transformation(source: int, target: int) -> Callable[[float, float], tuple]:
    systems = []
    for epsg in (source, target):
        srs = osr.SpatialReference()
        srs.ImportFromEPSG(epsg)
        srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        systems.append(srs)
    transform = osr.CoordinateTransformation(*systems)
    return lambda x, y: transform.TransformPoint(x, y)


def centres(start: float, step: float, count: int) -> NDArray:
    return start + step * (np.arange(count) + 0.5)


def picture(
    epsg: int, origin: tuple[float, float], width: int, height: int, colours: Colours = waves
) -> NDArray[np.uint8]:
    """What the world shows in a tile."""
    x, y = centres(origin[0], PIXEL, width), centres(origin[1], -PIXEL, height)
    to_lonlat, meridian = transformation(epsg, 4326), 6 * (epsg % 100) - 183

    def continuous(x: float, y: float) -> tuple[float, float]:
        lon, lat, _ = to_lonlat(x, y)
        return (lon - meridian + 180) % 360 - 180 + meridian, lat

    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[..., :3] = np.round(colours(*on_a_fine_grid(continuous, x, y)))
    return rgba


def mercator_centres(tile: WebTile, pixels: int) -> tuple[NDArray, NDArray]:
    """Where the columns and rows of a web tile's pixels are, in Mercator metres."""
    size = 2 * math.pi * RADIUS / 2**tile.z
    x = centres(tile.x * size - math.pi * RADIUS, size / pixels, pixels)
    return x, centres(math.pi * RADIUS - tile.y * size, -size / pixels, pixels)


def to_degrees(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    return np.degrees(x / RADIUS), np.degrees(2 * np.arctan(np.exp(y / RADIUS)) - np.pi / 2)


def expected(tile: WebTile, pixels: int, colours: Colours = waves) -> NDArray:
    """The world at the centres of the pixels of a web tile."""
    return colours(*np.meshgrid(*to_degrees(*mercator_centres(tile, pixels))))


class Place(tuple):
    """(epsg, origin, width, height) of a tile."""

    def near_edge(self, tile: WebTile, pixels: int) -> NDArray[np.bool_]:
        """Pixels of a web tile that are within one source pixel of this tile's edge."""
        epsg, (ulx, uly), width, height = self
        e, n = on_a_fine_grid(transformation(3857, epsg), *mercator_centres(tile, pixels))
        inside = [
            (e > ulx + m) & (e < ulx + width * PIXEL - m) & (n < uly - m)
            & (n > uly - height * PIXEL + m)
            for m in (-PIXEL, PIXEL)
        ]  # fmt: skip
        return inside[0] & ~inside[1]


WORLD = {
    # Zone 33: the first two rows abut, the third overlaps by 6 pixels, and so do the columns; the
    # last tile is off the others' lattice.
    "a": Place((32633, (643_000.0, 5_113_000.0), 500, 400)),
    "b": Place((32633, (692_400.0, 5_113_000.0), 500, 400)),
    "c": Place((32633, (643_000.0, 5_073_000.0), 500, 400)),
    "d": Place((32633, (692_400.0, 5_073_000.0), 500, 400)),
    "e": Place((32633, (643_000.0, 5_033_600.0), 500, 400)),
    "f": Place((32633, (692_433.0, 5_033_559.0), 500, 400)),
    # Zone 34, over the border of the zone.
    "g": Place((32634, (262_037.0, 5_113_063.0), 500, 400)),
    "h": Place((32634, (262_037.0, 5_073_063.0), 500, 400)),
    "i": Place((32634, (262_037.0, 5_033_663.0), 500, 400)),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, write_tile) -> list[Path]:
    """Enhanced tiles that cover WEST whole, and a part of EAST."""
    folder = tmp_path_factory.mktemp("tiles")
    paths = []
    for name, place in WORLD.items():
        epsg, origin, *size = place
        rgba = picture(epsg, origin, *size)
        if name == "h":  # zone 33 shows through: one bad pixel, and a hole
            rgba[100, 40] = 0
            rgba[200:230, 20:60] = 0
        path = folder / f"{name}.tif"
        paths.append(write_tile(path, rgba, epsg=epsg, origin=origin, pixel=PIXEL))
    return paths


LOSSLESS = Rendering(
    min_zoom=8,
    max_zoom=MAX_ZOOM,
    tile_size=256,
    image_format="webp",
    quality="lossless",
    resampling="bilinear",
    outline=None,
    overlap="top",
)
WEBP: dict[str, Any] = {"image_format": "webp", "quality": "lossless"}


def render(
    folder: Path,
    metatile: WebTile,
    tiles: list[Path],
    *,
    threads: int = 2,
    made_of: str = "these",
    **options,
) -> tuple[Path, Path]:
    """Render a metatile; return its archive and its root."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "_".join(map(str, metatile))
    archive, root = folder / f"{name}.pmtiles", folder / f"{name}.tif"
    rendering = replace(LOSSLESS, **options)
    render_metatile(metatile, tiles, archive, root, rendering, threads=threads, made_of=made_of)
    return archive, root


def encoded(archive: Path) -> dict[WebTile, bytes]:
    """The web tiles of an archive as they are stored."""
    with archive.open("rb") as file:
        return {WebTile(*name): data for name, data in all_tiles(MmapSource(file))}


def decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


def pixels_of(root: Path) -> NDArray[np.uint8]:
    return to_colours(read_root(root)[0])


def level(tiles: dict[WebTile, bytes], parent: WebTile, zoom: int, size: int = 256) -> NDArray:
    """The pixels of one zoom inside `parent`, transparent where there is no web tile."""
    count = 1 << (zoom - parent.z)
    canvas = np.zeros((count * size, count * size, 4), np.uint8)
    for (z, x, y), data in tiles.items():
        column, row = x - parent.x * count, y - parent.y * count
        if z == zoom and 0 <= column < count and 0 <= row < count:
            window = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
            canvas[window] = decode(data)
    return canvas


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, world) -> dict[WebTile, tuple[Path, Path]]:
    """Archive and root of both metatiles, lossless."""
    folder = tmp_path_factory.mktemp("metatiles")
    return {metatile: render(folder, metatile, world) for metatile in (WEST, EAST)}


def test_every_pixel_shows_what_is_at_its_centre(parts) -> None:
    found = level(encoded(parts[WEST][0]), WEST, MAX_ZOOM)
    assert (found[..., 3] == 255).all()
    error = np.abs(found[..., :3] - expected(WEST, 1024))
    edges = np.any([place.near_edge(WEST, 1024) for place in WORLD.values()], axis=0)
    assert 0.005 < edges.mean() < 0.05
    assert error[~edges & ~around_hole()].max() <= RIGHT
    assert error.max() <= RIGHT_AT_EDGES


def around_hole() -> NDArray[np.bool_]:
    """Pixels of WEST where the holes of tile h begin: the edges of tile h as well."""
    epsg, (ulx, uly), *_ = WORLD["h"]
    holes = [(100, 101, 40, 41), (200, 230, 20, 60)]
    places = [
        Place((epsg, (ulx + left * PIXEL, uly - top * PIXEL), right - left, bottom - top))
        for top, bottom, left, right in holes
    ]
    return np.any([place.near_edge(WEST, 1024) for place in places], axis=0)


def test_a_metatile_knows_what_it_is_made_of(tmp_path: Path, world: list[Path]) -> None:
    tiles = [Path(shutil.copy(path, tmp_path / f"{n}.tif")) for n, path in enumerate(world[:2])]
    options = {"quality": 80}
    made_of = digest_inputs(tiles, options)
    archive, root = render(tmp_path, WEST, tiles, made_of=made_of)
    assert is_made_of(archive, root, made_of)
    for other in (digest_inputs(tiles[::-1], options), digest_inputs(tiles, {"quality": 81})):
        assert not is_made_of(archive, root, other)

    shutil.copy(world[0], tiles[0])  # the same again
    assert digest_inputs(tiles, options) == made_of
    relabel_tile(tiles[0], tiles[0], metadata={"ATTRIBUTION": "another"}, codec="zstd")
    assert digest_inputs(tiles, options) == made_of
    shutil.copy(world[2], tiles[0])
    assert digest_inputs(tiles, options) != made_of

    for damaged in (archive, root):
        content = damaged.read_bytes()
        for kept in (0, 20, len(content) - 100):
            damaged.write_bytes(content[:kept])
            assert not is_made_of(archive, root, made_of)
        damaged.unlink()
        assert not is_made_of(archive, root, made_of)
        damaged.write_bytes(content)
        assert is_made_of(archive, root, made_of)


def test_what_breaks_off_does_not_say_what_it_is_made_of(
    tmp_path: Path, world: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the old inputs nor the new ones, whichever archive exists."""
    archive, root = render(tmp_path, WEST, world, made_of="old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("killed")

    monkeypatch.setattr("render_metatile.write_root", fail)
    with pytest.raises(OSError, match="killed"):
        render(tmp_path, WEST, world[:2], made_of="new")
    assert not is_made_of(archive, root, "old")
    assert not is_made_of(archive, root, "new")


@pytest.mark.parametrize("shift", [(0.5, 0), (0, 0.5)], ids=["x", "y"])
def test_half_a_pixel_would_be_seen(shift: tuple[float, float]) -> None:
    """The tolerance is strict enough: a shift of the world by half a pixel is outside it."""
    pixel = 2 * math.pi * RADIUS / 2**MAX_ZOOM / 256

    def moved(lon: NDArray, lat: NDArray) -> NDArray:
        scale = np.degrees(pixel / RADIUS)
        return waves(lon + shift[0] * scale, lat + shift[1] * scale * np.cos(np.radians(lat)))

    error = np.abs(expected(WEST, 1024, moved) - expected(WEST, 1024))
    assert np.quantile(error.max(axis=-1), 0.5) > RIGHT


def exact_light(tiles: dict[WebTile, bytes], tile: WebTile) -> NDArray:
    """A web tile's linear light in float64, times alpha of 0..1, from those of the top zoom."""
    if tile.z == MAX_ZOOM:
        rgba = decode(tiles[tile]) / 255 if tile in tiles else np.zeros((256, 256, 4))
        c = rgba[..., :3]
        light = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return np.concatenate([light * rgba[..., 3:], rgba[..., 3:]], axis=-1)
    nw, ne, sw, se = (
        exact_light(tiles, child) if child in tiles else np.zeros((256, 256, 4))
        for child in tile.children
    )
    joined = np.vstack([np.hstack([nw, ne]), np.hstack([sw, se])])
    return joined.reshape(256, 2, 256, 2, 4).mean(axis=(1, 3))


def test_each_lower_zoom_is_the_mean_light_of_the_top_zoom(parts, tmp_path: Path) -> None:
    overview = tmp_path / "overview.pmtiles"
    roots = {metatile: root for metatile, (_, root) in parts.items()}
    render_overview(roots, overview, min_zoom=0, **WEBP)
    tiles = {}
    for path in [overview, *(archive for archive, _ in parts.values())]:
        tiles |= encoded(path)
    assert {z for z, _, _ in tiles} == set(range(MAX_ZOOM + 1))
    assert [name for name in tiles if name.z == 7] == [WebTile(7, 70, 45)]
    for name in tiles:
        if name.z < MAX_ZOOM:
            found, light = decode(tiles[name]), exact_light(tiles, name)
            alpha = light[..., 3:]
            assert np.abs(found[..., 3:] - 255 * alpha).max() <= 0.51
            light = light[..., :3] / np.maximum(alpha, 1e-9)
            colour = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
            # The nearest level, but for the 16 bits of light times alpha.
            error = np.abs(found[..., :3] - 255 * colour) - 0.08 / np.maximum(alpha, 1e-9)
            assert error[found[..., 3] > 0].max() <= 0.5
    for metatile, (_, root) in parts.items():
        assert (pixels_of(root) == decode(tiles[metatile])).all()


def test_there_is_no_web_tile_where_nothing_shows(parts) -> None:
    tiles = encoded(parts[EAST][0])
    assert all(decode(data)[..., 3].any() for data in tiles.values())
    assert sum(z == MAX_ZOOM for z, _, _ in tiles) < 16
    canvas = level(tiles, EAST, MAX_ZOOM)
    assert (canvas[canvas[..., 3] == 0] == 0).all()
    assert 0.1 < (canvas[..., 3] > 0).mean() < 0.5


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory, write_tile) -> tuple[Path, Path]:
    """One bright colour with a coast, and single bad pixels; and its neighbour."""
    folder = tmp_path_factory.mktemp("ragged")
    rgba = np.tile(BRIGHT, (400, 500, 1))
    random = np.random.default_rng(3)
    rgba[random.random((400, 500)) < 0.02] = 0
    x = np.arange(500)
    coast = 200 + 90 * np.sin(x / 31) + 12 * np.sin(x / 3)
    rgba[np.arange(400)[:, np.newaxis] > coast] = 0
    epsg, origin, *_ = WORLD["a"]
    first = write_tile(folder / "a.tif", rgba, epsg=epsg, origin=origin, pixel=PIXEL)
    epsg, origin, *_ = WORLD["b"]
    second = write_tile(folder / "b.tif", rgba[:, ::-1], epsg=epsg, origin=origin, pixel=PIXEL)
    return first, second


@pytest.mark.parametrize(
    ("image_format", "quality", "mean", "most"),
    [
        ("webp", "lossless", 1, 1),  # rounding, once a zoom, back towards the same colour
        ("png", None, 1, 1),
        ("webp", 80, 3, 20),  # chroma at half the size; a dark halo would be 90 to 230 off
    ],
)
def test_nodata_leaves_no_halo_at_any_zoom(
    ragged, tmp_path: Path, image_format: str, quality: int | str | None, mean: float, most: int
) -> None:
    drawing = {"image_format": image_format, "quality": quality}
    archive, root = render(tmp_path, WEST, list(ragged), **drawing)
    overview = tmp_path / "overview.pmtiles"
    render_overview({WEST: root}, overview, min_zoom=0, **drawing)
    tiles = encoded(archive) | encoded(overview)
    assert {z for z, _, _ in tiles} == set(range(MAX_ZOOM + 1))
    errors, partly = [], 0
    for data in tiles.values():
        rgba = decode(data)
        shown = rgba[..., 3] > 0
        partly += (shown & (rgba[..., 3] < 255)).sum()
        errors.append(np.abs(rgba[shown].astype(int) - BRIGHT)[:, :3])
    assert np.concatenate(errors).max() <= most
    assert np.concatenate(errors).mean() <= mean
    assert partly > 1000


OUTLINE = shapely.Polygon(
    [(0.08, 0.1), (0.9, 0.23), (0.81, 0.74), (0.33, 0.92), (0.3, 0.5)],
    [[(0.5, 0.4), (0.7, 0.4), (0.6, 0.61)]],
)


def stretched(west: float, south: float, east: float, north: float) -> shapely.Polygon:
    """OUTLINE, whose sides are 0..1, in a box."""
    low, high = np.array([west, south]), np.array([east, north])
    return shapely.transform(OUTLINE, lambda xy: low + xy * (high - low))


def inside(outline: shapely.Polygon, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Which points are inside, and which are too near to the line (0.01 pixels) to tell."""
    points = shapely.points(*np.meshgrid(x, y))
    shapely.prepare(outline)
    near = shapely.dwithin(outline.boundary, points, 0.01 * (x[1] - x[0]))
    assert near.mean() < 1e-3
    return shapely.contains(outline, points), near


def test_only_pixels_inside_the_outline_show(world, tmp_path: Path) -> None:
    x, y = mercator_centres(WEST, 1024)
    outline = stretched(x[0], y[-1], x[-1], y[0])
    archive, _ = render(tmp_path, WEST, world, outline=outline.wkt)
    tiles = encoded(archive)
    alpha = level(tiles, WEST, MAX_ZOOM)[..., 3]
    wanted, unsure = inside(outline, x, y)
    assert ((alpha == np.where(wanted, 255, 0)) | unsure).all()
    assert WebTile(MAX_ZOOM, WEST.x * 4, WEST.y * 4) not in tiles


@pytest.mark.parametrize("open_files", [1, 64])
def test_a_web_tile_does_not_depend_on_its_metatile(
    world, parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_files: int
) -> None:
    """In any metatile, with any number of tiles open at a time."""
    monkeypatch.setattr(basemake.pixels.warp, "OPEN_FILES", open_files)
    above, _ = render(tmp_path, WEST.parent, world, min_zoom=8)
    below: dict[WebTile, bytes] = {}
    for metatile in EAST.children:
        below |= encoded(render(tmp_path, metatile, world)[0])
    west, east = (encoded(parts[metatile][0]) for metatile in (WEST, EAST))
    assert (west | east).items() <= encoded(above).items()
    assert below == {name: data for name, data in east.items() if name.z > EAST.z}


def test_what_has_no_tile_is_neither_read_nor_warped(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tile in one corner of a large metatile: only pieces around it are drawn."""
    drawn = []
    draw = Warper.draw
    monkeypatch.setattr(Warper, "draw", lambda *place: drawn.append(place[1:]) or draw(*place))
    archive, _ = render(tmp_path, WebTile(6, 35, 22), world[:1])
    shown = {(y % 16, x % 16) for z, x, y in encoded(archive) if z == MAX_ZOOM}
    assert shown <= set(drawn)
    assert len(drawn) <= 25
    assert len(shown) >= 6


def test_the_bytes_do_not_depend_on_threads(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = set()
    for threads in (1, 4):
        monkeypatch.setenv("GDAL_NUM_THREADS", str(threads))
        made = render(tmp_path / str(threads), WEST, world, threads=threads, quality=80)
        contents.add(tuple(path.read_bytes() for path in made))
    assert len(contents) == 1


@pytest.mark.parametrize("resampling", ["nearest", "cubic"])
def test_every_resampling_has_neither_gaps_nor_shifts(
    world, tmp_path: Path, resampling: str
) -> None:
    archive, _ = render(tmp_path, WEST, world, min_zoom=10, resampling=resampling)
    found = level(encoded(archive), WEST, MAX_ZOOM)
    assert (found[..., 3] == 255).all()
    error = found[..., :3] - expected(WEST, 1024)
    # Nearest is half a pixel off at most; sharper kernels overshoot at edges by as much again.
    assert np.abs(error).max() <= RIGHT + 2 * 8.7
    # A constant shift would show as an error in step with the slope.
    for axis, band in ((1, 0), (0, 1)):
        slope = np.gradient(expected(WEST, 1024), axis=axis)[..., band]
        shift = (error[..., band] * slope).mean() / (slope**2).mean()
        assert abs(shift) < 0.05  # pixels


@pytest.mark.parametrize("tile_size", [256, 512])
@pytest.mark.parametrize(
    ("image_format", "quality", "rms", "most"),
    [
        ("webp", "lossless", 0, 0),
        ("png", None, 0, 0),
        # Waves of 18 pixels in all colours, chroma at half the size; most at nodata, or at white.
        ("webp", 90, 6, 60),
        ("jpeg", 90, 5, 100),
    ],
)
def test_formats_and_sizes_show_the_same(
    world, parts, tmp_path: Path,
    image_format: str, quality: int | str | None, rms: float, most: int, tile_size: int,
) -> None:  # fmt: skip
    # Web tiles of 512 pixels have the same pixels one zoom higher up.
    zoom, top = (9, MAX_ZOOM) if tile_size == 256 else (8, MAX_ZOOM - 1)
    options = {"image_format": image_format, "quality": quality, "tile_size": tile_size}
    archive, _ = render(tmp_path, EAST, world[-3:], max_zoom=top, **options)
    tiles = encoded(archive)
    for data in tiles.values():
        with Image.open(BytesIO(data)) as image:
            assert image.format == image_format.upper()
            assert image.size == (tile_size, tile_size)
    found = level(tiles, EAST, zoom, tile_size).astype(int)
    reference = level(encoded(parts[EAST][0]), EAST, 9).astype(int)
    shown = reference[..., 3] > 0
    if image_format == "jpeg":  # it has no transparency: white
        shown = found[..., 3] > 0
        alpha = reference[..., 3:] / 255
        reference = reference * alpha + 255 * (1 - alpha)
        assert (reference[shown] == 255).all(axis=-1).any()
    else:  # alpha is lossless in WebP too
        assert (found[..., 3] == reference[..., 3]).all()
    difference = np.abs(found - reference)[shown, :3]
    assert np.sqrt((difference**2).mean()) <= rms
    assert difference.max() <= most


def test_quality_is_what_a_web_tile_is_encoded_at() -> None:
    rgba = picture(32633, (643_000.0, 5_113_000.0), 256, 256)
    rgba[30, 40] = 0
    for image_format, qualities in (("webp", (20, 50, 80, "lossless")), ("jpeg", (20, 50, 80))):
        sizes = [len(encoder(image_format, quality)(rgba)) for quality in qualities]
        assert sizes == sorted(set(sizes)), image_format


@pytest.mark.parametrize("side", [1, 7, 256])
def test_lossless_webp_is_the_image(side: int) -> None:
    rgba = np.random.default_rng(5).integers(0, 256, (side, side, 4), np.uint8)
    rgba[..., 3] = 255 * (rgba[..., 3] > 100)
    rgba *= rgba[..., 3:] > 0
    assert (decode(encoder("webp", "lossless")(rgba)) == rgba).all()


@pytest.mark.parametrize("kept", [0.6, 0.01, 0.004, 0.001, 0.0005, 0])
def test_a_truncated_tile_is_named_and_nothing_is_left(world, tmp_path: Path, kept: float) -> None:
    broken = shutil.copy(world[3], tmp_path / "33TYM_0_0.tif")
    content = broken.read_bytes()
    broken.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(TileError, match=r"33TYM_0_0\.tif") as caught:
        render(tmp_path / "parts", WEST, [*world[:3], broken, *world[4:]])
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "parts").iterdir()) == []


def near_180(tmp_path: Path, write_tile) -> list[Path]:
    """A tile of zone 60 and one of zone 1, each across 180 degrees, at Fiji."""
    tiles = []
    for name, epsg, left in (("zone1", 32701, 165_000.0), ("zone60", 32760, 795_037.0)):
        origin = left, 8_000_000.0
        rgba = picture(epsg, origin, 420, 330)
        path = tmp_path / f"{name}.tif"
        tiles.append(write_tile(path, rgba, epsg=epsg, origin=origin, pixel=PIXEL))
    return tiles


@pytest.mark.parametrize("which", [[0], [1], [0, 1]], ids=["zone 1", "zone 60", "both"])
def test_tiles_across_180_degrees_show_on_both_sides(
    write_tile, tmp_path: Path, which: list[int]
) -> None:
    tiles = near_180(tmp_path, write_tile)
    for metatile in (WebTile(8, 255, 141), WebTile(8, 0, 141)):
        archive, _ = render(tmp_path, metatile, [tiles[n] for n in which], min_zoom=10)
        found = level(encoded(archive), metatile, MAX_ZOOM)
        shown = found[..., 3] == 255
        meridian = np.s_[:, -1] if metatile.x else np.s_[:, 0]
        assert shown[meridian].sum() > 100
        # Tiles end anywhere here, so every pixel has the tolerance of edges; most are better.
        error = np.abs(found[..., :3] - expected(metatile, 1024))[shown]
        assert error.max() <= RIGHT_AT_EDGES
        assert np.quantile(error, 0.99) <= RIGHT


def test_a_metatile_where_nothing_shows_is_an_empty_part(world, parts, tmp_path: Path) -> None:
    elsewhere = WebTile(8, 3, 200)
    archive, root = render(tmp_path, elsewhere, world)
    assert encoded(archive) == {}
    assert not pixels_of(root).any()
    assert pixels_of(root).shape == (256, 256, 4)
    overview = tmp_path / "overview.pmtiles"
    render_overview({elsewhere: root}, overview, min_zoom=0, **WEBP)
    assert encoded(overview) == {}
    packing = {"extent": shapely.box(1, 1, 2, 2), "image_format": "webp", "metadata": {}}
    output = tmp_path / "demo.pmtiles"
    with pytest.raises(TileError, match="demo would be an empty map"):
        pack_pyramid([archive, overview], output, **packing)
    assert not output.exists()
    pack_pyramid([archive, parts[EAST][0]], output, **packing)
    assert encoded(output) == encoded(parts[EAST][0])


def test_a_root_that_is_cut_off_is_named(tmp_path: Path) -> None:
    """Wherever it is cut, it is never taken for a transparent one."""
    root, overview = tmp_path / "8_140_91.tif", tmp_path / "overview.pmtiles"
    write_root(root, to_light(picture(32633, (643_000.0, 5_113_000.0), 16, 16)), "these")
    content = root.read_bytes()
    for kept in range(len(content) - 24):
        root.write_bytes(content[:kept])
        with pytest.raises(TileError) as refusal:
            render_overview({WEST: root}, overview, min_zoom=7, **WEBP)
        said = str(refusal.value)
        assert said.startswith(f"the image {root} cannot be read (")
        assert said.endswith("; delete it and run again to make it anew.")
        assert not overview.exists()


TOLD = Told(
    **dict.fromkeys(("title", "quarter", "source", "recipe"), "x"),
    footprints={},
    items={},
    outline={},
    clip=True,
)
METADATA = {
    "name": "demo",
    "description": "a quarter",
    "attribution": "« Copernicus » <2025>",
    "type": "baselayer",
}


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory, parts) -> Path:
    """All web tiles of the world, packed."""
    folder = tmp_path_factory.mktemp("pyramid")
    overview = folder / "overview.pmtiles"
    roots = {metatile: root for metatile, (_, root) in parts.items()}
    render_overview(roots, overview, min_zoom=5, image_format="webp", quality="lossless")
    pack_pyramid(
        [overview, parts[EAST][0], parts[WEST][0]],
        folder / "demo.pmtiles",
        extent=shapely.union(shapely.box(17, 46.2, 18.4, 47), shapely.box(19, 46, 19.1, 46.1)),
        image_format="webp",
        metadata=METADATA,
    )
    return folder / "demo.pmtiles"


def test_a_pyramid_holds_every_web_tile_once_and_says_what_it_is(pyramid: Path, parts) -> None:
    tiles = encoded(pyramid)
    for archive, _ in parts.values():
        assert encoded(archive).items() <= tiles.items()
    assert {z for z, _, _ in tiles} == set(range(5, 11))
    with pyramid.open("rb") as file:
        reader = Reader(MmapSource(file))
        header, metadata = reader.header(), reader.metadata()
    assert metadata == METADATA
    assert (header["min_zoom"], header["max_zoom"]) == (5, 10)
    assert header["addressed_tiles_count"] == len(tiles)
    assert header["clustered"]
    assert header["tile_type"] == TileType.WEBP
    assert header["tile_compression"] == Compression.NONE
    degrees = {key[:-3]: header[key] / 1e7 for key in header if key.endswith("_e7")}
    assert [degrees[k] for k in ("min_lon", "min_lat", "max_lon", "max_lat")] == [17, 46, 19.1, 47]
    assert (degrees["center_lon"], degrees["center_lat"]) == (18.05, 46.5)
    assert 5 <= header["center_zoom"] <= 10


@pytest.mark.parametrize("width", [0.3, 1.3, 11.3, 44.9, 45.0, 200.0, 360.0])
def test_a_map_opens_where_it_is_one_to_two_web_tiles_wide(tmp_path: Path, width: float) -> None:
    write_part(tmp_path / "part", [(WebTile(0, 0, 0), b"a"), (WebTile(15, 0, 0), b"b")], "png")
    extent = shapely.box(-180, 10, width - 180, 20)
    output = tmp_path / "demo.pmtiles"
    pack_pyramid([tmp_path / "part"], output, extent=extent, image_format="png", metadata={})
    with output.open("rb") as file:
        header = Reader(MmapSource(file)).header()
    assert 1 < width / (360 / 2 ** header["center_zoom"]) <= 2
    assert header["center_lon_e7"] / 1e7 == pytest.approx(width / 2 - 180)


@pytest.mark.parametrize(
    ("parts", "middle", "zoom"),
    [
        ([(179, 180), (-180, -176)], -178.5, 7),  # the world has 128 web tiles of 2.8 degrees
        ([(138, 142), (-162, -154)], 172, 3),  # nothing at 180 degrees itself
    ],
)
def test_a_map_across_the_antimeridian_opens_in_its_middle(
    tmp_path: Path, parts: list[tuple[int, int]], middle: float, zoom: int
) -> None:
    write_part(tmp_path / "part", [(WebTile(0, 0, 0), b"a"), (WebTile(15, 0, 0), b"b")], "png")
    extent = shapely.MultiPolygon([shapely.box(west, 10, east, 20) for west, east in parts])
    output = tmp_path / "demo.pmtiles"
    pack_pyramid([tmp_path / "part"], output, extent=extent, image_format="png", metadata={})
    with output.open("rb") as file:
        header = Reader(MmapSource(file)).header()
    assert header["center_lon_e7"] / 1e7 == pytest.approx(middle)
    assert header["center_zoom"] == zoom
    # Readers know by them that the map goes across, and the middle lies within.
    assert (header["min_lon_e7"], header["max_lon_e7"]) == (-180 * 10**7, 180 * 10**7)


def test_a_map_up_to_the_pole_ends_where_web_tiles_do(tmp_path: Path) -> None:
    """In Mercator metres the pole is infinitely far away: no page could show it."""
    write_part(tmp_path / "part", [(WebTile(0, 0, 0), b"a")], "png")
    output = tmp_path / "demo.pmtiles"
    extent = shapely.box(10, 81, 20, 90)
    pack_pyramid([tmp_path / "part"], output, extent=extent, image_format="png", metadata={})
    with output.open("rb") as file:
        header = Reader(MmapSource(file)).header()
    latitudes = [header[f"{name}_lat_e7"] / 1e7 for name in ("min", "center", "max")]
    assert latitudes == pytest.approx([81, 83.02556, 85.05113], abs=1e-5)


def test_exports_hold_the_same_bytes(pyramid: Path, tmp_path: Path) -> None:
    tiles = encoded(pyramid)
    export_folder(pyramid, tmp_path / "demo", "webp")
    files = {path.relative_to(tmp_path / "demo").as_posix() for path in tmp_path.rglob("*.webp")}
    assert files == {f"{z}/{x}/{y}.webp" for z, x, y in tiles}
    for (z, x, y), data in tiles.items():
        assert (tmp_path / f"demo/{z}/{x}/{y}.webp").read_bytes() == data
    described = json.loads((tmp_path / "demo" / "metadata.json").read_text())
    credit = "« Copernicus » &lt;2025&gt;"  # which is HTML in TileJSON
    assert described.items() >= {**METADATA, "attribution": credit}.items()
    assert described["tiles"] == ["{z}/{x}/{y}.webp"]
    assert described["bounds"] == [17, 46, 19.1, 47]
    zooms = {int(z) for z, _, _ in tiles}
    assert (described["minzoom"], described["maxzoom"]) == (min(zooms), max(zooms))

    mbtiles = tmp_path / "demo.mbtiles"
    export_mbtiles(pyramid, mbtiles)
    database = sqlite3.connect(mbtiles)
    rows = database.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles")
    assert {WebTile(z, x, 2**z - 1 - y): data for z, x, y, data in rows} == tiles
    described = dict(database.execute("SELECT name, value FROM metadata"))
    database.close()
    assert described.items() >= METADATA.items()
    assert described["bounds"] == "17.0,46.0,19.1,47.0"
    assert (described["minzoom"], described["maxzoom"]) == ("5", "10")


@pytest.mark.parametrize("kept", [0, 60, -1])
def test_exports_name_an_archive_that_is_not_whole(
    pyramid: Path, tmp_path: Path, kept: int
) -> None:
    archive = tmp_path / "demo.pmtiles"
    archive.write_bytes(pyramid.read_bytes()[:kept])
    output = tmp_path / "output"
    for export in (
        lambda: export_folder(archive, output, "webp"),
        lambda: export_mbtiles(archive, output),
        lambda: build_preview(archive, output, output, TOLD, {}),
    ):
        with pytest.raises(TileError, match=f"{archive} is not a whole archive; delete it and run"):
            export()
        assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("kept", [0, 0.6])
def test_a_cog_names_a_tile_that_is_cut_off(world, tmp_path: Path, kept: float) -> None:
    tile = Path(shutil.copy(world[0], tmp_path / "33TYM_0_0.tif"))
    content = tile.read_bytes()
    tile.write_bytes(content[: int(kept * len(content))])
    drawing = replace(LOSSLESS, image_format="png", quality=None)
    with pytest.raises(TileError, match=r"33TYM_0_0\.tif cannot be read.*delete it and") as said:
        export_cog({WEST: Part([tile], None)}, tmp_path / "demo.tif", drawing, WEST.bounds)
    assert "\n" not in str(said.value)
    assert {path.name for path in tmp_path.iterdir()} == {"33TYM_0_0.tif"}


@pytest.mark.parametrize(
    ("image_format", "quality", "tolerance"),
    # GDAL encodes what is cut off as black, which bleeds into lossy pixels along the outline.
    [("png", None, 0), ("webp", "lossless", 0), ("webp", 80, 45), ("jpeg", 80, 100)],
)
def test_a_cog_is_cut_along_the_outline(
    write_tile, tmp_path: Path, image_format: str, quality: int | str | None, tolerance: int
) -> None:
    side = 1024
    x, y = mercator_centres(WEST, side)
    pixel = x[1] - x[0]
    rgba = np.tile(BRIGHT, (side, side, 1))
    rgba[700, 300] = 0
    corner = x[0] - pixel / 2, y[0] + pixel / 2
    tile = write_tile(tmp_path / "a.tif", rgba, epsg=3857, origin=corner, pixel=pixel)
    outline = stretched(x[0], y[-1], x[-1], y[0])
    output = tmp_path / "demo.tif"
    drawing = replace(LOSSLESS, image_format=image_format, quality=quality)
    export_cog({WEST: Part([tile], outline.wkt)}, output, drawing, WEST.bounds, "© ESA")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "demo.tif"}
    dataset = gdal.Open(str(output))
    assert dataset.GetMetadataItem("LAYOUT", "IMAGE_STRUCTURE") == "COG"
    assert dataset.GetMetadataItem("TIFFTAG_COPYRIGHT") == "© ESA"
    assert dataset.GetRasterBand(1).GetOverviewCount() >= 1
    transform = corner[0], pixel, 0, corner[1], 0, -pixel
    assert dataset.GetGeoTransform() == pytest.approx(transform)
    colours = np.moveaxis(dataset.ReadAsArray()[:3], 0, -1).astype(int)
    alpha = dataset.GetRasterBand(1).GetMaskBand().ReadAsArray()
    wanted, unsure = inside(outline, x, y)
    wanted[700, 300] = False
    assert ((alpha == np.where(wanted, 255, 0)) | unsure).all()
    error = np.abs(colours - BRIGHT[:3])[wanted & ~unsure]
    assert error.max() <= tolerance
    assert error.mean() <= min(tolerance, 2)


@pytest.mark.parametrize(
    ("zoom", "size", "east", "south", "block"),
    # Of one web tile; reduced images 512 px wide, and not as wide; across 180 degrees.
    [(6, 256, 1, 1, 512), (7, 512, 4, 9, 384), (6, 256, 3, 9, 512), (6, 256, 64, 1, 512)],
)
def test_a_cog_is_valid_whatever_its_shape(
    write_tile, tmp_path: Path, zoom: int, size: int, east: int, south: int, block: int
) -> None:
    tiles = near_180(tmp_path, write_tile)
    metatiles = [WebTile(6, 0, 35), WebTile(6, 63, 35)][: 1 + (east == 64)]
    west, north = metatiles[0].bounds[0], metatiles[0].bounds[3]
    side = 1.999 * math.pi * RADIUS / 2**zoom  # so that no more web tiles are reached
    bounds = (west, north - south * side, west + east * side, north)
    drawing = replace(LOSSLESS, tile_size=size, min_zoom=zoom, max_zoom=zoom)
    output = tmp_path / "demo.tif"
    export_cog({metatile: Part(tiles, None) for metatile in metatiles}, output, drawing, bounds)
    dataset = gdal.Open(str(output))
    assert (dataset.RasterXSize, dataset.RasterYSize) == (east * size, south * size)
    assert dataset.GetRasterBand(1).GetBlockSize() == [block, block]
    assert not cogs.refusals([output])
    for x in {0, east - 1}:
        place = x * size, 0, size, size
        assert dataset.GetRasterBand(4).ReadAsArray(*place).any() == (x in (0, 63))
