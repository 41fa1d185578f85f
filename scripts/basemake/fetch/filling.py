"""The items that fill holes of a tile's first one (see pixels/fill.py)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from basemake.build.bands import Known
from basemake.fetch.checks import DTYPES, told_as_band_errors
from basemake.fetch.wanted import Wanted
from basemake.pixels.blocks import Image, numbers_of
from basemake.pixels.cog import Header, write_blocks
from basemake.pixels.dn import Bools, DnReading, MaskRule
from basemake.pixels.fill import EMPTY, Grid, Layer, Window
from basemake.pixels.raster import open_geotiff

EMPTY_BLOCK = 512  # pixels a side


@dataclass(frozen=True)
class Fill:
    """The items after a tile's first one, best first: the bands and the mask of each.

    An item that the tile does not have has outputs without hrefs. `nodata` is that of bands, and
    `rule` tells what masks hide; it is None where there are none.
    """

    items: Sequence[Sequence[Wanted]]
    nodata: float | None
    rule: MaskRule | None = None

    def layer(self, item: Sequence[Wanted]) -> Layer:
        """Return an item by its new files."""
        bands = [band.beside(".new") for band in item if not band.is_mask]
        masks = [band.beside(".new") for band in item if band.is_mask]
        reading = DnReading(1.0, 0.0, self.nodata)
        return Layer(bands, reading, masks[0], self.rule) if self.rule else Layer(bands, reading)


def held(known: Known, grid: Grid) -> Callable[[Window], Bools]:
    """Return a function that tells which pixels of a window are in blocks that a file holds."""
    if not known.images:
        return lambda window: np.ones([part.stop - part.start for part in window], bool)
    image = known.all_images[known.level]
    held = np.zeros((image.down, image.across), bool)
    held.ravel()[numbers_of(known.blocks)] = True

    def inside(window: Window) -> Bools:
        rows, columns = (np.arange(part.start, part.stop) for part in window)
        return held[np.ix_(rows // image.block_height, columns // image.block_width)]

    return inside


def write_empty(item: Sequence[Wanted], like: Wanted) -> None:
    """Write new files with the grid of the new file of `like`, and no pixel."""
    with open_geotiff(like.beside(".new")) as dataset:
        header = Header(
            (Image(dataset.RasterXSize, dataset.RasterYSize, EMPTY_BLOCK, EMPTY_BLOCK),),
            tuple(dataset.GetGeoTransform()),
            dataset.GetSpatialRef().ExportToWkt(),
            DTYPES[dataset.GetRasterBand(1).DataType],
            "<",
            {"compression": 8, "predictor": 1},
            None,
        )
        nodata = dataset.GetRasterBand(1).GetNoDataValue()
    for band in item:
        with told_as_band_errors(band):
            new = band.beside(".new")
            new.unlink(missing_ok=True)
            write_blocks(
                new,
                header,
                0,
                lambda number: b"",
                nodata=None if nodata is None else f"{nodata:g}",
                metadata={EMPTY: "YES"},
            )
