"""Bands: what a map needs of each, and what its file is made of.

A band comes with reduced images of itself. The map at its top zoom needs the coarsest one whose
pixels are no larger than its own, and of that only the blocks that the regions touch. Which blocks
these are can be told only once the header of the band's file was read; its record keeps it then.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from osgeo import osr
from shapely.geometry.base import BaseGeometry

from basemake.build.manifest import Tile
from basemake.build.paths import DRAFT, RESULTS
from basemake.build.records import read_record
from basemake.pixels.blocks import Image, image_of, runs_of
from basemake.pixels.crs import crs
from basemake.pixels.webtiles import HALF_WORLD

MARGIN = 5  # pixels beyond a region that resampling reads: the warper's three, and rounding
SAMPLES = 5  # points along a tile's side at which sizes of pixels are compared
METRES_PER_DEGREE = 110_000  # of latitude, at least
WHOLE = "whole"
HEADER_BYTES = 64 << 10  # that nearly always hold a header, and are fetched first
# Mercator metres from which on maps show the smallest image of bands like the mosaics' (zoom 8 and
# less), and the bytes that hold a header and that image, which follows it: one request instead of
# two, where requests take longer than their bytes.
COARSE, COARSE_BYTES = 400.0, 192 << 10
GAP_BYTES = 256 << 10  # between blocks, up to which they are fetched by one request

Runs = list[list[int]]  # of numbers of blocks, each [first, last]


@dataclass(frozen=True)
class Need:
    """What the maps need of a tile: pixels of at most `pixel` Mercator metres in `area`.

    `area` is in degrees, and may reach beyond the tile; None is all of the tile. `coarsest` is the
    largest pixel of a map that shows the tile, from which the margin around the area follows.
    `nodata` is what is written where nothing is needed, None for the nodata of the band's file.
    `around` is how many metres around a pixel are needed, too, as masks grow.
    """

    pixel: float
    area: BaseGeometry | None
    coarsest: float = 0.0
    nodata: float | None = None
    around: float = 0.0

    @property
    def first_bytes(self) -> int:
        """How many bytes are fetched first, for the header."""
        return COARSE_BYTES if self.pixel >= COARSE else HEADER_BYTES

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON, the area as WKT."""
        return {**vars(self), "area": None if self.area is None else self.area.wkt}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Need":
        """Return what `as_json` gave."""
        area = document["area"]
        return cls(**{**document, "area": None if area is None else shapely.from_wkt(area)})


@dataclass(frozen=True)
class Cut:
    """A part of a band's file: blocks of its image `level`, 0 for the full one."""

    level: int
    blocks: Runs


@dataclass(frozen=True)
class Known:
    """What is known of a band's object since it was fetched, as it is kept in the band's record.

    `identity` is that of the band then (see `Band.identity`). `size` is the object's bytes, and
    `validator` its ETag or date, if the service gave one. `images` are its full and its reduced
    ones, each [width, height, width and height of a block], and `image_bytes` the bytes of each;
    both are empty if the band was fetched whole. `transform` is GDAL's geotransform of the full
    one. `level` and `blocks` are the image and the blocks that the band's file holds, and `counts`
    the bytes of each block of that image in the object. Of a band of which nothing was fetched
    `size` is 0; of one for which no hole was left, `identity` is empty, too.
    """

    identity: dict[str, Any]
    size: int
    validator: str | None = None
    images: Sequence[Sequence[int]] = ()
    image_bytes: Sequence[int] = ()
    transform: Sequence[float] = ()
    level: int = 0
    blocks: Runs = field(default_factory=list)
    counts: Sequence[int] = ()

    @property
    def unasked(self) -> bool:
        """Whether no hole was left for its item, so that nothing of that item matters."""
        return not self.identity

    @property
    def all_images(self) -> tuple[Image, ...]:
        """Its images."""
        return tuple(image_of(sides) for sides in self.images)

    def cut(self, need: Need, epsg: int) -> Cut | None:
        """Return the part of the object that `need` takes; None for all of it."""
        if not self.images:
            return None
        return cut_of(need, self.all_images, tuple(self.transform), epsg)


