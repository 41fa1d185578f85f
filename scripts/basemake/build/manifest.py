"""The manifest: which items the regions need, and what each band job must know of them.

A GeoJSON FeatureCollection, one feature a tile, sorted: the lock file of a build. Its member
`request` says what was asked for, so that a build can tell that the answer is still the right one.
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
from basemake.errors import ManifestError
from basemake.pixels.dn import DnReading
from basemake.system.files import replace

# What is raised where a file is not there, or no manifest.
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    shapely.errors.ShapelyError,
)
WHOLE_WORLD = 360 * 180  # square degrees


def describe_request(source: Source, quarter: Quarter, regions: dict[str, BaseGeometry]) -> dict:
    """Return what a manifest answers: quarter, and digests of the source and of each polygon."""
    return {
        "source": _digest(json.dumps(source.searched(), sort_keys=True)),
        "quarter": str(quarter),
        "regions": {
            name: _digest(shapely.normalize(region).wkb_hex)
            for name, region in sorted(regions.items())
        },
    }


def check_quarter(path: Path, quarter: str) -> None:
    """Raise ManifestError if there is a manifest of another quarter: its map would be lost."""
    try:
        found = json.loads(path.read_text())["request"]["quarter"]
    except UNREADABLE:
        return  # there is none, or it is no manifest: it will be written anew
    if found != quarter:
        raise ManifestError(
            f"this working directory holds {found}, and {quarter} is asked for: build it in"
            f" another one, by --directory (or delete {path} to replace {found} here)."
        )


def write_manifest(path: Path, request: dict, features: list[dict]) -> bool:
    """Write the manifest, a line a feature, unless it is there and the same; say if it changed."""
    features = sorted(features, key=lambda feature: feature["id"])
    try:
        lines = ",\n".join(json.dumps(feature) for feature in features)
    except RecursionError:
        raise ManifestError("an item has a property that is nested too deep; mend it.") from None
    text = (
        '{"type": "FeatureCollection",\n'
        f'"request": {json.dumps(request)},\n'
        f'"features": [\n{lines}\n]}}\n'
    )
    try:
        if path.exists() and path.read_bytes() == text.encode():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        replace(part, path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be written: {error.strerror}.") from None
    return True


def read_manifest(path: Path, request: dict) -> pd.DataFrame:
    """Return the manifest as a table, a row a tile, indexed by tile.

    Rows are in the order in which tiles cover one another, the later over the earlier: by EPSG
    code, then by name. A zone's tiles are all together, as a VRT has one CRS and a mosaic of more
    is made of one VRT a zone; archive, VRTs and COG all keep this order.
    Columns: item, epsg, updated, gsd (metres a pixel, or None), regions (list of names), bands
    (asset key -> href, size, checksum, of files here also digest) and geometry (shapely, degrees).
    Raises ManifestError with the command that helps if the manifest is missing or answers another
    request than `request`.
    """
    if not path.exists():
        raise ManifestError(f"there is no {path} yet: run `snakemake manifest` first to make it.")
    try:
        document = json.loads(path.read_text())
        answered, features = document["request"], document["features"]
        rows = [_row(feature) for feature in features]
        # Objects: of a column of texts pandas would make None NaN.
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
    """Return a feature as a row; an exception if it is not as `write_manifest` writes it."""
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
    """Return what makes a band another one, from its entry in the manifest and its item's time.

    With a checksum or digest, a band that moved to another address is the same.
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
    """Return how an item's DN are read: the source's `dn`, changed by its first rule that fits.

    `properties` are those of the item that the rules look at, as the manifest has them. Raises
    ManifestError if it lacks one.
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
    """Name what differs between two requests, for people."""
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
