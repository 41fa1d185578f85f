"""Whether bands are the same although their items are newer, so that nothing need be made again."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from basemake.build.bands import Known, band_path, known_here
from basemake.build.manifest import Tile
from basemake.build.records import replace_known
from basemake.build.source import Source
from basemake.errors import BasemakeError
from basemake.web.addresses import is_remote
from basemake.web.credentials import access_to
from basemake.web.session import Interrupted, Session

SILENT = 3  # bands


def keep_unchanged(tiles: Iterable[Tile], source: Source) -> int:
    """Take over the bands of items of which only `updated` changed; return how many.

    The service is asked for each, under the condition that it changed. If it did not, its record
    gets the new `updated`. A band about which the service gives no answer is left as it is: a run
    will then fetch it. After SILENT such bands in a row the service is not asked any more.
    """
    asked = list(_newer(tiles))
    if not asked:
        return 0
    try:
        access = access_to(source)
    except BasemakeError as error:  # a search needs no credentials
        logging.info("whether bands changed could not be asked for: %s", error)
        return 0
    kept = silent = 0
    with Session(access) as session:
        for path, href, known in asked:
            try:
                if _is_unchanged(href, known, session):
                    replace_known(path, asdict(known))
                    kept += 1
                silent = 0
            except (BasemakeError, Interrupted, OSError) as error:
                logging.info("%s: whether it changed is not known: %s", path, error)
                silent += 1
                if silent == SILENT:
                    break
    return kept


def _newer(tiles: Iterable[Tile]) -> Iterator[tuple[Path, str, Known]]:
    """Yield path, href and what is then known of each band of which only `updated` changed.

    Left out are those with a checksum, which tells by itself whether they changed.
    """
    for tile in tiles:
        for key, (band, identity) in tile.files.items():
            path = band_path(tile.name, key)
            known = known_here(tile.name, key)
            if known is None or known.validator is None or known.identity == identity:
                continue
            alike = {**known.identity, "updated": identity["updated"]} == identity
            if alike and is_remote(band.href) and not band.checksum:
                yield path, band.href, replace(known, identity=identity)


def _is_unchanged(href: str, known: Known, session: Session, again: bool = True) -> bool:
    """Return whether the service says that an object is as it was, by one request.

    `again` is whether credentials are renewed, and it is asked once more, if they are refused.
    """
    credentials, validator = session.access.credentials, str(known.validator)
    condition = "If-None-Match" if validator.startswith('"') else "If-Modified-Since"
    address = credentials.address(href)
    # If it changed, one byte of it comes.
    headers = {condition: validator, "Range": "bytes=0-0", "Accept-Encoding": "identity"}
    headers |= credentials.headers(address)
    with session.get(address, headers=headers, stream=True) as answer:
        if again and answer.status_code in (401, 403) and credentials.renew():
            return _is_unchanged(href, known, session, again=False)
        named = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
        return answer.status_code == 304 and (validator in named or not any(named))
