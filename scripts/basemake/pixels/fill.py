"""Holes of a tile, filled from further items of the same place that are matched to the first.

Items are ranked, best first. A pixel shows the first item that is valid there: its digital numbers
(DN) are no nodata, and its mask, if it has one, does not hide it. Pixels of the first item stay as
they are. Those of another one are multiplied, band by band in reflectance, by a smooth gain that
brings it to the level of what surrounds the hole:

- in each cell of CELL pixels the gain is the ratio of the medians of both, over pixels at which the
  item and one before it are valid;
- where a cell has none or few of these, the gain is that of ever larger cells around it (the
  pull-push of Gortler et al., The Lumigraph, SIGGRAPH 1996);
- just inside a hole it is that of the cells at its border, and fades to the former (FEATHER);
- between the middles of cells it is interpolated.

Where masks hide all items that have data, the darkest one is shown: masks take roofs for clouds
and rivers for shadows in every item, and a cloud is brighter than the ground.

Cells are counted from the tile's corner, so that the gain of a pixel is the same whatever window is
read. Windows are (rows, columns) of the tile's grid.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from basemake.pixels.blocks import Image
from basemake.pixels.dn import Bools, DnReading, MaskRule
from basemake.pixels.raster import naming, open_geotiff

CELL = 8  # pixels a side
STRIP = 16 * CELL  # rows
WINDOW = 1024  # pixels a side in which holes are looked for
# Reflectance added before ratios are taken, so that they stay small over water and in shadow.
FLOOR = 0.01
FEATHER = 4  # cells
USUAL = 0.2  # by how much logarithms of gains differ in a tile, where both items are clear
HIDDEN = 128  # is added to the number of an item that is shown although its mask hides it
EMPTY = "EMPTY"  # an item of GDAL's metadata, in the files of an item of which nothing is needed
MOST = 3.0  # the largest gain, and the inverse of the smallest

Window = tuple[slice, slice]
Floats = NDArray[np.float32]


class Grid(NamedTuple):
    """The pixels of a tile: sides, and GDAL's geotransform, north up."""

    width: int
    height: int
    transform: tuple[float, ...]

    def windows(self, rows: int, columns: int) -> list[Window]:
        """Return windows of at most `rows` x `columns` pixels that cover the grid, row by row."""
        return [
            (slice(top, min(top + rows, self.height)), slice(left, min(left + columns, self.width)))
            for top in range(0, self.height, rows)
            for left in range(0, self.width, columns)
        ]


@dataclass(frozen=True)
class Layer:
    """An item's bands (red, green, blue), how their DN read, and its mask, if it has one."""

    bands: Sequence[Path]
    reading: DnReading
    mask: Path | None = None
    rule: MaskRule = field(default_factory=MaskRule)

    def read(self, grid: Grid, window: Window) -> tuple[NDArray, Bools]:
        """Return DN (3, height, width) of a window of `grid`, and where all are data."""
        for number, path in enumerate(self.bands):
            pixels, inside = nearest(path, grid, window)
            if not number:
                dn = np.empty((len(self.bands), *pixels.shape), pixels.dtype)
                data = inside
            dn[number] = pixels
            data &= inside
            if self.reading.nodata is not None:
                data &= pixels != self.reading.nodata
        return dn, data

    def data(self, grid: Grid, window: Window) -> Bools:
        """Return where pixels of a window of `grid` are data."""
        return self.read(grid, window)[1]

    def valid(self, grid: Grid, window: Window) -> Bools:
        """Return where pixels of a window of `grid` are data that no mask hides."""
        return self.data(grid, window) & ~self.hidden(grid, window)

    def hidden(self, grid: Grid, window: Window) -> Bools:
        """Return where the item's mask hides pixels of a window of `grid`."""
        if self.mask is None:
            return np.zeros(_shape(window), bool)
        more = math.ceil(self.rule.grow / abs(grid.transform[1]))
        rows, columns = window
        wide = (
            slice(max(0, rows.start - more), min(grid.height, rows.stop + more)),
            slice(max(0, columns.start - more), min(grid.width, columns.stop + more)),
        )
        values, inside = nearest(self.mask, grid, wide)
        hides, growing = self.rule.hides(values)
        if more:
            kernel = np.ones((2 * more + 1,) * 2, np.uint8)
            hides |= cv2.dilate(growing.astype(np.uint8), kernel) > 0
        top, left = rows.start - wide[0].start, columns.start - wide[1].start
        height, width = _shape(window)
        return (hides | ~inside)[top : top + height, left : left + width]

    def veiled(self, grid: Grid, window: Window) -> Bools:
        """Return where the item's mask hides pixels of a window of `grid` that were observed."""
        assert self.mask is not None
        values, inside = nearest(self.mask, grid, window)
        hides, growing = self.rule.hides(values)
        return self.hidden(grid, window) & inside & (growing | ~hides)


