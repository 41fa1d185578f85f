"""TileJSON: what programs that show web tiles must know of a pyramid."""

import html
from pathlib import Path
from typing import Any

from pmtiles.reader import Reader

from basemake.pixels.archive import open_archive

SUFFIXES = {"webp": "webp", "png": "png", "jpeg": "jpg"}  # of web tiles that are files, by format


def tilejson(archive: Path, tiles: str) -> dict[str, Any]:
    """Return what TileJSON 3.0.0 wants to be said of a PMTiles archive.

    `tiles` is the address of its web tiles, with {z}, {x} and {y}. The attribution, which is plain
    text in the archive, is HTML there. The specification is at
    https://github.com/mapbox/tilejson-spec. Raises TileError if the archive is incomplete.
    """
    with open_archive(archive) as (get_bytes, header):
        metadata = Reader(get_bytes).metadata()
    west, south, east, north, *center = (
        header[f"{key}_e7"] / 1e7
        for key in ("min_lon", "min_lat", "max_lon", "max_lat", "center_lon", "center_lat")
    )
    return {
        "tilejson": "3.0.0",
        "tiles": [tiles],
        "name": metadata["name"],
        "description": metadata["description"],
        "attribution": html.escape(metadata["attribution"], quote=False),
        "minzoom": header["min_zoom"],
        "maxzoom": header["max_zoom"],
        "bounds": [west, south, east, north],
        "center": [*center, header["center_zoom"]],
    }
