"""Files for a server that differ from one on disk in a few bytes, and take hardly any memory."""

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path


class PatchedFile(mmap.mmap):
    """A file on disk with other bytes at some places, as content of a FaultyServer.

    It takes memory only for the pages of these places. `digest` names its content without reading
    all of it.
    """

    digest: str

    def __new__(cls, path: Path, patches: Mapping[int, bytes]) -> "PatchedFile":
        """Map the file at `path`, with `patches`: bytes by the offset of the first."""
        with path.open("rb") as file:
            mapped = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_COPY)
        found = path.stat()
        text = f"{path} {found.st_size} {found.st_mtime_ns} {sorted(patches.items())}"
        mapped.digest = hashlib.sha256(text.encode()).hexdigest()
        for offset, content in patches.items():
            mapped[offset : offset + len(content)] = content
        return mapped
