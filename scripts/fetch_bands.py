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
it covers those that the mask does not hide, and so on, until no hole is left. Where in the end no
item has data, even what a mask hides is fetched.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from basemake.build.bands import Known, shared_need
from basemake.errors import BandError
from basemake.fetch.checks import told_as_band_errors
from basemake.fetch.filling import Fill, held, write_empty
from basemake.fetch.old import keep_old
from basemake.fetch.parts import TRIES, fetch_parts
from basemake.fetch.wanted import Wanted
from basemake.fetch.whole import copy_whole, fetch_whole, was_begun
from basemake.pixels.blocks import numbers_of
from basemake.pixels.cog import Unsuitable
from basemake.pixels.dn import MaskRule
from basemake.pixels.fill import Holes, Layer, grid_of
from basemake.system import files
from basemake.system.files import PART
from basemake.web.access import Access
from basemake.web.addresses import is_remote
from basemake.web.download import NoParts, Promised
from basemake.web.progress import Progress
from basemake.web.session import Session


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
        with told_as_band_errors(band):
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


class _Tried(NamedTuple):
    """An item that was asked to fill: its bands, the place of the first, and which holes it may."""

    bands: Sequence[Wanted]
    place: int
    layer: Layer
    clear: Holes


def _filling(
    first: Sequence[Wanted], known: Sequence[Known], fill: Fill, access: Access, connections: int
) -> list[Known | None]:
    """Write the new files of further items: what covers holes of the items before each."""
    grid, layer = grid_of(first[0].beside(".new")), fill.layer(first)
    holes = Holes.at(grid, held(known[0], grid)).without(partial(layer.valid, grid))
    found: list[Known | None] = []
    tried: list[_Tried] = []
    for item in fill.items:
        if not holes or not item[0].href:
            found += [None if holes else Known({}, 0)] * len(item)
            write_empty(item, first[0])
            continue
        layer, clear = fill.layer(item), holes
        masks = [replace(band, holes=holes) for band in item if band.is_mask]
        of_masks = _fetched(masks, access, connections) if masks else []
        if masks:
            clear = holes.without(partial(layer.hidden, grid))
        bands = [
            replace(band, holes=clear) for band in _shared(item, first, known) if not band.is_mask
        ]
        tried.append(_Tried(bands, len(found), layer, clear))
        if clear:
            found += _fetched(bands, access, connections)
            holes = holes.without(partial(layer.valid, grid))
        else:
            found += [Known(band.identity, 0) for band in bands]
            write_empty(bands, first[0])
        found += of_masks
    if fill.rule is None:
        return found
    bare = holes  # where no item has data
    for layer in (fill.layer(first), *(one.layer for one in tried if one.clear)):
        bare = bare.without(partial(layer.data, grid))
    for one in tried:
        clouds = bare.within(partial(one.layer.veiled, grid))
        if clouds:
            bands = [replace(band, holes=one.clear | clouds) for band in one.bands]
            found[one.place : one.place + len(bands)] = _fetched(bands, access, connections)
            bare = bare.without(partial(one.layer.data, grid))
    return found


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
                with told_as_band_errors(band):
                    known.append(_fetch(band, session, progress))
                    progress.count()
        return known

    count = min(connections, len(wanted))
    with ThreadPoolExecutor(count) as pool:
        shares = list(pool.map(fetch, [wanted[first::count] for first in range(count)]))
    return [shares[number % count][number // count] for number in range(len(wanted))]


def tidy(wanted: Sequence[Wanted]) -> None:
    """Delete all files beside finished bands that their job worked in."""
    for band in wanted:
        for path in band.output.parent.glob(f"{band.output.name}{PART}*"):
            path.unlink()


def _fetch(band: Wanted, session: Session, progress: Progress) -> Known:
    """Write a band to its new file."""
    if not is_remote(band.href):
        return copy_whole(band)
    if was_begun(band, band.beside()):
        return fetch_whole(band, session, progress)
    for last in (False, True):
        try:
            return fetch_parts(band, session, progress)
        except (NoParts, Unsuitable) as reason:
            if band.need is None or last:
                logging.info("%s: fetched whole: %s", band.place, reason)
                break
            # One answer may be wrong, and what a band is fetched as stays.
            logging.info("%s: %s; asking again", band.place, reason)
            band.beside(".ranges").unlink(missing_ok=True)
    return fetch_whole(band, session, progress)


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
