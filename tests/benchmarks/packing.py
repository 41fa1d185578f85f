"""Packing an archive of many web tiles, compared with a conversion from MBTiles."""

import shutil
from pathlib import Path

from benchmarks.measure import job, prepare, run
from benchmarks.report import Check, Measured, Section, ratio


def bench_packing(folder: Path, count: int, runs: int) -> Section:
    """Measure in `folder` with `count` web tiles and, for memory, with a quarter of them."""
    rows = {}
    for tiles in (count // 4, count):
        parts = folder / "parts"
        parts.mkdir()
        prepare("inputs", "parts", folder=parts, count=tiles)
        size = sum(path.stat().st_size for path in parts.iterdir()) / 1e6
        for name, way in (("pack", "basemake"), ("convert", "MBTiles, pmtiles.convert")):
            row = Measured(f"{way}: {tiles:,} web tiles", megabytes=size, own=name == "pack")
            rows[name, tiles] = row
            for _ in range(runs):
                output = folder / "packed.pmtiles"
                row.runs.append(run(job(name, folder=parts, output=output))[0])
                for path in folder.glob("packed.*"):
                    path.unlink()
        shutil.rmtree(parts)
    ours, theirs, fewer = rows["pack", count], rows["convert", count], rows["pack", count // 4]
    faster = min(
        (theirs.median(figure) or 0) / (ours.median(figure) or 1) for figure in ("cpu", "wall")
    )
    return Section(
        f"Pack {count:,} web tiles of 6 kB",
        list(rows.values()),
        [
            Check("times as fast (CPU and wall)", faster, 3, at_least=True),
            Check("peak memory, of that with a quarter of them", ratio(ours, fewer, "peak"), 1.25),
        ],
        ["Both read the same parts, archives of 341 web tiles. MB: what is packed."],
    )
