"""The layout of a build: the manifest's tiles, and each pyramid's zooms and metatiles."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from basemake.build.manifest import describe_request, read_manifest
from basemake.build.quarter import Quarter
from basemake.build.source import Source
from basemake.errors import ConfigError
from basemake.pixels.webtiles import (
    HALF_WORLD,
    geometry_to_mercator,
    metatile_name,
    most_overlapping,
    nearest_zoom,
    overlapping,
    resolution,
)

MAX_ZOOM = 20  # as config allows
MOST_METATILES = 4**9  # of a region: the whole world's at the zoom of `auto` for pixels of 10 m
METATILE_PIXELS = 8192  # a side: about as much as a tile of 10 m shows at zoom 13
# ASSUME: footprints in items are right to 1 km on the ground; their straight edges in longitude and
# latitude leave out at most 240 m x tan(latitude) of a 110 km tile. A tile too many costs nothing.
FOOTPRINT_ERROR = 1000.0


class Zooms(NamedTuple):
    """The zooms of one pyramid."""

    min: int
    max: int
    metatile: int


class Layout:
    """What a build consists of: `tiles`, and for each region its `zooms` and `metatiles`.

    `tiles` are the rows of read_manifest. `regions` are the given ones in degrees, normalized: the
    same wherever their rings begin and whichever way they run.
    """

    def __init__(
        self, tiles: pd.DataFrame, regions: dict[str, BaseGeometry], pyramid: dict
    ) -> None:
        """Lay out `tiles` for checked options `pyramid`, the config's.

        Raises ConfigError if zooms contradict each other.
        """
        self.tiles = tiles
        self.zooms: dict[str, Zooms] = {}
        self.metatiles: dict[str, pd.DataFrame] = {}
        self.regions = {name: shapely.normalize(region) for name, region in regions.items()}
        self._clip = pyramid["clip"]
        for name, region in self.regions.items():
            rows = self.tiles_of(name)
            zooms = self.zooms[name] = plan_zooms(pyramid, region, rows)
            self.metatiles[name] = plan_metatiles(region, rows, zooms, self._clip)

    def tiles_of(self, region: str, epsg: int | None = None) -> pd.DataFrame:
        """Return the manifest's rows of a region, or of one UTM zone of it, in their order."""
        rows = self.tiles[[region in regions for regions in self.tiles["regions"]]]
        return rows if epsg is None else rows[rows["epsg"] == epsg]

    def zones(self, region: str) -> list[int]:
        """Return the EPSG codes of a region's tiles, in the order of the tiles."""
        return list(self.tiles_of(region)["epsg"].unique())

    def extent(self, region: str) -> BaseGeometry:
        """Return what the map of a region shows, in degrees: its polygon, or its tiles whole."""
        if self._clip:
            return self.regions[region]
        return shapely.normalize(unary_union(list(self.tiles_of(region)["geometry"])))


def read_layout(
    manifest: Path, config: dict, source: Source, regions: dict[str, BaseGeometry]
) -> Layout:
    """Return the layout of the tiles in `manifest`, for checked `config` and `source`.

    Raises ManifestError if it does not answer them, ConfigError if zooms contradict each other.
    """
    request = describe_request(source, Quarter.parse(config["quarter"]), regions)
    return Layout(read_manifest(manifest, request), regions, config["pyramid"])


def plan_zooms(options: dict, region: BaseGeometry, tiles: pd.DataFrame) -> Zooms:
    """Return the zooms of the pyramid of `region` (degrees), `auto` resolved.

    `options` is config's `pyramid`; `tiles` are the manifest's rows of the region. Raises
    ConfigError if the zooms contradict each other, or the pixel size is not known.
    """
    size = options["tile_size"]
    top = options["max_zoom"]
    if top == "auto":
        if tiles["gsd"].isna().any():
            raise ConfigError(
                "pyramid.max_zoom is auto, but the items do not say how large pixels are;"
                " give a zoom, such as 13 for pixels of 10 m."
            )
        latitude = region.representative_point().y
        top = min(nearest_zoom(float(tiles["gsd"].min()), latitude, size), MAX_ZOOM)
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
    pixels = size << (top - metatile)
    if pixels > METATILE_PIXELS:
        raise ConfigError(
            f"pyramid.metatile_zoom is {metatile}, which makes metatiles of {pixels} pixels a side;"
            f" allowed: at most {METATILE_PIXELS}, so at least zoom"
            f" {top - (METATILE_PIXELS // size).bit_length() + 1}."
        )
    return Zooms(options["min_zoom"], top, metatile)


