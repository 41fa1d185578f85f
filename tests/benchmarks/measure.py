"""Measure commands: CPU seconds of a whole process tree, wall seconds, peak memory.

Run as a program it starts one command and reports its usage. The peak memory of a new process
includes that of its parent at the fork, so the process that starts it must be as small as this one.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0))
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'scripts'}:{TESTS}"}


class Usage(NamedTuple):
    """CPU and wall seconds of a command, and peak MB of the largest process in its tree."""

    cpu: float
    wall: float
    peak: float


def run(command: Sequence[object], cwd: Path | None = None) -> tuple[Usage, str]:
    """Run a command; return its usage and standard output. Exits with its output if it fails."""
    reader, writer = os.pipe()
    done = subprocess.run(
        [sys.executable, "-S", __file__, str(writer), *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT,
        pass_fds=[writer],
        check=False,
    )
    os.close(writer)
    with os.fdopen(reader) as pipe:
        report = pipe.read()
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return Usage(**json.loads(report)), done.stdout


def job(name: str, **arguments: object) -> list[str]:
    """Return the command that runs a job of jobs.py in a process of its own."""
    texts = json.dumps(arguments, default=str)
    return [sys.executable, "-m", "benchmarks.jobs", name, texts]


def forked(modules: list[str], stages: Sequence[Sequence[object]], at_a_time: int) -> list[str]:
    """Return the command that runs lists of jobs of jobs.py as forks (see forked.py)."""
    texts = [json.dumps(value, default=str) for value in (modules, stages, at_a_time)]
    return [sys.executable, "-m", "benchmarks.forked", *texts]


def prepare(module: str, name: str, **arguments: object) -> str:
    """Run a function of another module of this package, unmeasured; return its output."""
    texts = json.dumps(arguments, default=str)
    return run([sys.executable, "-m", f"benchmarks.{module}", name, texts])[1]


def together(commands: list[list[str]], at_a_time: int) -> Usage:
    """Run commands side by side; CPU is their sum, the peak that of the largest."""
    start = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as pool:
        usages = [usage for usage, _ in pool.map(run, commands)]
    return Usage(
        sum(usage.cpu for usage in usages),
        time.monotonic() - start,
        max(usage.peak for usage in usages),
    )


def _report_on(command: list[str], report: int) -> int:
    """Run a command and write its usage, as JSON, to the file descriptor `report`."""
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    figures = {
        "cpu": usage.ru_utime + usage.ru_stime,  # with those of all descendants it waited for
        "wall": time.monotonic() - start,
        "peak": usage.ru_maxrss * 1024 / 1e6,
    }
    os.write(report, json.dumps(figures).encode())
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_report_on(sys.argv[2:], int(sys.argv[1])))
