"""The inputs of the benchmarks: `python -m benchmarks.inputs NAME JSON`, in a process of its own.

Measured jobs are started by a process that must stay small, so nothing large is made in it.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import shapely
import tifffile
from numpy.typing import NDArray
from osgeo import gdal, osr
from shapely.geometry import mapping

from basemake.build.config import read_source
from basemake.build.manifest import describe_request, write_manifest
from basemake.build.paths import MANIFEST
from basemake.build.quarter import Quarter
from basemake.build.region import read_regions
from basemake.demo.grid import footprint, tiles_covering
from basemake.demo.noise import fractal
from basemake.demo.simulated import SMALLEST, simulate
from basemake.pixels.archive import write_part
from basemake.pixels.webtiles import WebTile, geometry_to_mercator, overlapping
from benchmarks.jobs import EPSG
from benchmarks.measure import TESTS

gdal.UseExceptions()

REAL = TESTS.parents[1] / "shared/data/s2_10m/icor_belgium_sr_32631"
REAL_NODATA, NODATA = 65535, -32768
ORIGIN = 499_980, 5_000_040  # metres, of 33TWL
BANDS = ("B04", "B03", "B02")
DIMMED = 0.4  # see object_bands
FULL = 10_008  # pixels a side
HIGH = 0.12  # of noise of about -1 to 1: what is higher is cloud
WEB_TILE_BYTES = 6000  # on average
METATILE_TILES = 341  # five zooms


def bands(folder: str, side: int, kind: str = "real") -> None:
    """Write the three bands of a tile, `side` pixels of 10 m a side; print their origin.

    They are of real pixels, if there are any and `kind` is not "simulated".
    """
    if REAL.is_dir() and kind == "real":
        for name in BANDS:
            dn = gdal.Open(str(REAL / f"{name}.tif")).ReadAsArray().astype(np.int32)
            dn = np.where(dn == REAL_NODATA, NODATA, dn).astype(np.int16)
            _write(_mirrored(dn, side), Path(folder) / f"{name}.tif")
        print(f"real Sentinel-2 pixels ({REAL.name}), mirrored to {side} x {side} px")
        return
    [item] = simulate(
        shapely.Point(15.7, 44.7).buffer(0.01), Quarter(2025, 3), Path(folder), 41, 10.0
    )
    for name in BANDS:
        path = Path(folder) / item["assets"][name]["href"]
        if side == FULL:
            path.replace(Path(folder) / f"{name}.tif")
        else:
            _write(gdal.Open(str(path)).ReadAsArray(0, 0, side, side), Path(folder) / f"{name}.tif")
    print(f"the simulated world, {side} x {side} px")


def object_bands(folder: str, side: int) -> None:
    """Write the bands as `bands` does, but so that their reduced images compress like real ones.

    Mirrored pixels repeat within the blocks of reduced images, and DEFLATE would find that: all
    pixels are multiplied by a factor that varies slowly. Each image then has about a quarter of the
    bytes of the next finer one. The factor is small enough for a file of about the bytes that the
    mosaics' bands have on average.
    """
    bands(folder, side)
    at = np.arange(side, dtype=np.float32)
    factor = 1 + 0.15 * np.outer(np.sin(at / 1700 + 0.3), np.cos(at / 2300 + 1.1))
    factor += 0.1 * np.sin((0.7 * at[:, np.newaxis] + 1.3 * at) / 3100)
    for name in BANDS:
        path = Path(folder) / f"{name}.tif"
        pixels = gdal.Open(str(path)).ReadAsArray()
        varied = np.rint(np.where(pixels == NODATA, 0, pixels) * (DIMMED * factor))
        _write(np.where(pixels == NODATA, NODATA, varied).astype(np.int16), path)


def holed_bands(folder: str, side: int, further: int) -> None:
    """Write bands as `bands` does, with holes like clouds, and brighter ones of `further` items.

    Each item has holes of its own; print the share of the first one's. Bands are whole, so that
    items are compared everywhere, which takes longest.
    """
    shares = []
    for number in range(1 + further):
        own = Path(folder) / str(number)
        own.mkdir()
        bands(str(own), side)
        at = np.arange(0, side, 8, dtype=np.float32) / 1500
        x, y = np.meshgrid(at, at)
        clouds = fractal(x, y, number, 1, 6) > HIGH
        holes = np.kron(clouds, np.ones((8, 8), bool))[:side, :side]
        for name in BANDS:
            pixels = gdal.Open(str(own / f"{name}.tif")).ReadAsArray()
            seen = np.where(pixels == NODATA, NODATA, pixels * (1 + 0.1 * number) + 30 * number)
            _write(np.where(holes, NODATA, seen).astype(np.int16), own / f"{name}.tif")
        shares.append(holes.mean())
    print(f"{shares[0]:.0%}")


def _mirrored(pixels: NDArray[np.int16], side: int) -> NDArray[np.int16]:
    """Repeat an image, mirrored each time, to `side` pixels a side."""
    twice = np.concatenate([pixels, pixels[::-1]], axis=0)
    twice = np.concatenate([twice, twice[:, ::-1]], axis=1)
    repeats = [side // length + 1 for length in twice.shape]
    return np.tile(twice, repeats)[:side, :side]


def _write(pixels: NDArray[np.int16], path: Path) -> None:
    """Write a band as in the Sentinel-2 mosaics.

    That is int16, DEFLATE, predictor, blocks of 1024, and averages as reduced images.
    """
    memory = gdal.GetDriverByName("MEM").Create("", *pixels.shape[::-1], 1, gdal.GDT_Int16)
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(EPSG)
    memory.SetSpatialRef(srs)
    memory.SetGeoTransform((ORIGIN[0], 10, 0, ORIGIN[1], 0, -10))
    memory.GetRasterBand(1).WriteArray(pixels)
    memory.GetRasterBand(1).SetNoDataValue(NODATA)
    options = ["COMPRESS=DEFLATE", "PREDICTOR=YES", "BLOCKSIZE=1024", "NUM_THREADS=ALL_CPUS"]
    reduced = max(0, math.ceil(math.log2(max(pixels.shape) / SMALLEST)))
    options += ["OVERVIEW_RESAMPLING=AVERAGE", f"OVERVIEW_COUNT={reduced}"]
    gdal.GetDriverByName("COG").CreateCopy(str(path), memory, options=options)


def metatiles(tile: str, zoom: int) -> None:
    """Print the names of the metatiles of a tile, as a JSON list."""
    corners = gdal.Info(tile, format="json")["wgs84Extent"]
    shape = geometry_to_mercator(shapely.from_geojson(json.dumps(corners)))
    print(json.dumps(["{}_{}_{}".format(*found) for found in overlapping(shape, zoom)]))


def gdal_version() -> None:
    """Print the version of the GDAL that Python imports."""
    print(gdal.__version__)


def full_image(tile: str) -> None:
    """Print the bytes of a GeoTIFF's full-resolution image."""
    with tifffile.TiffFile(tile) as tif:
        print(sum(tif.pages[0].tags["TileByteCounts"].value))


