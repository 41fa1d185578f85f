"""Files that are whole or not there, whenever the machine stops."""

import os
from contextlib import suppress
from pathlib import Path


def replace(part: Path, output: Path) -> None:
    """Give the finished file `part` the name `output`, in one step, once its bytes are on disk.

    Without the first fsync a power failure can leave the name with an empty file; without the
    second it can take the name back.
    """
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(output)
    folder = os.open(output.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems do not sync folders
            os.fsync(folder)
    finally:
        os.close(folder)
