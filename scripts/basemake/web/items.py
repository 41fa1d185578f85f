"""STAC items: checks of what a source returns, and the manifest's features made of them."""

import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from osgeo import osr
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from basemake.build.manifest import WHOLE_WORLD
from basemake.build.quarter import Quarter
from basemake.build.source import Source
from basemake.errors import MALFORMED, BandError, BasemakeError, ManifestError
from basemake.pixels.raster import open_geotiff
from basemake.web.addresses import (
    allowed_hosts,
    check_url,
    is_remote,
    local_path,
    without_secrets,
)

PRECISION = 1e-7  # degrees: a centimetre
# What shapely raises when a geometry is not valid GeoJSON.
UNREADABLE = (*MALFORMED, shapely.errors.ShapelyError)


def check_items(features: list, where: str) -> list[dict]:
    """Return `features` if all are STAC items.

    Raises ManifestError otherwise; `where` is how the message names the source of the features.
    """
    for number, feature in enumerate(features, 1):
        if not _is_item(feature):
            raise ManifestError(
                f"feature {number} of {where} is not a STAC item: it needs id, properties, and"
                " assets that have an href."
            )
    return features


def _is_item(feature: Any) -> bool:
    """Return whether a feature has the members of a STAC item that are read here."""
    members = (("id", str), ("properties", dict), ("assets", dict))
    return (
        isinstance(feature, dict)
        and all(isinstance(feature.get(name), kind) for name, kind in members)
        and all(
            isinstance(asset, dict) and isinstance(asset.get("href"), str)
            for asset in feature["assets"].values()
        )
    )


def begin(item: dict) -> datetime:
    """Return an item's start_datetime or datetime; ManifestError if it has no valid one."""
    properties = item["properties"]
    return _instant(item, properties.get("start_datetime") or properties.get("datetime"))


def value_of(item: dict, key: str) -> Any:
    """Return the property that `key` of a source's `choose` names, or None; times as datetime."""
    name = key.removeprefix("-")
    value = item["properties"].get(name)
    times = ("updated", "created", "datetime", "start_datetime", "published")
    return _instant(item, value) if name in times and value is not None else value


