"""Bands fetched in parts: the blocks of one image that the map needs."""

import logging
from collections.abc import Callable
from contextlib import suppress

from basemake.build.bands import GAP_BYTES, Cut, Known
from basemake.errors import BandError
from basemake.fetch.checks import Damaged, check_room, verify_parts, verify_raster
from basemake.fetch.old import LARGEST_HEADER, Old, told
from basemake.fetch.wanted import Wanted
from basemake.pixels.blocks import Image, numbers_of
from basemake.pixels.cog import Header, Incomplete, Unsuitable, read_header, write_blocks
from basemake.pixels.raster import decode
from basemake.web.download import Changed, NoParts, Parts
from basemake.web.progress import Progress
from basemake.web.session import Session

TRIES = 3  # of a band that comes damaged, or changes while it is fetched


def fetch_parts(band: Wanted, session: Session, progress: Progress) -> Known:
    """Write the blocks of a band that the map needs, and fetch only those that are not here.

    Raises Unsuitable or NoParts if the band is to be fetched whole.
    """
    if band.need is None:
        raise NoParts("the config asks for that")
    old = Old.of(band)
    if old is not None and old.known.identity == band.identity:
        if not old.known.images:
            raise Unsuitable("no parts of it can be had")
        cut = band.cut(old.known.all_images, old.known.transform)
        counts = old.counts(cut.level)
        if counts and all(old.has(cut.level, n) or not counts[n] for n in numbers_of(cut.blocks)):
            known = told(old.known, old.header, cut, counts)
            with suppress(Damaged):  # one that came whole may never have been decoded
                _write(band, old.header, cut, old.block, known)
                return known
            old = None
    for _ in range(TRIES):
        parts = Parts(band.href, band.beside(".ranges"), band.promised, session, progress)
        try:
            return _from_parts(band, old, parts)
        except Changed:
            logging.info("%s changed: its parts are fetched anew", band.place)
        except Damaged as damage:
            logging.warning("%s: a block cannot be decoded (%s)", band.place, damage)
            band.beside(".ranges").unlink()
            old = None  # the block may be one of it
    raise BandError("it is damaged, or changes while it is fetched; run again later.")


def _from_parts(band: Wanted, old: Old | None, parts: Parts) -> Known:
    """Write the blocks of a band that the map needs, from its old file and from `parts`."""
    assert band.need is not None
    header = _header_from(parts, band.need.first_bytes)
    cut = band.cut(header.images, header.transform)
    image = header.images[cut.level]
    known = Known(band.identity, parts.size or 0, parts.validator)
    known = told(known, header, cut, image.counts)
    if old is not None and not old.is_of(known):
        old = None

    def block(level: int, number: int) -> bytes:
        start = image.offsets[number]
        here = old.block(level, number) if old is not None else b""
        return here or parts.read(start, start + image.counts[number])

    lacking = [
        number
        for number in numbers_of(cut.blocks)
        if image.counts[number] and not (old is not None and old.has(cut.level, number))
    ]
    check_room(band, 2 * sum(image.counts[number] for number in lacking))
    ranges = _ranges(image, lacking)
    parts.expect(ranges)
    for start, stop in ranges:
        parts.fetch(start, stop)
    verify_parts(parts, band.promised)
    _write(band, header, cut, block, known)
    return known


def _header_from(parts: Parts, first: int) -> Header:
    """Return the header of a band on the web, which the `first` bytes nearly always hold.

    Raises Unsuitable if the band is to be fetched whole.
    """
    parts.fetch(0, first)
    with suppress(Incomplete):
        return read_header(parts.read(0, first), parts.size or 0)
    parts.fetch(0, LARGEST_HEADER)
    return read_header(parts.read(0, LARGEST_HEADER), parts.size or 0)


def _ranges(image: Image, numbers: list[int]) -> list[tuple[int, int]]:
    """Return ranges of bytes that hold blocks, [start, stop); small gaps are part of them."""
    ranges: list[tuple[int, int]] = []
    for start, count in sorted((image.offsets[n], image.counts[n]) for n in numbers):
        if ranges and start - ranges[-1][1] <= GAP_BYTES:
            ranges[-1] = ranges[-1][0], max(ranges[-1][1], start + count)
        else:
            ranges.append((start, start + count))
    return ranges


def _write(
    band: Wanted, header: Header, cut: Cut, block: Callable[[int, int], bytes], known: Known
) -> None:
    """Write the part `cut` of a band to its new file; Damaged if a block cannot be decoded."""
    new, numbers = band.beside(".new"), set(numbers_of(cut.blocks))
    nodata = band.need and band.need.nodata
    new.unlink(missing_ok=True)
    metadata = {
        "LEVEL": str(cut.level),
        "BLOCKS": ",".join("-".join(map(str, sorted({*run}))) for run in cut.blocks),
        "SIZE": str(known.size),
        "VALIDATOR": known.validator or "",
    }
    write_blocks(
        new,
        header,
        cut.level,
        lambda number: block(cut.level, number) if number in numbers else b"",
        nodata=header.nodata if nodata is None else f"{nodata:g}",
        metadata=metadata,
    )
    verify_raster(new, band.promised.dtype)
    try:
        decode(new)
    except RuntimeError as error:
        raise Damaged(str(error)) from None
