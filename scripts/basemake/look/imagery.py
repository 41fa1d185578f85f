"""The imagery of a build that is on this machine, as digital numbers (DN) to try recipes on.

A draft has bands of the whole region, coarse; a build those of the maps. Both are read, so that a
look can be chosen before anything but a draft was downloaded.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from osgeo import gdal, gdal_array, osr

from basemake.build.bands import band_path
from basemake.build.manifest import Tile, describe_request, dn_reading, read_manifest
from basemake.build.paths import DRAFT, MANIFEST
from basemake.build.quarter import Quarter
from basemake.engine.open_build import Build
from basemake.errors import LookError, ManifestError
from basemake.look.pictures import Frame, Picture, Reading, frame_of, mask_of
from basemake.pixels.crs import crs
from basemake.pixels.raster import RGBA, geotiff, naming, open_geotiff
from basemake.pixels.recipe import CompiledRecipe

COLOURS = ("red", "green", "blue")
CROP_METRES = 40_000  # of the ground: the side of a crop, as far as its pixels allow
CROP_LEAST, CROP_MOST = 96, 768  # pixels a side of a crop
NEAR = 0.02  # degrees by which a tile may reach beyond its footprint
LEAST_VALID = 0.5  # of a crop's pixels, or a tile below is tried


@dataclass(frozen=True)
class Bands:
    """The bands of a tile on this machine: `paths` of red, green and blue, on one grid.

    `reading` is the number of their Reading. `pixel` is in metres.
    """

    tile: Tile
    paths: tuple[Path, ...]
    reading: int
    shape: tuple[int, int]
    transform: tuple[float, ...]

    @property
    def pixel(self) -> float:
        """The size of a pixel in metres."""
        return abs(self.transform[1])

    def read(self, top: int, left: int, height: int, width: int) -> NDArray:
        """Return the DN of a window, (3, height, width); TileError if a band cannot be read."""
        windows = []
        for path in self.paths:
            with naming(path), open_geotiff(path) as dataset:
                windows.append(dataset.ReadAsArray(left, top, width, height))
        return np.stack(windows)


class Imagery:
    """The bands of a build that are on this machine, its draft's among them.

    `readings` are how they read; a Picture counts them from 1. `finest` is the size of the smallest
    pixel in metres, `crop_side` the pixels a side of a crop of these.
    """

    def __init__(self, build: Build) -> None:
        """Find the bands; LookError if there are none, with what to run."""
        self.build = build
        self.readings: list[Reading] = []
        found: dict[tuple[int, str], list[Bands]] = {}
        for folder, tiles in _manifests(build):
            for tile in tiles.values():
                if bands := self._found(folder, tile):
                    found.setdefault((tile.epsg, tile.name), []).append(bands)
        # Those of each tile, the finest first; tiles in the order in which they cover one another.
        self._bands = [sorted(found[key], key=lambda bands: bands.pixel) for key in sorted(found)]
        if not self._bands:
            raise LookError(
                f"there is no imagery in {Path.cwd()} yet: run `make draft`, which fetches little,"
                " or build the map, with keep_bands: true."
            )
        self.finest = min(bands[0].pixel for bands in self._bands)
        self.crop_side = _crop_side(self.finest)

    def _found(self, folder: Path, tile: Tile) -> Bands | None:
        keys = [self.build.source.bands[colour] for colour in COLOURS]
        paths = tuple(folder / band_path(tile.name, key) for key in keys)
        if not all(path.exists() for path in paths):
            return None
        try:
            with open_geotiff(paths[0]) as dataset:
                kind = dataset.GetRasterBand(1).DataType
                dtype = np.dtype(gdal_array.GDALTypeCodeToNumericTypeCode(kind)).name
                shape = dataset.RasterYSize, dataset.RasterXSize
                transform = tuple(dataset.GetGeoTransform())
        except RuntimeError:
            return None  # of a file that is not whole; a build makes it anew
        reading = Reading(dn_reading(self.build.source.dn, tile.dn), dtype)
        if reading not in self.readings:
            self.readings.append(reading)
        return Bands(tile, paths, self.readings.index(reading) + 1, shape, transform)

    def map_of(self, region: str) -> Picture:
        """Return the map of a region, of nearest pixels, at most MAP_SIDE pixels a side.

        Raises LookError if no imagery of it is here.
        """
        tiles = [bands for bands in self._bands if region in bands[0].tile.regions]
        if not tiles:
            raise LookError(f"there is no imagery of {region} yet: run `make draft`.")
        shown = self.build.regions[region]
        if not self.build.config["pyramid"]["clip"]:
            shown = shapely.union_all([bands[0].tile.geometry for bands in tiles])
        frame, shape = frame_of(shown, min(bands[0].pixel for bands in tiles))
        dn = np.zeros((*shape, 4), np.uint16)
        for several in tiles:
            # The coarsest that is fine enough: to reduce finer ones takes long.
            stretch = 1 / math.cos(math.radians(min(85, abs(several[0].tile.geometry.centroid.y))))
            fine = [b for b in several if b.pixel * stretch <= frame.pixel * 1.5] or several[:1]
            self._draw(fine[-1], frame, dn)
        if self.build.config["pyramid"]["clip"]:
            dn[mask_of(frame.located(shown), shape) == 0] = 0
        place = frame.lonlat(shape[1] / 2, shape[0] / 2)
        pixel = frame.pixel * math.cos(math.radians(place[1]))
        return Picture(region, dn, pixel, place, frame)

    def crop(self, title: str, lon: float, lat: float) -> Picture:
        """Return the pixels around a place as they are, of the finest bands that show it.

        Raises LookError if there is no imagery of the place.
        """
        best: Picture | None = None
        share = 0.0
        for bands in self._at(lon, lat):
            picture = self._cropped(bands, title, lon, lat)
            if picture is not None and picture.valid.mean() > share:
                best, share = picture, float(picture.valid.mean())
            if share >= LEAST_VALID:
                break
        if best is None:
            raise LookError(
                f"the place {lon:g},{lat:g} (longitude,latitude) has no imagery here; allowed are"
                " places inside the regions."
            )
        return best

    def _at(self, lon: float, lat: float) -> Iterator[Bands]:
        """Yield the bands around a place, of the tile that is on top first, the finest first."""
        point = shapely.Point(lon, lat)
        for several in reversed(self._bands):
            if shapely.dwithin(several[0].tile.geometry, point, NEAR):
                yield from several

    def _cropped(self, bands: Bands, title: str, lon: float, lat: float) -> Picture | None:
        to_tile = osr.CoordinateTransformation(crs(4326), crs(bands.tile.epsg))
        x, y, _ = to_tile.TransformPoint(lon, lat)
        left, width, _, top, _, height = bands.transform
        sides = [min(_crop_side(bands.pixel), length) for length in bands.shape]
        centre = (y - top) / height, (x - left) / width
        if not all(0 <= at < length for at, length in zip(centre, bands.shape, strict=True)):
            return None
        row, column = (
            int(min(max(at - span / 2, 0), length - span))
            for at, span, length in zip(centre, sides, bands.shape, strict=True)
        )
        dn = np.zeros((*sides, 4), np.uint16)
        self._lay(dn, bands, bands.read(row, column, *sides))
        window = (bands.tile.name, row, column)
        return Picture(title, dn, bands.pixel, (lon, lat), None, window) if dn.any() else None

    def _draw(self, bands: Bands, frame: Frame, dn: NDArray[np.uint16]) -> None:
        """Draw a tile onto a map, where its pixels are valid."""
        area = frame.located(bands.tile.geometry.buffer(NEAR))
        low, high = np.floor(area.bounds[:2]), np.ceil(area.bounds[2:])
        (left, right), (top, bottom) = (
            (int(max(a, 0)), int(min(b, side)))
            for a, b, side in zip(low, high, dn.shape[1::-1], strict=True)
        )
        if left >= right or top >= bottom:
            return
        west, north = frame.left + left * frame.pixel, frame.top - top * frame.pixel
        width, height = right - left, bottom - top
        options = gdal.WarpOptions(
            format="MEM",
            dstSRS=f"+proj=webmerc +lon_0={frame.middle!r} +datum=WGS84",
            outputBounds=(west, north - height * frame.pixel, west + width * frame.pixel, north),
            width=width,
            height=height,
            dstAlpha=True,
        )
        drawn = []
        for path in bands.paths:
            with naming(path):
                drawn.append(gdal.Warp("", geotiff(path), options=options).ReadAsArray())
        values, alphas = np.stack(drawn, axis=1)
        self._lay(dn[top:bottom, left:right], bands, values, (alphas != 0).all(axis=0))

    def _lay(
        self,
        dn: NDArray[np.uint16],
        bands: Bands,
        values: NDArray,
        inside: NDArray[np.bool_] | bool = True,
    ) -> None:
        """Write DN (3, height, width) into `dn`, a Picture's, where they are valid."""
        reading = self.readings[bands.reading - 1]
        nodata = reading.dn.nodata
        valid = np.broadcast_to(inside, values.shape[1:])
        if nodata is not None:
            valid = valid & (values != nodata).all(axis=0)
        bits = np.moveaxis(reading.bits(values), 0, -1)
        dn[valid] = np.dstack([bits, np.full(bits.shape[:2], bands.reading, np.uint16)])[valid]

    def colour(self, picture: Picture, steps: list[dict]) -> RGBA:
        """Return a picture in the colours of a recipe's steps, as the build makes them."""
        rgba = np.zeros(picture.dn.shape, np.uint8)
        for number, reading in enumerate(self.readings, 1):
            here = picture.dn[..., 3] == number
            if here.any():
                recipe = CompiledRecipe(steps, reading.dn, np.dtype(reading.dtype))
                dn = np.ascontiguousarray(np.moveaxis(reading.of(picture.dn[..., :3]), -1, 0))
                rgba[here] = recipe(dn)[here]
        return rgba

    def reflectance(self, picture: Picture) -> NDArray[np.float32]:
        """Return the reflectance of a picture, (3, height, width); NaN where a band is missing."""
        found = np.full((3, *picture.dn.shape[:2]), np.nan, np.float32)
        for number, reading in enumerate(self.readings, 1):
            here = picture.dn[..., 3] == number
            dn = reading.of(picture.dn[here][:, :3]).T
            found[:, here] = dn * reading.dn.scale + reading.dn.offset
        return found


def _manifests(build: Build) -> Iterator[tuple[Path, dict[str, Tile]]]:
    """Yield the folders that hold a manifest of what the build asks for, and its tiles."""
    source = build.source
    # A draft's catalog is named by its whole path.
    items = source.items and str(Path(source.items).expanduser().absolute())
    for folder, searched in ((Path(), source), (DRAFT, replace(source, items=items))):
        quarter = Quarter.parse(build.config["quarter"])
        try:
            request = describe_request(searched, quarter, build.regions, build.config["fill"])
            tiles = read_manifest(folder / MANIFEST, request)
        except ManifestError:
            continue
        yield folder, tiles


def _crop_side(pixel: float) -> int:
    """Return the pixels a side of a crop of pixels of so many metres."""
    return int(min(max(CROP_METRES / pixel, CROP_LEAST), CROP_MOST))
