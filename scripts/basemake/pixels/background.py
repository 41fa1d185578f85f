"""The background of a map: what shows where tiles have no pixel, and how imagery fades into it."""

import numpy as np
from numpy.typing import NDArray

from basemake.pixels.encoding import rgb
from basemake.pixels.raster import RGBA
from basemake.pixels.warp import between
from basemake.pixels.webtiles import RADIUS, WebTile

STEPS = 8  # the least number of points over the width of a fade, where pixels are small enough
FINEST, COARSEST = 4, 64  # pixels between points


class Background:
    """A colour, and how imagery fades into it along the edge of the area that it covers."""

    def __init__(self, colour: str, size: int, coverage: str | None, fade_km: float) -> None:
        """Draw web tiles of `size` pixels a side on `colour`, such as #12304a.

        Imagery fades over `fade_km` on the ground inside `coverage`, WKT in Mercator metres; it
        does not if that is None.
        """
        self._plain = np.tile(np.array([*rgb(colour), 255], np.uint8), (size, size, 1))
        self._fade = None if coverage is None else _Fade(coverage, 1000 * fade_km)

    def under(self, image: RGBA | None, tile: WebTile) -> RGBA:
        """Return a web tile's image, (size, size, 4), on the background; None shows only that.

        Encoded colours are mixed, in which equal steps look equal.
        """
        if image is None:
            return self._plain
        weights = None if self._fade is None else self._fade.weights(tile, len(image))
        colours = image
        if weights is not None:
            mixed = self._plain + weights[..., np.newaxis] * (
                image.astype(np.float32) - self._plain
            )
            colours = np.rint(mixed).astype(np.uint8)
        return np.where(image[..., 3:] > 0, colours, self._plain)


class _Fade:
    """The weights of imagery along the edge of the area that it covers."""

    def __init__(self, coverage: str, metres: float) -> None:
        import shapely  # here, as most metatiles do not fade

        self._area = shapely.from_wkt(coverage)
        shapely.prepare(self._area)
        rings = map(shapely.get_coordinates, shapely.get_parts(shapely.boundary(self._area)))
        sides = [np.stack([ring[:-1], ring[1:]], axis=1) for ring in rings]
        self._sides = shapely.STRtree(shapely.linestrings(np.concatenate(sides)))
        self._metres = metres

    def weights(self, tile: WebTile, size: int) -> NDArray[np.float32] | None:
        """Return the weights 0..1, (size, size), of the imagery in a web tile; None if all are 1.

        A weight is 3 t^2 - 2 t^3, where t is the distance to the edge over the width of the fade:
        neither end of the fade shows as a line. Distances are exact at points of a grid, which does
        not depend on the metatile, and interpolated between them.
        """
        import shapely

        west, south, east, north = tile.bounds
        pixel = (east - west) / size
        # Mercator stretches by 1 / cos(latitude), which is cosh(y / RADIUS).
        wide = self._metres * np.cosh(max(abs(south), abs(north)) / RADIUS)
        step = 1 << int(np.log2(np.clip(wide / pixel / STEPS, FINEST, COARSEST)))
        near = wide + step * pixel
        around = shapely.box(west - near, south - near, east + near, north + near)
        if shapely.covers(self._area, around):
            return None
        offsets = (np.arange(0, size + 1, step) + 0.5) * pixel
        x, y = (axis.ravel() for axis in np.meshgrid(west + offsets, north - offsets))
        points, metres = shapely.points(x, y), np.full(x.size, near)
        (found, _), distances = self._sides.query_nearest(
            points, max_distance=near, return_distance=True, all_matches=False
        )
        metres[found] = distances
        metres[~shapely.covers(self._area, points)] *= -1
        share = np.clip(metres / np.cosh(y / RADIUS) / self._metres, -1, 1)
        t = between(share.reshape(len(offsets), -1), step).clip(0, 1)
        return t * t * (3 - 2 * t)
