"""A working directory with imagery to choose a look by, made without a run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml
from osgeo import osr
from shapely.geometry import mapping

from basemake.build.bands import band_path
from basemake.build.config import read_source
from basemake.build.manifest import describe_request, write_manifest
from basemake.build.paths import MANIFEST
from basemake.build.quarter import Quarter
from basemake.engine.open_build import Build, open_build
from basemake.pixels.crs import crs

NODATA = -32768
BANDS = {"red": "B04", "green": "B03", "blue": "B02"}
SOURCE = {
    "type": "catalog",
    "items": "items.json",
    "bands": BANDS,
    "dn": {"scale": 0.0001, "offset": 0.0, "nodata": NODATA},
    "attribution": "Somebody {year}",
}
SIDE = 500  # pixels of a tile, which a crop shows whole
PIXEL = 60.0  # m
WEST, NORTH = 500_000.0, 5_000_000.0  # of the first tile


def random_dn(dtype: str, seed: int) -> np.ndarray:
    """DN (3, SIDE, SIDE): dark, negative, of land, bright, of the whole range, and some missing."""
    rng = np.random.default_rng(seed)
    ranges = [(-50, 120), (0, 1500), (0, 4000), (2000, 12000), (-32768, 32768)]
    strips = [rng.integers(*limits, (3, SIDE // len(ranges), SIDE)) for limits in ranges]
    dn = np.concatenate(strips, axis=1)
    if dtype == "uint16":
        dn = np.abs(dn) * 2
    dn[1, 10:20, 10:30] = NODATA if dtype == "int16" else 0
    return dn.astype(dtype)


def outline(number: int) -> shapely.Geometry:
    """The footprint of the tile with a number, in degrees."""
    to_degrees = osr.CoordinateTransformation(crs(32633), crs(4326))
    left, side = WEST + number * SIDE * PIXEL, SIDE * PIXEL
    square = shapely.box(left, NORTH - side, left + side, NORTH)
    corners = to_degrees.TransformPoints([list(point) for point in square.exterior.coords])
    return shapely.Polygon([(lon, lat) for lon, lat, _ in corners])


def place_of(number: int) -> tuple[float, float]:
    """The longitude and latitude of the middle of a tile."""
    middle = outline(number).centroid
    return round(middle.x, 6), round(middle.y, 6)


def lay_out(folder: Path, write_geotiff: Callable, *tiles: np.ndarray) -> list[str]:
    """Fill a working directory with tiles of DN (3, SIDE, SIDE), from west to east.

    Return the arguments that name it to commands.
    """
    features: list[dict[str, Any]] = []
    for number, dn in enumerate(tiles):
        name = f"33TWM_{number}_0"
        for key, band in zip(BANDS.values(), dn, strict=True):
            origin = (WEST + number * SIDE * PIXEL, NORTH)
            write_geotiff(folder / band_path(name, key), band, origin=origin, pixel=PIXEL)
        asset = {"href": "none.tif", "size": None, "checksum": None}
        properties = {
            **{"item": name, "epsg": 32633, "gsd": PIXEL, "updated": None, "regions": ["here"]},
            "bands": dict.fromkeys(BANDS.values(), asset),
        }
        features.append({"type": "Feature", "id": name, "properties": properties})
        features[-1]["geometry"] = mapping(outline(number))
    region = shapely.union_all([outline(number) for number in range(len(tiles))])
    (folder / "here.geojson").write_text(shapely.to_geojson(region))
    (folder / "source.yaml").write_text(yaml.safe_dump(SOURCE))
    config = {"source": "source.yaml", "quarter": "2025Q3", "regions": {"here": "here.geojson"}}
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    request = describe_request(
        read_source(str(folder / "source.yaml")), Quarter(2025, 3), {"here": region}
    )
    write_manifest(folder / MANIFEST, request, features)
    return ["--directory", str(folder)]


@contextmanager
def opened(arguments: list[str]) -> Iterator[Build]:
    """The build as commands see it, whose directory is the current one meanwhile."""
    before = Path.cwd()
    try:
        yield open_build(arguments)
    finally:
        os.chdir(before)
