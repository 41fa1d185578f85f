"""What runs in a working directory share: paces, logins, progress, and the right to change it.

Small private files in ./.basemake/, each changed under a lock.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basemake.errors import BusyError

FOLDER = Path(".basemake")
SNAKEMAKE_LOCKS = Path(".snakemake/locks")  # of a run that is going on, or was killed


@contextmanager
def shared(name: str) -> Iterator[dict]:
    """Yield the content of the shared file `name`, alone; what it becomes is kept.

    Only this user may read the file. If it is not whole, because a job was killed while it wrote,
    its content is empty. An exception leaves it as it was.
    """
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    path = FOLDER / (re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".json")
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed when the file is closed, or the job is killed
        try:
            content = json.loads(file.read())
        except ValueError:
            content = {}
        if not isinstance(content, dict):
            content = {}
        yield content
        file.seek(0)
        file.truncate()
        json.dump(content, file)


@contextmanager
def alone() -> Iterator[int]:
    """Hold the working directory against refresh, prune and snakemake; BusyError if one is running.

    Yields the lock's file descriptor: while a process that inherits it lives, it is held, too.
    """
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(FOLDER / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"a refresh or prune is going on in {Path.cwd()}.") from None
        check_snakemake_lock()
        yield lock
    finally:
        os.close(lock)


def check_snakemake_lock() -> None:
    """Raise BusyError if snakemake has locked the working directory."""
    if any(SNAKEMAKE_LOCKS.glob("*.lock")):
        raise BusyError(
            f"snakemake is running in {Path.cwd()}; if it is not, as it was killed, run it there"
            " with --unlock."
        )