def same_pixels(one: str, other: str) -> None:
    """Print "the same" if two images have equal checksums, else exit with an error."""
    checksums = [
        [dataset.GetRasterBand(n).Checksum() for n in (1, 2, 3, 4)]
        for dataset in (gdal.Open(one), gdal.Open(other))
    ]
    if checksums[0] != checksums[1]:
        sys.exit(f"{one} and {other} differ: {checksums}")
    print("the same")


def parts(folder: str, count: int) -> None:
    """Write `count` web tiles of random bytes as archives of one metatile each."""
    rng = np.random.default_rng(1)
    for number, start in enumerate(range(0, count, METATILE_TILES)):
        tiles = _descendants(WebTile(8, number % 256, number // 256))[: count - start]
        sizes = rng.integers(WEB_TILE_BYTES // 2, WEB_TILE_BYTES * 3 // 2, len(tiles))
        contents = [rng.bytes(int(size)) for size in sizes]
        path = Path(folder) / f"{number}.pmtiles"
        write_part(path, list(zip(tiles, contents, strict=True)), "webp")


def manifest(folder: str, count: int) -> None:
    """Write the manifest of a build for the first `count` tiles of its region, without bands."""
    source, quarter = read_source(f"{folder}/source.yaml"), Quarter(2025, 3)
    regions = read_regions({"region": f"{folder}/region.geojson"})
    features = []
    for tile in tiles_covering(regions["region"])[:count]:
        name = f"Sentinel-2_mosaic_2025_Q3_{tile.tile}"
        bands = {
            band: {"href": f"{name}/{band}.tif", "size": 10**8, "checksum": "1220", "digest": None}
            for band in BANDS
        }
        properties = {"item": name, "epsg": tile.epsg, "gsd": 10, "updated": None, "bands": bands}
        features.append(
            {
                "type": "Feature",
                "id": tile.tile,
                "properties": {**properties, "regions": ["region"]},
                "geometry": mapping(footprint(tile)),
            }
        )
    if len(features) < count:
        sys.exit(f"the region has only {len(features)} tiles")
    request = describe_request(source, quarter, regions)
    write_manifest(Path(folder) / MANIFEST, request, features)


def _descendants(root: WebTile) -> list[WebTile]:
    """Return a web tile and its descendants, METATILE_TILES in all."""
    found = level = [root]
    while len(found) < METATILE_TILES:
        level = [child for tile in level for child in tile.children]
        found = found + level
    return found


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
