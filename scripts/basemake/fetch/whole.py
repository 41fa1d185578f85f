"""Bands fetched whole, from this machine or the web."""

import json
import logging
import shutil
from pathlib import Path

from basemake.build.bands import Known
from basemake.errors import BandError
from basemake.fetch.checks import check_room, verify
from basemake.fetch.old import Old, share, told_of_whole
from basemake.fetch.wanted import Wanted
from basemake.system.files import writing
from basemake.web.download import Download, sidecar_path
from basemake.web.progress import Progress
from basemake.web.session import Session


def copy_whole(band: Wanted) -> Known:
    """Copy a band that is a file on this machine."""
    part = band.beside()
    check_room(band, _rest_of(part, band.promised.size))
    shutil.copyfile(band.href, part)
    verify(part, band.promised)
    part.replace(band.beside(".new"))
    return Known(band.identity, band.beside(".new").stat().st_size)


def fetch_whole(band: Wanted, session: Session, progress: Progress) -> Known:
    """Fetch a band whole, unless it is here; a download that is not as promised is repeated."""
    old, part = Old.of(band), band.beside()
    if old is not None and old.whole and old.known.identity == band.identity:
        share(old.path, band.beside(".new"))
        return old.known
    begun = band.beside(".ranges")
    if was_begun(band, begun):
        part.unlink(missing_ok=True)  # first, so that the sidecar never stands beside other bytes
        if band.need is None:  # or else a later job would take it for a band without parts
            _forget_ranges(sidecar_path(begun))
        sidecar_path(begun).replace(sidecar_path(part))
        begun.replace(part)
    check_room(band, _rest_of(part, band.promised.size))
    for last in (False, True):
        download = Download(band.href, part, band.promised, session, progress)
        download.run()
        try:
            verify(part, band.promised)
            break
        except BandError as error:
            part.unlink()
            if last:
                raise
            logging.warning("%s: %s Trying once more.", band.place, error)
    share(part, band.beside(".new"))
    known = Known(band.identity, part.stat().st_size, download.validator)
    # If parts were asked for, they cannot be had: it is to stay whole.
    return known if band.need is not None else told_of_whole(known, part)


def was_begun(band: Wanted, part: Path) -> bool:
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