def is_empty(path: Path) -> bool:
    """Return whether a band's file says that nothing of it is needed."""
    with naming(path), open_geotiff(path) as dataset:
        return dataset.GetMetadataItem(EMPTY) is not None


def grid_of(path: Path) -> Grid:
    """Return the grid of a raster."""
    with open_geotiff(path) as dataset:
        return Grid(dataset.RasterXSize, dataset.RasterYSize, tuple(dataset.GetGeoTransform()))


def nearest(path: Path, grid: Grid, window: Window) -> tuple[NDArray, Bools]:
    """Return the pixels of a raster nearest to those of a window of `grid`, and which exist.

    Both are (height, width) and in the CRS of the raster, which may have pixels of another size.
    """
    with naming(path), open_geotiff(path) as dataset:
        left, width, _, top, _, height = grid.transform
        west, wide, _, north, _, high = dataset.GetGeoTransform()
        rows = _places(window[0], (top, height), (north, high))
        columns = _places(window[1], (left, width), (west, wide))
        inside = [
            (places >= 0) & (places < side)
            for places, side in ((rows, dataset.RasterYSize), (columns, dataset.RasterXSize))
        ]
        rows, columns = rows[inside[0]], columns[inside[1]]
        exist = np.logical_and.outer(*inside)
        if not exist.any():
            return np.zeros(exist.shape, np.uint8), exist
        row, column = int(rows[0]), int(columns[0])
        down, across = int(rows[-1]) + 1 - row, int(columns[-1]) + 1 - column
        if (down, across) == (len(rows), len(columns)):
            pixels = dataset.ReadAsArray(column, row, across, down)
        elif down <= len(rows):
            pixels = dataset.ReadAsArray(column, row, across, down)
            pixels = pixels[np.ix_(rows - row, columns - column)]
        else:  # a finer raster, of which no more is held than is asked for
            lines = (dataset.ReadAsArray(column, int(row), across, 1)[0] for row in rows)
            pixels = np.stack([line[columns - column] for line in lines])
    if pixels.shape == exist.shape:
        return pixels, exist
    found = np.zeros(exist.shape, pixels.dtype)
    found[np.ix_(*inside)] = pixels
    return found, exist


def _places(part: slice, here: tuple[float, float], there: tuple[float, float]) -> NDArray[np.int_]:
    """Return in which rows or columns of another raster the pixels of `part` have their middles.

    `here` and `there` are the origin and the length of a pixel of each.
    """
    middles = here[0] + (np.arange(part.start, part.stop) + 0.5) * here[1]
    # Less than a millionth of a pixel must not decide.
    return np.floor((middles - there[0]) / there[1] + 1e-6).astype(int)


# -- Where holes are -------------------------------------------------------------------------------


