"""The measured jobs, each in a process of its own: `python -m benchmarks.jobs NAME JSON`.

Every job imports what it needs itself, as a job of the workflow does.
"""

import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

CACHE_MB = 64
EPSG = 32633
WEB_TILE = 256  # pixels
WEBP_QUALITY = 80
RENDERING: dict[str, Any] = {"image_format": "webp", "quality": WEBP_QUALITY}
PACKED = {"min_lon_e7": 0, "min_lat_e7": 0, "max_lon_e7": 1, "max_lat_e7": 1, "center_zoom": 0}


def enhance(
    bands: list[str],
    output: str,
    threads: int,
    steps: list[dict],
    epsg: int = EPSG,
    further: list[list[str]] | None = None,
) -> None:
    """Enhance a tile, as the workflow's job does; bands of `further` items fill its holes."""
    from basemake.pixels.dn import DnReading
    from basemake.pixels.fill import Layer
    from basemake.pixels.raster import set_up_libraries
    from enhance_tile import Enhancement, Filling, enhance_tile

    set_up_libraries(CACHE_MB)
    reading = DnReading(0.0001, 0.0, -32768)
    enhancement, filling = Enhancement(epsg, steps, reading, "webp"), None
    paths = [Path(band) for band in bands]
    if further:
        layers = [Layer([Path(band) for band in item], reading) for item in [bands, *further]]
        filling = Filling(layers, Path(output).with_suffix(".provenance.tif"))
    enhance_tile(paths, Path(output), enhancement, metadata={}, threads=threads, filling=filling)


def plain(tile: str, output: str) -> None:
    """Write an enhanced tile without compression."""
    _translate(tile, output, ["BIGTIFF=IF_SAFER"])


def gdal_webp(tile: str, output: str, threads: int) -> None:
    """Write the same colours by GDAL's GTiff driver as lossless WebP."""
    options = ["COMPRESS=WEBP", "WEBP_LOSSLESS=YES", "INTERLEAVE=PIXEL", f"NUM_THREADS={threads}"]
    _translate(tile, output, options)


def _translate(tile: str, output: str, options: list[str]) -> None:
    from osgeo import gdal

    gdal.UseExceptions()
    blocks = ["TILED=YES", "BLOCKXSIZE=512", "BLOCKYSIZE=512"]
    gdal.Translate(output, tile, format="GTiff", creationOptions=[*blocks, *options])


def render(
    metatile: str, tile: str, folder: str, max_zoom: int, threads: int, quality: int | str
) -> None:
    """Render a metatile of one tile, as the workflow's job does."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the script does, before NumPy is imported
    import render_metatile
    from basemake.pixels.raster import keep_memory, set_up_libraries
    from basemake.pixels.webtiles import metatile_of

    keep_memory()
    set_up_libraries(CACHE_MB)
    place = metatile_of(metatile)
    rendering = {**RENDERING, "quality": quality}
    render_metatile.render_metatile(
        place,
        [Path(tile)],
        Path(folder) / f"{metatile}.pmtiles",
        Path(folder) / f"{metatile}.tif",
        render_metatile.Rendering(
            min_zoom=place.z,
            max_zoom=max_zoom,
            tile_size=WEB_TILE,
            resampling="bilinear",
            outline=None,
            overlap="feather",
            **rendering,
        ),
        threads=threads,
        made_of=render_metatile.digest_inputs([Path(tile)], rendering),
    )


def overview(folder: str, min_zoom: int, quality: int | str) -> None:
    """Render the web tiles above the metatiles, as the workflow's job does."""
    from basemake.pixels.raster import set_up_libraries
    from basemake.pixels.webtiles import metatile_of
    from render_overview import render_overview

    set_up_libraries(CACHE_MB)
    roots = {metatile_of(path.stem): path for path in sorted(Path(folder).glob("*.tif"))}
    rendering = {**RENDERING, "quality": quality}
    render_overview(roots, Path(folder) / "overview.pmtiles", min_zoom=min_zoom, **rendering)


def pack(folder: str, output: str) -> None:
    """Pack all archives of a folder into one, as the workflow's job does."""
    from basemake.pixels.archive import TILE_TYPES, pack_parts

    header: dict[str, Any] = {"tile_type": TILE_TYPES["webp"], **PACKED}
    header |= {"center_lon_e7": 0, "center_lat_e7": 0}
    pack_parts(sorted(Path(folder).glob("*.pmtiles")), Path(output), header, {"name": "bench"})


def convert(folder: str, output: str) -> None:
    """Pack the same by MBTiles, in one transaction, and the converter of the pmtiles package."""
    import tempfile

    from pmtiles.convert import mbtiles_to_pmtiles
    from pmtiles.reader import MmapSource, all_tiles

    tempfile.tempdir = str(Path(output).parent)
    mbtiles = Path(output).with_suffix(".mbtiles")
    connection = sqlite3.connect(mbtiles)
    connection.execute("CREATE TABLE metadata (name text, value text)")
    connection.execute(
        "CREATE TABLE tiles"
        " (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)"
    )
    facts = {"name": "bench", "format": "webp", "minzoom": "0", "maxzoom": "20"}
    connection.executemany("INSERT INTO metadata VALUES (?, ?)", facts.items())
    for path in sorted(Path(folder).glob("*.pmtiles")):
        with path.open("rb") as file:
            rows = ((z, x, 2**z - 1 - y, data) for (z, x, y), data in all_tiles(MmapSource(file)))
            connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
    connection.execute(
        "CREATE UNIQUE INDEX tile_index on tiles (zoom_level, tile_column, tile_row)"
    )
    connection.commit()
    connection.close()
    mbtiles_to_pmtiles(mbtiles, output, maxzoom=None)


def vsicurl(windows: str, connections: int) -> None:
    """Read windows of files on the web by GDAL's /vsicurl.

    `windows` is a file, JSON: address, number of the image and [left, top, width, height] of each.
    """
    from concurrent.futures import ThreadPoolExecutor

    from osgeo import gdal

    gdal.UseExceptions()
    gdal.SetConfigOption("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")  # as everyone advises

    def read(address: str, level: int, parts: list[list[int]]) -> None:
        options = [f"OVERVIEW_LEVEL={level - 1}"] if level else []
        dataset = gdal.OpenEx(f"/vsicurl/{address}", open_options=options)
        for part in parts:
            dataset.ReadAsArray(*part)

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(lambda one: read(*one), json.loads(Path(windows).read_text())))


if __name__ == "__main__":
    arguments = json.loads(sys.argv[2])
    for library in ("OMP", "OPENBLAS", "MKL"):  # as Snakemake does
        os.environ[f"{library}_NUM_THREADS"] = str(arguments.get("threads", 1))
    globals()[sys.argv[1]](**arguments)
