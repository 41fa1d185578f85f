"""Pictures: digital numbers (DN) to look at, how they read, and where on the earth they are."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from basemake.errors import LookError
from basemake.pixels.dn import DnReading
from basemake.pixels.webtiles import geometry_to_mercator, to_degrees, together

MAP_SIDE = 1200  # pixels of the longer side of a map, at most


@dataclass(frozen=True)
class Reading:
    """How a band's DN read: `dn`, and the data type, an integer type of at most 16 bits."""

    dn: DnReading
    dtype: str

    def of(self, bits: NDArray[np.uint16]) -> NDArray:
        """Return the DN whose bits, as an unsigned integer, are `bits`."""
        dtype = np.dtype(self.dtype)
        return bits.astype(f"u{dtype.itemsize}").view(dtype)

    def bits(self, dn: NDArray) -> NDArray[np.uint16]:
        """Return the bits of `dn` as an unsigned integer."""
        return np.ascontiguousarray(dn).view(f"u{dn.dtype.itemsize}").astype(np.uint16)


@dataclass(frozen=True)
class Frame:
    """A map's place: Web Mercator about the meridian `middle` (degrees), so that no map is cut.

    `left` and `top` are metres from that meridian and the equator, `pixel` is in Mercator metres.
    """

    middle: float
    left: float
    top: float
    pixel: float

    def lonlat(self, column: float, row: float) -> tuple[float, float]:
        """Return longitude and latitude of a point of the map, in pixels from its corner."""
        metres = [self.left + column * self.pixel, self.top - row * self.pixel]
        lon, lat = to_degrees(np.array(metres)).tolist()
        return (self.middle + lon + 180) % 360 - 180, lat

    def located(self, geometry: BaseGeometry) -> BaseGeometry:
        """Return a geometry in degrees in pixels of the map."""
        parts = [
            # On the side of 180 degrees on which the map shows it.
            translate(part, 360 * round((self.middle - part.centroid.x) / 360) - self.middle)
            for part in shapely.get_parts(geometry)
        ]
        metres = geometry_to_mercator(shapely.GeometryCollection(parts))
        corner, step = (self.left, self.top), (self.pixel, -self.pixel)
        return shapely.transform(metres, lambda at: (at - corner) / step)


@dataclass(frozen=True)
class Picture:
    """DN to look at: the map of a region, or a crop, which is a window of a tile as it is.

    `dn` is uint16 (height, width, 4): the bits of red, green and blue as unsigned integers, and
    the number, from 1 on, of their Reading; all are 0 where a band is missing. `pixel` is in
    metres on the ground, and `place` the longitude and latitude of the middle. A map has a `frame`,
    a crop a `window`: its tile, first row and first column.
    """

    title: str
    dn: NDArray[np.uint16]
    pixel: float
    place: tuple[float, float]
    frame: Frame | None = None
    window: tuple[str, int, int] | None = None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where no band is missing, (height, width)."""
        return self.dn[..., 3] > 0

    def lonlat(self, column: float, row: float) -> tuple[float, float]:
        """Return longitude and latitude of a point of a map, in pixels; LookError for a crop."""
        if self.frame is None:
            raise LookError("a crop has no places; choose one on a map.")
        return self.frame.lonlat(column, row)


def frame_of(shown: BaseGeometry, finest: float) -> tuple[Frame, tuple[int, int]]:
    """Return the frame and the shape (height, width) of a map of `shown`, in degrees.

    `finest` is the size in metres below which its pixels need not be.
    """
    west, south, east, north = together(shown).bounds
    middle = (west + east) / 2
    corners = shapely.box(west - middle, max(south, -85), east - middle, min(north, 85))
    left, low, right, top = geometry_to_mercator(corners).bounds
    stretch = 1 / math.cos(math.radians(min(85, abs(south + north) / 2)))
    pixel = max(finest * stretch, max(right - left, top - low) / MAP_SIDE)
    shape = math.ceil((top - low) / pixel), math.ceil((right - left) / pixel)
    return Frame(middle, left, top, pixel), (max(1, shape[0]), max(1, shape[1]))


def mask_of(area: BaseGeometry, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return 1 where a pixel lies in an area, which is in pixels, else 0."""
    mask = np.zeros(shape, np.uint8)
    rings = [
        np.rint(np.array(ring.coords)[:, :2] * 256 - 128).astype(np.int32)
        for part in shapely.get_parts(area)
        for ring in (part.exterior, *part.interiors)
    ]
    return cv2.fillPoly(mask, rings, 1, shift=8)
