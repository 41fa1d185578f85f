"""Search a source for the items that the regions need, and write the manifest."""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from basemake.build.manifest import check_quarter, describe_request, write_manifest
from basemake.build.quarter import Quarter
from basemake.build.region import uncovered
from basemake.build.source import Source
from basemake.errors import BasemakeError, ManifestError
from basemake.web.items import Found, begin, check_items, feature_of, footprint_of, value_of

SIMULATED_FOLDER = Path("simulated")
LEAST_GAP = 0.01  # share of a region from which on it is warned that it is not covered
FEW = 12  # names of tiles that are listed


def search_items(
    source: Source,
    quarter: Quarter,
    regions: dict[str, BaseGeometry],
    manifest: Path,
    fill: int | list[str] = 0,
) -> str:
    """Write the manifest for `regions` (by name, in degrees) and return a table of it as text.

    `fill` is config's: quarters, each of which may fill a tile, or how many further items of the
    same quarter may. The manifest is written only if it changes. Raises ManifestError, one
    sentence, if the search fails, an item is not as the source describes it, or a region has no
    tile.
    """
    request = describe_request(source, quarter, regions, fill)
    check_quarter(manifest, request["quarter"])
    number = 1 + fill if isinstance(fill, int) else 1
    quarters = [quarter, *([] if isinstance(fill, int) else map(Quarter.parse, fill))]
    ranked: dict[str, list[Found]] = {}
    said, warnings = [], []
    for one in quarters:
        span = _span(source, one)
        items, folder, searched = _find(source, one, regions, span)
        timely = [
            item
            for item in items
            if span[0] <= begin(item) < span[1] and _wanted(item, source.only)
        ]
        chosen = _choose(timely, source, regions, one, number)
        for tile, found in chosen.items():
            ranked.setdefault(tile, []).extend(found)
        if one != quarter and not chosen:
            warnings.append(f"WARNING: fill has {one}, of which the source has no items here")
        if number > 1 and all(len(found) == 1 for found in chosen.values()):
            warnings.append(f"WARNING: fill is {fill}, but no tile has a further item in {one}")
        said.append(
            f"searched {searched}, {len(items)} items, {len(timely)} of them of that time and kind"
        )
    features = []
    for tile, found in sorted(ranked.items()):
        inside = [
            name
            for name, region in sorted(regions.items())
            if any(_overlap(one.footprint, region) for one in found)
        ]
        features.append(feature_of(tile, found, inside, source, folder, masked=bool(fill)))
    for name, region in regions.items():
        if not any(name in feature["properties"]["regions"] for feature in features):
            west, south, east, north = region.bounds
            raise ManifestError(
                f"no tile covers region {name!r} (longitude {west:.3f} to {east:.3f}, latitude"
                f" {south:.3f} to {north:.3f}) in {', '.join(map(str, quarters))}:"
                f" {'; '.join(said)}; check region and quarter"
                f"{_swapped(source, quarter, region, _span(source, quarter))}."
            )
    changed = write_manifest(manifest, request, features)
    told = f"{manifest}: {'written' if changed else 'unchanged'}"
    return "\n".join([_table(features, regions), *_gaps(features, regions), *warnings, told])


def _swapped(
    source: Source, quarter: Quarter, region: BaseGeometry, span: tuple[datetime, datetime]
) -> str:
    """Return a question, as the end of a sentence, if `region` would be covered with x as y."""
    swapped = shapely.transform(region, lambda points: points[:, ::-1])
    if source.type == "simulated" or max(map(abs, swapped.bounds[1::2])) > 90:
        return ""
    try:
        items = _find(source, quarter, {"": swapped}, span)[0]
    except BasemakeError:
        return ""
    covered = any(_overlap(footprint_of(item), swapped) for item in items)
    return "; longitude and latitude swapped? so it would be covered" if covered else ""


def _span(source: Source, quarter: Quarter) -> tuple[datetime, datetime]:
    """Return the first instant of the source's dates, else of the quarter, and the one after."""
    if source.dates is None:
        return quarter.span()
    try:
        first, last = (datetime.fromisoformat(day) for day in source.dates.split("/"))
    except ValueError:
        raise ManifestError(f"the source's dates are {source.dates}: not days.") from None
    return first.replace(tzinfo=UTC), last.replace(tzinfo=UTC) + timedelta(days=1)


def _find(
    source: Source,
    quarter: Quarter,
    regions: dict[str, BaseGeometry],
    span: tuple[datetime, datetime],
) -> tuple[list[dict], Path | None, str]:
    """Return the items of a source, the folder their files lie in, and what was searched."""
    if source.type == "catalog":
        path = Path(str(source.items)).expanduser()
        return _catalog_items(path), path.parent, str(path)
    if source.type == "api":
        from basemake.web.stac import search  # here, as only such sources need it

        searched = f"{source.collection} at {source.url}"
        items = search(source, unary_union(list(regions.values())), span)
        return check_items(items, searched), None, searched
    from basemake.demo.simulated import simulate

    seed, pixel_size = source.seed, source.pixel_size
    folder = SIMULATED_FOLDER / f"seed{seed}_{pixel_size:g}m"
    try:
        items = simulate(unary_union(list(regions.values())), quarter, folder, seed, pixel_size)
    except ValueError as error:
        raise ManifestError(f"the simulated source: {error}") from None
    return items, folder, "the simulated world"


