"""Fetch the bands of a tile to results/bands/ from files, the web or S3, and verify them.

Of a band on the web comes what the map needs: blocks of one of its images (see build/bands.py).
They are written to a sparse GeoTIFF, in which what was not fetched reads as nodata. A job works in
files beside the band's own, whose names begin with that of the band and .part:

- `.part` is the download of a band that is fetched whole, `.part.ranges` has bytes of one that is
  fetched in parts;
- `.part.old` is the band as it was: blocks of it are taken over if they are still the object's;
- `.part.new` is the finished band.

All bands of a tile get their names when the last one is finished, and what is beside them is
deleted only after their records are written: a job that dies at any moment loses no block.

Where config has `fill`, a tile has several items, best first. Once the first one's bands are here,
its holes are known, and of the next one comes its mask where it covers these, then its bands where
it covers those that the mask does not hide, and so on, until no hole is left.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import requests
from osgeo import gdal

from basemake.build.bands import GAP_BYTES, Cut, Known, Need, cut_of, known_of, shared_need
from basemake.build.records import Record, digest, is_intact, read_record
from basemake.errors import BandError, BasemakeError
from basemake.pixels.blocks import Image, numbers_of, runs_of, transform_of
from basemake.pixels.cog import (
    LARGEST_BLOCK,
    LARGEST_SIDE,
    Header,
    Incomplete,
    Unsuitable,
    read_header,
    write_blocks,
)
from basemake.pixels.dn import Bools, DnReading, MaskRule
from basemake.pixels.fill import EMPTY, Grid, Holes, Layer, Window, grid_of
from basemake.pixels.raster import decode, open_geotiff
from basemake.system import files
from basemake.system.files import PART, part_of, writing
from basemake.web.access import Access
from basemake.web.addresses import is_remote, without_secrets
from basemake.web.download import (
    Changed,
    Download,
    NoParts,
    Parts,
    Promised,
    digest_of,
    sidecar_path,
)
from basemake.web.progress import Progress
from basemake.web.session import Session

LARGEST_HEADER = 1 << 20  # bytes
EMPTY_BLOCK = 512  # pixels a side
TRIES = 3  # of a band that comes damaged, or changes while it is fetched
DTYPES = {gdal.GDT_Byte: "uint8", gdal.GDT_UInt16: "uint16", gdal.GDT_Int16: "int16"}


class Damaged(Exception):
    """A block that was fetched cannot be decoded."""


@dataclass(frozen=True)
class Wanted:
    """A band to fetch: from `href`, a path or an address, to `output`.

    `identity` is that of the band (see `Band.identity`); `name` is what errors call it. `need` is
    what the map needs of it, None for all; `epsg` is the CRS of its tile. If `holes` are given,
    only blocks that cover one are needed. `is_mask` is whether it is the mask of an item.
    """

    href: str
    output: Path
    promised: Promised
    identity: dict[str, Any]
    name: str = ""
    need: Need | None = None
    epsg: int = 0
    holes: Holes | None = None
    is_mask: bool = False

    def cut(self, images: tuple[Image, ...], transform: Sequence[float]) -> Cut:
        """Return the part of its object that is needed, of which some is; as `cut_of`."""
        assert self.need is not None
        cut = cut_of(self.need, images, tuple(transform), self.epsg)
        # Without nodata, blocks that are not here could not be told from others.
        if self.holes is None or self.need.nodata is None:
            return cut
        covering = self.holes.blocks(images[cut.level], transform_of(images, transform, cut.level))
        return Cut(cut.level, runs_of(n for n in numbers_of(cut.blocks) if n in covering))

    def beside(self, end: str = "") -> Path:
        """Return the path of a file that its job works in."""
        part = part_of(self.output)
        return part.with_name(part.name + end)

    @property
    def place(self) -> str:
        """The href as it may be shown."""
        return without_secrets(self.href)

    @property
    def title(self) -> str:
        """Name and href, as errors begin."""
        return f"{self.name}: {self.place}" if self.name else self.place


@dataclass(frozen=True)
class Fill:
    """The items after a tile's first one, best first: the bands and the mask of each.

    An item that the tile does not have has outputs without hrefs. `nodata` is that of bands, and
    `rule` tells what masks hide; it is None where there are none.
    """

    items: Sequence[Sequence[Wanted]]
    nodata: float | None
    rule: MaskRule | None = None

    def layer(self, item: Sequence[Wanted]) -> Layer:
        """Return an item by its new files."""
        bands = [band.beside(".new") for band in item if not band.is_mask]
        masks = [band.beside(".new") for band in item if band.is_mask]
        reading = DnReading(1.0, 0.0, self.nodata)
        return Layer(bands, reading, masks[0], self.rule) if self.rule else Layer(bands, reading)


def fetch_bands(
    wanted: Sequence[Wanted], access: Access, connections: int = 1, fill: Fill | None = None
) -> list[Known | None]:
    """Write bands, all or none, by up to `connections` at a time; return what is known of each.

    That is first of those `wanted`, then of those that `fill` them, and None where a tile does not
    have an item. An interrupted download resumes where it stopped, in this run or a later one, if
    the object has not changed. Raises BandError, one sentence with the href, if the disk has too
    little room or a band cannot be fetched or is not as promised. Call `tidy` once what is known is
    recorded.
    """
    first = _alike(wanted, access, connections)
    known: list[Known | None] = [*first]
    every = [*wanted]
    if fill is not None:
        known += _filling(wanted, first, fill, access, connections)
        every += [band for item in fill.items for band in item]
    for band, here in zip(every, known, strict=True):
        with _told_as_band_errors(band):
            files.replace(band.beside(".new"), band.output)
        if here is not None and here.size:
            logging.info("%s: %s", band.place, _told_as_text(here))
    return known


def _alike(wanted: Sequence[Wanted], access: Access, connections: int) -> list[Known]:
    """Write bands, all of one grid, and masks, of any, to their new files."""
    known = _fetched(wanted, access, connections)
    now = list(wanted)
    for _ in range(TRIES):
        # A band that comes whole is of the full image, and then the others are to be, too.
        shared = _shared(wanted, wanted, known)
        again = [number for number, band in enumerate(now) if band != shared[number]]
        if not again:
            return known
        logging.info("the bands do not have the same images: others are fetched")
        found = _fetched([shared[number] for number in again], access, connections)
        for number, one in zip(again, found, strict=True):
            known[number] = one
        now = shared
    raise BandError(
        f"{wanted[0].title}: the service gives parts of bands at one time and refuses at"
        " another; run again later."
    )


def _shared(
    item: Sequence[Wanted], first: Sequence[Wanted], known: Sequence[Known]
) -> list[Wanted]:
    """Return an item's bands with what is needed so that they fit `first`, of which `known` is."""
    seen = [one for band, one in zip(first, known, strict=True) if not band.is_mask]
    return [
        band if band.is_mask else replace(band, need=shared_need(band.need, seen, band.epsg))
        for band in item
    ]


