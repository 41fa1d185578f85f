"""The layout of a build: the tiles in the manifest, and the zooms and metatiles of each region."""

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from basemake.build.bands import Need, need_of
from basemake.build.manifest import Tile, describe_request, read_manifest
from basemake.build.quarter import Quarter
from basemake.build.source import Source
from basemake.errors import ConfigError
from basemake.pixels.webtiles import (
    HALF_WORLD,
    RADIUS,
    WebTile,
    geometry_to_mercator,
    metatile_name,
    most_overlapping,
    nearest_zoom,
    overlapping,
    resolution,
)

MAX_ZOOM = 20  # the largest that config allows
MOST_METATILES = 4**9  # of a region: those of the whole world at zoom 9, `auto` for 10 m pixels
METATILE_PIXELS = 8192  # most pixels along a side; about a Sentinel-2 tile's extent at zoom 13
# ASSUME: footprints in items are right to 1 km on the ground; their straight edges in longitude and
# latitude leave out at most 240 m x tan(latitude) of a 110 km tile. An extra tile costs little.
FOOTPRINT_ERROR = 1000.0
WORLD = shapely.box(-HALF_WORLD, -HALF_WORLD, HALF_WORLD, HALF_WORLD)


class Zooms(NamedTuple):
    """The least and greatest zoom of a pyramid, and the zoom of its metatiles."""

    min: int
    max: int
    metatile: int


@dataclass(frozen=True)
class Metatile:
    """A metatile of a region.

    `tiles` are the names of the tiles that may show in it; `outline` is the part of it to show, in
    Mercator metres, or None where that is all of it. `coverage` is the area, in and around it, in
    which imagery shows and along whose edge it fades; None where that edge is too far away.
    """

    webtile: WebTile
    tiles: list[str]
    outline: BaseGeometry | None
    coverage: BaseGeometry | None = None

    @property
    def shown(self) -> BaseGeometry:
        """The part of it to show, in Mercator metres."""
        return shapely.box(*self.webtile.bounds) if self.outline is None else self.outline


class Layout:
    """The tiles of a build, and by region its zooms and metatiles.

    `tiles` are those of `read_manifest`, `metatiles` those of `plan_metatiles`. `regions` are
    polygons in degrees, normalized, so that where a ring begins and its direction do not count.
    """

    def __init__(
        self,
        tiles: dict[str, Tile],
        regions: dict[str, BaseGeometry],
        pyramid: dict,
        *,
        whole: bool = False,
        nodata: float | None = None,
    ) -> None:
        """Lay out `tiles` for `regions` (degrees) by config's checked `pyramid`.

        With `whole` bands are fetched whole. `nodata` is the digital number of missing pixels; if
        it is None there can be none, and all blocks of bands are needed.
        Raises ConfigError as `plan_zooms` and `plan_metatiles` do.
        """
        self.tiles = tiles
        self.zooms: dict[str, Zooms] = {}
        self.metatiles: dict[str, dict[str, Metatile]] = {}
        self.regions = {name: shapely.normalize(region) for name, region in regions.items()}
        self._clip, self._tile_size = pyramid["clip"], pyramid["tile_size"]
        self._whole, self._nodata = whole, nodata
        for name, region in self.regions.items():
            own = self.tiles_of(name)
            zooms = self.zooms[name] = plan_zooms(pyramid, region, own)
            self.metatiles[name] = plan_metatiles(
                region,
                own,
                zooms,
                self._clip,
                fade_km=None if pyramid["background"] == "none" else pyramid["fade_km"],
            )

    def tiles_of(self, region: str, epsg: int | None = None) -> list[Tile]:
        """Return a region's tiles, or only those in one UTM zone."""
        own = [tile for tile in self.tiles.values() if region in tile.regions]
        return own if epsg is None else [tile for tile in own if tile.epsg == epsg]

    def zones(self, region: str) -> list[int]:
        """Return the EPSG codes of a region's tiles, in the order of the tiles."""
        return list(dict.fromkeys(tile.epsg for tile in self.tiles_of(region)))

    def extent(self, region: str) -> BaseGeometry:
        """Return the area that a region's map shows, in degrees.

        That is its polygon if config's `clip` is true, else the union of its tiles' footprints.
        """
        if self._clip:
            return self.regions[region]
        return shapely.normalize(unary_union([tile.geometry for tile in self.tiles_of(region)]))

    def bounds(self, region: str) -> list[float]:
        """Return west, south, east and north of what a region's tiles may show, Mercator metres."""
        tiles = self.tiles_of(region)
        around, _ = mercator_grid(tiles, self.zooms[region].max, self._tile_size)
        shown = geometry_to_mercator(self.extent(region)).bounds if self._clip else around
        pairs = list(zip(around, shown, strict=True))
        return [*map(max, pairs[:2]), *map(min, pairs[2:])]

    def need(self, tile: str) -> Need | None:
        """Return what the maps need of a tile's bands; None if these are to be fetched whole."""
        if self._whole:
            return None
        maps = [
            (
                self.regions[region] if self._clip and self._nodata is not None else None,
                resolution(self.zooms[region].max, self._tile_size),
            )
            for region in self.tiles[tile].regions
        ]
        return need_of(self.tiles[tile], maps, FOOTPRINT_ERROR, self._nodata)


