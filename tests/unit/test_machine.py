"""Cores and memory of the machine, and a container's limits of both, of either kind."""

import os
from pathlib import Path

import pytest

from basemake.system.machine import (
    Asked,
    Bounds,
    bounds,
    share,
    usable_cores,
    usable_memory,
)

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
NESTED = "0::/user.slice/job"
ONE = "3:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n1:cpuset:/docker/ab\n0::/"


@pytest.fixture
def system(tmp_path: Path):
    """A function that makes a root of /proc and /sys with these files in /sys/fs/cgroup."""

    def make(groups: str, **files: str) -> Path:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {}, PHYSICAL),
        ("0::/", {"memory.max": "max"}, PHYSICAL),
        ("0::/", {"memory.max": "4096000"}, 4096000),
        (NESTED, {"user.slice/memory.max": "5000", "user.slice/job/memory.max": "max"}, 5000),
        (NESTED, {"user.slice/memory.max": "5000", "user.slice/job/memory.max": "3000"}, 3000),
        (ONE, {"memory/memory.limit_in_bytes": "7000"}, 7000),
        (ONE, {"memory/memory.limit_in_bytes": "9223372036854771712"}, PHYSICAL),
        (ONE, {"memory/docker/ab/memory.limit_in_bytes": "6000"}, 6000),
        ("0::/", {"elsewhere/memory.max": "1"}, PHYSICAL),
    ],
)
def test_memory_is_the_machines_or_the_least_limit(
    system, groups: str, files: dict[str, str], expected: int
) -> None:
    assert usable_memory(system(groups, **files)) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/", {"cpu.max": "1000 100000"}, 1),
        ("0::/", {"cpu.max": "12800000 100000"}, None),
        (NESTED, {"user.slice/cpu.max": "50000 100000"}, 1),
        (ONE, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (ONE, {"cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_cores_are_those_allowed_or_a_limit_rounded_up(
    system, groups: str, files: dict[str, str], expected: int | None
) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert usable_cores(system(groups, **files)) == (expected or allowed)


def test_a_part_of_a_core_counts_as_one(system, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert usable_cores(system("0::/", **{"cpu.max": "250000 100000"})) == 3


def test_without_proc_there_are_no_limits(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) == PHYSICAL
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cores", "most", "threads"),
    [(1, 4, 1), (2, 4, 2), (4, 4, 4), (5, 4, 2), (6, 4, 3), (8, 4, 4), (64, 4, 4), (3, 2, 1)],
)
def test_cores_are_shared_evenly(cores: int, most: int, threads: int) -> None:
    assert share(cores, most) == threads


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        # `cores: all` counts the processors; a container allows fewer.
        (Asked(8, True, False, None, None), Bounds(4, 6000, 10)),
        (Asked(2, False, False, None, 4), Bounds(2, 6000, 4)),
        (Asked(16, False, False, 3000, 20), Bounds(16, 3000, 10)),
        # Jobs on other machines are not bound by this one.
        (Asked(8, True, True, None, 4), Bounds(64, None, 4)),
        (Asked(1, False, True, None, None), Bounds(1, None, 10)),
    ],
)
def test_bounds_of_a_run(asked: Asked, expected: Bounds) -> None:
    assert bounds(asked, cores=4, memory=6 * 10**9, connections=10) == expected
