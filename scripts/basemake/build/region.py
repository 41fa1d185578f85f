"""Regions: named polygons in longitude and latitude (WGS84), from GeoJSON or bounding boxes."""

import difflib
import json
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import antimeridian
import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from basemake.errors import RegionError

# ASSUME: if repairing a self-intersection changes the area by at most this share, it is a slip in
# drawing; otherwise only the author knows which part was meant.
REPAIRABLE = 1e-3
# ASSUME: who draws an edge across the antimeridian without splitting it draws one of at most so
# many degrees.
LONGEST_ACROSS = 60.0


def read_regions(regions: dict[str, str | list[float]]) -> dict[str, Polygon | MultiPolygon]:
    """Return the regions of config, by name; raises what `read_region` and `box` raise."""
    return {
        name: read_region(name, what) if isinstance(what, str) else box(name, what)
        for name, what in regions.items()
    }


def box(name: str, bounds: list[float]) -> Polygon | MultiPolygon:
    """Return the region of a bounding box [west, south, east, north] in degrees (WGS84).

    One whose west is greater than its east goes across the antimeridian (RFC 7946, 5.2) and is
    split there. Raises RegionError if it has no area or is not on the globe, or would reach around
    the globe but for less than LONGEST_ACROSS, as one does whose west and east are swapped.
    """
    west, south, east, north = bounds
    if not (max(abs(west), abs(east)) <= 180 and -90 <= south < north <= 90 and west != east):
        raise RegionError(
            f"region {name!r} is {bounds}; allowed is [west, south, east, north] with longitudes"
            " from -180 to 180 and latitudes from -90 to 90, south less than north."
        )
    if west < east:
        return shapely.box(west, south, east, north)
    if west - east < LONGEST_ACROSS:
        raise RegionError(
            f"region {name!r} is {bounds}, which leads from west to east across 180 degrees, almost"
            f" around the globe; are west and east swapped? Allowed is at most"
            f" {360 - LONGEST_ACROSS:g} degrees across it."
        )
    sides = [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    return unary_union([side for side in sides if side.area])


def read_region(name: str, place: str | Path) -> Polygon | MultiPolygon:
    """Return the union of all polygons in a GeoJSON file, valid, in degrees (WGS84).

    `place` is its path or, to take only the features with a property of some value, the path,
    `#` and property=value. A polygon across the antimeridian is split at 180 degrees (RFC 7946,
    3.1.9): west of it longitudes run up to 180, east of it from -180. Raises RegionError, one
    sentence, if the file is missing, is not GeoJSON, or contains no such polygon or one that cannot
    be mapped.
    """
    where, (path, feature) = f"region {name!r} ({place})", path_and_feature(place)
    if feature and len(feature) == 1:
        raise RegionError(
            f"{where} has {feature[0]!r} behind the #; allowed is property=value, such as"
            " name=Ticino."
        )
    try:
        document = _load(path, where)
        if feature:
            document = _chosen(document, feature[0], feature[1], where)
        polygons = [_valid(polygon, where) for polygon in _polygons(document, where)]
    except RecursionError:
        raise RegionError(
            f"{where} is nested too deep to be read; export the polygon as GeoJSON."
        ) from None
    if not polygons:
        raise RegionError(f"{where} has no Polygon or MultiPolygon in it; give it at least one.")
    region = shapely.force_2d(unary_union(polygons))
    if region.is_empty or region.area == 0:
        raise RegionError(f"{where} is empty: its polygons have no area; draw it anew.")
    return region


def uncovered(region: BaseGeometry, footprints: Iterable[BaseGeometry]) -> float:
    """Return the share (0 to 1) of a region's area on the sphere that no footprint covers."""

    def area(geometry: BaseGeometry) -> float:
        # Lambert's cylindrical equal-area projection: y is the sine of the latitude.
        return shapely.transform(
            shapely.segmentize(geometry, 0.1),
            lambda c: np.column_stack([c[:, 0], np.degrees(np.sin(np.radians(c[:, 1])))]),
        ).area

    return float(area(region.difference(unary_union([*footprints]))) / area(region))


def path_and_feature(place: str | Path) -> tuple[Path, list[str]]:
    """Return the path of `place`, and property and value behind a #; a list without if none is.

    A # that is part of an existing file's name stays in it, and one in a value in that.
    """
    text = str(place)
    signs = [index for index, sign in enumerate(text) if sign == "#"]
    if not signs or Path(text).expanduser().exists():
        return Path(place), []
    cut = next((index for index in signs if Path(text[:index]).expanduser().is_file()), signs[-1])
    return Path(text[:cut]), text[cut + 1 :].split("=", 1)


def _chosen(document: Any, key: str, value: str, where: str) -> dict:
    """Return a collection of a document's features whose property `key` is `value`, as text."""
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list):
        raise RegionError(f"{where} is not a FeatureCollection, of which a feature can be chosen.")
    every = [
        feature["properties"]
        for feature in features
        if isinstance(feature, dict) and isinstance(feature.get("properties"), dict)
    ]
    values = {str(properties[key]) for properties in every if key in properties}
    if value not in values:
        names = sorted(values or {name for properties in every for name in properties})
        near = difflib.get_close_matches(value if values else key, names, 5, 0.5) or names[:5]
        what = f"whose {key!r} is {value!r}" if values else f"with a property {key!r}"
        raise RegionError(
            f"{where} has no feature {what}; it has others, such as {', '.join(near)}."
        )
    kept = [
        feature
        for feature in features
        if isinstance(feature, dict) and str((feature.get("properties") or {}).get(key)) == value
    ]
    return {"type": "FeatureCollection", "features": kept}


