"""The lock of a working directory: only one run at a time changes its files.

Each command that changes results (snakemake, refresh, prune --yes) holds an flock on
.basemake/lock, and so does each job that it started: the kernel releases the lock when the last of
them has ended or was killed. The file names the process that holds the lock, or that was killed
while it held it. Snakemake's own lock files are not enough: they do not stop a run of a rule
without outputs, which deletes the lock files of all runs when it ends, and they remain after a
kill.
"""

import fcntl
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from basemake.build.bucket import Bucket
from basemake.errors import BasemakeError, BusyError
from basemake.system.shared_state import FOLDER

LOCK = FOLDER / "lock"
SNAKEMAKES = Path(".snakemake/locks")  # the folder of its own lock files
HANDED_ON = "BASEMAKE_LOCK"  # environment variable: file descriptor of a parent's lock


@contextmanager
def alone(jobs_elsewhere: bool = False) -> Iterator[int]:
    """Hold the lock of the working directory during the block, and yield its file descriptor.

    If the parent process handed on its lock (see `hand_on`), that lock is used. Snakemake's own
    lock files are deleted if the run that left them was certainly killed; `jobs_elsewhere` states
    that jobs run on other hosts, so that this is never certain. Raises BusyError if another run or
    one of its jobs holds the lock or may still be running, and BasemakeError if the directory
    cannot be locked at all.
    """
    lock = _handed_on()
    if lock is not None:
        _write(lock, {**_owner(lock), "jobs_elsewhere": jobs_elsewhere})
        yield lock
        return
    lock = _take()
    try:
        _recover(lock)
        _write(lock, {**_this_process(), "jobs_elsewhere": jobs_elsewhere})
        yield lock
    finally:
        if not _has_locks():  # locks remain if a snakemake that a refresh started was killed
            os.ftruncate(lock, 0)
        os.close(lock)


def show_bucket(bucket: Bucket) -> None:
    """Make results/ as it is in `bucket`, once in a process.

    If a run is going on in the directory, it is as it should be.
    """
    if not bucket.is_shown:
        with suppress(BusyError), alone():
            bucket.pull()


def hand_on(lock: int) -> dict[str, Any]:
    """Return keyword arguments of subprocess.Popen with which a child holds `lock`, too."""
    return {"pass_fds": [lock], "env": {**os.environ, HANDED_ON: str(lock)}}


def _handed_on() -> int | None:
    """Return the file descriptor of the lock that the parent process handed on, or None."""
    with suppress(KeyError, ValueError, OSError):
        lock = int(os.environ[HANDED_ON])
        if os.path.samestat(os.fstat(lock), LOCK.stat()):
            return lock
    return None


def _take() -> int:
    """Lock the lock file and return its file descriptor.

    Raises BusyError if another process holds it, BasemakeError if it cannot be locked at all.
    """
    try:
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = BusyError(_who_runs(lock))
            os.close(lock)
            raise busy from None
    except OSError as error:
        raise BasemakeError(
            f"{Path.cwd()} cannot be locked: {error.strerror} ({LOCK}); it must be writable, and on"
            " a file system that has flock."
        ) from None
    return lock


def _who_runs(lock: int) -> str:
    """Return a sentence that names the run or the jobs that hold the lock."""
    owner, holders = _owner(lock), _holders(lock)
    if holders and owner.get("host") == platform.node() and owner["pid"] not in holders:
        pids = ", ".join(map(str, holders))
        return (
            f"a job of a killed run is still running in {Path.cwd()} (pid {pids}): wait for its"
            " end, or end it."
        )
    # There may be no holders: files of other users' and other hosts' processes cannot be listed.
    return f"a run is going on in {Path.cwd()}{_named(owner)}: wait for its end, or stop it."


def _holders(lock: int) -> list[int]:
    """Return the ids of other processes on this host that have the lock file open, sorted."""
    held, pids = os.fstat(lock), set()
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.path.samestat(file.stat(), held):
                pids.add(int(file.parts[2]))
    return sorted(pids - {os.getpid()})


def _recover(lock: int) -> None:
    """Delete the lock files of a snakemake that was killed; raise BusyError if it may still run."""
    if not _has_locks():
        return
    owner = _owner(lock)
    if not _is_dead(owner):
        raise BusyError(
            f"{Path.cwd()} is locked by a snakemake{_named(owner)} that may still run: wait for its"
            " end, or, if it was killed, run snakemake there with --unlock."
        )
    shutil.rmtree(SNAKEMAKES)
    print(
        f"basemake: the last run in {Path.cwd()} (pid {owner['pid']}) was killed; this run goes on"
        " where it stopped.",
        file=sys.stderr,
        flush=True,
    )


def _has_locks() -> bool:
    """Return whether Snakemake's own lock files are in the working directory."""
    return any(SNAKEMAKES.glob("*.lock"))


def _is_dead(owner: dict[str, Any]) -> bool:
    """Return whether the run that `owner` names and its jobs have certainly ended.

    That this process holds the lock proves it within one boot of the kernel, unless the file
    system's locks have no effect: so it is also checked that the process does not exist. A run from
    an earlier boot of this host has ended.
    """
    here = _this_process()
    if owner.get("jobs_elsewhere", True) or not here["boot"]:
        return False
    if owner["boot"] == here["boot"]:
        return _start(owner["pid"]) != owner["started"]
    return (owner["host"], owner["machine"]) == (here["host"], here["machine"])


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started": _start(os.getpid()),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "host": platform.node(),
        "machine": _read("/etc/machine-id"),  # as two hosts can have the same name
    }


def _start(pid: int) -> str:
    """Return when a process started, in clock ticks since boot (proc(5)); empty if it has ended."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _owner(lock: int) -> dict[str, Any]:
    """Return what the lock file states about its owner; {} if it is empty or incomplete."""
    try:
        return dict(json.loads(os.pread(lock, 4096, 0)))
    except ValueError:
        return {}


def _named(owner: dict[str, Any]) -> str:
    return f" (pid {owner['pid']} on {owner['host']})" if owner else ""


def _write(lock: int, owner: dict[str, Any]) -> None:
    """Write the owner into the lock file and sync it, so that a power failure does not lose it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(owner).encode(), 0)
    os.fsync(lock)
