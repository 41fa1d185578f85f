"""`make seams`: measure the steps of colour at the borders of tiles and zones, and along stripes.

Takes the options of snakemake. Prints a table for each region, and draws where the steps are in
results/seams/{region}.png.
"""

import sys
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pmtiles.reader import Reader

from basemake.build.bucket import Bucket, brought
from basemake.build.layout import Layout
from basemake.build.paths import RESULTS
from basemake.build.run_lock import alone
from basemake.engine.open_build import Build, as_command, open_build
from basemake.errors import TileError
from basemake.measure.seam_map import draw_seams
from basemake.measure.seams import Step, steps_at_borders, stripes
from basemake.pixels.archive import open_archive
from basemake.pixels.raster import set_up_libraries
from basemake.pixels.warp import Warper
from basemake.pixels.webtiles import WebTile, geometry_to_mercator, reached, to_degrees

MOST = 3072  # pixels a side of the image that is measured


class Picture(NamedTuple):
    """A map at one zoom: its colours, (height, width, 4), and which tile shows in each pixel.

    `corner` is the web tile in its north-western corner; `labels` are -1 where no tile shows.
    """

    corner: WebTile
    size: int  # pixels a side of a web tile
    colours: NDArray[np.uint8]
    labels: NDArray[np.int16]

    def window(self, webtile: WebTile) -> tuple[slice, slice]:
        """Return the rows and columns of a web tile of this zoom."""
        top, left = (webtile.y - self.corner.y) * self.size, (webtile.x - self.corner.x) * self.size
        return slice(top, top + self.size), slice(left, left + self.size)

    def degrees(self, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Return the longitudes and latitudes of pixels' centres."""
        west, _, east, north = self.corner.bounds
        pixel = (east - west) / self.size
        mercator = np.stack([west + (x + 0.5) * pixel, north - (y + 0.5) * pixel], axis=-1)
        lon, lat = np.moveaxis(to_degrees(mercator), -1, 0)
        return lon, lat


def measure(build: Build, layout: Layout, region: str) -> list[str]:
    """Measure a region's map and draw its seams; return the lines of the table.

    Raises TileError if the archive or an enhanced tile is missing or incomplete, or if no tile
    shows in the map.
    """
    picture = read_picture(layout, region, build.config["pyramid"]["tile_size"], build.bucket)
    if picture.labels.max() < 0:
        raise TileError(f"no tile shows in the map of {region}: look at its tiles.")
    colours, labels = picture.colours[..., :3], picture.labels
    borders = steps_at_borders(colours, labels)
    rows = np.arange(len(labels))
    _, latitudes = picture.degrees(rows, rows)
    tiles = layout.tiles_of(region)
    one_zone = [len({tiles[number].epsg for number in step.tiles}) == 1 for step in borders]
    kinds = {
        "tile borders": [step for step, one in zip(borders, one_zone, strict=True) if one],
        "zone borders": [step for step, one in zip(borders, one_zone, strict=True) if not one],
        "stripes": stripes(colours, labels, latitudes),
    }
    path = RESULTS / f"seams/{region}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"Seams of {region}, {build.config['quarter']}, at zoom {picture.corner.z}"
    draw_seams(path, title, colours, labels, kinds)
    lines = [
        title,
        f"  {'':14}{'lines':>7}{'median':>9}{'largest':>9}{'beside: median':>17}{'largest':>9}",
    ]
    lines += [_row(kind, steps) for kind, steps in kinds.items()]
    found = [step for steps in kinds.values() for step in steps]
    if found:
        worst = max(found, key=lambda step: step.size)
        middle = len(worst.x) // 2
        lon, lat = picture.degrees(worst.x[middle], worst.y[middle])
        names = " and ".join(dict.fromkeys(tiles[number].name for number in worst.tiles))
        lines.append(f"The largest is in {names}, at longitude {lon:.3f} and latitude {lat:.3f}.")
    return [*lines, f"Picture: {path.absolute()}", ""]


def _row(kind: str, steps: list[Step]) -> str:
    """Return a row of the table: the number of lines, their steps in levels, and those beside."""
    cells = []
    for sizes in ([step.size for step in steps], [step.beside for step in steps]):
        known = [size for size in sizes if np.isfinite(size)]
        cells += [f"{np.median(known):.1f}", f"{max(known):.1f}"] if known else ["-", "-"]
    widths = (9, 9, 17, 9)
    row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"  {kind:14}{len(steps):>7}{row}"


def read_picture(layout: Layout, region: str, size: int, bucket: Bucket | None) -> Picture:
    """Return a region's map at the highest zoom at which it has at most MOST pixels a side.

    `size` is that of its web tiles; `bucket` keeps archive and tiles, if it is not None. Of a map
    across the antimeridian that is a low zoom.
    """
    shown, zooms = geometry_to_mercator(layout.extent(region)), layout.zooms[region]
    for zoom in range(zooms.max, zooms.min - 1, -1):
        columns, rows = reached(shown, zoom)
        if max(len(columns), len(rows)) * size <= MOST:
            break
    shape = len(rows) * size, len(columns) * size
    picture = Picture(
        WebTile(zoom, columns.start, rows.start),
        size,
        np.zeros((*shape, 4), np.uint8),
        np.full(shape, -1, np.int16),
    )
    webtiles = [WebTile(zoom, x, y) for x in columns for y in rows]
    archive = RESULTS / f"pyramid/{region}.pmtiles"
    if not archive.exists():
        raise TileError(f"there is no {archive} yet: run `snakemake` first to make the map.")
    with brought(bucket, [archive]), open_archive(archive) as (get_bytes, _):
        reader = Reader(get_bytes)
        for webtile in webtiles:
            if data := reader.get(*webtile):
                with Image.open(BytesIO(data)) as image:
                    picture.colours[picture.window(webtile)] = np.asarray(image.convert("RGBA"))
    paths = [RESULTS / f"tiles/{tile.name}.tif" for tile in layout.tiles_of(region)]
    for number, path in enumerate(paths):
        if not path.exists():
            raise TileError(
                f"there is no {path}, by which borders are found: run `snakemake` first, with"
                " keep_tiles: true."
            )
        with brought(bucket, [path]):
            _label(picture, number, path, webtiles)
    return picture


def _label(picture: Picture, number: int, path: Path, webtiles: list[WebTile]) -> None:
    """Put a tile's number where it has valid pixels."""
    zoom = picture.corner.z
    warper = Warper.of([path], WebTile(0, 0, 0).bounds, 1 << zoom, picture.size, "nearest")
    for webtile in webtiles:
        if warper.may_show(webtile.y, webtile.x, 1):
            drawn = warper.draw(webtile.y, webtile.x)
            if drawn is not None:
                window = picture.window(webtile)
                both = (drawn[..., 3] > 0) & (picture.colours[window][..., 3] == 255)
                picture.labels[window][both] = number


def main(arguments: list[str]) -> None:
    """Print the tables of the regions of the build that `arguments` name, and draw their seams."""
    with as_command("seams"):
        build = open_build(arguments)
        set_up_libraries(build.config["gdal_cache_mb"])
        layout = build.layout()
        with alone() if build.bucket else nullcontext():
            for region in layout.regions:
                print("\n".join(measure(build, layout, region)))
    print(
        "Levels of 0..255, the largest of red, green and blue. A line is 64 pixels of a border, or"
        " a stripe;\nbeside: parallel lines in the same tile."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
