"""Search a source for the items that the regions need, and write the manifest."""

import json
import logging
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import mapping, shape
from shapely.ops import unary_union

from basemake.errors import BasemakeError, ManifestError
from basemake.hrefs import allowed_hosts, check_url, is_url, local_path
from basemake.manifest import describe_request, quarter_span, write_manifest

SIMULATED_FOLDER = Path("simulated")


def search_items(source: dict, quarter: str, regions: dict[str, Any], manifest: Path) -> str:
    """Write the manifest of `regions` (name -> shapely, degrees) and return a table for people.

    Raises ManifestError, one sentence, if the search fails, an item is not as the source says, or
    a region has no tile.
    """
    items, folder, searched = _find(source, quarter, regions)
    chosen = _newest_of_each_tile(_in_quarter(items, quarter), source)
    features = []
    for tile, item in sorted(chosen.items()):
        footprint = _footprint(item)
        inside = [
            name
            for name, region in sorted(regions.items())
            if shapely.intersects(footprint, region) and not shapely.touches(footprint, region)
        ]
        if inside:
            features.append(_feature(tile, item, footprint, inside, source, folder, quarter))
    for name, region in regions.items():
        if not any(name in feature["properties"]["regions"] for feature in features):
            west, south, east, north = region.bounds
            raise ManifestError(
                f"no tile covers region {name!r} (longitude {west:.3f} to {east:.3f}, latitude"
                f" {south:.3f} to {north:.3f}) in {quarter}: searched {searched}, {len(items)}"
                f" items, {len(chosen)} of them tiles of that quarter; check region and quarter."
            )
    changed = write_manifest(manifest, describe_request(source, quarter, regions), features)
    return _table(features, regions) + f"{manifest}: {'written' if changed else 'unchanged'}"


def _find(source: dict, quarter: str, regions: dict) -> tuple[list[dict], Path | None, str]:
    """Return the items of a source, the folder their files lie in, and what was searched."""
    if source["type"] == "catalog":
        path = Path(source["items"]).expanduser()
        return _catalog_items(path), path.parent, str(path)
    if source["type"] == "api":
        searched = f"{source['collection']} at {source['url']}"
        return _api_items(source, quarter, regions), None, searched
    from basemake.simulated import simulate  # late: only this source needs it

    seed, pixel_size = source["seed"], source["pixel_size"]
    folder = SIMULATED_FOLDER / f"seed{seed}_{pixel_size:g}m"
    try:
        items = simulate(unary_union(list(regions.values())), quarter, folder, seed, pixel_size)
    except ValueError as error:
        raise ManifestError(f"the simulated source: {error}") from None
    return items, folder, "the simulated world"


def _catalog_items(path: Path) -> list[dict]:
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
    except OSError as error:
        raise ManifestError(
            f"the source's items {path} cannot be read: {error.strerror}."
        ) from None
    except (ValueError, KeyError, TypeError):
        features = None
    if not isinstance(features, list):
        raise ManifestError(f"the source's items {path} are not an ItemCollection (GeoJSON).")
    for number, feature in enumerate(features, 1):
        if not _is_item(feature):
            raise ManifestError(
                f"feature {number} of the source's items {path} is not a STAC item: it needs id,"
                " properties, and assets that have an href."
            )
    return features


def _is_item(feature: Any) -> bool:
    """Say whether a feature has the members of a STAC item that are read here."""
    members = (("id", str), ("properties", dict), ("assets", dict))
    return (
        isinstance(feature, dict)
        and all(isinstance(feature.get(name), kind) for name, kind in members)
        and all(
            isinstance(asset, dict) and isinstance(asset.get("href"), str)
            for asset in feature["assets"].values()
        )
    )