def _load(path: Path, where: str) -> Any:
    try:
        return json.loads(path.expanduser().read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RegionError(f"{where}: there is no such file; check the path.") from None
    except OSError as error:
        raise RegionError(f"{where} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise RegionError(
            f"{where} is not JSON ({error}); export the polygon as GeoJSON."
        ) from None


def _polygons(document: Any, where: str) -> Iterator[Polygon]:
    """Yield each polygon of a GeoJSON object, including those in nested collections."""
    kind = document.get("type") if isinstance(document, dict) else None
    try:
        if kind == "FeatureCollection":
            for feature in document["features"]:
                yield from _polygons(feature, where)
        elif kind == "Feature":
            if document["geometry"] is not None:
                yield from _polygons(document["geometry"], where)
        elif kind == "GeometryCollection":
            for geometry in document["geometries"]:
                yield from _polygons(geometry, where)
        elif kind in ("Polygon", "MultiPolygon"):
            geometry = shape(document)
            yield from geometry.geoms if kind == "MultiPolygon" else [geometry]
        elif kind not in ("Point", "MultiPoint", "LineString", "MultiLineString"):
            raise RegionError(
                f"{where} is not GeoJSON: its type is {kind!r}; allowed: Polygon, MultiPolygon,"
                " Feature, FeatureCollection."
            )
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        OverflowError,
        shapely.errors.ShapelyError,
    ):
        raise RegionError(
            f"{where} is not valid GeoJSON: its {kind} cannot be read; export it anew."
        ) from None


def _valid(polygon: Polygon, where: str) -> Polygon | MultiPolygon:
    """Return the polygon split at the antimeridian and without self-intersections."""
    if polygon.is_empty:
        raise RegionError(f"{where} is empty: a polygon in it has no coordinates; draw it anew.")
    for lon, lat in shapely.get_coordinates(polygon):
        if not (math.isfinite(lon) and math.isfinite(lat) and abs(lon) <= 180 and abs(lat) <= 90):
            raise RegionError(
                f"{where} has the coordinate ({lon:g}, {lat:g}); allowed are longitudes from -180"
                " to 180 and latitudes from -90 to 90; projected or swapped coordinates are the"
                " usual cause: export it in WGS84 (EPSG:4326), longitude first (and a polygon"
                " across 180 degrees goes on at -180)."
            )
    split = _split(polygon, where) if _crosses_antimeridian(polygon, where) else polygon
    outline = sum(_signed_area(part) for part in getattr(split, "geoms", [split]))
    repaired = shapely.make_valid(split)
    repaired = unary_union([part for part in _parts(repaired) if part.geom_type == "Polygon"])
    if abs(repaired.area - outline) > REPAIRABLE * max(repaired.area, outline):
        raise RegionError(
            f"{where} intersects itself, and repairing that would change its area from"
            f" {outline:.6g} to {repaired.area:.6g} square degrees; redraw the outline so that no"
            " two of its edges cross."
        )
    return repaired


def _crosses_antimeridian(polygon: Polygon, where: str) -> bool:
    """Return whether an edge spans more than 180 degrees of longitude, so that it crosses 180.

    An edge of exactly 360 degrees is the upper or lower edge of a polygon around the world. Raises
    RegionError for an edge that would still be longer than LONGEST_ACROSS, as it may be meant to go
    the other way, unless the polygon lies around a pole: then it crosses once, or three times.
    """
    longitudes = shapely.get_coordinates(polygon.exterior)[:, 0]
    jumps = abs(np.diff(longitudes))
    across = (jumps > 180) & (jumps < 360)
    doubtful = across & (jumps < 360 - LONGEST_ACROSS)
    if doubtful.any() and across.sum() % 2 == 0:
        first = int(doubtful.argmax())
        west, east = sorted(longitudes[first : first + 2])
        raise RegionError(
            f"{where} has an edge from longitude {west:g} to {east:g}, which can be meant in two"
            " ways: to go across 0 degrees, put points between, so that no edge spans more than 180"
            " degrees; to go across 180 degrees, draw a MultiPolygon with one part on each side of"
            " it."
        )
    return bool(across.any())


def _split(polygon: Polygon, where: str) -> Polygon | MultiPolygon:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", antimeridian.FixWindingWarning)
            return antimeridian.fix_polygon(polygon, great_circle=False)
    except ValueError as error:
        raise RegionError(
            f"{where} crosses the antimeridian and cannot be split there ({error}); draw it as a"
            " MultiPolygon with one part on each side of 180 degrees."
        ) from None


def _signed_area(polygon: Polygon) -> float:
    """Return the area in square degrees by the shoelace formula, less that of interior rings.

    Loops of a self-intersecting ring that wind in opposite directions cancel each other.
    """

    def ring_area(ring: BaseGeometry) -> float:
        x, y = shapely.get_coordinates(ring).T
        return abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) / 2

    return ring_area(polygon.exterior) - sum(ring_area(ring) for ring in polygon.interiors)


def _parts(geometry: BaseGeometry) -> Iterator[BaseGeometry]:
    """Yield the single geometries of a collection, including those of nested ones."""
    for part in getattr(geometry, "geoms", [geometry]):
        if hasattr(part, "geoms"):
            yield from _parts(part)
        else:
            yield part
