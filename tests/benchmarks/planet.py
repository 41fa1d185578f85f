"""A part of the planet to zoom 8, built end to end, and Snakemake's own share of that."""

import json
import sys
from pathlib import Path

from benchmarks.builds import Build
from benchmarks.measure import CORES, run
from benchmarks.planning import WORLD, region_of
from benchmarks.report import Check, Measured, Section
from benchmarks.workflow import PYRAMID, SOURCE, THREADS


def bench_planet(folder: Path, count: int) -> Section:
    """Build the web map of at least `count` simulated tiles in `folder`, from their bands on."""
    build = Build(folder / "planet", region_of(count), SOURCE, pyramid=PYRAMID, threads=THREADS)
    build.snakemake("manifest")
    found = json.loads((build.directory / "results/manifest.geojson").read_text())["features"]
    report = build.directory / "alone.txt"
    command = ["-m", "benchmarks.alone", report, *build.options, "--cores", CORES]
    whole, _ = run([sys.executable, *command], build.directory)
    alone = float(report.read_text())
    metatiles = len(list((build.directory / "results/metatiles/region").glob("*_*.pmtiles")))
    nothing = build.snakemake("--cores", CORES)
    hours = whole.wall * WORLD / len(found) / 3600
    return Section(
        f"The planet to zoom 8, of it {len(found):,} tiles and {metatiles:,} metatiles",
        [
            Measured(f"snakemake --cores {CORES}: bands to web map", [whole], own=True),
            Measured("snakemake: nothing to do", [nothing], own=True),
        ],
        [Check("Snakemake's own process, of the CPU", 100 * alone / whole.cpu, 20, "%")],
        [
            "Simulated bands of 278 px a side, as large as the mosaics' smallest reduced images,"
            f" from files here. At this pace all {WORLD:,} tiles take {hours:.1f} hours.",
        ],
    )
