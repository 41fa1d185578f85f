"""Pack the web tiles of all metatiles and the overview into one PMTiles archive."""

import logging
import math
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from basemake.pixels.archive import TILE_TYPES, pack_parts
from basemake.pixels.webtiles import MAX_LATITUDE, together


def pack_pyramid(
    parts: list[Path],
    output: Path,
    *,
    extent: BaseGeometry,
    image_format: str,
    metadata: dict[str, Any],
) -> None:
    """Write the PMTiles archive `output` from `parts`, archives of web tiles.

    `extent` is what the map shows, in degrees: its bounds become those in the header, and its
    middle the centre. Raises TileError if a part is incomplete, or if there is no web tile in any.
    """
    header = {"tile_type": TILE_TYPES[image_format], **_view(extent)}
    count = pack_parts(parts, output, header, metadata)
    logging.info("%s: %d web tiles, %d bytes", output, count, output.stat().st_size)


def _view(extent: BaseGeometry) -> dict[str, int]:
    """Return bounds, centre and opening zoom for a PMTiles header, in degrees times 10^7.

    At the opening zoom the map is more than one web tile wide, and at most two. Bounds across 180
    degrees, which PMTiles cannot tell, are from -180 to 180.
    """
    west, south, east, north = together(extent).bounds
    south, north = (min(max(edge, -MAX_LATITUDE), MAX_LATITUDE) for edge in (south, north))
    min_lon, max_lon = (-180, 180) if east > 180 else (west, east)
    middle, width = (west + east) / 2, max(east - west, 1e-6)
    return {
        "min_lon_e7": round(min_lon * 1e7),
        "min_lat_e7": round(south * 1e7),
        "max_lon_e7": round(max_lon * 1e7),
        "max_lat_e7": round(north * 1e7),
        "center_lon_e7": round((middle - 360 if middle > 180 else middle) * 1e7),
        "center_lat_e7": round((south + north) / 2 * 1e7),
        "center_zoom": math.floor(math.log2(360 / width)) + 1,
    }


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        settings = snakemake.params.settings
        image_format = settings["image_format"]
        pack_pyramid(
            [Path(path) for path in snakemake.input],
            Path(snakemake.output.archive),
            extent=shapely.from_wkt(settings["extent"]),
            image_format=image_format,
            metadata={
                "name": snakemake.wildcards.region,
                "description": settings["description"],
                "attribution": settings["attribution"],
                "recipe": settings["recipe"],
                "type": "baselayer",
                "format": {"jpeg": "jpg"}.get(image_format, image_format),
                "tile_size": settings["tile_size"],
            },
        )
