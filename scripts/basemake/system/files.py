"""Writing files whole or not at all."""

import errno
import gc
import glob
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import clear_frames

from basemake.errors import BasemakeError, TileError

# A full disk, a quota that is used up, and a limit of the size of files.
FULL = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
PROBE = 1 << 20  # bytes


def replace(part: Path, output: Path) -> None:
    """Rename a finished file to its final path, such that a crash leaves the old or the new one.

    Its bytes reach the disk before its name does: else a power failure could leave an empty file.
    """
    _sync(part)
    part.replace(output)
    with suppress(OSError):  # some network file systems sync no folders
        _sync(output.parent)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def writing(output: Path) -> Iterator[Path]:
    """Yield the path at which to write `output`, which it becomes at the end of the block.

    If the block fails, what it wrote is removed; TileError says so if the disk is full.
    """
    part = output.with_name(output.name + ".part")
    _remove(part)
    try:
        yield part
        replace(part, output)
    except BaseException as error:
        cause = _why_full(error, part)
        if cause:
            # Removed files that are still open keep their room.
            clear_frames(error.__traceback__)
            gc.collect()
        _remove(part)
        if cause is None:
            raise
        free = shutil.disk_usage(output.parent).free
        remedy = (
            "raise the limit of the size of files (ulimit -f)"
            if FULL[cause] == errno.EFBIG
            else "make room"
        )
        raise TileError(
            f"{output} cannot be written ({cause}; {free / 1e6:.1f} MB are free without it);"
            f" {remedy} and run again."
        ) from error


def _remove(part: Path) -> None:
    """Remove a part and what libraries put beside it under its name, such as journals."""
    for path in part.parent.glob(glob.escape(part.name) + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _why_full(error: BaseException, part: Path) -> str | None:
    """Return the system's words if an error came of a full disk, else None."""
    if isinstance(error, OSError) and error.errno is not None:
        cause = os.strerror(error.errno)
        return cause if cause in FULL else None
    if isinstance(error, BasemakeError) or not isinstance(error, (RuntimeError, sqlite3.Error)):
        return None
    for cause in (*FULL, "disk is full"):  # GDAL repeats the system's words, SQLite has its own
        if cause in str(error):
            return cause if cause in FULL else os.strerror(errno.ENOSPC)
    # Others keep the reason to themselves: does the disk take more?
    try:
        with part.open("ab") as file:
            file.write(bytes(PROBE))
    except OSError as refusal:
        return _why_full(refusal, part)
    return None
