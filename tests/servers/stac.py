"""A STAC API on loopback: it searches its items, pages as services do, or replays answers."""

import base64
import json
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import shapely
from shapely.geometry import shape

from servers.faulty import Answer, Asked, FaultyServer

CONFORMANCE = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#sort",
    "https://api.stacspec.org/v1.0.0/item-search#query",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]


class StacServer(FaultyServer):
    """A STAC API at `api` that holds `items`. What can be set, at any time:

    `page`: items a page at most. `paging`: how `next` is told: "body" (POST, the whole body, as
    Earth Search), "merge" (POST, a token to merge in, as Planetary Computer) or "get" (an address).
    `matched`: "right", "wrong" or "absent". `empty_last`: a full last page still carries `next`.
    `stuck`: None, "same" (`next` leads to where it is), "cycle" (back to the first page) or
    "endless" (new cursors, the same items). `overlap`: items of a page that the next one has again.
    `largest`: bytes of a request above which it is refused (413).
    """

    def __init__(
        self,
        items: list[dict] | None = None,
        *,
        page: int = 100,
        paging: str = "body",
        matched: str = "right",
        empty_last: bool = False,
        stuck: str | None = None,
        overlap: int = 0,
        largest: int | None = None,
    ):
        super().__init__()
        self.items = list(items or [])
        self.page, self.paging, self.matched = page, paging, matched
        self.empty_last, self.stuck, self.overlap = empty_last, stuck, overlap
        self.largest = largest
        self.replayed: list[dict] | None = None
        self.landing: dict | None = None
        self.route("POST", "/v1/search", self._search)
        self.route("GET", "/v1/search", self._search)
        self.route("GET", "/v1/collections", self._collections)
        self.route("GET", "/v1/conformance", lambda asked: _json({"conformsTo": CONFORMANCE}))
        self.route("GET", "/v1", self._landing)

    @property
    def api(self) -> str:
        """The address of the landing page."""
        return f"{self.url}/v1"

    def replay(self, pages: list[dict], *hosts: str, landing: dict | None = None) -> None:
        """Answer the next searches with recorded answers, their `hosts` (https://...) being here.

        Each of `hosts` becomes this server's address; after the last answer come empty ones.
        """
        text = json.dumps([pages, landing])
        for host in hosts:
            text = text.replace(host, self.url)
        self.replayed, self.landing = json.loads(text)

    def searches(self) -> list[dict]:
        """What was searched: the body or the query of each request, in order."""
        return [
            json.loads(asked.body) if asked.body else asked.query
            for asked in self.asked()
            if asked.path.endswith("/search")
        ]

    def right_answer(self, asked: Asked, ranges: bool = True) -> Answer:
        # Recorded answers and shipped sources name paths of the service's own.
        if self.replayed is not None and asked.path.endswith(("/search", "/items")):
            pages = self.replayed
            return _json(pages.pop(0) if pages else {"type": "FeatureCollection", "features": []})
        if asked.path.rstrip("/").endswith("/v1") and not asked.path.startswith("/v1"):
            return self._landing(asked)
        return super().right_answer(asked, ranges)

    def _landing(self, asked: Asked) -> Answer:
        if self.landing is not None:
            return _json(self.landing)
        links = [
            {"rel": "self", "href": self.api, "type": "application/json"},
            {"rel": "root", "href": self.api, "type": "application/json"},
            {"rel": "data", "href": f"{self.api}/collections", "type": "application/json"},
            {"rel": "conformance", "href": f"{self.api}/conformance", "type": "application/json"},
        ]
        links += [
            {
                "rel": "search",
                "href": f"{self.api}/search",
                "type": "application/geo+json",
                "method": method,
            }
            for method in ("GET", "POST")
        ]
        return _json(
            {
                "type": "Catalog",
                "id": "loopback",
                "stac_version": "1.0.0",
                "description": "a STAC API on loopback",
                "conformsTo": CONFORMANCE,
                "links": links,
            }
        )

    def _collections(self, asked: Asked) -> Answer:
        names = sorted({item.get("collection", "") for item in self.items})
        documents = [
            {
                "type": "Collection",
                "id": name,
                "stac_version": "1.0.0",
                "description": name,
                "license": "other",
                "extent": {
                    "spatial": {"bbox": [[-180, -90, 180, 90]]},
                    "temporal": {"interval": [[None, None]]},
                },
                "links": [],
            }
            for name in names
        ]
        rest = asked.path.removeprefix("/v1/collections").strip("/")
        if not rest:
            return _json({"collections": documents, "links": []})
        found = [document for document in documents if document["id"] == rest]
        return _json(found[0]) if found else _json({"code": "NotFound"}, 404)

    def _search(self, asked: Asked) -> Answer:
        if self.largest is not None and len(asked.body) > self.largest:
            return _json({"code": "RequestTooLarge"}, 413)
        search = json.loads(asked.body) if asked.body else _from_query(asked.query)
        cursor = int(str(search.pop("token", "next:0")).rpartition(":")[2])
        if "state" in search:
            search = json.loads(base64.urlsafe_b64decode(search["state"]))
        found = [item for item in self.items if _matches(item, search)]
        for rule in reversed(search.get("sortby", [])):
            found.sort(
                key=lambda item, rule=rule: _value(item, rule["field"]),
                reverse=rule.get("direction") == "desc",
            )
        size = min(self.page, int(search.get("limit", 10)))
        start = 0 if self.stuck == "endless" else cursor
        features = found[start : start + size]
        following = cursor + size - self.overlap
        more = cursor + size < len(found) or (self.empty_last and bool(features))
        if self.stuck and len(found) > size:
            more = True
            following = {"same": size, "cycle": 0 if cursor else size}.get(self.stuck, following)
        links = [self._next(search, following)] if more else []
        answer = {"type": "FeatureCollection", "features": features, "links": links}
        answer["numberReturned"] = len(features)
        if self.matched != "absent":
            answer["numberMatched"] = len(found) + (7 if self.matched == "wrong" else 0)
        return _json(answer)

    def _next(self, search: dict, cursor: int) -> dict[str, Any]:
        link: dict[str, Any] = {"rel": "next", "type": "application/geo+json"}
        address = f"{self.api}/search"
        token = f"next:{cursor}"
        if self.paging == "get":
            state = base64.urlsafe_b64encode(json.dumps(search).encode()).decode()
            query = urlencode({"state": state, "token": token})
            return {**link, "method": "GET", "href": f"{address}?{query}"}
        body = {"token": token} if self.paging == "merge" else {**search, "token": token}
        merge = self.paging == "merge"
        return {**link, "method": "POST", "href": address, "body": body, "merge": merge}


