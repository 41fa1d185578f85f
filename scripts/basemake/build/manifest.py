"""The manifest: the items that the regions need, with what jobs must know of each.

It is a GeoJSON FeatureCollection with one feature a tile, sorted: the lock file of a build. Its
member `request` identifies the search that it answers, so that a build can tell whether it still
fits the config.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from basemake.build.quarter import Quarter
from basemake.build.sealed import sealed
from basemake.build.source import Source
from basemake.errors import MALFORMED, ManifestError
from basemake.pixels.dn import DnReading
from basemake.system import files

# What reading raises where a file does not exist or is not a manifest.
UNREADABLE = (OSError, *MALFORMED, shapely.errors.ShapelyError)
WHOLE_WORLD = 360 * 180  # square degrees


@dataclass(frozen=True)
class Band:
    """A band's file as its item states it; None is what the item does not state.

    `size` is in bytes, `checksum` a multihash in hexadecimal digits, and `digest` the SHA-256 of a
    local file, which can change while its item does not.
    """

    href: str
    size: int | None
    checksum: str | None
    digest: str | None = None

    def identity(self, updated: str | None) -> dict[str, Any]:
        """Return the settings that identify its content; if one changes, it is fetched again.

        `updated` is its item's. With a checksum or digest, a band that moved to another address is
        not fetched again.
        """
        return {
            "href": None if self.digest or self.checksum else self.href,
            "digest": self.digest,
            "size": self.size,
            "checksum": self.checksum,
            "updated": updated,
        }


@dataclass(frozen=True)
class Item:
    """An item that shows a tile, and what jobs must know of it.

    `bands` are by asset key, a mask among them; `dn` has the properties for `dn_reading`, and
    `address` is its own on the web, None if it does not state one.
    """

    item: str
    updated: str | None
    bands: dict[str, Band]
    dn: dict[str, Any]
    address: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Tile(Item):
    """A tile of the manifest: the item that shows it, and those that fill its holes, best first.

    `gsd` is the size of a pixel in metres, or None; `regions` are the names of those that it
    covers; `geometry` is the footprint in degrees, of all items together.
    """

    name: str
    epsg: int
    gsd: float | None
    regions: list[str]
    geometry: BaseGeometry
    fill: list[Item] = field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        """All items, best first."""
        return [self, *self.fill]

    @property
    def files(self) -> dict[str, tuple[Band, dict[str, Any]]]:
        """The bands of all items with their identities, by file key (see `file_key`)."""
        return {
            file_key(key, rank): (band, band.identity(item.updated))
            for rank, item in enumerate(self.items, 1)
            for key, band in item.bands.items()
        }


def file_key(key: str, rank: int) -> str:
    """Return the name of the file of a band, by its asset key and the rank of its item, from 1."""
    return key if rank == 1 else f"{key}.{rank}"


def describe_request(
    source: Source,
    quarter: Quarter,
    regions: dict[str, BaseGeometry],
    fill: int | list[str] = 0,
) -> dict:
    """Return the request of a search: quarter, and digests of the source and of each region.

    `regions` are polygons in degrees by name. Where config's `fill` asks for further items, the
    request has these, too, and the asset of the source's mask.
    """
    further = {"fill": {"items": fill, "mask": source.mask and source.mask["asset"]}}
    return {
        "source": _digest(json.dumps(source.searched(), sort_keys=True)),
        "quarter": str(quarter),
        "regions": {
            name: _digest(shapely.normalize(region).wkb_hex)
            for name, region in sorted(regions.items())
        },
        **(further if fill else {}),
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
        f'"features": [\n{lines}\n]}}'
    )
    text = sealed(text) + "\n"
    try:
        if path.exists() and path.read_bytes() == text.encode():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        part = files.part_of(path)
        part.write_text(text)
        files.replace(part, path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be written: {error.strerror}.") from None
    return True


def read_manifest(path: Path, request: dict) -> dict[str, Tile]:
    """Return the manifest's tiles by name.

    They are in the order in which tiles cover one another, the later over the earlier: by EPSG
    code, then by name. Tiles of a zone are neighbours in that order, because a VRT has one CRS and
    a mosaic of several zones is made of one VRT a zone. Archive, VRTs and COG all keep it. Raises
    ManifestError, which names the command to run, if the manifest is missing, is damaged or answers
    another request.
    """
    if not path.exists():
        place = "" if Path("Snakefile").exists() else f", with --directory {Path.cwd()}"
        raise ManifestError(f"there is no {path} yet: run `snakemake manifest` first{place}.")
    try:
        document = json.loads(path.read_text())
        answered, tiles = document["request"], tiles_of(document)
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
    return tiles


def tiles_of(document: dict) -> dict[str, Tile]:
    """Return the tiles of a manifest's JSON by name; raises one of UNREADABLE if it is none."""
    found = sorted(map(_tile, document["features"]), key=lambda tile: (tile.epsg, tile.name))
    tiles = {tile.name: tile for tile in found}
    if not len(tiles) == len(found) > 0:
        raise ValueError("no tile, or one that comes twice")
    return tiles


def _tile(feature: dict) -> Tile:
    """Return a feature as a tile; raises one of UNREADABLE if it is not a manifest's."""
    stated = feature["properties"]
    tile = Tile(
        **_item(stated),
        name=feature["id"],
        epsg=stated["epsg"],
        gsd=stated["gsd"],
        regions=stated["regions"],
        geometry=shape(feature["geometry"]),
        fill=[Item(**_item(item)) for item in stated.get("fill", [])],
    )
    kinds = ((tile.name, str), (tile.epsg, int), (tile.regions, list))
    fine = all(isinstance(value, kind) for value, kind in kinds)
    fine = fine and all(isinstance(item.item, str) for item in tile.items)
    fine = fine and all(isinstance(item.dn, dict) for item in tile.items)
    fine = fine and all(isinstance(item.address, str | None) for item in tile.items)
    fine = fine and (tile.gsd is None or 0 < tile.gsd < 1e6)
    fine = fine and 0 < tile.geometry.area <= WHOLE_WORLD
    for band, _ in tile.files.values():
        texts = (band.checksum, band.digest)
        fine = fine and isinstance(band.href, str) and isinstance(band.size, int | None)
        fine = fine and all(isinstance(text, str | None) for text in texts)
    if not fine:
        raise ValueError("not a feature of a manifest")
    return tile


def _item(stated: dict) -> dict[str, Any]:
    """Return what a feature, or an entry of its `fill`, states of an item, as Item's fields."""
    return {
        "item": stated["item"],
        "updated": stated["updated"],
        "bands": {key: Band(**band) for key, band in stated["bands"].items()},
        "dn": stated.get("dn", {}),
        "address": stated.get("address"),
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
            return replace(reading, **changes)
    return reading


def _difference(old: dict, new: dict) -> str:
    """Return what differs between two requests, as the subject and verb of a sentence."""
    if old["source"] != new["source"]:
        return "the source has"
    if old.get("fill") != new.get("fill"):
        return "fill has"
    names = [
        name
        for name in sorted({*old["regions"], *new["regions"]})
        if old["regions"].get(name) != new["regions"].get(name)
    ]
    return f"the regions have ({', '.join(names)})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
