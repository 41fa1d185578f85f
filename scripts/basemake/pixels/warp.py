"""Warping enhanced tiles to Web Mercator: PROJ transforms a coarse grid, OpenCV remaps pixels.

GDAL's warper takes two to three times as long for the same pixels. Everything here runs in one
thread, so that the bytes depend on the tiles alone.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, osr

from basemake.pixels.crs import crs
from basemake.pixels.light import to_colours, to_light
from basemake.pixels.raster import RGBA, geotiff, naming, open_geotiff

# Pixels between points that PROJ transforms, for web pixels of up to GRID_PIXEL metres. Coordinates
# interpolated between them are wrong by 0.002 pixels of 13 m; the error grows with the size of the
# pixel and the square of the step.
GRID_STEP = 64
GRID_PIXEL = 125.0
OPEN_FILES = 64  # at a time: a coarse map may show thousands of tiles in one metatile
EDGE_POINTS = 21  # transformed along each side of a tile to find its extent
INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
}
OPAQUE = 255 << 8  # alpha in 16 bits
HALF = 127 << 8  # a little less than half of it, with room for rounding
OUTSIDE = -1e6  # column and row of points without coordinates in a tile's CRS: outside of any tile
MARGIN = 3  # source pixels beyond a coordinate that smoothing and interpolation need
# Metres along a tile's edge that weigh nothing where tiles are feathered, or one pixel if that is
# more: neighbours in the quarterly mosaics overlap by 120 m at most, with nothing to feather. In a
# CRS of degrees nothing is feathered.
RIM = 120.0
CELLS = 640  # at most, along a side of a tile, of those in which missing pixels are looked for
CELLS_OF = 16  # tiles at a time, 1.6 MB each

Bounds = tuple[float, float, float, float]  # west, south, east and north in Mercator metres
Coordinates = NDArray[np.floating]


class _Canvas(NamedTuple):
    """The area to draw: `bounds`, as `pieces` x `pieces` squares of `size` x `size` pixels."""

    bounds: Bounds
    pieces: int
    size: int

    @property
    def pixel(self) -> float:
        """The size of a pixel in Mercator metres."""
        west, _, east, _ = self.bounds
        return (east - west) / (self.pieces * self.size)

    @property
    def step(self) -> int:
        """The pixels between points that PROJ transforms, a power of two."""
        step = GRID_STEP * math.sqrt(min(1.0, GRID_PIXEL / self.pixel))
        return 1 << int(math.log2(max(step, 1)))


class _Frame(NamedTuple):
    """The place of an image in its CRS: its north-west corner, and the steps of its pixels."""

    left: float
    top: float
    width: float
    height: float


class _Full(NamedTuple):
    """A tile's full image: its place and size, and the reduced image whose pixels are its cells."""

    frame: _Frame
    width: int
    height: int
    cell_level: int


class _Source(NamedTuple):
    """An enhanced tile and its place in the canvas."""

    path: Path
    level: int  # the reduced-resolution image that is read; 0: the full one
    frame: _Frame  # of that image
    full: _Full
    kernel: Coordinates | None  # that smooths it
    down: range  # rows and columns of the pieces in which it may show
    across: range


