"""What a build will take, from what is known before it runs: bytes, seconds and memory.

Sizes are bytes, times seconds, pixels Mpx (millions). All are estimates but the bands' sizes.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import shapely

from basemake.pixels.webtiles import RADIUS

# ASSUME: what cannot be known before the first tile is as for Sentinel-2's quarterly mosaics.
BAND_BYTES = 1.47  # a pixel: 147 MB a band on average
# A byte of a tile's bands: 205 MB, with the reduced images, of 461 MB.
TILE_BYTES = {"webp": 0.45, "jxl": 0.43, "zstd": 0.56, "deflate": 0.6}
# Web tiles of all zooms: bytes for a pixel of the top zoom, by quality; docs/bench and Pillow on
# the same pixels.
QUALITIES = [1, 50, 80, 95, 100]
WEB_BYTES = {
    "webp": [0.03, 0.09, 0.17, 0.40, 0.54],
    "jpeg": [0.03, 0.13, 0.22, 0.46, 0.70],
}
LOSSLESS_WEB_BYTES = {"webp": 1.75, "png": 1.95}
ROOT_BYTES = 2.0  # a pixel of a metatile's root, which is a PNG
VRT_BYTES, PAGE_BYTES = 5_000, 1_200_000
NETWORK = 12.5e6  # bytes a second over all connections: a line of 100 Mbit/s
LOCAL = 200e6  # bytes a second, copied from files
SNAKEMAKE = 3.0, 0.13  # seconds to plan and to end a run, and for each job; docs/bench
HAND_MADE = {"tiles": 85, "usd": [10, 15]}  # a run of a pipeline like this, made by hand


class Pace(NamedTuple):
    """What a job takes: seconds, and seconds for each of the units that its work is counted in."""

    start: float
    per_unit: float

    def of(self, units: float) -> float:
        """Return the seconds of a job of `units`."""
        return self.start + self.per_unit * units


class Cost(NamedTuple):
    """CPU seconds and wall seconds of the jobs of a rule."""

    cpu: Pace
    wall: Pace


class Measured(NamedTuple):
    """A job that was done: its units, and the CPU and wall seconds that it took."""

    units: float
    cpu: float
    wall: float


class Work(NamedTuple):
    """A job to be done: its rule, its units, the cores that it holds, and its region if of one."""

    rule: str
    units: float
    threads: int
    region: str | None = None


class Time(NamedTuple):
    """Seconds: the network and the CPU each alone, both together, and CPU time."""

    network: float
    compute: float
    wall: float
    cpu: float

    @property
    def bound_by(self) -> str:
        """What a faster run needs more of."""
        return "network" if self.network > self.compute else "CPU"


# Units: MB of a band, Mpx of a tile, Mpx of web tiles of the top zoom, metatiles, MB of an archive.
# docs/bench, 4 cores at the default threads; what starts a job is mostly imports.
SHIPPED = {
    "fetch_band": Cost(Pace(0.6, 0.01), Pace(0.8, 0.0)),  # the network's seconds are added
    "enhance_tile": Cost(Pace(0.6, 0.09), Pace(0.5, 0.025)),
    "render_metatile": Cost(Pace(0.7, 0.2), Pace(0.6, 0.15)),
    "render_overview": Cost(Pace(0.6, 0.02), Pace(0.5, 0.02)),
    "pack_pyramid": Cost(Pace(0.5, 0.002), Pace(0.5, 0.002)),
    "export_mbtiles": Cost(Pace(0.5, 0.02), Pace(0.5, 0.02)),
    "export_folder": Cost(Pace(0.5, 0.03), Pace(0.5, 0.03)),
    "export_cog": Cost(Pace(0.7, 2.5), Pace(0.6, 2.5)),
    "build_zone_vrt": Cost(Pace(0.7, 0.0), Pace(0.6, 0.0)),
    "build_vrt": Cost(Pace(0.6, 0.0), Pace(0.5, 0.0)),
    "build_preview": Cost(Pace(0.9, 0.0), Pace(0.8, 0.0)),
}
LAST = ("render_overview", "pack_pyramid", "export_", "build_preview")  # one after the other


def shipped_costs(connections: int, remote: bool) -> dict[str, Cost]:
    """Return what jobs take where none was done yet, with the network that is assumed."""
    fetch = SHIPPED["fetch_band"]
    seconds = 1e6 * connections / NETWORK if remote else 1e6 / LOCAL
    return {**SHIPPED, "fetch_band": Cost(fetch.cpu, Pace(fetch.wall.start, seconds))}


def ground_area(geometry: Any) -> float:
    """Return square metres of a geometry in degrees, on the sphere; right to 1 %."""

    def equal_area(lonlat: Any) -> Any:
        lon, lat = np.radians(lonlat).T
        return np.column_stack([lon, np.sin(lat)]) * RADIUS

    return float(shapely.transform(geometry, equal_area).area)


def web_bytes(image_format: str, quality: int | str | None) -> float:
    """Return bytes of web tiles, all zooms, for each pixel of the top zoom."""
    if quality == "lossless" or image_format == "png":
        return LOSSLESS_WEB_BYTES[image_format]
    return float(np.interp(float(quality or 80), QUALITIES, WEB_BYTES[image_format]))


def fit(shipped: Cost, measured: list[Measured]) -> Cost:
    """Return what a rule's jobs take by those that were measured, or as shipped without any."""
    if not measured:
        return shipped
    units = [job.units for job in measured]
    return Cost(
        _fit(shipped.cpu, units, [job.cpu for job in measured]),
        _fit(shipped.wall, units, [job.wall for job in measured]),
    )


