"""Cores and memory that this process may use, by the machine and by a container's limits."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/")
CGROUPS = "sys/fs/cgroup"
MEMORY_SHARE = 0.75  # for jobs; the rest is the system's and Snakemake's own
MOST_THREADS = 64  # of a job, as config allows


@dataclass(frozen=True)
class Asked:
    """What profile and command line ask for.

    `all_cores` is true if `cores` is the number of the machine's processors, `elsewhere` if jobs
    run on other machines; `memory_mb` and `connections` are None where they are not given.
    """

    cores: int
    all_cores: bool
    elsewhere: bool
    memory_mb: int | None
    connections: int | None


@dataclass(frozen=True)
class Bounds:
    """What the jobs that run at the same time may use; `memory_mb` is None if it has no bound."""

    cores: int
    memory_mb: int | None
    connections: int


def bounds(asked: Asked, cores: int, memory: int, connections: int) -> Bounds:
    """Return the bounds of a run on a machine of `cores` and `memory` (bytes, for jobs).

    `connections` are those that the source allows. The machine bounds what runs on it, but not what
    is sent to others.
    """
    usable = MOST_THREADS if asked.elsewhere else cores
    memory_mb = asked.memory_mb
    if memory_mb is None and not asked.elsewhere:
        memory_mb = memory // 10**6
    return Bounds(
        usable if asked.all_cores else asked.cores,
        memory_mb,
        min(connections, asked.connections or connections),
    )


def usable_cores(system: Path = SYSTEM) -> int:
    """Return the number of cores that this process may use, at least 1.

    `system` is the folder that holds proc/ and sys/. A container's limit of CPU time
    (`docker run --cpus`) is rounded up to whole cores.
    """
    limits = [float(os.cpu_count() or 1)]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    for group in control_groups(system, "cpu"):
        if (text := _read(group / "cpu.max")) and not text.startswith("max"):
            quota, period = text.split()
            limits.append(int(quota) / int(period))
        if (text := _read(group / "cpu.cfs_quota_us")) and int(text) > 0:
            limits.append(int(text) / int(_read(group / "cpu.cfs_period_us")))
    return max(1, -int(-min(limits) // 1))


def usable_memory(system: Path = SYSTEM) -> int:
    """Return the memory in bytes that this process and its children may use together."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in control_groups(system, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (text := _read(group / name)) and text != "max":
                limits.append(int(text))
    return min(limits)


def memory_for_jobs() -> int:
    """Return the memory in bytes that all jobs on this machine may use together."""
    return int(MEMORY_SHARE * usable_memory())


def share(cores: int, most: int) -> int:
    """Return threads per job, at most `most`, that share `cores` evenly among the fewest jobs."""
    return cores // -(-cores // most)


def control_groups(system: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the cgroups (version 1 and 2) that limit this process."""
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):  # version 1
            root = system / CGROUPS / controller
        elif not controllers:  # version 2
            root = system / CGROUPS
        else:
            continue
        # In a container its own group is at the root, whatever path /proc gives.
        group = root / path.lstrip("/")
        yield group
        yield from (above for above in group.parents if above.is_relative_to(root))


def _read(path: Path) -> str:
    """Return a file's text, stripped; an empty one if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