def connections_of_a_tile(connections: int, tiles: int, bands: int) -> int:
    """Return how many of a run's `connections` fetch one tile's `bands`: more if tiles are few."""
    return max(1, min(bands, connections // tiles))


def band_path(tile: str, key: str) -> Path:
    """Return the path of a band's file, by its file key."""
    return RESULTS / "bands" / tile / f"{key}.tif"


def known_here(tile: str, key: str) -> Known | None:
    """Return what a band's record keeps of its object, or None if there is nothing readable."""
    record = read_record(band_path(tile, key))
    return known_of(record.known) if record else None


def known_in_draft(tile: str, key: str) -> Known | None:
    """Return what the draft's record keeps of a band's object; its file holds nothing here."""
    record = read_record(band_path(tile, key), DRAFT)
    known = known_of(record.known) if record else None
    return known and replace(known, blocks=[])


def known_of(fields: dict[str, Any]) -> Known | None:
    """Return what is known of a band's object by `fields`, or None if that is nothing readable."""
    try:
        known = Known(**fields)
        sane = isinstance(known.identity, dict) and all(map(math.isfinite, known.transform))
        sane = sane and all(image.width > 0 < image.block_width for image in known.all_images)
        sane = sane and len(known.transform) == (6 if known.images else 0)
        return known if sane else None
    except (TypeError, ValueError):
        return None


def settings_of(
    identity: dict[str, Any], need: Need | None, known: Known | None, epsg: int
) -> dict[str, Any]:
    """Return the settings that a band's file is made of, by name; if one changes, it is stale.

    `need` is None if the band is to be fetched whole. If `known` is of this band, the settings are
    what that file has to hold: its `part` is the image and the blocks. Else they are unlike those
    of any file that was fetched.
    """
    if known is None or known.identity != identity:
        return {**identity, "validator": None, "part": need.as_json() if need else WHOLE}
    cut = None if need is None else known.cut(need, epsg)
    named = identity["digest"] or identity["checksum"] or known.validator is None
    return {
        **identity,
        # A validator tells versions of an object apart, so that no date of its item need do it.
        "updated": identity["updated"] if named else None,
        "validator": None if named else known.validator,
        "part": WHOLE if cut is None or need is None else [cut.level, cut.blocks, need.nodata],
    }


@dataclass(frozen=True)
class Asked:
    """The file of a band, or of a mask, that a job is asked for.

    `identity` is that of the band, `rank` that of its item, from 1. `need` is None if it is to come
    whole.
    """

    identity: dict[str, Any]
    need: Need | None
    rank: int = 1
    is_mask: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**vars(self), "need": self.need and self.need.as_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Asked":
        """Return what `as_json` gave."""
        need = document["need"]
        return cls(**{**document, "need": need and Need.from_json(need)})


def settings_together(
    asked: dict[str, Asked], known: dict[str, Known | None], epsg: int, mask: dict | None
) -> dict[str, Any]:
    """Return the settings of the files of a tile's bands, by name and file key.

    `asked` are in order of rank, and `known` is what the record of each keeps of its object. Of an
    item after the first those blocks of its part are needed that cover holes: which these are
    follows from the pixels of the items before it and from the source's `mask`, and so from their
    settings. An item for which no hole was left has none, nor have those after it.
    """
    colours = [key for key, band in asked.items() if band.rank == 1 and not band.is_mask]
    first = [one for key in colours if (one := known[key]) and one.identity == asked[key].identity]
    own: dict[str, dict[str, Any]] = {}
    for key, band in asked.items():
        one, need = known[key], band.need
        if band.rank > 1 and one is not None and one.unasked:
            break
        if not band.is_mask and len(first) == len(colours):
            need = shared_need(need, first, epsg)
        own[key] = settings_of(band.identity, need, one, epsg)
    names = sorted({name for settings in own.values() for name in settings})
    together = {name: {key: settings[name] for key, settings in own.items()} for name in names}
    return {**together, "mask": mask} if mask else together


def shared_need(need: Need | None, known: Iterable[Known], epsg: int) -> Need | None:
    """Return what is needed of all bands of a tile so that they have one grid.

    That is `need`, unless it takes reduced images of some bands and others come whole or have other
    images: then the full image is needed of all.
    """
    if need is None:
        return None
    sides = set()  # of the images that are taken; None: the full one
    for band in known:
        cut = band.cut(need, epsg)
        image = band.all_images[cut.level] if cut and cut.level else None
        sides.add(image and (image.width, image.height))
    return need if len(sides) < 2 else replace(need, pixel=0.0)


def need_of(
    tile: Tile,
    maps: Iterable[tuple[BaseGeometry | None, float]],
    reach: float,
    nodata: float | None = None,
) -> Need:
    """Return what maps need of a tile.

    `maps` are, of each that shows the tile, its polygon in degrees, or None if it shows all of the
    tile, and the pixel of its top zoom in Mercator metres. `reach` is how far a tile may extend
    beyond its footprint, in metres. `nodata` is written where nothing is needed.
    """
    areas, pixels = zip(*maps, strict=True)
    whole = Need(min(pixels), None, max(pixels), nodata)
    if None in areas:
        return whole
    margin = (reach + 2 * MARGIN * max(pixels)) / METRES_PER_DEGREE
    stretch = 1 / np.cos(np.radians(min(89, max(map(abs, tile.geometry.bounds[1::2])))))
    around = tile.geometry.buffer(margin * stretch)
    for area in areas:
        shapely.prepare(area)
        if area.covers(around):
            return whole
    return replace(whole, area=shapely.normalize(shapely.union_all(areas).intersection(around)))


@lru_cache(16)
def cut_of(need: Need, images: tuple[Image, ...], transform: tuple[float, ...], epsg: int) -> Cut:
    """Return the part of a band's file that `need` takes.

    `images` are the full one and its reduced ones, from fine to coarse; `transform` is GDAL's
    geotransform of the full one, in the CRS `epsg`.
    """
    full = images[0]
    columns, rows = (np.linspace(0, side - 1, SAMPLES) for side in (full.width, full.height))
    columns, rows = np.meshgrid(columns, rows)
    pixel = _pixels(transform, columns.ravel(), rows.ravel(), epsg)
    level = 0
    for number, image in enumerate(images):
        scale = max(full.width / image.width, full.height / image.height)
        if pixel.max() * scale <= need.pixel:
            level = number
    image = images[level]
    every = range(image.across * image.down)
    area = None if need.area is None else area_in_crs(need.area, epsg)
    if area is None:
        return Cut(level, runs_of(every))
    if area.is_empty:
        return Cut(level, [])
    # In pixels of the full image: of the coarsest map, or of the image where that is coarser.
    coarsest = max(need.coarsest, need.pixel) / pixel.min()
    margin = MARGIN * max(coarsest, full.width / image.width)
    area = area.buffer(margin * abs(transform[1]) + need.around)
    shapely.prepare(area)
    touched = shapely.intersects(area, _boxes(image, full, transform))
    return Cut(level, runs_of(n for n in every if touched[n]))


def _pixels(transform: Sequence[float], columns: NDArray, rows: NDArray, epsg: int) -> NDArray:
    """Return the sizes in Mercator metres of a tile's pixels, the larger of width and height.

    A size is infinite where Mercator is not defined.
    """
    left, width, _, top, _, height = transform
    corner, right, below = (
        _transformed(
            np.column_stack([left + (columns + x) * width, top + (rows + y) * height]), epsg, 3857
        )
        for x, y in ((0, 0), (1, 0), (0, 1))
    )
    with np.errstate(invalid="ignore"):
        sizes = np.array([np.hypot(*(other - corner).T) for other in (right, below)]).max(axis=0)
    # Across the antimeridian neighbours are a world apart.
    return np.where(np.isfinite(sizes) & (sizes < HALF_WORLD), sizes, np.inf)


def area_in_crs(area: BaseGeometry, epsg: int) -> BaseGeometry | None:
    """Return an area in degrees in the CRS `epsg`, None if that is not defined for all of it.

    Its edges are straight in degrees.
    """
    if area.is_empty:
        return area
    fine = shapely.segmentize(area, 0.02)
    there = shapely.transform(fine, lambda at: _transformed(at, 4326, epsg))
    defined = np.isfinite(shapely.get_coordinates(there)).all()
    return shapely.make_valid(there) if defined else None


def _boxes(image: Image, full: Image, transform: Sequence[float]) -> NDArray:
    """Return the extent of each block of an image, row by row, in the tile's CRS."""
    left, width, _, top, _, height = transform
    columns, rows = image.edges
    x = left + columns * (width * full.width / image.width)
    y = top + rows * (height * full.height / image.height)
    return shapely.box(x[:-1], y[1:, np.newaxis], x[1:], y[:-1, np.newaxis]).ravel()


def _transformed(points: NDArray, source: int, target: int) -> NDArray:
    """Return points (n, 2), x before y, transformed from one EPSG code to another, as (n, 2).

    All are NaN if one of them is outside of what the target CRS is defined for.
    """
    try:
        found = np.array(_transformation(source, target).TransformPoints(points.tolist()))
    except RuntimeError:
        return np.full((len(points), 2), np.nan)
    return found[:, :2]


@lru_cache(256)
def _transformation(source: int, target: int) -> Any:
    osr.UseExceptions()
    return osr.CoordinateTransformation(crs(source), crs(target))
