"""Write what opens a region's map elsewhere: TileJSON, a MapLibre style, two pages, a QGIS layer.

Each names the map by an address: relative to itself, or below the one at which results/ is served.
"""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from basemake.readers.pages import leaflet_page, openlayers_page
from basemake.readers.qgis import layer_definition
from basemake.readers.shown import ZXY, Shown, in_archive
from basemake.readers.style import style
from basemake.system.files import writing


def build_web(
    archive: Path,
    folder: Path,
    *,
    title: str,
    ground: str | None,
    url: str | None,
    suffix: str | None,
    for_qgis: str,
) -> None:
    """Write tilejson.json, style.json, openlayers.html, leaflet.html and {region}.qlr to `folder`.

    `archive` is results/pyramid/{region}.pmtiles and `folder` results/web/{region}. `url` is the
    address at which results/ is served; None makes addresses relative. `suffix` is that of the web
    tiles beside the archive, one file each; None if there are none, so that they come from the
    archive. `for_qgis` is the path of QGIS's data in results/. `ground` is the colour of what the
    map does not show, as in Shown. Raises TileError if the archive is incomplete.
    """
    results, region = archive.parents[1], archive.stem
    base = url.rstrip("/") if url else Path(os.path.relpath(results, folder)).as_posix()
    place = f"{base}/pyramid/{quote(region)}"
    tiles = f"{place}{ZXY}.{suffix}" if suffix else in_archive(f"{place}.pmtiles")
    shown = Shown.of(archive, tiles, title, ground)
    contents = {
        "tilejson.json": json.dumps(shown.told, indent=2) + "\n",
        "style.json": json.dumps(style(shown), indent=2) + "\n",
        "openlayers.html": openlayers_page(shown),
        "leaflet.html": leaflet_page(shown),
        f"{region}.qlr": layer_definition(shown, f"{base}/{for_qgis}"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        with writing(folder / name) as part:
            part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        build_web(
            Path(snakemake.input.archive),
            Path(snakemake.output.tilejson).parent,
            **snakemake.params.settings,
        )
