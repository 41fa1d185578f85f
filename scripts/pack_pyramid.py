"""Pack the web tiles of all metatiles and the overview into one PMTiles archive."""

import logging
import math
from pathlib import Path
from typing import Any

import shapely

from basemake.pixels.archive import TILE_TYPES, pack_parts


def pack_pyramid(
    parts: list[Path],
    output: Path,
    *,
    extent: str,
    image_format: str,
    metadata: dict[str, Any],
) -> None:
    """Write the archive `output` from `parts`, archives of web tiles.

    `extent` is what the map shows, as WKT in degrees; its bounds become the header's, and the
    middle of its largest part the centre. Raises TileError if a part is not whole, or if they hold
    no web tile.
    """
    header = {
        "tile_type": TILE_TYPES[image_format],
        **_view(shapely.from_wkt(extent)),
    }
    count = pack_parts(parts, output, header, metadata)
    logging.info("%s: %d web tiles, %d bytes", output, count, output.stat().st_size)


def _view(extent: Any) -> dict[str, int]:
    """Return bounds and centre for a PMTiles header: degrees times 10^7."""
    west, south, east, north = extent.bounds
    largest = max(getattr(extent, "geoms", [extent]), key=lambda part: part.area).bounds
    width = max(largest[2] - largest[0], 1e-6)
    fits = max(0, math.floor(math.log2(360 / width)) + 1)  # about two web tiles wide
    return {
        "min_lon_e7": round(west * 1e7),
        "min_lat_e7": round(south * 1e7),
        "max_lon_e7": round(east * 1e7),
        "max_lat_e7": round(north * 1e7),
        "center_lon_e7": round((largest[0] + largest[2]) / 2 * 1e7),
        "center_lat_e7": round((largest[1] + largest[3]) / 2 * 1e7),
        "center_zoom": fits,
    }


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        pack_pyramid(
            [Path(path) for path in snakemake.input],
            Path(snakemake.output.archive),
            **snakemake.params.settings,
        )
