"""Sources and access for tests, with the defaults of the schema."""

from pathlib import Path
from typing import Any

from basemake.build.config import check
from basemake.build.source import Limits, Source
from basemake.fetch.wanted import Wanted
from basemake.web.access import Access, Credentials
from basemake.web.download import Promised
from fetch_bands import fetch_bands, tidy

NEAR: dict[str, Any] = {  # limits for a server that is near
    "requests_per_minute": 60_000,
    "patience_seconds": 10,
    "longest_wait_seconds": 0.1,
    "stall": {"bytes_per_second": 20_000, "seconds": 0.5},
}


def source(**settings: Any) -> Source:
    """A catalog of Sentinel-2 bands, with `settings` as a source file gives them."""
    document = {
        "type": "catalog",
        "items": "items.json",
        "bands": {"red": "B04", "green": "B03", "blue": "B02"},
        "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768},
        "attribution": "Somebody",
        **settings,
    }
    return Source.of(check(document, "source", "test"))


def limits(**settings: Any) -> Limits:
    return source(limits=settings).limits


def access(*hosts: str, credentials: Credentials | None = None, **settings: Any) -> Access:
    """Access to `hosts` within the limits of `settings`."""
    return Access(frozenset(hosts), limits(**settings), credentials or Credentials())


def fetch_band(href: str, output: Path, promised: Promised, within: Access) -> None:
    """Fetch a band whole, as the job of its tile does."""
    band = Wanted(href, output, promised, {"href": href})
    fetch_bands([band], within)
    tidy([band])
