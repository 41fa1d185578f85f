"""How long a run takes: the seconds of a job by its work, and of all jobs together."""

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

SNAKEMAKE = 3.0, 0.13  # seconds to plan and end a run, and seconds a job; from docs/bench
HAND_MADE = {"tiles": 85, "usd": [10, 15]}  # the cost of a run of a comparable hand-made pipeline


class Pace(NamedTuple):
    """Seconds of a job: those of its start, and those per unit of work."""

    start: float
    per_unit: float

    def of(self, units: float) -> float:
        """Return the seconds of a job of `units`."""
        return self.start + self.per_unit * units


class Cost(NamedTuple):
    """CPU and wall seconds of a rule's jobs.

    Jobs with `last` wait for all metatiles of their region, and run one after the other.
    """

    cpu: Pace
    wall: Pace
    last: bool = False


class Measured(NamedTuple):
    """The work of a finished job in units, and the CPU and wall seconds that it took."""

    units: float
    cpu: float
    wall: float


class Work(NamedTuple):
    """A job to be done: its rule, its work in units, the cores it holds, and its region or None.

    A download has no `threads`, as it holds no core.
    """

    rule: str
    units: float
    threads: int
    region: str | None = None


class Time(NamedTuple):
    """Seconds of a run: its downloads alone, its computing alone, both together, and CPU time."""

    network: float
    compute: float
    wall: float
    cpu: float

    @property
    def bound_by(self) -> str:
        """What limits the speed of the run: "network" or "CPU"."""
        return "network" if self.network > self.compute else "CPU"


def fit(shipped: Cost, measured: list[Measured]) -> Cost:
    """Return the cost of a rule's jobs from measured ones, or `shipped` if there are none."""
    if not measured:
        return shipped
    units = [job.units for job in measured]
    return shipped._replace(
        cpu=_fit(shipped.cpu, units, [job.cpu for job in measured]),
        wall=_fit(shipped.wall, units, [job.wall for job in measured]),
    )


def _fit(shipped: Pace, units: list[float], seconds: list[float]) -> Pace:
    """Return the pace of jobs: the shipped start, or less if a job was shorter; the median rate."""
    start = min(shipped.start, min(seconds)) if any(units) else median(seconds)
    rates = [(s - start) / u for u, s in zip(units, seconds, strict=True) if u > 0]
    return Pace(start, median(rates) if rates else 0.0)


def estimate_time(
    work: Iterable[Work], costs: dict[str, Cost], cores: int, downloads_at_a_time: int
) -> Time:
    """Return the seconds that `work` takes on `cores`; `costs` are by rule.

    Downloads and computing overlap, except that no tile can be made before the first bands have
    come, and that a tile and a metatile are still to be made after the last band.
    """
    work = list(work)
    if not work:
        return Time(0.0, 0.0, 0.0, 0.0)
    cpu = sum(costs[job.rule].cpu.of(job.units) for job in work)
    downloads = [costs[job.rule].wall.of(job.units) for job in work if not job.threads]
    network = max(sum(downloads) / downloads_at_a_time, max(downloads, default=0.0))
    overlapping = [job for job in work if job.threads and not costs[job.rule].last]
    compute = sum(_held(job, costs, cores) for job in overlapping) / cores
    last = _last(work, costs, cores)
    first = median(downloads) if downloads else 0.0
    after = sum(
        max((costs[job.rule].wall.of(job.units) for job in work if job.rule == rule), default=0.0)
        for rule in ("enhance_tile", "render_metatile")
    )
    both = max(network + after, compute + first, after)
    every_job = SNAKEMAKE[1] * len(work)
    return Time(network, compute + last, SNAKEMAKE[0] + every_job + both + last, cpu)


def _held(job: Work, costs: dict[str, Cost], cores: int) -> float:
    """Return wall seconds times cores that a job holds."""
    return costs[job.rule].wall.of(job.units) * min(job.threads, cores)


def _last(work: list[Work], costs: dict[str, Cost], cores: int) -> float:
    """Return the wall seconds of the `last` jobs: in order in a region, regions in parallel."""
    regions: dict[str | None, float] = {}
    for job in work:
        if not costs[job.rule].last:
            continue
        seconds = costs[job.rule].wall.of(job.units)
        regions[job.region] = regions.get(job.region, 0.0) + seconds
    return max(max(regions.values(), default=0.0), sum(regions.values()) / cores)


def bands_in_flight(
    tiles: int, time: Time, cores: int, threads: int, downloads_at_a_time: int
) -> int:
    """Return the most tiles whose bands are on disk at the same time if bands are not kept.

    These are the tiles being enhanced (each by `threads`), those being downloaded and, if computing
    is slower than the network, the tiles that wait for a core: as many as the scheduler allows.
    """
    waiting = tiles * max(0.0, 1 - time.network / time.compute) if time.compute else 0.0
    busy = max(1, cores // threads) + downloads_at_a_time
    return min(tiles, busy + math.ceil(waiting), cores + downloads_at_a_time)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if the path does not exist."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0
