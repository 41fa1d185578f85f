"""Where tiles overlap, web map, mosaic and COG show the same one, whatever the tiles' names."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from osgeo import gdal
from PIL import Image
from pmtiles.reader import MmapSource, all_tiles
from test_feather import transformation

from basemake.build.layout import Layout, mercator_grid, outline_text, read_layout
from basemake.build.manifest import describe_request, write_manifest
from basemake.build.quarter import Quarter
from basemake.pixels.vrt import build_mosaic, build_warped
from export_cog import Part, export_cog
from render_metatile import Rendering, render_metatile
from sources import source

PIXEL, SIDE = 100.0, 400  # metres, pixels of a tile
ZOOM, METATILE_ZOOM = 10, 8
PYRAMID = {"min_zoom": 0, "max_zoom": ZOOM, "metatile_zoom": METATILE_ZOOM, "tile_size": 256}
LEVELS = (60, 120, 180, 240)  # the colour of each tile in a scene


class Tile(NamedTuple):
    """A tile and where its middle is, in degrees."""

    name: str
    epsg: int
    lon: float
    lat: float


# Of two zones each, whose order by name is not that by EPSG code; each overlaps all the others.
SCENES = {
    "zones 9 and 10": [
        Tile("10UBA_0_0", 32610, -126.0, 50.0),
        Tile("10UBB_0_0", 32610, -126.05, 50.1),
        Tile("9UXR_0_0", 32609, -125.9, 50.05),
        Tile("9UXS_0_0", 32609, -125.95, 49.95),
    ],
    "both sides of the equator": [
        Tile("33NUA_0_0", 32633, 13.6, 0.05),
        Tile("33MUV_0_0", 32733, 13.7, -0.05),
    ],
}


def origin(tile: Tile) -> tuple[float, float]:
    x, y, _ = transformation(4326, tile.epsg).TransformPoint(tile.lon, tile.lat)
    return round(x) - SIDE * PIXEL / 2, round(y) + SIDE * PIXEL / 2


def feature(tile: Tile) -> dict:
    left, top = origin(tile)
    square = shapely.box(left, top - SIDE * PIXEL, left + SIDE * PIXEL, top)
    to_lonlat = transformation(tile.epsg, 4326)
    footprint = shapely.transform(
        square, lambda xy: np.array(to_lonlat.TransformPoints(xy.tolist()))[:, :2]
    )
    properties = {"item": tile.name, "epsg": tile.epsg, "updated": None, "gsd": PIXEL}
    properties |= {"regions": ["here"], "bands": {}}
    geometry = shapely.geometry.mapping(footprint)
    return {"type": "Feature", "id": tile.name, "properties": properties, "geometry": geometry}


def rendering(overlap: str) -> Rendering:
    return Rendering(
        min_zoom=ZOOM,
        max_zoom=ZOOM,
        tile_size=256,
        image_format="png",
        quality=None,
        resampling="nearest",
        outline=None,
        overlap=overlap,
    )


def shown_by_the_map(plan: Layout, paths: dict[str, Path], folder: Path, overlap: str) -> dict:
    """The web tiles of the top zoom by x and y."""
    found = {}
    for name, metatile in plan.metatiles["here"].items():
        archive = folder / f"{name}.pmtiles"
        render_metatile(
            metatile.webtile,
            [paths[tile] for tile in metatile.tiles],
            archive,
            folder / f"{name}.tif",
            replace(rendering(overlap), outline=outline_text(metatile.outline)),
            threads=1,
            made_of="these",
        )
        with archive.open("rb") as file:
            for (_, x, y), data in all_tiles(MmapSource(file)):
                found[x, y] = np.asarray(Image.open(BytesIO(data)).convert("RGBA"))
    return found


def cog_of(plan: Layout, paths: dict[str, Path], folder: Path, overlap: str) -> Path:
    """The COG, made as its rule makes it."""
    parts = {
        metatile.webtile: Part(
            [paths[tile] for tile in metatile.tiles], outline_text(metatile.outline)
        )
        for metatile in plan.metatiles["here"].values()
    }
    cog = folder / "here.tif"
    export_cog(parts, cog, rendering(overlap), plan.bounds("here"))
    return cog


def mosaic_of(plan: Layout, paths: dict[str, Path], folder: Path) -> Path:
    """The mosaic, made as the rules make it."""
    views = []
    for epsg in plan.zones("here"):
        tiles = plan.tiles_of("here", epsg)
        zone, view = folder / f"here_{epsg}.vrt", folder / f"here_{epsg}_3857.vrt"
        build_mosaic([paths[tile.name] for tile in tiles], zone, "nearest")
        build_warped(zone, view, *mercator_grid(tiles, ZOOM, 256), "nearest")
        views.append(view)
    mosaic = folder / "here.vrt"
    build_mosaic(views, mosaic)
    return mosaic


def tiles_in(pixels: NDArray) -> NDArray:
    """Which tile shows in each pixel, -1 where none does."""
    return np.where(
        pixels[..., 3] == 255, np.abs(pixels[..., :1] - np.array(LEVELS)).argmin(-1), -1
    )


@pytest.mark.parametrize("scene", SCENES)
def test_map_mosaic_and_cog_show_the_same(write_tile, tmp_path: Path, scene: str) -> None:
    tiles = SCENES[scene]
    paths = {}
    for tile, level in zip(tiles, LEVELS, strict=False):
        rgba = np.full((SIDE, SIDE, 4), level, np.uint8)
        rgba[..., 3] = 255
        path = tmp_path / f"{tile.name}.tif"
        paths[tile.name] = write_tile(path, rgba, epsg=tile.epsg, origin=origin(tile), pixel=PIXEL)
    regions = {"here": shapely.box(-180, -80, 180, 80)}
    request = describe_request(source(), Quarter(2025, 3), regions)
    write_manifest(tmp_path / "manifest.geojson", request, [feature(tile) for tile in tiles])
    pyramid = {**PYRAMID, "clip": False, "background": "none", "outputs": ["cog"]}
    config = {"quarter": "2025Q3", "fill": [], "fetch": "needed", "pyramid": pyramid}
    plan = read_layout(tmp_path / "manifest.geojson", config, source(), regions)

    for overlap in ("feather", "top"):
        web = shown_by_the_map(plan, paths, tmp_path, overlap)
        found, canvas = side_by_side(cog_of(plan, paths, tmp_path, overlap), web)
        np.testing.assert_array_equal(found, canvas)
        assert (len(np.unique(canvas[..., 0])) == len(tiles) + 1) == (overlap == "top")
    found, canvas = map(tiles_in, side_by_side(mosaic_of(plan, paths, tmp_path), web))
    assert len(np.unique(canvas)) == len(tiles) + 1
    # A pixel at a tile's edge may be inside in one and outside in the other.
    assert (canvas != found).mean() < 0.01


def side_by_side(path: Path, web: dict[tuple[int, int], NDArray]) -> tuple[NDArray, NDArray]:
    """Return a raster, (height, width, 4), and the same part of the web map."""
    dataset = gdal.Open(str(path))
    west, pixel, _, north, _, _ = dataset.GetGeoTransform()
    left, top = (round((edge + 20037508.342789244) / pixel) for edge in (west, -north))
    found = np.moveaxis(dataset.ReadAsArray(), 0, -1).astype(int)
    canvas = np.zeros_like(found)
    for (x, y), image in web.items():
        across, down = x * 256 - left, y * 256 - top
        rows = slice(max(down, 0), max(down + 256, 0))
        columns = slice(max(across, 0), max(across + 256, 0))
        window = canvas[rows, columns]
        window[:] = image[max(-down, 0) :, max(-across, 0) :][: window.shape[0], : window.shape[1]]
    return found, canvas
