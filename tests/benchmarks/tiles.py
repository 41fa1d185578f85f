"""Enhancing a tile, beside GDAL's own way of writing the same colours."""

from pathlib import Path

from basemake.config import read_recipe
from benchmarks.measure import CORES, Usage, job, prepare, run
from benchmarks.report import Check, Measured, Section, ratio

BANDS = ("B04", "B03", "B02")
OURS = "basemake: bands to tile"
THREADS = min(4, CORES)


def make_tile(folder: Path, side: int) -> str:
    """Make bands and, once, their enhanced tile.tif in `folder`; return what they are made of."""
    made_of = prepare("inputs", "bands", folder=folder, side=side).strip()
    _enhance(folder)
    return made_of


def bench_tiles(folder: Path, side: int, runs: int) -> Section:
    """Make bands in `folder` and measure there; leaves the enhanced tile as tile.tif."""
    made_of = make_tile(folder, side)
    tile, plain, theirs = folder / "tile.tif", folder / "plain.tif", folder / "gdal.tif"
    ours = Measured(OURS, [_enhance(folder) for _ in range(runs)], own=True)
    run(job("plain", tile=tile, output=plain))
    peer = Measured("GDAL GTiff, WEBP_LOSSLESS=YES")
    for _ in range(runs):
        peer.runs.append(run(job("gdal_webp", tile=plain, output=theirs, threads=THREADS))[0])
    ours.megabytes, peer.megabytes = (
        float(prepare("inputs", "full_image", tile=path)) / 1e6 for path in (tile, theirs)
    )
    same = prepare("inputs", "same_pixels", one=tile, other=theirs).strip()
    for path in (plain, theirs):
        path.unlink()
    return Section(
        f"Enhance a tile of {side} x {side} px",
        [ours, peer],
        [
            Check("CPU, of GDAL's", ratio(ours, peer, "cpu"), 0.1),
            Check("wall, of GDAL's", ratio(ours, peer, "wall"), 0.125),
            Check("bytes, of GDAL's", ratio(ours, peer, "megabytes"), 1.09),
            Check("CPU", ours.median("cpu") if side > 10_000 else None, 18, "s"),
            Check("peak memory", max(usage.peak for usage in ours.runs), 400, "MB"),
        ],
        [
            f"{THREADS} threads each. Bands: {made_of}. Pixels of both: {same}.",
            "basemake's time holds reading bands, colour and reduced images; GDAL is given the"
            " finished colours, uncompressed, and makes no reduced images. MB: full image.",
        ],
    )


def _enhance(folder: Path) -> Usage:
    bands = [folder / f"{name}.tif" for name in BANDS]
    arguments = {"bands": bands, "output": folder / "tile.tif", "threads": THREADS}
    return run(job("enhance", **arguments, steps=steps()))[0]


def steps() -> list[dict]:
    """Return the steps of the recipe that is config's default."""
    return read_recipe("l2a-optimized")["steps"]