class Holes:
    """Pixels of a grid that are to be shown and that no item shows so far, as bits by window."""

    def __init__(self, grid: Grid, bits: dict[tuple[int, int], NDArray[np.uint8]]) -> None:
        """Take packed bits by the row and column at which their window begins."""
        self.grid, self._bits = grid, bits

    @classmethod
    def at(cls, grid: Grid, needed: Callable[[Window], Bools]) -> "Holes":
        """Return all pixels for which `needed(window)` is true."""
        windows = grid.windows(WINDOW, WINDOW)
        return cls(grid, _packed((window, needed(window)) for window in windows))

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._bits)

    def __or__(self, other: "Holes") -> "Holes":
        """Return those of both."""
        bits = dict(self._bits)
        for place, more in other._bits.items():
            bits[place] = bits[place] | more if place in bits else more
        return Holes(self.grid, bits)

    def within(self, part: Callable[[Window], Bools]) -> "Holes":
        """Return those for which `part(window)` is true; it is called where there are holes."""
        return self.without(lambda window: ~part(window))

    def without(self, shown: Callable[[Window], Bools]) -> "Holes":
        """Return those for which `shown(window)` is false; it is called where there are holes."""
        return Holes(
            self.grid, _packed((window, holes & ~shown(window)) for window, holes in self._all())
        )

    def blocks(self, image: Image, transform: Sequence[float], around: float = 0.0) -> set[int]:
        """Return the numbers of the blocks of an image that cover any, or what is around it.

        `transform` is GDAL's of the image; `around` are metres in all directions.
        """
        left, width, _, top, _, height = self.grid.transform
        more = math.ceil(around / abs(width))
        down = (top, height), (transform[3], transform[5]), image.height, image.block_height
        across = (left, width), (transform[0], transform[1]), image.width, image.block_width
        found: set[int] = set()
        for (rows, columns), holes in self._all():
            posts = [*_touching(columns, more, *across)]
            for row, lines in _touching(rows, more, *down):
                found.update(
                    row * image.across + column
                    for column, part in posts
                    if holes[lines, part].any()
                )
        return found

    def _all(self) -> Iterable[tuple[Window, Bools]]:
        for window in self.grid.windows(WINDOW, WINDOW):
            bits = self._bits.get((window[0].start, window[1].start))
            if bits is not None:
                shape = _shape(window)
                yield window, np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape) > 0


