"""How maps are drawn in a report: Web Mercator, in the units of an SVG."""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from basemake.forecast.coverage_map import projection_of

UNITS = 1000  # of an SVG along its longer side
MARGIN = 0.02  # of the longer side
FINEST = 0.5  # units: smaller bends of outlines are left out


class Frame:
    """A map of an area, with a margin: the place of longitudes and latitudes in an SVG.

    `width` and `height` are in units, of which each is `metres` Mercator metres. What lies on both
    sides of 180 degrees is side by side.
    """

    def __init__(self, shown: BaseGeometry, others: list[BaseGeometry]) -> None:
        """Frame the area `shown`; `others`, also in degrees, are placed in and around it."""
        self.shown = shown
        parts = [part for one in (shown, *others) for part in shapely.get_parts(one)]
        self._project = projection_of(parts)
        corners = self._project(shapely.get_coordinates(shapely.segmentize(shown, 0.1)))
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = MARGIN * float((high - low).max())
        self.metres = (float((high - low).max()) + 2 * margin) / UNITS
        self._corner = low - margin
        self.width, self.height = ((high - low + 2 * margin) / self.metres).tolist()

    def place(self, lonlat: NDArray) -> NDArray[np.float64]:
        """Return units to the right and down of degrees (n, 2)."""
        return (self._project(lonlat) - self._corner) / self.metres

    def path(self, area: BaseGeometry) -> str:
        """Return the polygons of an area in degrees as the path of an SVG."""
        # Joined again where they were split at 180 degrees.
        placed = shapely.union_all(shapely.get_parts(shapely.transform(area, self.place)))
        rings = shapely.get_rings(shapely.get_parts(placed.simplify(FINEST)))
        return "".join(
            "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shapely.get_coordinates(ring)[:-1]) + "Z"
            for ring in rings
        )
