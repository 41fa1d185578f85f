"""Writing files whole or not at all."""

import os
from pathlib import Path


def replace(part: Path, output: Path) -> None:
    """Rename a finished file to its final path, such that a crash leaves the old or the new one.

    Its bytes reach the disk before its name does: else a power failure could leave an empty file.
    """
    _sync(part)
    part.replace(output)
    _sync(output.parent)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
