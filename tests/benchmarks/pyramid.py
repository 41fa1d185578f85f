"""The pyramid of a tile, compared with `gdal raster tile` and gdal2tiles.py."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.jobs import WEBP_QUALITY
from benchmarks.measure import CORES, Usage, forked, prepare, run
from benchmarks.report import Check, Measured, Section, difference, ratio

MIN_ZOOM, METATILE_ZOOM, MAX_ZOOM = 8, 8, 13
THREADS = 2  # encoder threads of a metatile's job, as config's default
SAMPLED = 100  # web tiles whose quality is measured
OURS = "basemake: metatiles, overview, archive"
# gdal2tiles.py blurs, which makes small files: at this quality ours still have the higher PSNR.
LOWER_QUALITY = 60
LIMITS = {"gdal raster tile": 0.62, "gdal2tiles.py": 0.25}  # of their CPU and wall time


def bench_pyramid(folder: Path, runs: int, gdal: str | None) -> Section:
    """Measure on tile.tif in `folder`; `gdal` is the program of GDAL 3.11 or newer, if given."""
    tile, archive = folder / "tile.tif", folder / "pyramid.pmtiles"
    names = json.loads(prepare("inputs", "metatiles", tile=tile, zoom=METATILE_ZOOM))
    ours = Measured(OURS, own=True)
    for _ in range(runs):
        ours.runs.append(build_ours(folder / "metatiles", tile, archive, names, WEBP_QUALITY))
    ours.megabytes = archive.stat().st_size / 1e6
    peers = [raster_tile(gdal, tile, folder / "raster_tile", runs)]
    peers.append(gdal2tiles(tile, folder / "gdal2tiles", runs))
    there = [peer for peer in peers if peer.runs]
    folders = [folder / peer.note for peer in there]
    sampled = {"zoom": MAX_ZOOM, "count": SAMPLED}
    decibels = prepare("quality", "compare", tile=tile, archive=archive, folders=folders, **sampled)
    for row, value in zip([ours, *there], json.loads(decibels), strict=True):
        row.psnr = value
    lower = Measured(f"basemake at quality {LOWER_QUALITY}", own=True)
    smaller = folder / "smaller.pmtiles"
    lower.runs.append(build_ours(folder / "metatiles", tile, smaller, names, LOWER_QUALITY))
    lower.megabytes = smaller.stat().st_size / 1e6
    decibels = prepare("quality", "compare", tile=tile, archive=smaller, folders=[], **sampled)
    lower.psnr = json.loads(decibels)[0]
    checks = []
    for (name, limit), peer, alike in zip(LIMITS.items(), peers, (ours, lower), strict=True):
        quality = WEBP_QUALITY if alike is ours else LOWER_QUALITY
        checks += [
            Check(f"CPU, of {name}'s", ratio(ours, peer, "cpu"), limit),
            Check(f"seconds, of {name}'s", ratio(ours, peer, "wall"), limit),
            Check(
                f"bytes at quality {quality}, of {name}'s", ratio(alike, peer, "megabytes"), 1.05
            ),
            Check(
                f"PSNR at quality {quality} above {name}'s",
                difference(alike, peer),
                0,
                "dB",
                at_least=True,
            ),
        ]
    peak = max(usage.peak for usage in ours.runs)
    return Section(
        f"Pyramid of that tile: z{MIN_ZOOM} to z{MAX_ZOOM}, bilinear, WebP quality {WEBP_QUALITY}",
        [ours, lower, *peers],
        [*checks, Check("peak memory of a metatile", peak, 400, "MB")],
        [
            f"{CORES} cores for all. dB: PSNR of {SAMPLED} web tiles of the top zoom against GDAL's"
            " bilinear warp of the tile in float64, each pixel transformed exactly.",
            "gdal2tiles.py reduces without widening its kernel, so that its web tiles are another"
            f" picture, blurred and small: its bytes are compared with those at quality"
            f" {LOWER_QUALITY}. Peak: of the largest process.",
        ],
    )


def build_ours(
    folder: Path, tile: Path, archive: Path, names: list[str], quality: int | str
) -> Usage:
    """Run the jobs of the workflow, started as it starts them; return the usage of all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    options: dict[str, object] = {"tile": tile, "folder": folder, "max_zoom": MAX_ZOOM}
    options |= {"threads": THREADS, "quality": quality}
    stages = [
        [("render", {"metatile": name, **options}) for name in names],
        [("overview", {"folder": folder, "min_zoom": MIN_ZOOM, "quality": quality})],
        [("pack", {"folder": folder, "output": archive})],
    ]
    modules = ["render_metatile", "render_overview", "pack_pyramid"]
    return run(forked(modules, stages, max(1, CORES // THREADS)))[0]


def raster_tile(gdal: str | None, tile: Path, output: Path, runs: int) -> Measured:
    """Measure `gdal raster tile`, which GDAL has from 3.11 on."""
    program = gdal or shutil.which("gdal")
    if program is None:
        return Measured("gdal raster tile", note="no program gdal; give its path by GDAL=")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"GDAL (\d+)\.(\d+)\.(\d+)", said.stdout)
    if version is None or tuple(map(int, version.groups())) < (3, 11, 0):
        return Measured("gdal raster tile", note=f"{program} is not of GDAL 3.11 or newer")
    command: list[object] = [program, "raster", "tile", "-q", "--webviewer", "none", "--skip-blank"]
    command += ["--min-zoom", MIN_ZOOM, "--max-zoom", MAX_ZOOM, "-j", CORES]
    command += ["-r", "bilinear", "--overview-resampling", "average"]
    command += ["-f", "WEBP", "--co", f"QUALITY={WEBP_QUALITY}", tile, output]
    return _peer(f"gdal raster tile, GDAL {'.'.join(version.groups())}", command, output, runs)


def gdal2tiles(tile: Path, output: Path, runs: int) -> Measured:
    """Measure gdal2tiles.py, which comes with GDAL's Python bindings."""
    command: list[object] = [
        sys.executable,
        "-m",
        "osgeo_utils.gdal2tiles",
        "-q",
        "-x",
        "-w",
        "none",
        "--xyz",
    ]
    command += ["-z", f"{MIN_ZOOM}-{MAX_ZOOM}", "-r", "bilinear", f"--processes={CORES}"]
    command += ["--tiledriver=WEBP", f"--webp-quality={WEBP_QUALITY}", tile, output]
    version = prepare("inputs", "gdal_version").strip()
    return _peer(f"gdal2tiles.py, GDAL {version}", command, output, runs)


def _peer(name: str, command: list[object], output: Path, runs: int) -> Measured:
    """Measure a program that writes z/x/y files to `output`; its `note` is the folder's name."""
    row = Measured(name, note=output.name)
    for _ in range(runs):
        shutil.rmtree(output, ignore_errors=True)
        row.runs.append(run(command)[0])
    row.megabytes = sum(path.stat().st_size for path in output.rglob("*.webp")) / 1e6
    return row
