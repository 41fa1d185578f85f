"""Search of a STAC API: it returns all pages or raises, and never returns a part."""

import json
import sys
import time
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

from pystac.errors import STACError, STACTypeError
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning
from requests import RequestException
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from basemake.build.source import Source
from basemake.errors import BasemakeError, ManifestError
from basemake.web.access import Access, Credentials
from basemake.web.addresses import check_url
from basemake.web.session import NetworkError, PatientSession

# Services refuse larger requests; this is a polygon of a few hundred vertices.
LONGEST_POLYGON = 20_000  # bytes of GeoJSON
FIRST_TOLERANCE = 0.001  # degrees
# What pystac-client raises when an answer is not that of a STAC API.
UNUSABLE = (
    APIError,
    ClientTypeError,
    PystacClientWarning,
    STACError,
    STACTypeError,
    RequestException,
    NotImplementedError,
    ArithmeticError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
)


class WebIO(StacApiIO):
    """Input of pystac-client from the web only: a service's links could name local files."""

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """Return the text at an address or a link; BandError if its host is not allowed."""
        if isinstance(source, str):  # pystac-client reads links over the web only
            check_url(source, self.session.access.hosts)
        return str(super().read_text(source, *args, **kwargs))


def search(source: Source, region: BaseGeometry, span: tuple[datetime, datetime]) -> list[dict]:
    """Return all items of an API's collection that may meet `region` (degrees) in `span`.

    `span` is the first instant and the first one after it. May include items outside region or
    span: polygons are simplified outwards, and services read intervals as closed. Raises
    ManifestError or NetworkError, one sentence, if the service cannot be searched or fewer items
    arrive than the service announced.
    """
    url, limits = str(source.url), source.limits
    io = WebIO()
    # Only the API's own host may answer, and by redirects those that the source names.
    hosts = frozenset([urlsplit(url).netloc.lower(), *source.hosts])
    io.session = PatientSession(Access(hosts, limits, Credentials()))
    begin, end = span[0], span[1] - timedelta(seconds=1)
    try:
        pages = (
            Client.open(url, stac_io=io)
            .search(
                collections=[source.collection],
                intersects=mapping(short_enough(region)),
                datetime=f"{begin:%Y-%m-%dT%H:%M:%SZ}/{end:%Y-%m-%dT%H:%M:%SZ}",
                limit=limits.page_size,
            )
            .pages_as_dicts()
        )
        return _all_items(pages, url, limits.search_seconds)
    except UNUSABLE as error:
        if isinstance(error.__context__, BasemakeError):  # which pystac-client hides in its own
            raise error.__context__ from None
        problem = " ".join(str(error).split())[:300]
        raise ManifestError(
            f"the search at {url} failed ({type(error).__name__}: {problem}); check the source's"
            " url and collection."
        ) from None


def short_enough(region: BaseGeometry) -> BaseGeometry:
    """Return a polygon that covers `region` (degrees) and fits into a request."""
    tolerance, simple = FIRST_TOLERANCE, region
    while len(json.dumps(mapping(simple))) > LONGEST_POLYGON:
        # It is simplified by a distance and then grown by it, so that it covers the region.
        simple = region.simplify(tolerance).buffer(tolerance, quad_segs=1).simplify(tolerance / 2)
        simple = simple.buffer(tolerance / 2, quad_segs=1)
        tolerance *= 2
        if tolerance > 90:
            return region.envelope
    return simple


def _all_items(pages: Any, url: str, seconds: float) -> list[dict]:
    """Return the items of all pages, once each.

    Raises ManifestError if a page repeats or items are missing, NetworkError if reading takes more
    than `seconds`.
    """
    items: dict[str, dict] = {}
    matched, deadline, followed = None, time.monotonic() + seconds, set()
    for number, page in enumerate(pages, 1):
        new = {item["id"]: item for item in page["features"] if item["id"] not in items}
        cursor = _cursor(page)
        if not new or cursor in followed:
            raise ManifestError(
                f"the search at {url} goes round in circles: page {number} is one that came before;"
                " try again later, or give the source a larger limits.page_size."
            )
        if cursor:
            followed.add(cursor)
        items |= new
        matched = page.get("numberMatched", page.get("context", {}).get("matched", matched))
        of = f" of {matched}" if matched is not None else ""
        print(f"search: page {number}, {len(items)}{of} items", file=sys.stderr, flush=True)
        if time.monotonic() > deadline:
            raise NetworkError(
                f"the search at {url} took longer than limits.search_seconds ({seconds:g}) and has"
                f" {len(items)}{of} items; give it more, or search a smaller region."
            )
    if matched is not None and len(items) < matched:
        raise ManifestError(
            f"the search at {url} matches {matched} items and returned {len(items)}; the map"
            " would have holes: try again later."
        )
    return [_absolute(item) for item in items.values()]


def _absolute(item: dict) -> dict:
    """Return the item, its assets' hrefs made absolute if it has a link to itself."""
    own = next((link["href"] for link in item.get("links", []) if link.get("rel") == "self"), None)
    if own:
        for asset in item.get("assets", {}).values():
            asset["href"] = urljoin(own, asset["href"])
    return item


def _cursor(page: dict) -> str | None:
    """Return address and body of the request for the next page as text; None on the last page."""
    for link in page.get("links", []):
        if link.get("rel") == "next":
            return json.dumps([link.get("href"), link.get("body")], sort_keys=True)
    return None
