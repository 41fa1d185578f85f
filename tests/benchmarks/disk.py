"""How much disk a build takes that keeps neither bands nor tiles: by the plan, and as watched.

The plan is that of a region of 85 tiles with bands like the mosaics'. What it is worth is seen by a
build of small tiles of the same extent, whose disk is watched.
"""

from pathlib import Path

from basemake.demo.grid import tiles_covering
from benchmarks.builds import Build, watching
from benchmarks.downloads import (
    BANDS,
    CONNECTIONS,
    FULL_SIDE,
    KILOMETRES,
    circle,
    planned,
    source_of,
)
from benchmarks.measure import CORES, prepare
from benchmarks.objects import objects_of
from benchmarks.report import Check, Measured, Section
from servers import FaultyServer

BAND_BYTES = 150_000_000  # of a band of the mosaics
NOTHING_KEPT = {"keep_bands": False, "keep_tiles": False}
PYRAMID = {"max_zoom": "auto", "metatile_zoom": 8}  # that of the large region: as many tiles wait
SIDE = 834  # pixels of 120 m
TILE_SECONDS = 2.0  # at which tiles come: computing alone is quicker on two cores


def bench_disk(folder: Path, kilometres: float) -> Section:
    """Plan for 85 tiles, and build in `folder` what a circle of this radius has."""
    large = _large(folder)
    disk = planned(large)["disk"]
    besides = (disk["peak_bytes"] - disk["after_bytes"]) / 1e9
    objects, region = folder / "small", circle(kilometres)
    objects.mkdir()
    prepare("inputs", "object_bands", folder=objects, side=SIDE)
    tiles = tiles_covering(region)
    with FaultyServer() as server:
        for tile in tiles:
            server.files |= objects_of(tile, objects, SIDE)
        sizes = {path: len(content) for path, content in server.files.items()}
        server.rate = sum(sizes.values()) / len(tiles) / TILE_SECONDS / CONNECTIONS
        items, fast = folder / "small.json", {"requests_per_minute": 60_000}
        source = source_of(items, tiles, SIDE, server.url, sizes, **fast)
        build = Build(folder / "disk", region, source, pyramid=PYRAMID, **NOTHING_KEPT)
        build.snakemake("manifest")
        small = planned(build)["disk"]
        results = build.directory / "results"
        with watching(results / "bands", results / "tiles") as peak:
            usage = build.snakemake("--cores", CORES)
    told = small["peak_bytes"] - small["after_bytes"]
    name = f"{len(tiles)} tiles of {SIDE} px, on {CORES} cores"
    return Section(
        "Disk, if neither bands nor enhanced tiles are kept",
        [
            Measured(name, [usage], peak[0] / 1e6, own=True),
            Measured("the same, by the plan", megabytes=told / 1e6),
            Measured("85 tiles of 10008 px, by the plan", megabytes=1000 * besides),
        ],
        [
            Check("85 tiles by the plan, besides the web map", besides, 6, "GB"),
            Check(f"{name}: of the plan's", peak[0] / told, 1.1),
        ],
        [
            "MB: bands and enhanced tiles at the peak. The server's rate is such that the network"
            " is slower than computing, as on a line of 100 Mbit/s: where computing is slower,"
            " bands wait for it on the disk, which the plan counts."
        ],
    )


def _large(folder: Path) -> Build:
    """Return a build of 85 tiles of which there is a manifest only."""
    region = circle(KILOMETRES)
    tiles = tiles_covering(region)
    sizes = {f"/{tile.tile}/{band}.tif": BAND_BYTES for tile in tiles for band in BANDS}
    source = source_of(folder / "large.json", tiles, FULL_SIDE, "http://127.0.0.1:9", sizes)
    build = Build(folder / "large", region, source, pyramid=PYRAMID, **NOTHING_KEPT)
    build.snakemake("manifest")
    return build
