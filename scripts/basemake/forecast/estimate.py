"""How long a run will take: seconds of jobs by their work, and of all jobs together."""

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

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
    """CPU seconds and wall seconds of the jobs of a rule.

    Those of a rule that is `last` wait for all metatiles of a region, and run one after the other.
    """

    cpu: Pace
    wall: Pace
    last: bool = False


class Measured(NamedTuple):
    """A job that was done: its units, and the CPU and wall seconds that it took."""

    units: float
    cpu: float
    wall: float


class Work(NamedTuple):
    """A job to be done: rule, units, cores that it holds, and the region that it is of, if any.

    A download holds no core.
    """

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


def fit(shipped: Cost, measured: list[Measured]) -> Cost:
    """Return what a rule's jobs take by those that were measured, or as shipped without any."""
    if not measured:
        return shipped
    units = [job.units for job in measured]
    return shipped._replace(
        cpu=_fit(shipped.cpu, units, [job.cpu for job in measured]),
        wall=_fit(shipped.wall, units, [job.wall for job in measured]),
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
    downloads = [costs[job.rule].wall.of(job.units) for job in work if not job.threads]
    network = max(sum(downloads) / connections, max(downloads, default=0.0))
    overlapping = [job for job in work if job.threads and not costs[job.rule].last]
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


def _held(job: Work, costs: dict[str, Cost], cores: int) -> float:
    """Return the core seconds that a job holds."""
    return costs[job.rule].wall.of(job.units) * min(job.threads, cores)


def _last(work: list[Work], costs: dict[str, Cost], cores: int) -> float:
    """Return the seconds of what is done when all metatiles are there: regions side by side."""
    regions: dict[str | None, float] = {}
    for job in work:
        if not costs[job.rule].last:
            continue
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
