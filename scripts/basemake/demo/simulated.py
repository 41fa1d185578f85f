"""The simulated source: tiles and STAC items of a region, sampled from the simulated world.

Files, names and items are like those of the Sentinel-2 quarterly mosaics, but pixels can be larger.
"""

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, osr
from shapely.geometry.base import BaseGeometry

from basemake.build.quarter import Quarter
from basemake.demo.grid import TILE_SIDE, GridTile, tiles_covering, to_lonlat
from basemake.demo.simulated_items import BANDS, NODATA, Item, item_record
from basemake.demo.world import WORLD, reflectance
from basemake.pixels.raster import open_geotiff

Floats = NDArray[np.floating]

BAND_BLOCK = 1024  # pixels a side of a band's blocks
WINDOW = 512  # pixels a side that are simulated at a time: bounds the memory
SMALLEST = 313  # pixels: at most, of the smallest reduced image
BLOCK_CACHE = 64 * 2**20
COORDINATE_STEP = 1_000.0
# ^ metres between the points that PROJ transforms; between them bilinear interpolation has an
#   error of at most 0.2 m at 80 N


def simulate(
    region: BaseGeometry,
    quarter: Quarter,
    directory: Path,
    seed: int,
    pixel_size: float,
    workers: int = 2,
) -> list[Item]:
    """Write the bands of each tile that covers `region`, and return the tiles' STAC items.

    `region` is in longitude and latitude, `pixel_size` in metres.
    The bands are `directory/{item id}/{B04,B03,B02}.tif`: int16 COGs, digital number (DN) =
    10 000 x reflectance, nodata -32768, with blocks and reduced images as the product has them.
    Existing files of the same world, seed and pixel size are left as they are. `workers` tiles are
    written in parallel; their bytes do not depend on it. Items are sorted by id, and their hrefs
    are relative to `directory`.

    Raises ValueError for a pixel size that does not divide a tile's side.
    """
    size = _tile_size(pixel_size)
    one = partial(_simulate_tile, quarter=quarter, directory=directory, seed=seed, size=size)
    cache = gdal.GetCacheMax()
    gdal.SetCacheMax(BLOCK_CACHE)
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, tiles_covering(region)))
    finally:
        gdal.SetCacheMax(cache)


