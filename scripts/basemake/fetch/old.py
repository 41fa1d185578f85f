"""Bands as they were: kept while a job makes new ones, which take over their blocks."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from basemake.build.bands import Cut, Known, known_of
from basemake.build.records import Record, digest, is_intact, read_record
from basemake.fetch.wanted import Wanted
from basemake.pixels.blocks import Image
from basemake.pixels.cog import Header, Unsuitable, read_header
from basemake.system.files import writing
from basemake.web.addresses import is_remote
from basemake.web.download import sidecar_path

LARGEST_HEADER = 1 << 20  # bytes


def keep_old(wanted: Sequence[Wanted]) -> None:
    """Keep bands that are as their records say, for the blocks in them; call it before all else.

    An item may have had another rank: the file that holds a band is found by the band's identity.
    """
    records = {band.output: read_record(band.output) for band in wanted}
    for band in wanted:
        own = [output for output in records if _has(records[output], band.identity)]
        output, old = own[0] if own else band.output, band.beside(".old")
        record = records[output]
        if record is None or not is_remote(band.href) or not is_intact(output, record):
            continue
        known = record.known
        if not known and _was_fetched_whole(band, record):
            known = asdict(told_of_whole(Known(band.identity, record.size), output))
        if known.get("size"):
            with writing(sidecar_path(old)) as sidecar:
                sidecar.write_text(json.dumps({**known, "sha256": record.sha256}))
            share(output, old)


def _has(record: Record | None, identity: dict[str, Any]) -> bool:
    """Return whether a record is that of a band of which something was fetched."""
    known = known_of(record.known) if record else None
    return known is not None and known.size > 0 and known.identity == identity


def _was_fetched_whole(band: Wanted, record: Record) -> bool:
    """Return whether a record is that of a whole band as basemake 0.2.0 wrote it."""
    identity = {name: digest(value) for name, value in band.identity.items()}
    return identity.items() <= record.made_of.settings.items()


class Old:
    """A band file as it was when its record was written, and what was known of it then."""

    def __init__(self, path: Path, known: Known) -> None:
        """Take a file that `keep_old` kept."""
        self.path, self.known = path, known
        self.whole = path.stat().st_size == known.size

    @classmethod
    def of(cls, band: Wanted) -> "Old | None":
        """Return the old file of a band if there is one and it is intact."""
        path = band.beside(".old")
        try:
            fields = json.loads(sidecar_path(path).read_text())
            with path.open("rb") as file:
                intact = hashlib.file_digest(file, "sha256").hexdigest() == fields.pop("sha256")
            known = known_of(fields)
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return None
        return cls(path, known) if intact and known else None

    def is_of(self, known: Known) -> bool:
        """Return whether it is of the same object."""
        mine, other = (
            (one.identity["href"], one.identity["checksum"], one.size, one.validator)
            for one in (self.known, known)
        )
        return mine == other

    @cached_property
    def _own(self) -> Header:
        return header_of(self.path, reduced=self.whole)

    @property
    def header(self) -> Header:
        """The header of its object; only a whole file's tells where blocks are."""
        if self.whole:
            return self._own
        return replace(
            self._own, images=self.known.all_images, transform=tuple(self.known.transform)
        )

    def _image(self, level: int) -> Image | None:
        if self.whole:
            return self._own.images[level]
        return self._own.images[0] if level == self.known.level else None

    def counts(self, level: int) -> Sequence[int]:
        """Return the bytes of the blocks of an image of its object; nothing if that is unknown."""
        if self.whole:
            return self._own.images[level].counts
        return self.known.counts if level == self.known.level else ()

    def has(self, level: int, number: int) -> bool:
        """Return whether the file has a block of an image."""
        image = self._image(level)
        return image is not None and image.counts[number] > 0

    def block(self, level: int, number: int) -> bytes:
        """Return a block of an image as it is encoded; nothing if the file does not have it."""
        image = self._image(level)
        if image is None:
            return b""
        with self.path.open("rb") as file:
            file.seek(image.offsets[number])
            return file.read(image.counts[number])


def share(source: Path, target: Path) -> None:
    """Make `target` a hard link of `source`, or a copy where the file system has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def told(known: Known, header: Header, cut: Cut, counts: Sequence[int]) -> Known:
    """Return what is known of a band with what its header tells, and which part of it is here."""
    sides = [
        [image.width, image.height, image.block_width, image.block_height]
        for image in header.images
    ]
    total = [sum(image.counts) for image in header.images]
    return replace(
        known,
        images=sides,
        image_bytes=total if any(total) else known.image_bytes,
        transform=list(header.transform),
        level=cut.level,
        blocks=cut.blocks,
        counts=list(counts),
    )


def told_of_whole(known: Known, path: Path) -> Known:
    """Return what is known of a band whose file is whole, with what its header tells."""
    with suppress(Unsuitable):
        header = header_of(path)
        full = header.images[0]
        every = Cut(0, [[0, full.across * full.down - 1]])
        return told(known, header, every, full.counts)
    return known


def header_of(path: Path, reduced: bool = True) -> Header:
    """Return the header of a file here; Unsuitable as `read_header`."""
    with path.open("rb") as file:
        return read_header(file.read(LARGEST_HEADER), path.stat().st_size, reduced)