def _instant(item: dict, text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ManifestError(
            f"item {item['id']!r} has the time {text!r}; allowed: such as 2025-07-01T00:00:00Z."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def footprint_of(item: dict) -> BaseGeometry:
    """Return an item's geometry as a valid 2D polygon in degrees.

    One that crosses the antimeridian must be split there, as in the item (RFC 7946). Raises
    ManifestError if it is not a polygon of finite coordinates.
    """
    try:
        footprint = shapely.make_valid(shapely.force_2d(shape(item["geometry"])))
        fine = np.isfinite(shapely.get_coordinates(footprint)).all()
        fine = fine and 0 < footprint.area <= WHOLE_WORLD
        fine = fine and shapely.set_precision(footprint, PRECISION).area > 0
    except UNREADABLE:
        fine = False
    if not fine:
        raise ManifestError(
            f"item {item['id']!r} has a geometry that is not a polygon of finite coordinates."
        )
    return footprint


class Found(NamedTuple):
    """An item that was found for a tile, its footprint in degrees, and the quarter it is of."""

    item: dict
    footprint: BaseGeometry
    quarter: Quarter


def feature_of(
    tile: str,
    ranked: list[Found],
    regions: list[str],
    source: Source,
    folder: Path | None,
    masked: bool = False,
) -> dict:
    """Return the manifest's GeoJSON feature of one tile; ManifestError if an item lacks data.

    `ranked` are its items, best first: those after the first fill its holes, if they are in the
    same CRS. `regions` are the names of those that the tile covers; `folder` is that of the bands
    if they are files here, else None. With `masked` each item has the source's mask, too.
    """
    keys = [*source.bands.values()]
    if masked and source.mask:
        keys.append(source.mask["asset"])
    first, *others = [_stated(tile, found, keys, source, folder) for found in ranked]
    further = [stated for stated in others if stated["epsg"] == first["epsg"]]
    kept = ("item", "updated", "bands", "dn", "address")
    fill = [{key: stated[key] for key in kept if key in stated} for stated in further]
    footprint = ranked[0].footprint
    if further:
        footprint = shapely.union_all([found.footprint for found in ranked])
    return {
        "type": "Feature",
        "id": tile,
        "properties": {
            "tile": tile,
            **{key: first[key] for key in ("item", "epsg", "gsd", "updated")},
            "regions": regions,
            **{key: first[key] for key in ("bands", "dn", "address") if key in first},
            **({"fill": fill} if fill else {}),
        },
        "geometry": mapping(shapely.set_precision(footprint, PRECISION)),
    }


def _stated(
    tile: str, found: Found, keys: list[str], source: Source, folder: Path | None
) -> dict[str, Any]:
    """Return what the manifest states of an item; `keys` are of the assets that are fetched."""
    item = found.item
    bands = {key: _band(key, tile, item, source, folder, found.quarter) for key in keys}
    key = source.bands["red"]
    epsg, pixel = _grid_of(bands[key]["href"])
    return {
        "item": item["id"],
        "epsg": epsg or _epsg(item, item["assets"][key]),
        "gsd": pixel or _pixel_size(item, item["assets"][key]),
        "updated": item["properties"].get("updated"),
        "bands": bands,
        # The properties that the source's rules for reading DN depend on.
        "dn": {
            rule["property"]: item["properties"].get(rule["property"])
            for rule in source.dn.get("rules", [])
        },
        **_own_address(item),
    }


def _own_address(item: dict) -> dict[str, str]:
    """Return the item's own address on the web as `address`; nothing if it states none."""
    for link in item.get("links") or []:
        if isinstance(link, dict) and link.get("rel") == "self":
            address = str(link.get("href"))
            if address.startswith(("http://", "https://")) and without_secrets(address) == address:
                return {"address": address}
    return {}


def _band(
    key: str, tile: str, item: dict, source: Source, folder: Path | None, quarter: Quarter
) -> dict:
    """Return href, size (bytes) and checksum (multihash) of one band; unknown ones are None.

    For a local file the digest is added, since the file can change while its item does not.
    """
    asset = item["assets"].get(key)
    if asset is None:
        raise ManifestError(
            f"item {item['id']!r} has no asset {key!r}; it has:"
            f" {', '.join(sorted(item['assets'])) or 'none'}; check the source's bands."
        )
    where = f"item {item['id']!r}, asset {key!r}"
    href = _stated_href(asset, source, where)
    if source.href is not None:
        year, q = str(quarter.year), str(quarter.number)
        href = source.href.format(item=item["id"], tile=tile, asset=key, year=year, q=q)
    band = {"href": href, **_stated_size_and_checksum(asset, where)}
    try:
        if href.startswith("s3://") and (source.credentials or {}).get("type") == "s3":
            return band  # it will be read at the source's endpoint
        if is_remote(href) or folder is None:
            check_url(href, allowed_hosts(source))
            return band
        return _local_band(band, folder)
    except BasemakeError as error:
        raise ManifestError(f"{where}: {error}") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{where}: {href[:200]!r} is not a valid href ({error}).") from None


def _stated_href(asset: dict, source: Source, where: str) -> str:
    """Return an asset's href, or the one of its alternates that the source asks for."""
    if source.alternate is None:
        return str(asset["href"])
    try:
        return str(asset["alternate"][source.alternate]["href"])
    except (KeyError, TypeError):
        raise ManifestError(
            f"{where} has no alternate address {source.alternate!r}; check the source."
        ) from None


def _stated_size_and_checksum(asset: dict, where: str) -> dict:
    """Return an asset's file:size and file:checksum; ManifestError if one is not valid."""
    size, checksum = asset.get("file:size"), asset.get("file:checksum")
    if size is not None and (type(size) is not int or not 0 <= size < 2**63):
        raise ManifestError(f"{where}: file:size is {size!r}; allowed: bytes.")
    if checksum is not None and not isinstance(checksum, str):
        raise ManifestError(
            f"{where}: file:checksum is {checksum!r}; allowed: a multihash as text, such as 1220"
            " and the 64 digits of a sha256."
        )
    return {"size": size, "checksum": checksum}


def _local_band(band: dict, folder: Path) -> dict:
    """Return a band that is a file in `folder` or below, with its path, size and SHA-256."""
    path = local_path(band["href"], folder)
    # Relative where possible, so that a working directory can be moved.
    href = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    size = path.stat().st_size if band["size"] is None else band["size"]
    return {**band, "href": href, "size": size, "digest": _digest(path)}


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, which, unlike its time, stays the same in a copy."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BandError(f"{path} cannot be read: {error.strerror}.") from None


def _grid_of(href: str) -> tuple[int | None, float | None]:
    """Return EPSG code and pixel size in metres of a band that is a local file, else None.

    They take precedence over the item's, because bands are read by them.
    """
    if is_remote(href):
        return None, None
    try:
        with open_geotiff(Path(href)) as dataset:
            code = dataset.GetSpatialRef().GetAuthorityCode(None)
            return int(code), abs(dataset.GetGeoTransform()[1])
    except (RuntimeError, AttributeError, TypeError, ValueError):
        return None, None  # the job that fetches the file will name the problem


def _epsg(item: dict, asset: dict) -> int:
    """Return the EPSG code that the asset or its item states; ManifestError if there is none."""
    properties = item["properties"]
    for place in (asset, properties):
        code = place.get("proj:code") or place.get("proj:epsg")
        match = re.fullmatch(r"(?:EPSG:)?([0-9]{4,6})", str(code))
        if match:
            try:
                osr.SpatialReference().ImportFromEPSG(int(match[1]))
            except RuntimeError:
                raise ManifestError(
                    f"item {item['id']!r} has the CRS {code!r}, which PROJ does not know; fix the"
                    " item, or update PROJ."
                ) from None
            return int(match[1])
    raise ManifestError(
        f"item {item['id']!r} has no CRS: neither proj:code (such as EPSG:32633) nor proj:epsg."
    )


def _pixel_size(item: dict, asset: dict) -> float | None:
    """Return the pixel size in metres that the asset or its item states, or None."""
    transform = asset.get("proj:transform") or item["properties"].get("proj:transform")
    size = asset.get("gsd") or item["properties"].get("gsd")
    if isinstance(transform, list) and transform:
        size = transform[0]
    # Zooms are computed with it, so it must be a finite number.
    return size if type(size) in (int, float) and 0 < size < 1e6 else None
