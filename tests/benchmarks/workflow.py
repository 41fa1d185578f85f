"""Snakemake's overhead on the jobs of a region, and its time to find nothing to do."""

import json
from pathlib import Path

from shapely import union_all
from shapely.geometry import box

from benchmarks import pyramid, tiles
from benchmarks.builds import Build, snakemake
from benchmarks.measure import CORES, job, run
from benchmarks.report import Check, Measured, Section

REGION = union_all([box(9.5, 44.0, 18.0, 50.0), box(10.0, 43.3, 13.0, 44.0)])  # 85 tiles
SMALL_REGION = box(16.0, 42.2, 18.2, 44.1)
PIXEL_SIZE = 360  # metres: jobs of next to no work of their own
SOURCE = {
    "type": "simulated",
    "seed": 41,
    "pixel_size": PIXEL_SIZE,
    "bands": {"red": "B04", "green": "B03", "blue": "B02"},
    "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768, "dtype": "int16"},
    "attribution": "Simulated imagery (basemake)",
}
# As many metatiles as tiles of 10 m would have
PYRAMID = {"max_zoom": 8, "metatile_zoom": 8}
THREADS = {"enhance": 1, "render": 1}


def bench_workflow(folder: Path, runs: int, quick: bool, seconds: dict[str, float]) -> Section:
    """Build a region in `folder`; `seconds` are the CPU seconds measured before, by name."""
    region = SMALL_REGION if quick else REGION
    build = Build(folder / "region", region, SOURCE, pyramid=PYRAMID, threads=THREADS)
    build.snakemake("manifest")
    build.snakemake("--until", "fetch_bands", "--cores", CORES)
    found = json.loads((build.directory / "results/manifest.geojson").read_text())["features"]
    through = Measured(f"snakemake --cores 1: {len(found)} tiny tiles", own=True)
    through.runs = [build.snakemake("--until", "enhance_tile", "--cores", 1)]
    alone = Measured("one such job without Snakemake")
    bands = sorted((build.directory / "results/bands" / found[0]["id"]).iterdir(), reverse=True)
    arguments = {"bands": bands, "output": folder / "alone.tif", "threads": 1}
    arguments |= {"epsg": found[0]["properties"]["epsg"], "steps": tiles.steps()}
    for _ in range(max(3, runs)):
        alone.runs.append(run(job("enhance", **arguments))[0])
    rest = Measured(f"snakemake --cores {CORES}: all the rest", own=True)
    rest.runs = [build.snakemake("--cores", CORES)]
    metatiles = len(list((build.directory / "results/metatiles/region").glob("*_*.pmtiles")))
    nothing = Measured("snakemake: nothing to do", own=True)
    empty = Measured("snakemake: an empty workflow")
    (folder / "Snakefile").write_text("rule all:\n    input: 'Snakefile'\n")
    for _ in range(max(3, runs)):
        nothing.runs.append(build.snakemake("--cores", CORES))
        empty.runs.append(snakemake(folder, "--cores", 1))
    added = {
        figure: getattr(through.runs[0], figure) / len(found) - (alone.median(figure) or 0)
        for figure in ("cpu", "wall")
    }
    share = None
    if not quick and {tiles.OURS, pyramid.OURS} <= seconds.keys():
        own = len(found) * (seconds[tiles.OURS] + seconds[pyramid.OURS])
        share = 100 * added["cpu"] * (len(found) + metatiles) / own
    # The fastest of several: other load can only add to wall seconds.
    longer = min(u.wall for u in nothing.runs) - min(u.wall for u in empty.runs)
    return Section(
        f"Snakemake, a region of {len(found)} tiles and {metatiles} metatiles",
        [through, alone, rest, nothing, empty],
        [
            Check("added to the CPU of full-size jobs", share, 5, "%"),
            Check("nothing to do, longer than an empty workflow", longer, 1.5, "s"),
        ],
        [
            "Tiny tiles: 278 px a side, so that jobs have next to no work of their own."
            f" Snakemake adds {added['cpu']:.2f} CPU s and {added['wall']:.2f} s of wall to each"
            " job (the run above by its jobs, planning included, less one job alone).",
        ],
    )