def _catalog_items(path: Path) -> list[dict]:
    """Return the items of an ItemCollection file; ManifestError if it cannot be read."""
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
    except OSError as error:
        raise ManifestError(
            f"the source's items {path} cannot be read: {error.strerror}; allowed: a path that is"
            f" absolute, begins with ~, or is relative to the working directory, {Path.cwd()}."
        ) from None
    except (ValueError, LookupError, TypeError, RecursionError):
        features = None
    if not isinstance(features, list):
        raise ManifestError(f"the source's items {path} are not an ItemCollection (GeoJSON).")
    return check_items(features, f"the source's items {path}")


def _wanted(item: dict, only: dict[str, list]) -> bool:
    """Return whether each property of `only` has one of the values listed there."""
    return all(item["properties"].get(name) in values for name, values in only.items())


def _choose(
    items: Iterable[dict],
    source: Source,
    regions: dict[str, BaseGeometry],
    quarter: Quarter,
    number: int,
) -> dict[str, list[Found]]:
    """Return up to `number` items of each tile in a region: the first by the source's `choose`.

    Raises ManifestError if an item there has no valid tile name in its id.
    """
    pattern = re.compile(source.id_pattern)
    chosen: dict[str, list[Found]] = {}
    for item in _ranked(items, source.choose):
        footprint = footprint_of(item)
        if not any(_overlap(footprint, region) for region in regions.values()):
            continue
        tile = _tile_of(item, pattern)
        found = chosen.setdefault(tile, [])
        if len(found) < number:
            found.append(Found(item, footprint, quarter))
        else:
            logging.info("tile %s: %s rather than %s", tile, found[0].item["id"], item["id"])
    return chosen


def _ranked(items: Iterable[dict], choose: list[str]) -> list[dict]:
    """Return the items ordered by the properties of `choose`, of equal ones the last id first.

    Items without a property come after those that have it.
    """
    ranked = sorted(items, key=lambda item: str(item["id"]), reverse=True)
    for key in reversed(choose):  # sorts are stable, so the first key decides before the others
        known = [item for item in ranked if value_of(item, key) is not None]
        unknown = [item for item in ranked if value_of(item, key) is None]
        try:
            known.sort(key=lambda item: value_of(item, key), reverse=key.startswith("-"))
        except TypeError:
            raise ManifestError(
                f"items cannot be put in order by {key.removeprefix('-')!r}: its values are of"
                " different types; fix the source's choose."
            ) from None
        ranked = known + unknown
    return ranked


def _tile_of(item: dict, pattern: re.Pattern) -> str:
    """Return the tile's name in the item's id, which must do as the name of a folder."""
    match = pattern.fullmatch(item["id"])
    if not match or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", match["tile"] or ""):
        raise ManifestError(
            f"item {item['id']!r} does not match the source's id_pattern"
            f" {pattern.pattern!r}; fix the pattern or the catalog."
        )
    return str(match["tile"])


def _overlap(footprint: BaseGeometry, region: BaseGeometry) -> bool:
    """Return whether two polygons share area, not only an edge."""
    return bool(shapely.intersects(footprint, region) and not shapely.touches(footprint, region))


def _table(features: list[dict], regions: dict[str, BaseGeometry]) -> str:
    """Return a table with tiles, files, bytes and uncovered share of each region as text."""
    lines = [f"{'region':<20}{'tiles':>7}{'files':>8}{'whole bands':>13}{'uncovered':>11}"]
    for name, region in sorted(regions.items()):
        own = [feature for feature in features if name in feature["properties"]["regions"]]
        gap = uncovered(region, (shape(feature["geometry"]) for feature in own))
        lines.append(f"{name:<20}{_counts(own)}{gap:>11.1%}")
    if len(regions) > 1:
        lines.append(f"{'all':<20}{_counts(features)}")
    return "\n".join(lines)


def _gaps(features: list[dict], regions: dict[str, BaseGeometry]) -> Iterator[str]:
    """Yield a warning for each region of which a part is not covered, with the missing tiles.

    These can be named only if tiles have the names of the quarterly mosaics, as 33TWM_0_0.
    """
    from basemake.demo.grid import missing_tiles  # here, as most regions have no gap

    for name, region in sorted(regions.items()):
        own = {
            feature["id"]: shape(feature["geometry"])
            for feature in features
            if name in feature["properties"]["regions"]
        }
        share = uncovered(region, own.values())
        if share < LEAST_GAP:
            continue
        lacking = missing_tiles(region, own)
        more = f" and {len(lacking) - FEW} more" if len(lacking) > FEW else ""
        which = f" for {', '.join(lacking[:FEW])}{more}" if lacking else " there"
        yield (
            f"WARNING: {min(share, 0.999):.1%} of region {name!r} is not covered: the source has no"
            f" items{which}"
        )


def _counts(features: list[dict]) -> str:
    bands = [band for feature in features for band in feature["properties"]["bands"].values()]
    known = [band["size"] for band in bands if band["size"] is not None]
    size = f"{sum(known) / 1e6:,.1f} MB" if len(known) == len(bands) else "unknown"
    return f"{len(features):>7}{len(bands):>8}{size:>13}"


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.config import read_source
    from basemake.build.manifest import read_manifest
    from basemake.build.region import read_regions
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log
    from basemake.web.unchanged import keep_unchanged

    with job_log(snakemake.log[0]):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        source = read_source(snakemake.params.source)
        quarter = Quarter.parse(snakemake.params.quarter)
        regions, manifest = read_regions(snakemake.params.regions), Path(snakemake.params.manifest)
        fill = snakemake.params.fill
        print(search_items(source, quarter, regions, manifest, fill), flush=True)
        tiles = read_manifest(manifest, describe_request(source, quarter, regions, fill))
        if kept := keep_unchanged(tiles.values(), source):
            print(f"{kept} bands of newer items are the same as before: they are kept.", flush=True)
