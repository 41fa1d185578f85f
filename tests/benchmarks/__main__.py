"""`make bench`: measure basemake beside its peers, print tables, write JSON and a chart."""

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.disk import bench_disk
from benchmarks.downloads import FULL_SIDE, bench_downloads
from benchmarks.filling import bench_filling
from benchmarks.limits import bench_limits
from benchmarks.machine import machine, versions
from benchmarks.overlap import bench_overlap
from benchmarks.packing import bench_packing
from benchmarks.planet import bench_planet
from benchmarks.planning import WORLD, bench_planning
from benchmarks.pyramid import bench_pyramid
from benchmarks.report import Section, as_text, write_chart, write_json
from benchmarks.tiles import bench_tiles, make_tile
from benchmarks.workflow import bench_workflow
from benchmarks.zooms import bench_quality

QUICK_SIDE = 4096  # pixels
NAMES = (
    *("tiles", "pyramid", "packing", "workflow", "planning", "planet", "overlap", "downloads"),
    *("disk", "limits", "filling", "quality"),
)


def main() -> None:
    """Run what the command line asks for; each section is printed as soon as it is measured."""
    options = _options()
    context = {
        "date": datetime.now(UTC).date().isoformat(),
        "quick": options.quick,
        "machine": machine(),
        "versions": versions(),
    }
    for name in ("machine", "versions"):
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in context[name].items()))
    if options.quick:
        print("QUICK: smaller tiles and one run; the targets are meant for the full benchmark.")
    sections: list[Section] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        for name in options.only:
            sections.append(_section(name, Path(folder), options, sections))
            print(as_text(sections[-1]), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "bench.json", context, sections)
    kind = "quick" if options.quick else "full-size"
    title = f"basemake and its peers, {kind}: {context['machine']['processor']}"
    write_chart(options.output / "bench.png", title, sections)
    checks = [check for section in sections for check in section.checks]
    missed = [check.what for check in checks if check.met is False]
    unknown = [check.what for check in checks if check.met is None]
    print(f"\n{sum(check.met is True for check in checks)} of {len(checks)} targets met")
    print(f"not met: {'; '.join(missed) or 'none'}")
    print(f"not measured: {'; '.join(unknown) or 'none'}")
    print(f"{options.output}/bench.json, {options.output}/bench.png: written")


def _section(
    name: str, folder: Path, options: argparse.Namespace, before: list[Section]
) -> Section:
    """Run one section in `folder`; some use files and results of the sections `before`."""
    quick, runs = options.quick, 1 if options.quick else options.runs
    side = QUICK_SIDE if quick else FULL_SIDE
    if name == "tiles":
        return bench_tiles(folder, side, runs)
    if name == "pyramid":
        if not (folder / "tile.tif").exists():
            make_tile(folder, side)
        return bench_pyramid(folder, runs, options.gdal)
    if name == "packing":
        return bench_packing(folder, 20_000 if quick else 100_000, runs)
    if name == "planning":
        return bench_planning(folder, (100, 1_000) if quick else (100, 1_000, 4_000, WORLD))
    if name == "planet":
        return bench_planet(folder, 100 if quick else 2_000)
    if name == "overlap":
        return bench_overlap(folder, *((4, 60.0) if quick else (12, 30.0)))
    if name == "downloads":
        return bench_downloads(folder, FULL_SIDE // 2 if quick else FULL_SIDE, quick)
    if name == "filling":
        return bench_filling(folder, side, runs)
    if name == "disk":
        return bench_disk(folder, 120 if quick else 220)
    if name == "quality":
        return bench_quality(folder, side // 2 if quick else 4096, options.gdal)
    if name == "limits":
        return bench_limits(folder, side, 20 if quick else 70)
    seconds = {row.name: row.median("cpu") or 0 for section in before for row in section.measured}
    return bench_workflow(folder, runs, quick, seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within 8 minutes on 2 cores")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; default 3")
    parser.add_argument("--gdal", help="the program gdal of GDAL 3.11 or newer; default: on PATH")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="sections to run")
    parser.add_argument("--output", type=Path, default=Path("results/bench"))
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary directory")
    return parser.parse_args()


if __name__ == "__main__":
    main()
