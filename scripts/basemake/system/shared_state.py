"""State that the jobs in a working directory share: request pace, logins, progress.

It is kept in small private files in ./.basemake/, each read and written under a lock.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(".basemake")
# Environment variable: when the run began, in seconds since 1970, for its jobs.
RUN_BEGAN = "BASEMAKE_RUN_BEGAN"


def begin_run(began: float | None = None) -> None:
    """Let jobs know that their run began now, or at another time, unless a parent has told them."""
    os.environ.setdefault(RUN_BEGAN, str(time.time() if began is None else began))


def run_began() -> float:
    """Return when the run of this job began, in seconds since 1970; 0 if it is not known."""
    return float(os.environ.get(RUN_BEGAN, 0))


@contextmanager
def shared(name: str) -> Iterator[dict]:
    """Yield the content of the shared file `name`, locked, and store it at the end of the block.

    Only this user can read the file. If a job was killed while it wrote the file, its content is
    empty. An exception in the block leaves the file as it was.
    """
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(_path(name), os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed or the job killed
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


def peek(name: str) -> dict:
    """Return the content of the shared file `name` without waiting; {} if it is being written."""
    try:
        return dict(json.loads(_path(name).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _path(name: str) -> Path:
    return FOLDER / (re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".json")
