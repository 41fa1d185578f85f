"""The manifest: the items that the regions need, with what jobs must know of each.

It is a GeoJSON FeatureCollection with one feature a tile, sorted: the lock file of a build. Its
member `request` identifies the search that it answers, so that a build can tell whether it still
fits the config.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from basemake.build.quarter import Quarter
from basemake.build.source import Source
from basemake.errors import MALFORMED, ManifestError
from basemake.pixels.dn import DnReading
from basemake.system.files import part_of, replace

# What reading raises where a file does not exist or is not a manifest.
UNREADABLE = (OSError, *MALFORMED, shapely.errors.ShapelyError)
WHOLE_WORLD = 360 * 180  # square degrees


def describe_request(source: Source, quarter: Quarter, regions: dict[str, BaseGeometry]) -> dict:
    """Return the request of a search: quarter, and digests of the source and of each region.

    `regions` are polygons in degrees by name.
    """
    return {
        "source": _digest(json.dumps(source.searched(), sort_keys=True)),
        "quarter": str(quarter),
        "regions": {
            name: _digest(shapely.normalize(region).wkb_hex)
            for name, region in sorted(regions.items())
        },
    }


def check_quarter(path: Path, quarter: str) -> None:
    """Raise ManifestError if `path` is a manifest of another quarter, whose map would be lost."""
    try:
        found = json.loads(path.read_text())["request"]["quarter"]
    except UNREADABLE:
        return  # no manifest, or an unreadable one, which a search will replace
    if found != quarter:
        raise ManifestError(
            f"this working directory holds {found}, and {quarter} is asked for: build it in"
            f" another one, by --directory (or delete {path} to replace {found} here)."
        )


def write_manifest(path: Path, request: dict, features: list[dict]) -> bool:
    """Write the manifest, one line a feature, and return whether the file changed.

    A file that already has this content is not touched. Raises ManifestError if the file cannot be
    written or a feature is nested too deep.
    """
    features = sorted(features, key=lambda feature: feature["id"])
    try:
        lines = ",\n".join(json.dumps(feature) for feature in features)
    except RecursionError:
        raise ManifestError("an item has a property that is nested too deep; fix it.") from None
    text = (
        '{"type": "FeatureCollection",\n'
        f'"request": {json.dumps(request)},\n'
        f'"features": [\n{lines}\n]}}\n'
    )
    try:
        if path.exists() and path.read_bytes() == text.encode():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        part.write_text(text)
        replace(part, path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be written: {error.strerror}.") from None
    return True


def read_manifest(path: Path, request: dict) -> pd.DataFrame:
    """Return the manifest as a table with one row a tile, indexed by tile.

    Rows are in the order in which tiles cover one another, the later over the earlier: by EPSG
    code, then by name. Tiles of a zone are neighbours in that order, because a VRT has one CRS and
    a mosaic of several zones is made of one VRT a zone. Archive, VRTs and COG all keep it. Columns:
    item, epsg, updated, gsd (metres a pixel, or None), regions (list of names), bands (asset key ->
    href, size, checksum, and digest for local files), dn (properties for `dn_reading`) and geometry
    (shapely, degrees). Raises ManifestError, which names the command to run, if the manifest is
    missing, is damaged or answers another request.
    """
    if not path.exists():
        raise ManifestError(f"there is no {path} yet: run `snakemake manifest` first to make it.")
    try:
        document = json.loads(path.read_text())
        answered, features = document["request"], document["features"]
        rows = [_row(feature) for feature in features]
        # As objects, because pandas would turn None into NaN in a column of text.
        table = pd.DataFrame(rows, dtype=object).sort_values(["epsg", "tile"])
        table = table.set_index("tile", drop=False)
        if not table.index.is_unique:
            raise ValueError("a tile comes twice")
        changed = None if answered == request else _difference(answered, request)
    except UNREADABLE:
        raise ManifestError(
            f"{path} is not a manifest; delete it and run `snakemake manifest`."
        ) from None
    if changed:
        check_quarter(path, request["quarter"])
        raise ManifestError(
            f"{changed} changed since {path} was written: run `snakemake manifest` to search again."
        )
    return table


def _row(feature: dict) -> dict[str, Any]:
    """Return a feature as a row; raises one of UNREADABLE if it is not a manifest's."""
    row = {"tile": feature["id"], **feature["properties"], "geometry": shape(feature["geometry"])}
    kinds = (("tile", str), ("item", str), ("epsg", int), ("regions", list), ("bands", dict))
    fine = all(isinstance(row[key], kind) for key, kind in kinds)
    fine &= row["gsd"] is None or 0 < row["gsd"] < 1e6
    fine &= isinstance(row.get("dn", {}), dict) and 0 < row["geometry"].area <= WHOLE_WORLD
    for band in row["bands"].values():
        fine &= isinstance(band["href"], str)
        fine &= isinstance(band["size"], int | None)
        fine &= isinstance(band["checksum"], str | None)
        fine &= isinstance(band.get("digest"), str | None)
    if not fine:
        raise ValueError("not a row of a manifest")
    return row


def band_identity(band: dict[str, Any], updated: str | None) -> dict[str, Any]:
    """Return the settings that identify a band's content; if one changes, it is fetched again.

    `band` is its entry in the manifest, `updated` its item's. With a checksum or digest, a band
    that moved to another address is not fetched again.
    """
    digest = band.get("digest")
    return {
        "href": None if digest or band["checksum"] else band["href"],
        "digest": digest,
        "size": band["size"],
        "checksum": band["checksum"],
        "updated": updated,
    }


def dn_reading(dn: dict, properties: dict[str, Any]) -> DnReading:
    """Return how an item's DN are read: by the source's `dn`, changed by its first rule that fits.

    `properties` are the item's properties, from the manifest, that the rules look at. Raises
    ManifestError if one is missing.
    """
    reading = DnReading(dn["scale"], dn["offset"], dn["nodata"])
    for rule in dn.get("rules", []):
        if rule["property"] not in properties:
            raise ManifestError(
                f"the manifest does not say {rule['property']!r} of its items, which the source's"
                " dn.rules look at: run `snakemake manifest` to search again."
            )
        value = properties[rule["property"]]
        equal = "equals" in rule and value == rule["equals"]
        below = "below" in rule and value is not None and str(value) < rule["below"]
        if equal or below:
            changes = {key: rule[key] for key in ("scale", "offset") if key in rule}
            return dataclasses.replace(reading, **changes)
    return reading


def _difference(old: dict, new: dict) -> str:
    """Return what differs between two requests, as the subject and verb of a sentence."""
    if old["source"] != new["source"]:
        return "the source has"
    names = [
        name
        for name in sorted({*old["regions"], *new["regions"]})
        if old["regions"].get(name) != new["regions"].get(name)
    ]
    return f"the regions have ({', '.join(names)})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
