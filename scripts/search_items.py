"""Search a source for the items that the regions need, and write the manifest."""

import json
import logging
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.ops import unary_union

from basemake.build.manifest import check_quarter, describe_request, quarter_span, write_manifest
from basemake.errors import ManifestError
from basemake.web.items import begin, check_items, feature_of, footprint_of, value_of

SIMULATED_FOLDER = Path("simulated")


def search_items(source: dict, quarter: str, regions: dict[str, Any], manifest: Path) -> str:
    """Write the manifest of `regions` (name -> shapely, degrees) and return a table for people.

    Raises ManifestError, one sentence, if the search fails, an item is not as the source says, or
    a region has no tile.
    """
    check_quarter(manifest, quarter)
    span = _span(source, quarter)
    items, folder, searched = _find(source, quarter, regions, span)
    timely = [
        item for item in items if span[0] <= begin(item) < span[1] and _wanted(item, source["only"])
    ]
    features = []
    for tile, (item, footprint) in sorted(_choose(timely, source, regions).items()):
        inside = [name for name, region in sorted(regions.items()) if _overlap(footprint, region)]
        features.append(feature_of(tile, item, footprint, inside, source, folder, quarter))
    for name, region in regions.items():
        if not any(name in feature["properties"]["regions"] for feature in features):
            west, south, east, north = region.bounds
            raise ManifestError(
                f"no tile covers region {name!r} (longitude {west:.3f} to {east:.3f}, latitude"
                f" {south:.3f} to {north:.3f}) in {quarter}: searched {searched}, {len(items)}"
                f" items, {len(timely)} of them of that time and kind; check region and quarter."
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
        from basemake.web.stac import search  # late, as the next: only such sources need it

        searched = f"{source['collection']} at {source['url']}"
        items = search(source, unary_union(list(regions.values())), span)
        return check_items(items, searched), None, searched
    from basemake.demo.simulated import simulate

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
    except (ValueError, LookupError, TypeError, RecursionError):
        features = None
    if not isinstance(features, list):
        raise ManifestError(f"the source's items {path} are not an ItemCollection (GeoJSON).")
    return check_items(features, f"the source's items {path}")


def _wanted(item: dict, only: dict[str, list]) -> bool:
    """Say whether an item's properties have the values that the source wants."""
    return all(item["properties"].get(name) in values for name, values in only.items())


def _choose(
    items: Iterable[dict], source: dict, regions: dict[str, Any]
) -> dict[str, tuple[dict, Any]]:
    """Return tile -> (item, footprint): of those in a region the first by the source's `choose`."""
    pattern = re.compile(source["id_pattern"])
    chosen: dict[str, tuple[dict, Any]] = {}
    ordered = sorted(items, key=lambda item: str(item["id"]), reverse=True)
    for key in reversed(source["choose"]):  # sorts are stable: the last is the weightiest
        known = [item for item in ordered if value_of(item, key) is not None]
        try:
            known.sort(key=lambda item: value_of(item, key), reverse=key.startswith("-"))
        except TypeError:
            raise ManifestError(
                f"items cannot be put in order by {key.removeprefix('-')!r}: its values are of"
                " different types; mend the source's choose."
            ) from None
        ordered = known + [item for item in ordered if value_of(item, key) is None]
    for item in ordered:
        footprint = footprint_of(item)
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


def _overlap(footprint: Any, region: Any) -> bool:
    """Say whether two polygons share an area, not only an edge."""
    return bool(shapely.intersects(footprint, region) and not shapely.touches(footprint, region))


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

    from basemake.build.config import read_source
    from basemake.build.region import read_region
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
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
