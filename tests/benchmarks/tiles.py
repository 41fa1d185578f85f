"""Enhancing a tile, compared with GDAL writing the same colours."""

from pathlib import Path
from statistics import median

from basemake.build.config import read_recipe
from benchmarks.measure import CORES, job, prepare, run, together
from benchmarks.report import Check, Measured, Section, ratio

BANDS = ("B04", "B03", "B02")
OURS = "basemake: bands to tile"
THREADS = min(4, CORES)


def make_tile(folder: Path, side: int) -> str:
    """Write bands and their enhanced tile.tif in `folder`; return the origin of the pixels."""
    made_of = prepare("inputs", "bands", folder=folder, side=side).strip()
    run(enhance_bands(folder))
    return made_of


def bench_tiles(folder: Path, side: int, runs: int) -> Section:
    """Write bands in `folder` and measure there; the enhanced tile stays as tile.tif."""
    made_of = make_tile(folder, side)
    tile, plain, theirs = folder / "tile.tif", folder / "plain.tif", folder / "gdal.tif"
    ours = Measured(OURS, own=True)
    more = Measured(f"basemake, {2 * THREADS} threads", own=True)
    two = Measured(f"basemake, two tiles at once, {THREADS} threads each", own=True)
    for _ in range(runs):
        ours.runs.append(run(enhance_bands(folder))[0])
        more.runs.append(run(enhance_bands(folder, "more.tif", 2 * THREADS))[0])
        two.runs.append(together([enhance_bands(folder), enhance_bands(folder, "more.tif")], 2))
    run(job("plain", tile=tile, output=plain))
    peer = Measured("GDAL GTiff, WEBP_LOSSLESS=YES")
    for _ in range(runs):
        peer.runs.append(run(job("gdal_webp", tile=plain, output=theirs, threads=THREADS))[0])
    ours.megabytes, peer.megabytes = (
        float(prepare("inputs", "full_image", tile=path)) / 1e6 for path in (tile, theirs)
    )
    same = prepare("inputs", "same_pixels", one=tile, other=theirs).strip()
    busy = median(usage.cpu / usage.wall / THREADS for usage in ours.runs)
    for path in (plain, theirs, folder / "more.tif"):
        path.unlink()
    return Section(
        f"Enhance a tile of {side} x {side} px",
        [ours, more, two, peer],
        [
            Check("CPU, of GDAL's", ratio(ours, peer, "cpu"), 0.1),
            Check("wall, of GDAL's", ratio(ours, peer, "wall"), 0.125),
            Check("bytes, of GDAL's", ratio(ours, peer, "megabytes"), 1.09),
            Check("CPU", ours.median("cpu") if side > 10_000 else None, 18, "s"),
            Check(f"{2 * THREADS} threads: wall, of {THREADS}'s", ratio(more, ours, "wall"), 1.1),
            Check("two tiles at once: wall, of one's", ratio(two, ours, "wall"), 2.2),
            Check("peak memory", max(usage.peak for usage in ours.runs), 400, "MB"),
        ],
        [
            f"{THREADS} threads each; basemake keeps {busy:.0%} of them busy. Bands: {made_of}."
            f" Pixels of both: {same}.",
            "basemake's time holds reading bands, colour and reduced images; GDAL is given the"
            " finished colours, uncompressed, and makes no reduced images. MB: full image.",
        ],
    )


def enhance_bands(folder: Path, output: str = "tile.tif", threads: int = THREADS) -> list[str]:
    """Return the command of the job that enhances the bands in `folder`."""
    bands = [folder / f"{name}.tif" for name in BANDS]
    return job("enhance", bands=bands, output=folder / output, threads=threads, steps=steps())


def steps() -> list[dict]:
    """Return the steps of the default recipe."""
    return read_recipe("l2a-optimized")["steps"]
