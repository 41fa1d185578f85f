"""Files that are written completely or not at all."""

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

# By message: a full disk, an exhausted quota, and a file beyond the size limit.
FULL = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
PART = ".part"
LEFT = ("", "-journal", "-wal")  # ends of names of what a killed job leaves: a part, and SQLite's
PROBE = 4 << 20  # bytes written to find out whether the disk is full: more than a block of pixels


def part_of(output: Path) -> Path:
    """Return the path at which a file or folder is written before it gets its own."""
    return output.with_name(output.name + PART)


def replace(part: Path, output: Path) -> None:
    """Rename a finished file to its final path; after a crash that holds the old or the new file.

    The bytes are synced before the rename, else a power failure could leave an empty file.
    """
    _sync(part)
    part.replace(output)
    with suppress(OSError):  # some network file systems cannot sync folders
        _sync(output.parent)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def writing(output: Path) -> Iterator[Path]:
    """Yield a temporary path beside `output`, which is renamed to it at the end of the block.

    If the block raises, what it wrote is removed. Raises TileError if that was for a full disk.
    """
    part = part_of(output)
    # To look for whatever begins with its name takes long in a folder of many files.
    if any(os.path.lexists(f"{part}{end}") for end in LEFT):
        _remove(part)
    try:
        yield part
        replace(part, output)
    except BaseException as error:
        cause = _why_full(error, part)
        if cause:
            # Open files keep their disk space even when they are removed.
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
    """Remove a part and files whose names begin with its name, such as SQLite's journals."""
    for path in part.parent.glob(glob.escape(part.name) + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _why_full(error: BaseException, part: Path) -> str | None:
    """Return the system's message, a key of FULL, if a full disk caused an error, else None."""
    if isinstance(error, OSError) and error.errno is not None:
        cause = os.strerror(error.errno)
        return cause if cause in FULL else None
    if isinstance(error, BasemakeError) or not isinstance(error, (RuntimeError, sqlite3.Error)):
        return None
    for cause in (*FULL, "disk is full"):  # GDAL repeats the system's message, SQLite has its own
        if cause in str(error):
            return cause if cause in FULL else os.strerror(errno.ENOSPC)
    # Other libraries do not give the reason, so see whether the disk takes more bytes.
    try:
        with part.open("ab") as file:
            file.write(bytes(PROBE))
    except OSError as refusal:
        return _why_full(refusal, part)
    return None
