"""The lock of a working directory: one run at a time changes what is in it.

Whoever changes results (snakemake, refresh, prune) holds an flock on .basemake/lock, and so does
each job that it started: the kernel frees it when the last of them has ended, in whatever way. The
file says who holds it, or held it and was killed. Snakemake's own lock files are not enough: a rule
without outputs is not refused, and deletes the locks of all runs when it ends; and after a kill the
files stay.
"""

import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from basemake.build.engine import delete_locks, has_locks
from basemake.errors import BasemakeError, BusyError
from basemake.system.shared_state import FOLDER

LOCK = FOLDER / "lock"
HANDED_ON = "BASEMAKE_LOCK"  # environment variable: the file descriptor that a parent holds


@contextmanager
def alone(jobs_elsewhere: bool = False) -> Iterator[int]:
    """Hold the working directory; BusyError if another run, or a job of one, does or may do so.

    Yields the lock's file descriptor, which is the parent's where that holds the directory for this
    process (see `hand_on`). Snakemake's locks of a run that was certainly killed are deleted.
    `jobs_elsewhere` says that jobs run on other hosts, so that after a kill it is not certain.
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
        if not has_locks():  # or a process of a refresh was killed
            os.ftruncate(lock, 0)
        os.close(lock)


def hand_on(lock: int) -> dict[str, Any]:
    """Return the arguments of subprocess.Popen with which a child holds `lock`, too."""
    return {"pass_fds": [lock], "env": {**os.environ, HANDED_ON: str(lock)}}


def _handed_on() -> int | None:
    """Return the lock's file descriptor if a parent handed it on."""
    with suppress(KeyError, ValueError, OSError):
        lock = int(os.environ[HANDED_ON])
        if os.path.samestat(os.fstat(lock), LOCK.stat()):
            return lock
    return None


def _take() -> int:
    """Lock the lock file and return its file descriptor."""
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
    """Return a sentence about the processes that hold the lock."""
    owner, holders = _owner(lock), _holders(lock)
    if holders and owner.get("host") == platform.node() and owner["pid"] not in holders:
        pids = ", ".join(map(str, holders))
        return (
            f"a job of a killed run is still running in {Path.cwd()} (pid {pids}): wait for its"
            " end, or end it."
        )
    # Processes of other users and hosts cannot be looked into.
    return f"a run is going on in {Path.cwd()}{_named(owner)}: wait for its end, or stop it."


def _holders(lock: int) -> list[int]:
    """Return the processes that have the lock file open, but for this one."""
    held, pids = os.fstat(lock), set()
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.path.samestat(file.stat(), held):
                pids.add(int(file.parts[2]))
    return sorted(pids - {os.getpid()})


def _recover(lock: int) -> None:
    """Delete Snakemake's locks of a run that was killed; BusyError if that is not certain."""
    if not has_locks():
        return
    owner = _owner(lock)
    if not _is_dead(owner):
        raise BusyError(
            f"{Path.cwd()} is locked by a snakemake{_named(owner)} that may still run: wait for its"
            " end, or, if it was killed, run snakemake there with --unlock."
        )
    delete_locks()
    print(
        f"basemake: the last run in {Path.cwd()} (pid {owner['pid']}) was killed; this run goes on"
        " where it stopped.",
        file=sys.stderr,
        flush=True,
    )


def _is_dead(owner: dict[str, Any]) -> bool:
    """Say whether the run that `owner` names is certainly over, with its jobs; the lock is free.

    In the same boot of the kernel that follows from the lock, unless the file system only seems to
    have locks: then the process may be there. An earlier boot of this host ended all of it.
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
        "machine": _read("/etc/machine-id"),  # hosts may be namesakes
    }


def _start(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if it has ended."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _owner(lock: int) -> dict[str, Any]:
    """Return what the lock file says of its owner; nothing if it is empty or was cut off."""
    try:
        return dict(json.loads(os.pread(lock, 4096, 0)))
    except ValueError:
        return {}


def _named(owner: dict[str, Any]) -> str:
    return f" (pid {owner['pid']} on {owner['host']})" if owner else ""


def _write(lock: int, owner: dict[str, Any]) -> None:
    """Say in the lock file who holds it, so that it is there after a power failure, too."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(owner).encode(), 0)
    os.fsync(lock)
