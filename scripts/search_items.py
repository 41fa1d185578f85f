"""Search a source for the items that the regions need, and write the manifest."""

import json
import logging
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import mapping, shape
from shapely.ops import unary_union

from basemake.errors import BasemakeError, ManifestError
from basemake.hrefs import allowed_hosts, check_url, is_remote, local_path
from basemake.manifest import describe_request, quarter_span, write_manifest

SIMULATED_FOLDER = Path("simulated")


def search_items(source: dict, quarter: str, regions: dict[str, Any], manifest: Path) -> str:
    """Write the manifest of `regions` (name -> shapely, degrees) and return a table for people.

    Raises ManifestError, one sentence, if the search fails, an item is not as the source says, or
    a region has no tile.
    """
    span = _span(source, quarter)
    items, folder, searched = _find(source, quarter, regions, span)
    timely = [item for item in items if span[0] <= _begin(item) < span[1]]
    features = []
    for tile, (item, footprint) in sorted(_choose(timely, source, regions).items()):
        inside = [name for name, region in sorted(regions.items()) if _overlap(footprint, region)]
        features.append(_feature(tile, item, footprint, inside, source, folder, quarter))
    for name, region in regions.items():
        if not any(name in feature["properties"]["regions"] for feature in features):
            west, south, east, north = region.bounds
            raise ManifestError(
                f"no tile covers region {name!r} (longitude {west:.3f} to {east:.3f}, latitude"
                f" {south:.3f} to {north:.3f}) in {quarter}: searched {searched}, {len(items)}"
                f" items, {len(timely)} of them of that time; check region and quarter."
            )
    changed = write_manifest(manifest, describe_request(source, quarter, regions), features)
    return _table(features, regions) + f"{manifest}: {'written' if changed else 'unchanged'}"


def _span(source: dict, quarter: str) -> tuple[datetime, datetime]:
    """Return the first instant of the source's dates or of the quarter, and the first after it."""
    if "dates" not in source:
        return quarter_span(quarter)
    try:
        first, last = (datetime.fromisoformat(day) for day in source["dates"].split("/"))
    except ValueError:
        raise ManifestError(f"the source's dates are {source['dates']}: not days.") from None
    return first.replace(tzinfo=UTC), last.replace(tzinfo=UTC) + timedelta(days=1)


def _find(
    source: dict, quarter: str, regions: dict, span: tuple[datetime, datetime]
) -> tuple[list[dict], Path | None, str]:
    """Return the items of a source, the folder their files lie in, and what was searched."""
    if source["type"] == "catalog":
        path = Path(source["items"]).expanduser()
        return _catalog_items(path), path.parent, str(path)
    if source["type"] == "api":
        from basemake.stac import search  # late, as the next: only such sources need it

        searched = f"{source['collection']} at {source['url']}"
        items = search(source, unary_union(list(regions.values())), span)
        return _items(items, searched), None, searched
    from basemake.simulated import simulate

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
    return _items(features, f"the source's items {path}")


def _items(features: list, where: str) -> list[dict]:
    """Return the features, which must all be STAC items."""
    for number, feature in enumerate(features, 1):
        if not _is_item(feature):
            raise ManifestError(
                f"feature {number} of {where} is not a STAC item: it needs id, properties, and"
                " assets that have an href."
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


def _choose(
    items: Iterable[dict], source: dict, regions: dict[str, Any]
) -> dict[str, tuple[dict, Any]]:
    """Return tile -> (item, footprint): of those in a region the first by the source's `choose`."""
    pattern = re.compile(source["id_pattern"])
    chosen: dict[str, tuple[dict, Any]] = {}
    ordered = sorted(items, key=lambda item: str(item["id"]), reverse=True)
    for key in reversed(source["choose"]):  # sorts are stable: the last is the weightiest
        known = [item for item in ordered if _value(item, key) is not None]
        known.sort(key=lambda item: _value(item, key), reverse=key.startswith("-"))
        ordered = known + [item for item in ordered if _value(item, key) is None]
    for item in ordered:
        footprint = _footprint(item)
        if not any(_overlap(footprint, region) for region in regions.values()):
            continue
        match = pattern.fullmatch(item["id"])
        if not match or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", match["tile"] or ""):
            raise ManifestError(
                f"item {item['id']!r} does not match the source's id_pattern"
                f" {source['id_pattern']!r}; mend the pattern or the catalog."
            )
        tile = match["tile"]
        if tile in chosen:
            logging.info("tile %s: %s rather than %s", tile, chosen[tile][0]["id"], item["id"])
        else:
            chosen[tile] = item, footprint
    return chosen


def _value(item: dict, key: str) -> Any:
    """Return an item's property by which items are chosen; times as times, or None."""
    name = key.removeprefix("-")
    value = item["properties"].get(name)
    times = ("updated", "created", "datetime", "start_datetime", "published")
    return _instant(item, value) if name in times and value is not None else value


def _overlap(footprint: Any, region: Any) -> bool:
    """Say whether two polygons share an area, not only an edge."""
    return bool(shapely.intersects(footprint, region) and not shapely.touches(footprint, region))


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
            # What the source's rules for reading DN look at.
            "dn": {
                rule["property"]: item["properties"].get(rule["property"])
                for rule in source["dn"].get("rules", [])
            },
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
    if "alternate" in source:
        try:
            href = str(asset["alternate"][source["alternate"]]["href"])
        except (KeyError, TypeError):
            raise ManifestError(
                f"item {item['id']!r}, asset {key!r} has no alternate address"
                f" {source['alternate']!r}; check the source."
            ) from None
    if "href" in source:
        year, q = quarter[:4], quarter[5]
        href = source["href"].format(item=item["id"], tile=tile, asset=key, year=year, q=q)
    size = asset.get("file:size")
    try:
        if href.startswith("s3://") and source.get("credentials", {}).get("type") == "s3":
            pass  # the address is the source's endpoint's
        elif is_remote(href) or folder is None:
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
