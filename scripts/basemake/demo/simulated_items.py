"""STAC items of simulated tiles, with the members and types of the product's real items."""

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from basemake.build.quarter import Quarter
from basemake.demo.grid import TILE_SIDE, GridTile, footprint

NODATA = -32768

# Asset key: title, common name, central wavelength and width in micrometres; red, green, blue
BANDS = {
    "B04": ("Red (band 4)", "red", 0.665, 0.342),
    "B03": ("Green (band 3)", "green", 0.56, 0.291),
    "B02": ("Blue (band 2)", "blue", 0.493, 0.267),
}
EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/product/v1.0.0/schema.json",
    "https://stac-extensions.github.io/timestamps/v1.1.0/schema.json",
]

Item = dict[str, Any]


def item_record(
    item_id: str, grid_tile: GridTile, quarter: Quarter, directory: Path, size: int
) -> Item:
    """Return the STAC item of a tile of `size` pixels a side, as the product has it.

    Its bands must exist already, as `directory/{item_id}/{band}.tif`.
    """
    start, end = quarter.span()
    published = _utc(end + timedelta(days=15))
    geometry = footprint(grid_tile)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "collection": "sentinel-2-global-mosaics",
        "id": item_id,
        "properties": {
            "created": published,
            "updated": published,
            "published": published,
            "datetime": _utc(start),
            "start_datetime": _utc(start),
            "end_datetime": _utc(end - timedelta(seconds=1)),
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "processing:level": "L3",
            "processing:facility": "simulated",
            "product:type": "S2MSI_L3__MCQ",
            "product:timeliness": "P3M",
            "gsd": _gsd(size),
            "grid:code": f"MGRS-{grid_tile.tile[:5]}",
            "proj:code": f"EPSG:{grid_tile.epsg}",
        },
        "bbox": _bbox(geometry),
        "geometry": json.loads(shapely.to_geojson(geometry)),
        "links": [],
        "assets": {band: _asset(band, item_id, directory, size) for band in sorted(BANDS)},
    }


def _asset(band: str, item_id: str, directory: Path, size: int) -> dict[str, Any]:
    title, colour, wavelength, width = BANDS[band]
    content = directory / item_id / f"{band}.tif"
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": title,
        "roles": ["data"],
        "bands": [
            {
                "name": band,
                "description": title,
                "eo:center_wavelength": wavelength,
                "eo:full_width_half_max": width,
                "eo:common_name": colour,
            }
        ],
        "data_type": "int16",
        "nodata": NODATA,
        "gsd": _gsd(size),
        "proj:shape": [size, size],
        "file:size": content.stat().st_size,
        "file:checksum": f"1220{digest}",
        "file:local_path": f"{item_id}/{band}.tif",
        "href": f"./{item_id}/{band}.tif",
    }


def _gsd(size: int) -> float:
    """Return the pixel size in metres, as an int if it is whole, as in the product's items."""
    gsd = TILE_SIDE / size
    return int(gsd) if gsd.is_integer() else gsd


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _bbox(geometry: BaseGeometry) -> list[float]:
    """Return west, south, east, north; west > east across the antimeridian (RFC 7946, 5.2)."""
    parts = sorted(shapely.get_parts(geometry), key=lambda part: part.bounds[0], reverse=True)
    west, east = parts[0].bounds[0], parts[-1].bounds[2]
    return [west, geometry.bounds[1], east, geometry.bounds[3]]