def _api_items(source: dict, quarter: str, regions: dict[str, Any]) -> list[dict]:
    import requests  # late, as pystac_client: a catalog needs neither
    from pystac_client import Client
    from pystac_client.exceptions import APIError

    start, end = quarter_span(quarter)
    try:
        search = Client.open(source["url"]).search(
            collections=[source["collection"]],
            intersects=mapping(unary_union(list(regions.values()))),
            datetime=f"{start:%Y-%m-%dT%H:%M:%SZ}/{end:%Y-%m-%dT%H:%M:%SZ}",
            limit=100,
        )
        items = [
            # Of an item without an address of its own, relative hrefs stay so and are refused.
            (item.make_asset_hrefs_absolute() if item.get_self_href() else item).to_dict()
            for item in search.items()
        ]
    except (APIError, requests.RequestException) as error:
        problem = " ".join(str(error).split())[:300]
        raise ManifestError(f"the search at {source['url']} failed: {problem}") from None
    return items


def _in_quarter(items: Iterable[dict], quarter: str) -> list[dict]:
    """Return the items that begin in the quarter: an interval's search may answer with two."""
    start, end = quarter_span(quarter)
    return [item for item in items if start <= _begin(item) < end]


def _begin(item: dict) -> datetime:
    properties = item["properties"]
    return _instant(item, properties.get("start_datetime") or properties.get("datetime"))


def _instant(item: dict, text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ManifestError(
            f"item {item['id']!r} has the time {text!r}; allowed: such as 2025-07-01T00:00:00Z."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _newest_of_each_tile(items: Iterable[dict], source: dict) -> dict[str, dict]:
    """Return tile -> item; of two items of one tile the one with the newest `updated`."""
    pattern = re.compile(source["id_pattern"])
    chosen: dict[str, dict] = {}
    for item in sorted(items, key=itemgetter("id")):
        match = pattern.fullmatch(item["id"])
        if not match or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", match["tile"] or ""):
            raise ManifestError(
                f"item {item['id']!r} does not match the source's id_pattern"
                f" {source['id_pattern']!r}; mend the pattern or the catalog."
            )
        tile = match["tile"]
        if tile in chosen:
            logging.info("tile %s has two items: %s, %s", tile, chosen[tile]["id"], item["id"])
        if tile not in chosen or _updated(item) >= _updated(chosen[tile]):
            chosen[tile] = item
    return chosen


def _updated(item: dict) -> datetime:
    text = item["properties"].get("updated") or item["properties"].get("created")
    return _instant(item, text or "0001-01-01T00:00:00Z")


def _footprint(item: dict) -> Any:
    """Return an item's geometry (degrees), split at the antimeridian as the item has it."""
    try:
        footprint = shapely.make_valid(shapely.force_2d(shape(item["geometry"])))
    except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError):
        footprint = shapely.Polygon()
    if footprint.area == 0 or not np.isfinite(shapely.get_coordinates(footprint)).all():
        raise ManifestError(
            f"item {item['id']!r} has a geometry that is not a polygon of finite coordinates."
        )
    return footprint


def _feature(
    tile: str,
    item: dict,
    footprint: Any,
    regions: list[str],
    source: dict,
    folder: Path | None,
    quarter: str,
) -> dict:
    """Return the manifest's feature of one tile, its item checked."""
    bands = {
        key: _band(key, tile, item, source, folder, quarter) for key in source["bands"].values()
    }
    first = item["assets"][source["bands"]["red"]]
    return {
        "type": "Feature",
        "id": tile,
        "properties": {
            "tile": tile,
            "item": item["id"],
            "epsg": _epsg(item, first),
            "gsd": _pixel_size(item, first),
            "updated": item["properties"].get("updated"),
            "regions": regions,
            "bands": bands,
        },
        "geometry": mapping(shapely.set_precision(footprint, 1e-7)),
    }


def _band(key: str, tile: str, item: dict, source: dict, folder: Path | None, quarter: str) -> dict:
    """Return href, size (bytes) and checksum (multihash) of one band; unknown ones are None."""
    asset = item["assets"].get(key)
    if asset is None:
        raise ManifestError(
            f"item {item['id']!r} has no asset {key!r}; it has:"
            f" {', '.join(sorted(item['assets'])) or 'none'}; check the source's bands."
        )
    href = asset["href"]
    if "href" in source:
        year, q = quarter[:4], quarter[5]
        href = source["href"].format(item=item["id"], tile=tile, asset=key, year=year, q=q)
    size = asset.get("file:size")
    try:
        if is_url(href) or folder is None:
            check_url(href, allowed_hosts(source))
        else:
            path = local_path(href, folder)
            # Relative where it can be, so that a working directory can be moved whole.
            href = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
            size = path.stat().st_size if size is None else size
    except BasemakeError as error:
        raise ManifestError(f"item {item['id']!r}, asset {key!r}: {error}") from None
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"item {item['id']!r}, asset {key!r}: {href[:200]!r} is not an href ({error})."
        ) from None
    if size is not None and (not isinstance(size, int) or size < 0):
        raise ManifestError(
            f"item {item['id']!r}, asset {key!r}: file:size is {size!r}; allowed: bytes."
        )
    return {"href": href, "size": size, "checksum": asset.get("file:checksum")}