def _fit(shipped: Pace, units: list[float], seconds: list[float]) -> Pace:
    start = min(shipped.start, min(seconds)) if any(units) else median(seconds)
    rates = [(s - start) / u for u, s in zip(units, seconds, strict=True) if u > 0]
    return Pace(start, median(rates) if rates else 0.0)


def estimate_time(
    work: Iterable[Work], costs: dict[str, Cost], cores: int, connections: int
) -> Time:
    """Return what `work` takes on `cores` and `connections`, by each rule's cost.

    Downloads and computing overlap; the first bands, and what follows the last tile, do not.
    """
    work = list(work)
    if not work:
        return Time(0.0, 0.0, 0.0, 0.0)
    cpu = sum(costs[job.rule].cpu.of(job.units) for job in work)
    downloads = [costs[job.rule].wall.of(job.units) for job in work if job.rule == "fetch_band"]
    network = max(sum(downloads) / connections, max(downloads, default=0.0))
    overlapping = [job for job in work if job.rule != "fetch_band" and not _is_last(job)]
    compute = sum(_held(job, costs, cores) for job in overlapping) / cores
    last = _last(work, costs, cores)
    first = math.ceil(3 / connections) * median(downloads) if downloads else 0.0
    after = sum(
        max((costs[job.rule].wall.of(job.units) for job in work if job.rule == rule), default=0.0)
        for rule in ("enhance_tile", "render_metatile")
    )
    both = max(network + after, compute + first, after)
    every_job = SNAKEMAKE[1] * len(work)
    return Time(network, compute + last, SNAKEMAKE[0] + every_job + both + last, cpu)


def _is_last(job: Work) -> bool:
    return job.rule.startswith(LAST)


def _held(job: Work, costs: dict[str, Cost], cores: int) -> float:
    """Return the core seconds that a job holds."""
    return costs[job.rule].wall.of(job.units) * min(job.threads, cores)


def _last(work: list[Work], costs: dict[str, Cost], cores: int) -> float:
    """Return the seconds of what is done when all metatiles are there: regions side by side."""
    regions: dict[str | None, float] = {}
    for job in filter(_is_last, work):
        seconds = costs[job.rule].wall.of(job.units)
        regions[job.region] = regions.get(job.region, 0.0) + seconds
    return max(max(regions.values(), default=0.0), sum(regions.values()) / cores)


def bands_in_flight(tiles: int, time: Time, cores: int, threads: int, connections: int) -> int:
    """Return how many tiles' bands are on disk at most where bands are not kept.

    Those being enhanced and downloaded; where computing is slower, also those that wait for it.
    """
    waiting = tiles * max(0.0, 1 - time.network / time.compute) if time.compute else 0.0
    busy = max(1, cores // threads) + math.ceil(connections / 3)
    return min(tiles, busy + math.ceil(waiting))


def read_benchmark(path: Path, units: float) -> Measured | None:
    """Return the job of one of Snakemake's benchmark files; None if there is none that reads."""
    try:
        lines = path.read_text().splitlines()
        row = dict(zip(lines[0].split("\t"), lines[-1].split("\t"), strict=True))
        wall, cpu = float(row["s"]), float(row["cpu_time"])
        return Measured(units, cpu or wall, wall)  # a short job's CPU time may have been missed
    except (OSError, ValueError, KeyError, IndexError):
        return None


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if there is none."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0