def _tile_size(pixel_size: float) -> int:
    """Return the pixels along a tile's side; ValueError if `pixel_size` does not divide it."""
    if not pixel_size > 0 or TILE_SIDE % pixel_size:
        raise ValueError(
            f"pixel_size {pixel_size} does not divide a tile's side of {TILE_SIDE:.0f} m: "
            "use 10, 20, 30, 40, 60, 90, 120, 180 or 360"
        )
    return int(TILE_SIDE // pixel_size)


def _simulate_tile(
    grid_tile: GridTile, quarter: Quarter, directory: Path, seed: int, size: int
) -> Item:
    """Write the bands of one tile unless they exist, and return its item."""
    item_id = f"Sentinel-2_mosaic_{quarter.year}_Q{quarter.number}_{grid_tile.tile}"
    folder = directory / item_id
    turn = 4 * (quarter.year - 2025) + quarter.number - 3
    origin = f"simulated world {WORLD}, seed {seed}{f', {turn} quarters later' if turn else ''}"
    if not all(_is_whole(folder / f"{band}.tif", origin, size) for band in BANDS):
        _write_bands(grid_tile, folder, origin, (seed, turn), size)
    return item_record(item_id, grid_tile, quarter, directory, size)


def _is_whole(path: Path, origin: str, size: int) -> bool:
    """Return whether a band of this world and size exists; it is renamed only when complete."""
    if not path.exists():
        return False
    with open_geotiff(path) as dataset:
        made_by = dataset.GetMetadataItem("TIFFTAG_IMAGEDESCRIPTION")
        return bool(made_by == origin and dataset.RasterXSize == size)


def _write_bands(
    grid_tile: GridTile, folder: Path, origin: str, world: tuple[int, int], size: int
) -> None:
    """Write the three bands to a temporary folder, and move them when all are complete."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    plain = part / "bands.tif"
    _write_plain(plain, grid_tile, origin, world, size)
    for number, band in enumerate(BANDS, start=1):
        # Of a VRT, or newer versions of GDAL would note how the reduced images were made.
        one = gdal.Translate("", str(plain), format="VRT", bandList=[number])
        gdal.Translate(
            str(part / f"{band}.tif"),
            one,
            format="COG",
            creationOptions=[
                *("COMPRESS=DEFLATE", "PREDICTOR=YES", f"BLOCKSIZE={BAND_BLOCK}"),
                "OVERVIEWS=FORCE_USE_EXISTING",
            ],
        )
    for band in BANDS:
        (part / f"{band}.tif").replace(folder / f"{band}.tif")
    shutil.rmtree(part)


def _write_plain(
    path: Path, grid_tile: GridTile, origin: str, world: tuple[int, int], size: int
) -> None:
    """Write the three bands and their reduced images to one plain GeoTIFF, a block at a time.

    `world` are its seed, and how many quarters after 2025Q3 it is.
    """
    options = ["TILED=YES", f"BLOCKXSIZE={WINDOW}", f"BLOCKYSIZE={WINDOW}"]
    driver = gdal.GetDriverByName("GTiff")
    dataset = driver.Create(str(path), size, size, len(BANDS), gdal.GDT_Int16, options)
    pixel = TILE_SIDE / size
    dataset.SetGeoTransform((grid_tile.ulx, pixel, 0, grid_tile.uly, 0, -pixel))
    crs = osr.SpatialReference()
    crs.ImportFromEPSG(grid_tile.epsg)
    dataset.SetSpatialRef(crs)
    dataset.SetMetadataItem("TIFFTAG_IMAGEDESCRIPTION", origin)
    for number in range(1, len(BANDS) + 1):
        dataset.GetRasterBand(number).SetNoDataValue(NODATA)
    for column, row, lon, lat in _windows(grid_tile, size):
        dn = np.rint(reflectance(lon, lat, *world) * 10_000)
        dn = np.where(np.isnan(dn), NODATA, dn).astype(np.int16)
        dataset.WriteArray(dn, column, row)
    reduced = max(0, math.ceil(math.log2(size / SMALLEST)))
    dataset.BuildOverviews("AVERAGE", [2**level for level in range(1, reduced + 1)])
    dataset.FlushCache()
    # ^ raises an error if the disk is full, which closing would not


def _windows(grid_tile: GridTile, size: int) -> Iterator[tuple[int, int, Floats, Floats]]:
    """Yield each window's first column and row, and its pixel centres' longitudes and latitudes."""
    pixel = TILE_SIDE / size
    knots = np.arange(np.ceil(TILE_SIDE / COORDINATE_STEP) + 1) * COORDINATE_STEP
    x, y = np.meshgrid(grid_tile.ulx + knots, grid_tile.uly - knots)
    grids = to_lonlat(grid_tile.epsg, x, y)
    for row in range(0, size, WINDOW):
        for column in range(0, size, WINDOW):
            down, across = (
                (np.arange(start, min(start + WINDOW, size)) + 0.5) * (pixel / COORDINATE_STEP)
                for start in (row, column)
            )
            lon, lat = (_bilinear(grid, down, across) for grid in grids)
            yield column, row, lon, lat


def _bilinear(grid: Floats, rows: Floats, columns: Floats) -> Floats:
    """Return the values of a grid at each pair of fractional rows and columns."""
    i, j = rows.astype(int), columns.astype(int)
    v, u = (rows - i)[:, None], columns - j
    lines = grid[i] * (1 - v) + grid[i + 1] * v
    return lines[:, j] * (1 - u) + lines[:, j + 1] * u
