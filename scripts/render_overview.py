"""Render the overview: the web tiles of lower zooms than the metatiles, from their roots."""

import logging
from pathlib import Path
from typing import Any

from basemake.pixels.archive import write_part
from basemake.pixels.encoding import encoder
from basemake.pixels.light import Light, to_colours
from basemake.pixels.quadtree import grow
from basemake.pixels.roots import read_root
from basemake.pixels.webtiles import WebTile


def render_overview(
    roots: dict[WebTile, Path],
    archive: Path,
    *,
    min_zoom: int,
    image_format: str,
    quality: int | str | None,
    background: str | None = None,
) -> None:
    """Write the web tiles from `min_zoom` to one zoom lower than the metatiles to `archive`.

    `roots` are the paths of the metatiles' roots by web tile. Each web tile is halved from its four
    children. Fully transparent ones are left out. `image_format`, `quality` and `background` are as
    in encoding.encoder. Raises TileError, naming it, if a root is incomplete.
    """
    encode = encoder(image_format, quality, background)
    encoded: list[tuple[WebTile, bytes]] = []

    def use(tile: WebTile, image: Light) -> None:
        encoded.append((tile, encode(to_colours(image))))

    levels = [set(roots)]
    while levels[-1] and next(iter(levels[-1])).z > min_zoom:
        levels.append({tile.parent for tile in levels[-1]})
    reached = set().union(*levels)
    for tile in sorted(levels[-1]):
        zoom = next(iter(roots)).z
        grow(tile, zoom, lambda root: read_root(roots[root])[0], reached.__contains__, use)
    write_part(archive, encoded, image_format)
    logging.info("%d web tiles from %d roots", len(encoded), len(roots))


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.pixels.raster import set_up_libraries
    from basemake.pixels.webtiles import metatile_of
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        paths = [Path(path) for path in snakemake.input.roots]
        render_overview(
            {metatile_of(path.stem): path for path in paths},
            Path(snakemake.output.archive),
            **snakemake.params.settings,
        )