def _epsg(item: dict, asset: dict) -> int:
    properties = item["properties"]
    for place in (asset, properties):
        code = place.get("proj:code") or place.get("proj:epsg")
        match = re.fullmatch(r"(?:EPSG:)?([0-9]{4,6})", str(code))
        if match:
            return int(match[1])
    raise ManifestError(
        f"item {item['id']!r} has no CRS: neither proj:code (such as EPSG:32633) nor proj:epsg."
    )


def _pixel_size(item: dict, asset: dict) -> float | None:
    """Return metres a pixel, from the first of the places where items say it."""
    transform = asset.get("proj:transform") or item["properties"].get("proj:transform")
    size = transform[0] if transform else asset.get("gsd") or item["properties"].get("gsd")
    return size if isinstance(size, int | float) and size > 0 else None


def _table(features: list[dict], regions: dict[str, Any]) -> str:
    """Return the table that a person sees: tiles, files, bytes and gaps of each region."""
    lines = [f"{'region':<20}{'tiles':>7}{'files':>8}{'download':>12}{'uncovered':>12}"]
    for name, region in sorted(regions.items()):
        own = [feature for feature in features if name in feature["properties"]["regions"]]
        lines.append(f"{name:<20}{_counts(own)}{_uncovered(region, own):>12.1%}")
    if len(regions) > 1:
        lines.append(f"{'all':<20}{_counts(features)}")
    return "\n".join(lines) + "\n"


def _counts(features: list[dict]) -> str:
    bands = [band for feature in features for band in feature["properties"]["bands"].values()]
    known = [band["size"] for band in bands if band["size"] is not None]
    size = f"{sum(known) / 1e6:,.1f} MB" if len(known) == len(bands) else "unknown"
    return f"{len(features):>7}{len(bands):>8}{size:>12}"


def _uncovered(region: Any, features: list[dict]) -> float:
    """Return the share of a region's area, on the sphere, that no tile covers."""

    def area(geometry: Any) -> float:
        # Lambert's cylindrical projection keeps areas.
        return shapely.transform(
            shapely.segmentize(geometry, 0.1),
            lambda c: np.column_stack([c[:, 0], np.degrees(np.sin(np.radians(c[:, 1])))]),
        ).area

    covered = unary_union([shape(feature["geometry"]) for feature in features])
    return area(region.difference(covered)) / area(region)


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.config import read_source
    from basemake.logs import job_log
    from basemake.region import read_region

    with job_log(snakemake.log[0]):
        table = search_items(
            source=read_source(snakemake.params.source),
            quarter=snakemake.params.quarter,
            regions={
                name: read_region(name, Path(path))
                for name, path in snakemake.params.regions.items()
            },
            manifest=Path(snakemake.params.manifest),
        )
        print(table, flush=True)
