"""Regions: named polygons in longitude and latitude (WGS84), read from GeoJSON."""

import json
import math
import warnings
from collections.abc import Iterator
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


def read_regions(paths: dict[str, str]) -> dict[str, Polygon | MultiPolygon]:
    """Return the regions at `paths`, both by name; raises what `read_region` raises."""
    return {name: read_region(name, Path(path)) for name, path in paths.items()}


def read_region(name: str, path: Path) -> Polygon | MultiPolygon:
    """Return the union of all polygons in a GeoJSON file, valid, in degrees (WGS84).

    A polygon across the antimeridian is split at 180 degrees (RFC 7946, 3.1.9): west of it
    longitudes run up to 180, east of it from -180. Raises RegionError, one sentence, if the file is
    missing, is not GeoJSON, or contains no polygon or one that cannot be mapped.
    """
    where = f"region {name!r} ({path})"
    try:
        polygons = [_valid(polygon, where) for polygon in _polygons(_load(path, where), where)]
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
    split = _split(polygon, where) if _crosses_antimeridian(polygon) else polygon
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


def _crosses_antimeridian(polygon: Polygon) -> bool:
    """Return whether an edge spans more than 180 degrees of longitude, so that it crosses 180.

    An edge of exactly 360 degrees is the upper or lower edge of a polygon around the world.
    """
    jumps = abs(np.diff(shapely.get_coordinates(polygon.exterior)[:, 0]))
    return bool(((jumps > 180) & (jumps < 360)).any())


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