def _filling(
    first: Sequence[Wanted], known: Sequence[Known], fill: Fill, access: Access, connections: int
) -> list[Known | None]:
    """Write the new files of further items: what covers holes of the items before each."""
    grid, layer = grid_of(first[0].beside(".new")), fill.layer(first)
    holes = Holes.at(grid, _held(known[0], grid)).without(partial(layer.valid, grid))
    found: list[Known | None] = []
    for item in fill.items:
        if not holes or not item[0].href:
            found += [None if holes else Known({}, 0)] * len(item)
            _write_empty(item, first[0])
            continue
        layer, clear = fill.layer(item), holes
        masks = [replace(band, holes=holes) for band in item if band.is_mask]
        of_masks = _fetched(masks, access, connections) if masks else []
        if masks:
            clear = holes.without(partial(layer.hidden, grid))
        bands = [
            replace(band, holes=clear) for band in _shared(item, first, known) if not band.is_mask
        ]
        if clear:
            found += _fetched(bands, access, connections)
            holes = holes.without(partial(layer.valid, grid))
        else:
            found += [Known(band.identity, 0) for band in bands]
            _write_empty(bands, first[0])
        found += of_masks
    return found


def _held(known: Known, grid: Grid) -> Callable[[Window], Bools]:
    """Return a function that tells which pixels of a window are in blocks that a file holds."""
    if not known.images:
        return lambda window: np.ones([part.stop - part.start for part in window], bool)
    image = known.all_images[known.level]
    held = np.zeros((image.down, image.across), bool)
    held.ravel()[numbers_of(known.blocks)] = True

    def inside(window: Window) -> Bools:
        rows, columns = (np.arange(part.start, part.stop) for part in window)
        return held[np.ix_(rows // image.block_height, columns // image.block_width)]

    return inside


def _write_empty(item: Sequence[Wanted], like: Wanted) -> None:
    """Write new files with the grid of the new file of `like`, and no pixel."""
    with open_geotiff(like.beside(".new")) as dataset:
        header = Header(
            (Image(dataset.RasterXSize, dataset.RasterYSize, EMPTY_BLOCK, EMPTY_BLOCK),),
            tuple(dataset.GetGeoTransform()),
            dataset.GetSpatialRef().ExportToWkt(),
            DTYPES[dataset.GetRasterBand(1).DataType],
            "<",
            {"compression": 8, "predictor": 1},
            None,
        )
        nodata = dataset.GetRasterBand(1).GetNoDataValue()
    for band in item:
        with _told_as_band_errors(band):
            new = band.beside(".new")
            new.unlink(missing_ok=True)
            write_blocks(
                new,
                header,
                0,
                lambda number: b"",
                nodata=None if nodata is None else f"{nodata:g}",
                metadata={EMPTY: "YES"},
            )


def _told_as_text(known: Known) -> str:
    """Return what a band's file holds, for the log."""
    if not known.images:
        return f"whole, {known.size:,} bytes"
    image, numbers = known.all_images[known.level], numbers_of(known.blocks)
    held = sum(known.counts[number] for number in numbers)
    return (
        f"{len(numbers)} of {len(known.counts)} blocks of its image of {image.width} x"
        f" {image.height} pixels, {held:,} of {known.size:,} bytes"
    )


def _fetched(wanted: Sequence[Wanted], access: Access, connections: int) -> list[Known]:
    """Write bands to their new files, each connection every so many of them."""

    def fetch(bands: Sequence[Wanted]) -> list[Known]:
        known = []
        with Session(access) as session:
            for band in bands:
                progress = Progress(f"{band.output.parent.name} {band.output.stem}")
                with _told_as_band_errors(band):
                    known.append(_fetch(band, session, progress))
                    progress.count()
        return known

    count = min(connections, len(wanted))
    with ThreadPoolExecutor(count) as pool:
        shares = list(pool.map(fetch, [wanted[first::count] for first in range(count)]))
    return [shares[number % count][number // count] for number in range(len(wanted))]


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
            known = asdict(_told_of_whole(Known(band.identity, record.size), output))
        if known.get("size"):
            with writing(sidecar_path(old)) as sidecar:
                sidecar.write_text(json.dumps({**known, "sha256": record.sha256}))
            _share(output, old)


def _has(record: Record | None, identity: dict[str, Any]) -> bool:
    """Return whether a record is that of a band of which something was fetched."""
    known = known_of(record.known) if record else None
    return known is not None and known.size > 0 and known.identity == identity


def _was_fetched_whole(band: Wanted, record: Record) -> bool:
    """Return whether a record is that of a whole band as basemake 0.2.0 wrote it."""
    identity = {name: digest(value) for name, value in band.identity.items()}
    return identity.items() <= record.made_of.settings.items()


def tidy(wanted: Sequence[Wanted]) -> None:
    """Delete all files beside finished bands that their job worked in."""
    for band in wanted:
        for path in band.output.parent.glob(f"{band.output.name}{PART}*"):
            path.unlink()


def _fetch(band: Wanted, session: Session, progress: Progress) -> Known:
    """Write a band to its new file."""
    if not is_remote(band.href):
        return _copied(band)
    if _was_begun(band, band.beside()):
        return _whole(band, session, progress)
    for last in (False, True):
        try:
            return _in_parts(band, session, progress)
        except (NoParts, Unsuitable) as reason:
            if band.need is None or last:
                logging.info("%s: fetched whole: %s", band.place, reason)
                break
            # One answer may be wrong, and what a band is fetched as stays.
            logging.info("%s: %s; asking again", band.place, reason)
            band.beside(".ranges").unlink(missing_ok=True)
    return _whole(band, session, progress)


def _share(source: Path, target: Path) -> None:
    """Make `target` a hard link of `source`, or a copy where the file system has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _told(known: Known, header: Header, cut: Cut, counts: Sequence[int]) -> Known:
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


# -- Bands fetched whole ---------------------------------------------------------------------------


def _copied(band: Wanted) -> Known:
    """Copy a band that is a file on this machine."""
    part = band.beside()
    _check_room(band, _rest_of(part, band.promised.size))
    shutil.copyfile(band.href, part)
    _verify(part, band.promised)
    part.replace(band.beside(".new"))
    return Known(band.identity, band.beside(".new").stat().st_size)


def _whole(band: Wanted, session: Session, progress: Progress) -> Known:
    """Fetch a band whole, unless it is here; a download that is not as promised is repeated."""
    old, part = _Old.of(band), band.beside()
    if old is not None and old.whole and old.known.identity == band.identity:
        _share(old.path, band.beside(".new"))
        return old.known
    begun = band.beside(".ranges")
    if _was_begun(band, begun):
        part.unlink(missing_ok=True)  # first, so that the sidecar never stands beside other bytes
        if band.need is None:  # or else a later job would take it for a band without parts
            _forget_ranges(sidecar_path(begun))
        sidecar_path(begun).replace(sidecar_path(part))
        begun.replace(part)
    _check_room(band, _rest_of(part, band.promised.size))
    for last in (False, True):
        download = Download(band.href, part, band.promised, session, progress)
        download.run()
        try:
            _verify(part, band.promised)
            break
        except BandError as error:
            part.unlink()
            if last:
                raise
            logging.warning("%s: %s Trying once more.", band.place, error)
    _share(part, band.beside(".new"))
    known = Known(band.identity, part.stat().st_size, download.validator)
    # If parts were asked for, they cannot be had: it is to stay whole.
    return known if band.need is not None else _told_of_whole(known, part)


def _told_of_whole(known: Known, path: Path) -> Known:
    """Return what is known of a band whose file is whole, with what its header tells."""
    with suppress(Unsuitable):
        header = _header_of(path)
        full = header.images[0]
        every = Cut(0, [[0, full.across * full.down - 1]])
        return _told(known, header, every, full.counts)
    return known


def _was_begun(band: Wanted, part: Path) -> bool:
    """Return whether a file has the beginning of a band, as fetched to read its header."""
    try:
        known = json.loads(sidecar_path(part).read_text())
        alike = (known["href"], known["size"]) == (band.href, band.promised.size)
        return alike and len(known["ranges"]) == 1 and part.exists()
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _forget_ranges(sidecar: Path) -> None:
    known = json.loads(sidecar.read_text())
    del known["ranges"]
    with writing(sidecar) as part:
        part.write_text(json.dumps(known))


def _rest_of(part: Path, size: int | None) -> int:
    """Return the bytes that a part file lacks; 0 if the size of the whole is unknown."""
    return (size or 0) - (part.stat().st_size if part.exists() else 0)


# -- Bands fetched in parts ------------------------------------------------------------------------


class _Old:
    """A band file as it was when its record was written, and what was known of it then."""

    def __init__(self, path: Path, known: Known) -> None:
        """Take a file that `keep_old` kept."""
        self.path, self.known = path, known
        self.whole = path.stat().st_size == known.size

    @classmethod
    def of(cls, band: Wanted) -> "_Old | None":
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
        return _header_of(self.path, reduced=self.whole)

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


def _in_parts(band: Wanted, session: Session, progress: Progress) -> Known:
    """Write the blocks of a band that the map needs, and fetch only those that are not here.

    Raises Unsuitable or NoParts if the band is to be fetched whole.
    """
    if band.need is None:
        raise NoParts("the config asks for that")
    old = _Old.of(band)
    if old is not None and old.known.identity == band.identity:
        if not old.known.images:
            raise Unsuitable("no parts of it can be had")
        cut = band.cut(old.known.all_images, old.known.transform)
        counts = old.counts(cut.level)
        if counts and all(old.has(cut.level, n) or not counts[n] for n in numbers_of(cut.blocks)):
            known = _told(old.known, old.header, cut, counts)
            with suppress(Damaged):  # one that came whole may never have been decoded
                _write(band, old.header, cut, old.block, known)
                return known
            old = None
    for _ in range(TRIES):
        parts = Parts(band.href, band.beside(".ranges"), band.promised, session, progress)
        try:
            return _fetch_parts(band, old, parts)
        except Changed:
            logging.info("%s changed: its parts are fetched anew", band.place)
        except Damaged as damage:
            logging.warning("%s: a block cannot be decoded (%s)", band.place, damage)
            band.beside(".ranges").unlink()
            old = None  # the block may be one of it
    raise BandError("it is damaged, or changes while it is fetched; run again later.")


def _fetch_parts(band: Wanted, old: _Old | None, parts: Parts) -> Known:
    """Write the blocks of a band that the map needs, from its old file and from `parts`."""
    assert band.need is not None
    header = _header_from(parts, band.need.first_bytes)
    cut = band.cut(header.images, header.transform)
    image = header.images[cut.level]
    known = Known(band.identity, parts.size or 0, parts.validator)
    known = _told(known, header, cut, image.counts)
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
    _check_room(band, 2 * sum(image.counts[number] for number in lacking))
    ranges = _ranges(image, lacking)
    parts.expect(ranges)
    for start, stop in ranges:
        parts.fetch(start, stop)
    _verify_parts(parts, band.promised)
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


def _header_of(path: Path, reduced: bool = True) -> Header:
    """Return the header of a file here; Unsuitable as `read_header`."""
    with path.open("rb") as file:
        return read_header(file.read(LARGEST_HEADER), path.stat().st_size, reduced)


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
    _verify_raster(new, band.promised.dtype)
    try:
        decode(new)
    except RuntimeError as error:
        raise Damaged(str(error)) from None


# -- Checks ----------------------------------------------------------------------------------------


@contextmanager
def _told_as_band_errors(band: Wanted) -> Iterator[None]:
    """Turn errors of the network and the disk, and basemake's own, into a BandError."""
    place = band.title
    try:
        yield
    except requests.TooManyRedirects:
        raise BandError(f"{place}: the service redirects without end.") from None
    except requests.RequestException as error:  # its message holds the whole address
        raise BandError(
            f"{place}: the service's answer is not valid HTTP ({type(error).__name__}); check"
            " the address and the source."
        ) from None
    except OSError as error:
        problem = _problem_of_disk(error, band.output.parent, band.promised.size)
        raise BandError(f"{place}: {problem}") from None
    except BasemakeError as error:
        raise BandError(f"{place}: {error}") from None


def _problem_of_disk(error: OSError, folder: Path, size: int | None) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(folder).free
        need = f"{size / 1e6:.1f} MB" if size else "an unknown size"
        return (
            f"the disk of {folder} is full: the band needs {need}, and {free / 1e6:.1f} MB are"
            " free; make room and run again."
        )
    file = f" ({without_secrets(str(error.filename))})" if error.filename else ""
    return f"{error.strerror or type(error).__name__}{file}; run again."


def _check_room(band: Wanted, needed: int) -> None:
    """Raise BandError if the disk has too little room for `needed` more bytes."""
    free = shutil.disk_usage(band.output.parent).free
    if needed > free:
        raise BandError(
            f"it needs {needed / 1e6:.1f} MB, and the disk of {band.output.parent} has"
            f" {free / 1e6:.1f} MB free; make room, or set keep_bands: false and prune what it no"
            " longer keeps (make prune), and run again."
        )


def _verify(part: Path, promised: Promised) -> None:
    """Raise BandError if the file is not as promised, or not a GeoTIFF band that can be read."""
    comparable = _verify_bytes(part, promised)
    _verify_raster(part, promised.dtype)
    # Without a size or checksum a file that ends early is found only by decoding all of it, which
    # takes 1 s of CPU for a tile's band.
    if not comparable:
        try:
            decode(part)
        except RuntimeError as error:
            raise BandError(f"it is not whole, or damaged ({error}); run again.") from None


def _verify_bytes(part: Path, promised: Promised) -> bool:
    """Compare size and checksum with those promised; return whether either could be compared."""
    found = part.stat().st_size
    if promised.size is not None and found != promised.size:
        raise BandError(
            f"{found} bytes came, the item promises {promised.size}; search again:"
            " `snakemake manifest`."
        )
    known = digest_of(promised.checksum)
    if known is None:
        if promised.checksum is not None:
            logging.warning(
                "checksum %r is of an unknown kind and was not compared", promised.checksum
            )
        return promised.size is not None
    algorithm, expected = known
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    if digest != expected:
        raise BandError(
            f"its {algorithm} is {digest}, the item promises {expected};"
            " run again, or search again: `snakemake manifest`."
        )
    return True


def _verify_parts(parts: Parts, promised: Promised) -> None:
    """Compare the checksum of an object that came whole, but in parts; Damaged if it differs."""
    known = digest_of(promised.checksum)
    if known is not None:
        algorithm, expected = known
        found = parts.digest(algorithm)
        if found not in (None, expected):
            raise Damaged(f"the {algorithm} of the object is {found}, the item promises {expected}")


def _verify_raster(part: Path, dtype: str | None) -> None:
    """Raise BandError unless the file is a GeoTIFF with a CRS and one band of at most 16 bits.

    Raises it, too, if width, height or block size are too large. No pixel is decoded.
    """
    try:
        with open_geotiff(part) as dataset:
            first = dataset.GetRasterBand(1)
            found = DTYPES.get(first.DataType)
            bands, placed = dataset.RasterCount, dataset.GetSpatialRef() is not None
            sides, block = (dataset.RasterXSize, dataset.RasterYSize), first.GetBlockSize()
    except RuntimeError as error:
        raise BandError(
            f"it is not a GeoTIFF ({error}); check the address and the source."
        ) from None
    if bands != 1 or not placed or found is None or dtype not in (None, found):
        raise BandError(
            f"it has {bands} band(s) of {found or 'another type'},"
            f" {'with' if placed else 'without'} a CRS; allowed: one band of"
            f" {dtype or 'uint8, int16 or uint16'}, with a CRS."
        )
    # A file of a few hundred bytes can claim any size, and later jobs would allocate it.
    if max(sides) > LARGEST_SIDE or block[0] * block[1] > LARGEST_BLOCK:
        raise BandError(
            f"it claims to have {sides[0]} x {sides[1]} pixels in blocks of {block[0]} x"
            f" {block[1]}; allowed: at most {LARGEST_SIDE} pixels a side, and {LARGEST_BLOCK} in a"
            " block."
        )


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.bands import Asked, settings_together
    from basemake.build.config import read_source
    from basemake.build.records import forget_records, made_of, write_record
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log
    from basemake.web.credentials import access_to

    def wanted_of(key: str, output: Path) -> Wanted:
        """Return what is asked for by a file key; of an item that the tile lacks, an output."""
        if key not in asked:
            return Wanted("", output, Promised(), {})
        band = asked[key]
        size, checksum, digest = (band.identity[name] for name in ("size", "checksum", "digest"))
        # A local file must still be the one that the search found: its SHA-256 as a multihash.
        checksum = checksum or (digest and f"1220{digest}")
        dtype = None if band.is_mask else source.dn.get("dtype")
        return Wanted(
            params.hrefs[key],
            output,
            Promised(size, checksum, dtype, band.identity["updated"]),
            band.identity,
            f"tile {snakemake.wildcards.tile}, band {key}",
            band.need,
            params.epsg,
            is_mask=band.is_mask,
        )

    with job_log(snakemake.log[0]):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        source, params = read_source(snakemake.config["source"]), snakemake.params
        asked = {key: Asked.from_json(band) for key, band in params.asked.items()}
        outputs = iter(map(Path, snakemake.output.bands))
        first, *others = [[wanted_of(key, next(outputs)) for key in keys] for keys in params.ranks]
        every = [*first, *chain(*others)]
        keep_old(every)
        forget_records(snakemake.output)
        rule = MaskRule.of(params.mask) if params.mask else None
        fill = Fill(others, source.dn["nodata"], rule) if others else None
        access, connections = access_to(source), snakemake.resources.connections
        known = fetch_bands(first, access, connections, fill)
        found = dict(zip(chain(*params.ranks), known, strict=True))
        settings = settings_together(asked, found, params.epsg, params.mask)
        made = made_of({"settings": settings}, [])
        for band, one in zip(every, known, strict=True):
            write_record(band.output, made, snakemake.log[0], asdict(one) if one else None)
        tidy(every)