def read_layout(
    manifest: Path, config: dict, source: Source, regions: dict[str, BaseGeometry]
) -> Layout:
    """Return the layout of the tiles in `manifest`, for checked `config` and `source`.

    `regions` are in degrees. Raises ManifestError if the manifest is missing or is not for this
    request, and ConfigError as `plan_zooms` and `plan_metatiles` do.
    """
    quarter = Quarter.parse(config["quarter"])
    request = describe_request(source, quarter, regions, config["fill"])
    return Layout(
        read_manifest(manifest, request),
        regions,
        config["pyramid"],
        whole=config["fetch"] == "whole",
        nodata=source.dn["nodata"],
    )


def plan_zooms(options: dict, region: BaseGeometry, tiles: Collection[Tile]) -> Zooms:
    """Return the zooms of the pyramid of `region` (degrees), with `auto` resolved.

    `options` is config's `pyramid`; `tiles` are those of the region. Raises
    ConfigError if the zooms contradict each other, a metatile would have more than METATILE_PIXELS
    a side, or max_zoom is `auto` and an item does not give its pixel size.
    """
    size = options["tile_size"]
    top = options["max_zoom"]
    if top == "auto":
        pixels = [tile.gsd for tile in tiles if tile.gsd is not None]
        if len(pixels) < len(tiles):
            raise ConfigError(
                "pyramid.max_zoom is auto, but the items do not say how large pixels are;"
                " give a zoom, such as 13 for pixels of 10 m."
            )
        latitude = region.representative_point().y
        top = min(nearest_zoom(min(pixels), latitude, size), MAX_ZOOM)
    metatile = options["metatile_zoom"]
    if metatile == "auto":
        metatile = max(0, top - (METATILE_PIXELS // size).bit_length() + 1)
    if not options["min_zoom"] <= top:
        raise ConfigError(
            f"pyramid.min_zoom is {options['min_zoom']}; allowed: at most max_zoom, here {top}."
        )
    if not metatile <= top:
        raise ConfigError(
            f"pyramid.metatile_zoom is {metatile}; allowed: at most max_zoom, here {top}."
        )
    side = size << (top - metatile)
    if side > METATILE_PIXELS:
        raise ConfigError(
            f"pyramid.metatile_zoom is {metatile}, which makes metatiles of {side} pixels a side;"
            f" allowed: at most {METATILE_PIXELS}, so at least zoom"
            f" {top - (METATILE_PIXELS // size).bit_length() + 1}."
        )
    return Zooms(options["min_zoom"], top, metatile)


def plan_metatiles(
    region: BaseGeometry,
    tiles: Collection[Tile],
    zooms: Zooms,
    clip: bool,
    *,
    fade_km: float | None = None,
) -> dict[str, Metatile]:
    """Return the metatiles by name (such as 9_277_180), in order of x and y.

    `region` is in degrees; `clip` cuts the map at it. Tiles in a metatile keep the order of
    `tiles`. With `fade_km` the map has a background, into which imagery fades over this distance:
    then there are also metatiles without tiles, and without `clip` the map is cut at the edge of
    what tiles cover. Raises ConfigError if there would be more than MOST_METATILES.
    """
    names = [tile.name for tile in tiles]
    footprints = np.array([geometry_to_mercator(tile.geometry) for tile in tiles])
    reach = _reach(tiles)
    tree = shapely.STRtree(footprints)
    shown = geometry_to_mercator(region) if clip else unary_union(footprints)
    if fade_km is not None:
        coverage = _without_gaps(footprints, reach.max())
        shown = shown if clip else coverage.intersection(WORLD)
        fading = _on_both_sides(shown).intersection(coverage)
        shapely.prepare(fading)
    most = most_overlapping(shown, zooms.metatile)
    if most > MOST_METATILES:
        fits = max(z for z in range(zooms.metatile) if most_overlapping(shown, z) <= MOST_METATILES)
        raise ConfigError(
            f"pyramid.metatile_zoom is {zooms.metatile}, which makes up to {most:,} metatiles, a"
            f" job each; allowed: at most {MOST_METATILES:,}, so at most zoom {fits} for this"
            " region; lower it, or max_zoom where it is auto."
        )
    shapely.prepare(shown)

    webtiles = overlapping(shown, zooms.metatile)
    parts = shapely.box(*np.array([webtile.bounds for webtile in webtiles]).T)
    cut = clip or fade_km is not None
    inside = shapely.covers(shown, parts) if cut else np.full(len(parts), True)
    for i in np.flatnonzero(~inside):
        parts[i] = _polygons(shown.intersection(parts[i]))
    pairs = tree.query(parts, predicate="dwithin", distance=float(reach.max()))
    part, near = pairs[:, np.lexsort(pairs[::-1])]  # by part, then by tile
    close = shapely.dwithin(footprints[near], parts[part], reach[near])
    tiles_in: dict[int, list[str]] = defaultdict(list)
    for i, j in zip(part[close].tolist(), near[close].tolist(), strict=True):
        tiles_in[i].append(names[j])
    leaf = 2 * HALF_WORLD / 2**zooms.max
    metatiles = {}
    for number, webtile in enumerate(webtiles):
        if fade_km is None and number not in tiles_in:
            continue
        own, coverage = tiles_in[number], None
        if fade_km and own:
            coverage = _fading(fading, webtile, 1000 * fade_km, leaf)
        if coverage is not None and coverage.is_empty:  # of what may show nothing would be left
            own, coverage = [], None
        outline = None if inside[number] else parts[number]
        metatiles[metatile_name(webtile)] = Metatile(webtile, own, outline, coverage)
    return metatiles


def _without_gaps(footprints: NDArray, reach: float) -> BaseGeometry:
    """Return the union of footprints (Mercator metres), without gaps narrower than 2 `reach`.

    Neighbours' footprints may leave such gaps, as they are right to `reach` only.
    """
    union = _on_both_sides(unary_union(footprints))
    return union.buffer(reach, join_style="mitre").buffer(-reach, join_style="mitre")


def _on_both_sides(geometry: BaseGeometry) -> BaseGeometry:
    """Return a geometry (Mercator metres) that goes on beyond the antimeridian if it touches it.

    The antimeridian is then no edge of it.
    """
    west, _, east, _ = geometry.bounds
    if max(-west, east) < HALF_WORLD:
        return geometry
    turns = [translate(geometry, turn) for turn in (-2 * HALF_WORLD, 2 * HALF_WORLD)]
    return unary_union([geometry, *turns])


def _fading(
    area: BaseGeometry, webtile: WebTile, metres: float, leaf: float
) -> BaseGeometry | None:
    """Return the part of `area` (Mercator) whose edge fades over `metres` in a web tile, or None.

    It is cut so far outside of the web tile that the edges of the cut do not count: the grids of
    pixels/background.py reach an eighth of the fade, or 4 of 256 pixels, beyond the web tiles of
    the top zoom, whose width is `leaf`.
    """
    west, south, east, north = webtile.bounds
    wide = metres * math.cosh(max(abs(south), abs(north)) / RADIUS)
    margin = wide + max(wide / 8, leaf / 64)
    box = shapely.box(west - margin, south - margin, east + margin, north + margin)
    return None if shapely.covers(area, box) else _polygons(area.intersection(box))


def outline_text(outline: BaseGeometry | None) -> str | None:
    """Return polygons in Mercator metres as WKT with two decimals; None for None.

    Points in the middle of straight edges are left out: a shape has one text, however it was cut.
    """
    if outline is None:
        return None
    corners = shapely.simplify(shapely.normalize(outline), 0)
    return shapely.to_wkt(corners, rounding_precision=2)


def _reach(tiles: Collection[Tile]) -> NDArray:
    """Return how far each tile may reach beyond its footprint: (tiles,), Mercator metres."""
    lat = np.radians([tile.geometry.centroid.y for tile in tiles])
    return FOOTPRINT_ERROR * (1 + 0.25 * np.abs(np.tan(lat))) / np.cos(lat)


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """Return the union of an intersection's polygons; points and lines where edges touch go."""
    parts = [part for part in getattr(geometry, "geoms", [geometry]) if part.area > 0]
    return unary_union(parts)


def mercator_grid(tiles: Collection[Tile], zoom: int, tile_size: int) -> tuple[list[float], float]:
    """Return ([west, south, east, north], pixel size) in Mercator metres of a grid over `tiles`.

    The grid is that of the pixels of web tiles at `zoom`, so that a mosaic in it has the pixels of
    the web map. `tile_size` is in pixels.
    """
    pixel = resolution(zoom, tile_size)
    bounds = shapely.bounds([geometry_to_mercator(tile.geometry) for tile in tiles])
    reach = _reach(tiles)[:, np.newaxis]
    low = np.floor(((bounds[:, :2] - reach).min(axis=0) + HALF_WORLD) / pixel)
    high = np.ceil(((bounds[:, 2:] + reach).max(axis=0) + HALF_WORLD) / pixel)
    bounds = np.concatenate([low, high]).clip(0, tile_size << zoom) * pixel - HALF_WORLD
    return [float(value) for value in bounds], pixel