def _json(document: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/geo+json"})


def _from_query(query: dict[str, str]) -> dict[str, Any]:
    search: dict[str, Any] = dict(query)
    for name in ("collections", "ids"):
        if name in search:
            search[name] = search[name].split(",")
    if "bbox" in search:
        search["bbox"] = [float(number) for number in search["bbox"].split(",")]
    if "intersects" in search:
        search["intersects"] = json.loads(search["intersects"])
    if "sortby" in search:
        search["sortby"] = [
            {"field": name.lstrip("+-"), "direction": "desc" if name.startswith("-") else "asc"}
            for name in search["sortby"].split(",")
        ]
    return search


def _matches(item: dict, search: dict) -> bool:
    if search.get("collections") and item.get("collection") not in search["collections"]:
        return False
    if search.get("ids") and item["id"] not in search["ids"]:
        return False
    if search.get("datetime") and not _overlaps(item["properties"], search["datetime"]):
        return False
    for name, rules in (search.get("query") or {}).items():
        value = item["properties"].get(name)
        for operator, bound in rules.items():
            kept = {
                "lt": lambda v, b: v < b,
                "lte": lambda v, b: v <= b,
                "gt": lambda v, b: v > b,
                "gte": lambda v, b: v >= b,
                "eq": lambda v, b: v == b,
            }[operator]
            if value is None or not kept(value, bound):
                return False
    if search.get("intersects"):
        return shapely.intersects(shape(item["geometry"]), shape(search["intersects"]))
    if search.get("bbox"):
        return shapely.intersects(shape(item["geometry"]), shapely.box(*search["bbox"]))
    return True


def _overlaps(properties: dict, interval: str) -> bool:
    """Say whether an item's time shares an instant with an interval, both ends included."""
    first, _, last = interval.partition("/")
    begin = datetime.fromisoformat(properties.get("start_datetime") or properties["datetime"])
    end = datetime.fromisoformat(properties.get("end_datetime") or properties["datetime"])
    after = first in ("", "..") or end >= datetime.fromisoformat(first)
    before = last in ("", "..") or begin <= datetime.fromisoformat(last)
    return after and before


def _value(item: dict, field: str) -> Any:
    name = field.removeprefix("properties.")
    return item["properties"].get(name, item.get(name))
