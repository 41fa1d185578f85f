"""TileJSON: what programs that show web tiles must know of a pyramid."""

import html
from typing import Any

SUFFIXES = {"webp": "webp", "png": "png", "jpeg": "jpg"}  # of web tiles that are files, by format


def tilejson(header: dict[str, Any], metadata: dict[str, Any], tiles: str) -> dict[str, Any]:
    """Return what TileJSON 3.0.0 wants to be said of an archive with this header and metadata.

    `tiles` is the address of its web tiles, with {z}, {x} and {y}. The attribution, which is plain
    text in the archive, is HTML there. The specification is at
    https://github.com/mapbox/tilejson-spec.
    """
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
