"""Many tiles: what planning, scheduling and finding nothing to do cost in Snakemake itself."""

import json
import sys
from pathlib import Path

from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from benchmarks.builds import Build
from benchmarks.measure import TESTS, prepare, run
from benchmarks.report import Check, Measured, Section
from benchmarks.workflow import PYRAMID, SOURCE, THREADS

WORLD = 28_272  # tiles of the mosaics
DEGREES_A_TILE = 360 / 27_000  # of longitude, from the equator to 75 degrees north; a little less
PLAN = TESTS.parent / "scripts/commands/plan.py"


def bench_planning(folder: Path, counts: tuple[int, ...]) -> Section:
    """Measure in `folder` with each of `counts` tiles, the largest last."""
    rows: list[Measured] = []
    for count in counts:
        build = Build(
            folder / f"{count}", region_of(count), SOURCE, pyramid=PYRAMID, threads=THREADS
        )
        prepare("inputs", "manifest", folder=build.directory, count=count)
        report = build.directory / "pretended.json"
        commands = {
            "snakemake -n": ["-m", "snakemake", *build.options, "-n"],
            "make plan": [PLAN, *build.options],
            "snakemake, jobs that pretend": ["-m", "benchmarks.pretended", report, *build.options],
            "snakemake, nothing to do": ["-m", "snakemake", *build.options],
        }
        usages = {}
        for name, command in commands.items():
            usages[name] = run([sys.executable, *command], cwd=build.directory)[0]
            rows.append(Measured(f"{count:,} tiles: {name}", [usages[name]], own=True))
        listed, planned, pretended, nothing = usages.values()
        jobs, own = json.loads(report.read_text()).values()
        each = (pretended.cpu - own - nothing.cpu) / jobs
        rows[-2].note = f"{jobs} jobs, {each:.4f} CPU s each beside their own {own:.0f}"
    return Section(
        f"Planning, up to {counts[-1]:,} tiles",
        rows,
        [
            Check("snakemake -n, CPU", listed.cpu, 300, "s"),
            Check("snakemake -n, memory", listed.peak, 4000, "MB"),
            Check("make plan, CPU", planned.cpu, 300, "s"),
            Check("make plan, memory", planned.peak, 4000, "MB"),
            Check("nothing to do, CPU", nothing.cpu, 360, "s"),
            Check("Snakemake, CPU of a job without starting its process", each, 0.02, "s"),
        ],
        [
            "Jobs that pretend write placeholders and their records within Snakemake's process; the"
            " CPU of that is left out of Snakemake's CPU of a job, and so is that of planning. Zoom"
            " 8, and metatiles of one web tile.",
            *(f"{row.name}: {row.note}." for row in rows if row.note),
        ],
    )


def region_of(count: int) -> BaseGeometry:
    """Return a region of at least `count` tiles, but not many more."""
    return box(-180, 0, min(180, -180 + 2 + count * DEGREES_A_TILE), 75)
