"""What the jobs in a working directory share: paces, logins, progress.

Small private files in ./.basemake/, each changed under a lock.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(".basemake")


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