def _touching(
    part: slice,
    more: int,
    here: tuple[float, float],
    there: tuple[float, float],
    side: int,
    block: int,
) -> Iterable[tuple[int, slice]]:
    """Yield rows or columns of blocks, and which of the pixels of `part` touch each.

    A pixel touches those that it and `more` pixels on each side of it lie in. `here` and `there`
    are as in `_places`; `side` is that of the other raster, and `block` that of its blocks.
    """
    places = _places(slice(part.start - more, part.stop + more), here, there)
    first, last = places[: part.stop - part.start], places[2 * more :]
    for number in range(max(0, places[0]) // block, min(places[-1], side - 1) // block + 1):
        touching = np.flatnonzero(
            (first < min((number + 1) * block, side)) & (last >= number * block)
        )
        if touching.size:
            yield number, slice(touching[0], touching[-1] + 1)


def _packed(holes: Iterable[tuple[Window, Bools]]) -> dict[tuple[int, int], NDArray[np.uint8]]:
    return {
        (window[0].start, window[1].start): np.packbits(found)
        for window, found in holes
        if found.any()
    }


def _shape(window: Window) -> tuple[int, int]:
    return window[0].stop - window[0].start, window[1].stop - window[1].start


# -- What they are filled with ---------------------------------------------------------------------


class Strip(NamedTuple):
    """Some rows of a window, counted from its top, and where they are in the grid."""

    rows: slice
    window: Window


class Composite:
    """The ranked items of a tile as one image, read by windows, in any thread."""

    def __init__(self, layers: Sequence[Layer | None], grid: Grid) -> None:
        """Take the items, best first, with None for one of which nothing is needed.

        Call `match` before the first `read`.
        """
        assert layers[0] is not None
        self._first = layers[0]
        self._layers, self._grid = layers, grid
        # By the place of an item: (3, cells down, across). 16 bits tell a thousandth.
        self._gains: dict[int, NDArray[np.float16]] = {}

    def match(self, windows: Sequence[Window], pool: Executor) -> None:
        """Estimate the gains of all items after the first, in the order of rank.

        `windows` cover the tile; but for the last ones their sides are multiples of CELL.
        """
        cells = -(-self._grid.height // CELL), -(-self._grid.width // CELL)
        for number, layer in enumerate(self._layers[1:], 1):
            if layer is None:
                continue
            logs, weights = np.zeros((3, *cells), np.float32), np.zeros(cells, np.float32)
            compared = pool.map(partial(self._compared, number, layer), windows)
            for window, found in zip(windows, compared, strict=True):
                if found is not None:
                    part = tuple(slice(s.start // CELL, -(-s.stop // CELL)) for s in window)
                    logs[:, *part], weights[part] = found
            gains = [np.exp(_fitted(log, weights)).astype(np.float16) for log in logs]
            self._gains[number] = np.stack(gains)

    def read(self, window: Window) -> tuple[NDArray, NDArray[np.uint8]]:
        """Return DN (3, height, width) as those of the first item, and which item each is from.

        That is (height, width): 1 for the first one, 0 where there are no data. Where masks hide
        all of the items that have data, it is the darkest of these, plus HIDDEN.
        """
        return self._read(window, len(self._layers))

    def _read(self, window: Window, count: int) -> tuple[NDArray, NDArray[np.uint8]]:
        """Return what `read` does, of the first `count` items."""
        dn, data = self._first.read(self._grid, window)
        hidden = self._first.hidden(self._grid, window)
        item = data.astype(np.uint8)
        item[data & hidden] += HIDDEN
        for number, layer in enumerate(self._layers[1:count], 1):
            lacking = (item == 0) | (item > HIDDEN)
            if layer is None or not lacking.any():
                continue
            other, data = layer.read(self._grid, window)
            data &= lacking
            if data.any():
                hidden = layer.hidden(self._grid, window)
                for strip in _strips(window):
                    self._lay(number, (other, data, hidden), (dn, item), strip)
        return dn, item

    def _lay(
        self,
        number: int,
        other: tuple[NDArray, Bools, Bools],
        shown: tuple[NDArray, NDArray[np.uint8]],
        strip: Strip,
    ) -> None:
        """Lay an item into a strip of a window: where it is clear, or darker than what is hidden.

        `other` are its DN, where it is laid if it is better, and where its mask hides it; `shown`
        are the DN and the items that are shown so far, and are changed.
        """
        layer = self._layers[number]
        assert layer is not None
        dn, data, hidden = (array[..., strip.rows, :] for array in other)
        below, item = (array[..., strip.rows, :] for array in shown)
        rows, columns = np.nonzero(data)
        hidden = hidden[rows, columns]
        scale, offset = np.float32(layer.reading.scale), np.float32(layer.reading.offset + FLOOR)
        matched = np.empty((len(dn), len(rows)), below.dtype)
        for band, own, gain in zip(matched, dn, self._gains[number], strict=True):
            light = own[rows, columns] * scale + offset
            light *= _between(gain, strip.window)[rows, columns]
            band[:] = _to_dn(light - np.float32(FLOOR), self._first.reading, below.dtype)
        old = below[:, rows, columns]
        better = ~hidden | (item[rows, columns] == 0)
        better |= matched.sum(axis=0, dtype=int) < old.sum(axis=0, dtype=int)
        rows, columns = rows[better], columns[better]
        below[:, rows, columns] = matched[:, better]
        item[rows, columns] = number + 1 + HIDDEN * hidden[better]

    def _compared(self, number: int, layer: Layer, window: Window) -> tuple[Floats, Floats] | None:
        """Return the logarithms of an item's gains in the cells of a window, and their weights.

        They are (3, cells down, across) and (cells down, across); None if the item has nothing.
        """
        other, both = layer.read(self._grid, window)
        if not both.any():
            return None
        both &= ~layer.hidden(self._grid, window)
        dn, item = self._read(window, number)
        both &= (item > 0) & (item < HIDDEN)
        logs, counts = [], []
        for strip in _strips(window):
            valid = both[strip.rows]
            counts.append(_cells(valid, 0).sum(axis=-1))
            levels = [
                [_level(band[strip.rows], valid, counts[-1], reading) for band in bands]
                for bands, reading in ((dn, self._first.reading), (other, layer.reading))
            ]
            logs.append(np.log(levels[0]) - np.log(levels[1]))
        bound = np.log(MOST)
        weights = np.minimum(1, np.concatenate(counts) / (CELL * CELL / 2))
        return (
            np.clip(np.concatenate(logs, axis=1), -bound, bound).astype(np.float32),
            weights.astype(np.float32),
        )


def _strips(window: Window) -> Iterable[Strip]:
    """Yield strips of a window, so that what is computed of it takes little memory."""
    rows, columns = window
    for top in range(rows.start, rows.stop, STRIP):
        bottom = min(top + STRIP, rows.stop)
        yield Strip(slice(top - rows.start, bottom - rows.start), (slice(top, bottom), columns))


def _cells(pixels: NDArray, rest: int) -> NDArray:
    """Return the pixels of each cell, (down, across, CELL * CELL); `rest` is beyond the edges."""
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % CELL), (0, -width % CELL)), constant_values=rest)
    down, across = (side // CELL for side in padded.shape)
    split = padded.reshape(down, CELL, across, CELL).swapaxes(1, 2)
    return split.reshape(down, across, CELL * CELL)


def _level(dn: NDArray, valid: Bools, counts: NDArray[np.int_], reading: DnReading) -> NDArray:
    """Return the median reflectance of the valid pixels of each cell, plus FLOOR.

    It is half of FLOOR at least. `counts` are numbers of pixels; of none, any value is returned.
    """
    last = int(np.iinfo(dn.dtype).max)  # sorts after all others
    ordered = np.sort(_cells(np.where(valid, dn, dn.dtype.type(last)), last), axis=-1)
    middle = np.maximum(counts - 1, 0)[..., np.newaxis] // 2
    medians = np.take_along_axis(ordered, middle, axis=-1)[..., 0]
    return np.maximum(medians * reading.scale + reading.offset + FLOOR, FLOOR / 2)


def _fitted(logs: Floats, weights: Floats) -> Floats:
    """Return the logarithms of gains in all cells: those known, feathered into smooth ones.

    Cells unlike most of the tile, as where a cloud's shadow is not masked, count little for wide
    surroundings (Cauchy's weight). What is left of each fades within FEATHER cells.
    """
    if not weights.any():
        return logs
    unlike = (logs - np.median(logs[weights > 0])) / np.float32(USUAL)
    wide = _spread(logs, weights / (1 + unlike * unlike))
    rest, near = (
        cv2.GaussianBlur(cells, (0, 0), FEATHER / 2) for cells in ((logs - wide) * weights, weights)
    )
    faded = wide + rest / np.maximum(near, np.float32(1e-6)) * np.minimum(1, 2 * near)
    return np.asarray(faded + weights * (logs - faded), np.float32)


def _spread(values: Floats, weights: Floats) -> Floats:
    """Return values that are known where weights (0 to 1) are 1, and smooth everywhere else.

    Where a weight is less, the rest comes from means of ever larger surroundings; 0 if all are 0.
    """
    if values.size == 1:
        return np.where(weights > 0, values, np.float32(0))
    even = [(0, side % 2) for side in values.shape]
    shares = np.pad(weights, even)
    sums = np.pad(values * weights, even)
    corners = [(slice(y, None, 2), slice(x, None, 2)) for y in (0, 1) for x in (0, 1)]
    share = np.sum([shares[corner] for corner in corners], axis=0)
    mean = np.sum([sums[corner] for corner in corners], axis=0)
    mean /= np.maximum(share, np.float32(1e-6))
    around: Floats = cv2.resize(
        _spread(mean, np.minimum(share, 1)), shares.shape[::-1], interpolation=cv2.INTER_LINEAR
    )[: values.shape[0], : values.shape[1]]
    return np.asarray(around + weights * (values - around), np.float32)


def _between(cells: NDArray[np.float16], window: Window) -> Floats:
    """Return values of cells at the pixels of a window, interpolated between the cells' middles."""
    (above, below, down), (before, after, right) = (
        _steps(part, side) for part, side in zip(window, cells.shape, strict=True)
    )
    upper, lower = cells[above].astype(np.float32), cells[below].astype(np.float32)
    lines = upper * (1 - down)[:, np.newaxis] + lower * down[:, np.newaxis]
    return np.asarray(lines[:, before] * (1 - right) + lines[:, after] * right, np.float32)


def _steps(part: slice, cells: int) -> tuple[NDArray[np.int_], NDArray[np.int_], Floats]:
    """Return the cells before and after the middle of each pixel, and how near it is to the second.

    0 is at the middle of the first one, 1 at that of the second one.
    """
    places = np.clip((np.arange(part.start, part.stop) + 0.5) / CELL - 0.5, 0, cells - 1)
    before = places.astype(int)
    return before, np.minimum(before + 1, cells - 1), (places - before).astype(np.float32)


def _to_dn(light: Floats, reading: DnReading, dtype: np.dtype) -> NDArray:
    """Return reflectances as the nearest valid DN."""
    bounds = np.iinfo(dtype)
    exact = np.rint((light - np.float32(reading.offset)) / np.float32(reading.scale))
    dn = np.clip(exact, bounds.min, bounds.max).astype(dtype)
    if reading.nodata is not None:
        dn[dn == reading.nodata] += -1 if reading.nodata == bounds.max else 1
    return dn
