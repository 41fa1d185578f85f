"""Land, coasts and boundaries of the world, for orientation: Natural Earth at 1:110 million.

They are those in the Python package `bqplot`, as TopoJSON: shapes are made of lines, its *arcs*.
Natural Earth is in the public domain.
"""

import json
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import antimeridian
import shapely
from shapely.geometry import mapping

from basemake.readers.pages import bundled

DECIMALS = 2  # of degrees: the data have a fiftieth of a degree
POLAR = -84.0  # degrees: where Antarctica is closed along the edge of the map

Point = tuple[float, float]


def world() -> dict[str, dict[str, Any]]:
    """Return `land`, `coast` and `borders` as GeoJSON geometries in degrees.

    A border is an arc that two countries share. A coast is an edge of land, but for those along the
    antimeridian and towards the south pole, at which land is only cut.
    """
    topology = json.loads(bundled("bqplot", "bqplot/map_data/WorldMap.json"))
    arcs = [_points(arc, topology["transform"]) for arc in topology["arcs"]]
    land = [
        [_ring(arcs, ring) for ring in polygon] for polygon in topology["objects"]["land"]["arcs"]
    ]
    used: dict[int, int] = {}
    for country in topology["objects"]["subunits"]["geometries"]:
        for arc in _numbers(country["arcs"]):
            used[arc] = used.get(arc, 0) + 1
    coast = [line for polygon in land for ring in polygon for line in _uncut(ring)]
    borders = [arcs[arc] for arc, count in used.items() if count > 1]
    return {
        "land": mapping(shapely.MultiPolygon([_polygon(rings) for rings in land])),
        "coast": {"type": "MultiLineString", "coordinates": coast},
        "borders": {"type": "MultiLineString", "coordinates": borders},
    }


def _polygon(rings: list[list[Point]]) -> shapely.Polygon:
    """Return a polygon of rings: of Antarctica, which goes round the earth, down to the pole."""
    polygon = shapely.Polygon(rings[0], rings[1:])
    if polygon.is_valid:
        return polygon
    return antimeridian.fix_polygon(shapely.orient_polygons(polygon))


def _points(arc: list[list[int]], transform: dict[str, list[float]]) -> list[Point]:
    """Return an arc's points in degrees; in TopoJSON they are steps in whole numbers."""
    columns = [accumulate(steps) for steps in zip(*arc, strict=True)]
    scale, first = transform["scale"], transform["translate"]
    degrees = [
        [round(value * factor + start, DECIMALS) for value in column]
        for column, factor, start in zip(columns, scale, first, strict=True)
    ]
    return list(zip(*degrees, strict=True))


def _ring(arcs: list[list[Point]], numbers: list[int]) -> list[Point]:
    """Return arcs joined end to end; ~n is arc n reversed."""
    ring: list[Point] = []
    for number in numbers:
        line = arcs[number] if number >= 0 else arcs[~number][::-1]
        ring += line[bool(ring) :]
    return ring


def _numbers(arcs: Any) -> Iterator[int]:
    """Yield the numbers of the arcs of a shape, at whatever depth."""
    if isinstance(arcs, int):
        yield arcs if arcs >= 0 else ~arcs
    else:
        for inner in arcs:
            yield from _numbers(inner)


def _uncut(ring: list[Point]) -> Iterator[list[Point]]:
    """Yield the parts of a ring without the edges at which land is only cut."""
    line = ring[:1]
    for before, after in pairwise(ring):
        along = min(abs(before[0]), abs(after[0])) > 179.9
        if along or max(before[1], after[1]) < POLAR:
            if len(line) > 1:
                yield line
            line = [after]
        else:
            line.append(after)
    if len(line) > 1:
        yield line
