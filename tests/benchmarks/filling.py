"""Enhancing a tile whose holes are filled."""

from pathlib import Path

from benchmarks.measure import job, prepare, run
from benchmarks.report import Check, Measured, Section, ratio
from benchmarks.tiles import BANDS, THREADS, steps

FURTHER = 2  # items


def bench_filling(folder: Path, side: int, runs: int) -> Section:
    """Write bands of several items in `folder`, and measure there."""
    place = folder / "filling"
    place.mkdir()
    share = prepare("inputs", "holed_bands", folder=place, side=side, further=FURTHER)
    items = [[place / str(n) / f"{name}.tif" for name in BANDS] for n in range(1 + FURTHER)]
    measured = []
    for count in range(1 + FURTHER):
        row = Measured(
            f"basemake, filled from {count}" if count else "basemake, with holes", own=True
        )
        command = job(
            "enhance",
            bands=items[0],
            output=place / "tile.tif",
            threads=THREADS,
            steps=steps(),
            further=items[1 : 1 + count],
        )
        row.runs += [run(command)[0] for _ in range(runs)]
        measured.append(row)
    plain, filled, *_ = measured
    return Section(
        f"Fill the holes of a tile of {side} x {side} px",
        measured,
        [
            Check("filled from one: CPU, of that with holes", ratio(filled, plain, "cpu"), 3.5),
            Check("filled from one: peak memory", max(u.peak for u in filled.runs), 400, "MB"),
        ],
        [
            f"{THREADS} threads. Holes are {share.split()[-1]} of the tile. Further items are here"
            " whole, as from files; of bands on the web only blocks that cover holes are.",
        ],
    )