def plan_metatiles(
    region: BaseGeometry, tiles: pd.DataFrame, zooms: Zooms, clip: bool
) -> pd.DataFrame:
    """Return a table of metatiles, indexed by name (such as 9_277_180), in order of x and y.

    Columns: metatile (WebTile), tiles (list of those that may show in it, in the order of the rows
    of `tiles`) and outline (the region's part of it in Mercator metres, or None where the whole
    metatile is shown). Raises ConfigError if there would be more than MOST_METATILES.
    """
    footprints = np.array([geometry_to_mercator(g) for g in tiles["geometry"]])
    reach = _reach(tiles)
    tree = shapely.STRtree(footprints)
    shown = geometry_to_mercator(region) if clip else unary_union(footprints)
    most = most_overlapping(shown, zooms.metatile)
    if most > MOST_METATILES:
        fits = max(z for z in range(zooms.metatile) if most_overlapping(shown, z) <= MOST_METATILES)
        raise ConfigError(
            f"pyramid.metatile_zoom is {zooms.metatile}, which makes up to {most:,} metatiles, a"
            f" job each; allowed: at most {MOST_METATILES:,}, so at most zoom {fits} for this"
            " region; lower it, or max_zoom where it is auto."
        )
    shapely.prepare(shown)

    rows = []
    for metatile in overlapping(shown, zooms.metatile):
        box = shapely.box(*metatile.bounds)
        inside = not clip or shown.covers(box)
        part = box if inside else _polygons(shown.intersection(box))
        near = tree.query(part, predicate="dwithin", distance=float(reach.max()))
        near = [i for i in sorted(near) if shapely.dwithin(footprints[i], part, reach[i])]
        if near:
            rows.append(
                {
                    "metatile": metatile,
                    "tiles": [tiles.index[i] for i in near],
                    "outline": None if inside else part,
                }
            )
    # Objects: of a column of texts pandas would make None NaN.
    table = pd.DataFrame(rows, columns=["metatile", "tiles", "outline"], dtype=object)
    return table.set_index(
        pd.Index([metatile_name(tile) for tile in table["metatile"]], dtype=object)
    )


def outline_text(outline: BaseGeometry | None) -> str | None:
    """Return polygons in metres as WKT with two decimals, and None as it is.

    The text is the same for the same shape, wherever its edges were cut.
    """
    if outline is None:
        return None
    corners = shapely.simplify(shapely.normalize(outline), 0)
    return shapely.to_wkt(corners, rounding_precision=2)


def _reach(tiles: pd.DataFrame) -> NDArray:
    """Return how far beyond its footprint each tile may have pixels, in Mercator metres."""
    lat = np.radians([geometry.centroid.y for geometry in tiles["geometry"]])
    return FOOTPRINT_ERROR * (1 + 0.25 * np.abs(np.tan(lat))) / np.cos(lat)


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """Return the polygons of an intersection, without the lines and points where edges touch."""
    parts = [part for part in getattr(geometry, "geoms", [geometry]) if part.area > 0]
    return unary_union(parts)


def mercator_grid(tiles: pd.DataFrame, zoom: int, tile_size: int) -> tuple[list[float], float]:
    """Return ([west, south, east, north], pixel size) in Mercator metres that hold `tiles`.

    On the pixel grid of web tiles of `zoom`, so that a mosaic's pixels are the map's.
    """
    pixel = resolution(zoom, tile_size)
    bounds = shapely.bounds([geometry_to_mercator(geometry) for geometry in tiles["geometry"]])
    reach = _reach(tiles)[:, np.newaxis]
    low = np.floor(((bounds[:, :2] - reach).min(axis=0) + HALF_WORLD) / pixel)
    high = np.ceil(((bounds[:, 2:] + reach).max(axis=0) + HALF_WORLD) / pixel)
    bounds = np.concatenate([low, high]).clip(0, tile_size << zoom) * pixel - HALF_WORLD
    return [float(value) for value in bounds], pixel