class Warper:
    """Enhanced tiles, warped to a canvas in Web Mercator one square piece at a time."""

    def __init__(
        self, canvas: _Canvas, sources: list[_Source], resampling: str, feather: bool
    ) -> None:
        """Draw `sources`, which `of` finds, on `canvas` with a key of INTERPOLATION."""
        self._canvas, self._sources, self._feather = canvas, sources, feather
        self._interpolation = INTERPOLATION[resampling]
        self._open = lru_cache(OPEN_FILES)(_open)
        self._inside = lru_cache(CELLS_OF)(_inside)

    @classmethod
    def of(
        cls,
        paths: list[Path],
        bounds: Bounds,
        count: int,
        size: int,
        resampling: str,
        feather: bool = False,
    ) -> "Warper":
        """Return a warper of the tiles at `paths` that lie in a canvas of `count` x `count` pieces.

        `bounds` are the canvas's; a piece is `size` pixels a side, a multiple of GRID_STEP;
        `resampling` is a key of INTERPOLATION. Raises TileError, naming it, if a tile cannot be
        read.
        """
        canvas, sources = _Canvas(bounds, count, size), []
        for path in paths:
            with naming(path, "enhanced tile"), open_geotiff(path) as dataset:
                source = _place(path, dataset, canvas, resampling != "nearest")
            if source is not None:
                sources.append(source)
        return cls(canvas, sources, resampling, feather)

    def may_show(self, row: int, column: int, count: int) -> bool:
        """Return whether a tile may show in `count` x `count` pieces from `row`, `column` on."""
        return any(
            source.down.start < row + count
            and row < source.down.stop
            and source.across.start < column + count
            and column < source.across.stop
            for source in self._sources
        )

    def draw(self, row: int, column: int) -> RGBA | None:
        """Return a piece of the canvas, uint8 RGBA (size, size, 4), or None if no tile shows in it.

        Where tiles overlap the last one shows, or with `feather` their mean by `_weights`, if any
        has one. A pixel is opaque where the nearest pixel of the tile is valid, with colours
        interpolated from the valid pixels around. Where the canvas is coarser than the tile, a
        reduced-resolution image is read and smoothed, so that nothing aliases: smoothing and
        interpolation together are as wide as GDAL's kernel. Raises TileError, naming it, if a tile
        cannot be read.
        """
        drawings = self._drawings(row, column)
        first = next(drawings, None)
        if first is None:
            return None
        (bottom, piece), mean = first, None
        for source, drawn in drawings:
            if self._feather:
                mean = mean or _Mean(piece, self._weights(bottom, row, column))
                mean.add(drawn, self._weights(source, row, column))
            cv2.copyTo(drawn, cv2.extractChannel(drawn, 3), piece)
        if mean is not None:
            mean.put_on(piece)
        return piece

    def _drawings(self, row: int, column: int) -> Iterator[tuple[_Source, RGBA]]:
        """Yield the tiles that show in a piece, in order, each with what it shows there."""
        for source in self._sources:
            if row in source.down and column in source.across:
                with naming(source.path, "enhanced tile"):
                    drawn = self._drawn(source, row, column)
                if drawn is not None:
                    yield source, drawn

    def _drawn(self, source: _Source, row: int, column: int) -> RGBA | None:
        """Return a piece with one tile in it, or None where the tile does not reach."""
        dataset, from_mercator = self._open(source.path, source.level)
        size, step = self._canvas.size, self._canvas.step
        down, across = (range(at * size, (at + 1) * size) for at in (row, column))
        columns, rows = _grid(source.frame, from_mercator, self._canvas, down, across)
        return _remap(dataset, columns, rows, step, source.kernel, self._interpolation)

    def _weights(self, source: _Source, row: int, column: int) -> NDArray[np.float32]:
        """Return the weights, (size, size), of a tile in a piece where tiles are feathered.

        They grow with the square of the distance to the nearest of its edges and missing pixels, in
        units of its CRS, from RIM or one cell on: so they do not depend on the canvas.
        """
        _, from_mercator = self._open(source.path, source.level)
        size, step = self._canvas.size, self._canvas.step
        down, across = (range(at * size, (at + 1) * size) for at in (row, column))
        frame, width, height, level = source.full
        left, top = (
            between(at, step) + 0.5  # pixels from the tile's edge
            for at in _grid(frame, from_mercator, self._canvas, down, across)
        )
        edge = np.minimum(np.minimum(left, width - left), np.minimum(top, height - top))
        edge -= max(RIM / frame.width, 1)
        if edge.max() <= 0:
            return np.zeros_like(edge)
        with naming(source.path, "enhanced tile"):
            inside = self._inside(source.path, level)
        if inside is not None:
            at = left / 2**level - 0.5, top / 2**level - 0.5
            cells = cv2.remap(inside, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            edge = np.minimum(edge, cells * 2**level)
        return np.square(np.maximum(edge, 0) * frame.width)


class _Mean:
    """The weighted mean of the colours of tiles in a piece."""

    def __init__(self, image: RGBA, weights: NDArray[np.float32]) -> None:
        self._sum = np.zeros((*weights.shape, 3), np.float32)
        self._weight = np.zeros_like(weights)
        self.add(image, weights)

    def add(self, image: RGBA, weights: NDArray[np.float32]) -> None:
        """Add the colours of an image; transparent pixels weigh nothing."""
        weights = weights * (image[..., 3] > 0)
        self._sum += image[..., :3] * weights[..., np.newaxis]
        self._weight += weights

    def put_on(self, piece: RGBA) -> None:
        """Give each pixel of `piece` the mean of its colours, if any has a weight."""
        some = self._weight > 0
        piece[some, :3] = np.rint(self._sum[some] / self._weight[some, np.newaxis])


def _inside(path: Path, level: int) -> NDArray[np.float32] | None:
    """Return how many cells away from the nearest one with a missing pixel each cell is, less one.

    None if no pixel is missing. Cells are the pixels of the tile's image `level`.
    """
    dataset = geotiff(path, level)
    alpha = dataset.GetRasterBand(4).ReadAsArray()
    if alpha.min() == 255:
        return None
    whole = (alpha == 255).astype(np.uint8)
    cells = cv2.distanceTransform(whole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The last bit of what OpenCV returns differs from call to call; squares are whole numbers.
    return np.maximum(np.sqrt(np.rint(np.square(cells))) - 1, 0)


def _open(path: Path, level: int) -> tuple[gdal.Dataset, osr.CoordinateTransformation]:
    """Return an image of a tile, and the transformation from Web Mercator to its CRS."""
    dataset = geotiff(path, level)
    return dataset, osr.CoordinateTransformation(crs(3857), _srs(dataset))


def _place(path: Path, dataset: gdal.Dataset, canvas: _Canvas, smooth: bool) -> _Source | None:
    """Return the tile with its place in the canvas, or None if it lies outside."""
    left, width, _, top, _, height = dataset.GetGeoTransform()
    frame = _Frame(left, top, width, height)
    to_mercator = osr.CoordinateTransformation(_srs(dataset), crs(3857))
    down, across = _reach(dataset, frame, to_mercator, canvas)
    if not down or not across:
        return None
    scale = canvas.pixel / _pixel(dataset, frame, to_mercator)
    levels = dataset.GetRasterBand(1).GetOverviewCount()
    level = min(int(math.log2(max(scale, 1))), levels)
    # GDAL would give the reduced image the tile's extent, but its last pixel may reach beyond it.
    image = frame._replace(width=width * 2**level, height=height * 2**level)
    kernel = _smoothing(scale / 2**level) if smooth else None
    side = max(dataset.RasterXSize, dataset.RasterYSize)
    cell_level = min(max(0, math.ceil(math.log2(side / CELLS))), levels)
    full = _Full(frame, dataset.RasterXSize, dataset.RasterYSize, cell_level)
    return _Source(path, level, image, full, kernel, down, across)


def _reach(
    dataset: gdal.Dataset, frame: _Frame, to_mercator: osr.CoordinateTransformation, canvas: _Canvas
) -> tuple[range, range]:
    """Return the rows and columns of the canvas's pieces in which a tile may show."""
    # One pixel more on each side, for rounding and for the curvature of edges between the points.
    x = np.linspace(-1, dataset.RasterXSize + 1, EDGE_POINTS)
    y = np.linspace(-1, dataset.RasterYSize + 1, EDGE_POINTS)
    sides = [(x, y[0]), (x, y[-1]), (x[0], y), (x[-1], y)]
    edge = np.concatenate([np.column_stack(np.broadcast_arrays(*side)) for side in sides])
    edge = _transformed(_located(frame, edge), to_mercator)
    count = canvas.pieces
    if not np.isfinite(edge).all():
        return range(count), range(count)
    west, _, east, north = canvas.bounds
    piece = (east - west) / count
    return _pieces(north - edge[:, 1], piece, count), _pieces(edge[:, 0] - west, piece, count)


def _pixel(
    dataset: gdal.Dataset, frame: _Frame, to_mercator: osr.CoordinateTransformation
) -> float:
    """Return the size in Mercator metres of the pixel in the middle of a tile."""
    x, y = dataset.RasterXSize / 2, dataset.RasterYSize / 2
    points = np.array([[x, y], [x + 1, y], [x, y + 1]])
    corner, right, below = _transformed(_located(frame, points), to_mercator)
    return math.sqrt(math.dist(corner, right) * math.dist(corner, below))


def _located(frame: _Frame, points: Coordinates) -> Coordinates:
    """Return points (n, 2), in columns and rows from an image's corner, in its CRS."""
    return points * (frame.width, frame.height) + (frame.left, frame.top)


def _pieces(metres: NDArray, piece: float, count: int) -> range:
    """Return the range of pieces that distances from the canvas's edge, in metres, fall into."""
    first, last = math.floor(metres.min() / piece), math.floor(metres.max() / piece)
    return range(max(first, 0), min(last + 1, count))


def _srs(dataset: gdal.Dataset) -> osr.SpatialReference:
    """Return a tile's CRS with coordinates in the order x, y."""
    srs = dataset.GetSpatialRef()
    if srs is None:
        raise RuntimeError("it has no CRS")
    srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return srs


def _grid(
    frame: _Frame,
    from_mercator: osr.CoordinateTransformation,
    canvas: _Canvas,
    down: range,
    across: range,
) -> tuple[Coordinates, Coordinates]:
    """Return columns and rows of an image, 0 at its first pixel's centre, of points in the canvas.

    The points are the centres of every step-th pixel `down` and `across`, and of the next after the
    last, so that coordinates of all pixels between can be interpolated.
    """
    west, _, _, north = canvas.bounds
    step, pixel = canvas.step, canvas.pixel
    y, x = ((np.arange(at.start, at.stop + 1, step) + 0.5) * pixel for at in (down, across))
    x, y = np.meshgrid(west + x, north - y)
    points = _transformed(np.column_stack([x.ravel(), y.ravel()]), from_mercator)
    columns = (points[:, 0] - frame.left) / frame.width - 0.5
    rows = (points[:, 1] - frame.top) / frame.height - 0.5
    return columns.reshape(x.shape), rows.reshape(x.shape)


def _transformed(points: Coordinates, transform: osr.CoordinateTransformation) -> Coordinates:
    """Return points (n, 2) transformed, as (n, 3); NaN where the target CRS is not defined."""
    try:
        return np.array(transform.TransformPoints(points.tolist()))
    except RuntimeError:  # of one point; such points are only in maps of half the world
        found = np.full((len(points), 3), np.nan)
        for number, point in enumerate(points.tolist()):
            with suppress(RuntimeError):
                found[number] = transform.TransformPoint(*point)
        found[~np.isfinite(found).all(axis=1)] = np.nan
        return found


def _smoothing(scale: float) -> Coordinates | None:
    """Return three weights to smooth with before interpolating at `scale` source pixels a pixel.

    GDAL's kernel is a triangle of `scale` pixels on each side, whose weights depend on where
    between source pixels a point lies. Linear interpolation of the smoothed image has the same
    weights at scales of 1 and 2, and nearly the least error between them on real texture. From 2.3
    on the three weights are equal. None if nothing is to be smoothed.
    """
    side = min((scale - 1) / 4, 1 / 3)
    if side <= 0:
        return None
    return np.array([side, 1 - 2 * side, side], np.float32)


def between(grid: Coordinates, step: int) -> Coordinates:
    """Interpolate a grid of (n, m) points to all pixels, ((n - 1) * step, (m - 1) * step)."""
    grid = grid.astype(np.float32)  # exact to 0.001 pixels
    at = np.arange(step, dtype=np.float32) / step
    west = grid[:, :-1, np.newaxis]
    across = (west + (grid[:, 1:, np.newaxis] - west) * at).reshape(len(grid), 1, -1)
    north = across[:-1]
    down = (across[1:] - north) * at[:, np.newaxis]
    down += north
    down = down.reshape(-1, down.shape[-1])
    return np.nan_to_num(down, nan=OUTSIDE) if np.isnan(grid).any() else down


def _remap(
    dataset: gdal.Dataset,
    columns: Coordinates,
    rows: Coordinates,
    step: int,
    kernel: Coordinates | None,
    interpolation: int,
) -> RGBA | None:
    """Return the tile, warped, between the points of a grid; None where it does not reach."""
    width, height = dataset.RasterXSize, dataset.RasterYSize
    left, right = _window(columns, width)
    top, bottom = _window(rows, height)
    if left >= right or top >= bottom:
        return None
    source = np.empty((bottom - top, right - left, 4), np.uint8)
    dataset.ReadAsArray(left, top, right - left, bottom - top, buf_obj=source, interleave="pixel")
    alpha = cv2.extractChannel(source, 3)
    if alpha.max() == 0:
        return None
    inside = left > 0 and top > 0 and right < width and bottom < height
    # Inside, the window's outermost pixels are not used, and opaque ones are quicker.
    border = cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT
    smooth = source if kernel is None else _smoothed(source, kernel, border)
    to = between(columns, step) - left, between(rows, step) - top
    if inside and alpha.min() == 255:
        return _interpolate(smooth, to, interpolation)
    # Colours are multiplied by alpha before they are mixed. They have 16 bits, as dividing by a
    # small alpha magnifies rounding errors.
    valid = cv2.remap(alpha, *to, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    wide = smooth.astype(np.uint16) << 8
    alpha = smooth[..., 3]
    partly = (alpha > 0) & (alpha < 255)  # in reduced-resolution images and where it was smoothed
    wide[partly, :3] = wide[partly, :3] * (alpha[partly, np.newaxis] / np.float32(255))
    mixed = _interpolate(wide, to, interpolation)
    if interpolation == cv2.INTER_CUBIC:  # its negative weights overshoot beside missing pixels
        linear = _interpolate(wide, to, cv2.INTER_LINEAR)
        mixed = np.where(linear[..., 3:] < OPAQUE, linear, mixed)
    return _solid(mixed, valid)


def _smoothed(source: RGBA, kernel: Coordinates, border: int) -> RGBA:
    """Return `source` smoothed in linear light, as reduced images are; `border` is OpenCV's."""
    light = to_light(source).astype(np.float32)  # OpenCV smooths uint16 at a quarter of the speed
    cv2.sepFilter2D(light, -1, kernel, kernel, light, delta=0.5, borderType=border)
    return to_colours(light.astype(np.uint16))


def _interpolate(
    source: NDArray, to: tuple[Coordinates, Coordinates], interpolation: int
) -> NDArray:
    """Return `source` sampled at columns and rows `to`, as 0 outside of it."""
    return cv2.remap(source, *to, interpolation, borderMode=cv2.BORDER_CONSTANT)


def _window(at: Coordinates, size: int) -> tuple[int, int]:
    """Return the range of source pixels, of `size`, that coordinates need: first, last + 1."""
    at = at[~np.isnan(at)]
    if at.size == 0:
        return 0, 0
    low, high = float(at.min()), float(at.max())
    return max(0, math.floor(low) - MARGIN), min(size, math.ceil(high) + MARGIN + 1)


def _solid(mixed: NDArray, valid: NDArray) -> RGBA:
    """Return uint8 RGBA of premultiplied 16-bit RGBA: opaque where valid, else transparent.

    A pixel is valid where the nearest source pixel is (`valid`), so that abutting tiles leave no
    gap at corners, where each covers less than half of it; and where half of it is covered, so that
    they leave none at edges, where rounding may find the nearest source pixel in neither.
    """
    alpha = mixed[..., 3]
    solid = ((mixed + 128) >> 8).astype(np.uint8)
    partly = (alpha > 0) & (alpha < OPAQUE)
    weight = alpha[partly, np.newaxis].astype(np.uint32)
    colours = (mixed[partly, :3] * np.uint32(255) + weight // 2) // weight
    solid[partly, :3] = np.minimum(colours, 255)
    solid[..., 3] = 255
    solid *= ((valid > 0) | (alpha >= HALF))[..., np.newaxis]
    return solid
