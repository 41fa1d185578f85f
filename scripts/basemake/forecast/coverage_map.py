"""A map of a plan as PNG: tiles in the colour of their state, and the regions' polygons."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from basemake.pixels.webtiles import to_mercator, widest_gap

COLOURS = {"download": "#4a90d9", "new": "#b5d3f2", "stale": "#f0a030", "fresh": "#7cbf8e"}
WORDS = {
    "download": "to download and make",
    "new": "to make, bands are here",
    "stale": "stale: to make again",
    "fresh": "fresh",
}
INK, OUTLINE = "#222222", "#c2185b"
MAP, EDGE, LINE, LEAST_WIDTH = 860, 20, 26, 420  # pixels
FINER = 3  # the map is drawn larger by this factor and reduced, for smooth edges
MOST_NAMES = 30  # tiles, up to which their names are written


class View(NamedTuple):
    """The projection of a map and its size in pixels.

    `project` converts longitudes and latitudes (n, 2) to pixels x and y (n, 2).
    """

    project: Callable[[Any], NDArray[np.float64]]
    width: int
    height: int


def draw_coverage(
    path: Path, title: str, tiles: dict[str, tuple[Any, str]], regions: dict[str, Any]
) -> None:
    """Write a PNG map of tiles and regions.

    `tiles` are (geometry in degrees, key of COLOURS) by name, `regions` geometries in degrees by
    name.
    """
    view = view_of([*(geometry for geometry, _ in tiles.values()), *regions.values()])
    image = Image.new("RGB", (view.width * FINER, view.height * FINER), "white")
    draw = ImageDraw.Draw(image)
    # Where tiles of two zones overlap, those that are to be made cover fresh ones.
    order = [*reversed(COLOURS)]
    for geometry, state in sorted(tiles.values(), key=lambda tile: order.index(tile[1])):
        for part in shapely.get_parts(geometry):
            draw.polygon(_corners(view, part.exterior), COLOURS[state])
    for geometry, _ in tiles.values():
        _outline(draw, view, geometry, INK, 1)
    for region in regions.values():
        _outline(draw, view, region, OUTLINE, 3)
    image = image.resize((view.width, view.height), Image.Resampling.BOX)
    _write_words(ImageDraw.Draw(image), view, title, tiles)
    image.save(path, "PNG", optimize=True)


def view_of(geometries: list[Any]) -> View:
    """Return the view that shows `geometries` (degrees) in Mercator, as `projection_of` has it."""
    parts = [part for geometry in geometries for part in shapely.get_parts(geometry)]
    mercator = projection_of(parts)
    corners = mercator(shapely.get_coordinates(parts))
    low, span = corners.min(axis=0), np.ptp(corners, axis=0)
    scale = MAP / span.max()
    width, height = (math.ceil(side) for side in span * scale)
    left = max(0, LEAST_WIDTH - width) // 2 + EDGE

    def project(lonlat: Any) -> NDArray[np.float64]:
        return (mercator(lonlat) - low) * scale + [left, EDGE + 2 * LINE]

    return View(project, width + 2 * left, height + 2 * EDGE + (4 + len(COLOURS)) * LINE)


def projection_of(parts: list[Any]) -> Callable[[Any], NDArray[np.float64]]:
    """Return a function from longitudes and latitudes (n, 2) to Mercator metres east and south.

    The map is cut in the widest gap of longitudes between `parts`, single geometries in degrees, so
    that those on both sides of 180 degrees are side by side.
    """
    begin = widest_gap(parts)

    def mercator(lonlat: Any) -> NDArray[np.float64]:
        lonlat = np.array(lonlat, float).reshape(-1, 2)
        lonlat[:, 0] += np.where(lonlat[:, 0] < begin, 360, 0)
        return to_mercator(lonlat) * [1, -1]

    return mercator


def _corners(view: View, ring: Any) -> list[tuple[float, float]]:
    return [(x, y) for x, y in (view.project(ring.coords) * FINER).tolist()]


def _outline(draw: ImageDraw.ImageDraw, view: View, area: Any, colour: str, width: int) -> None:
    """Draw the edges of an area (degrees), but not those along 180 degrees, where it was split."""
    for ring in _rings(area):
        ends = zip(ring.coords[:-1], ring.coords[1:], strict=True)
        corners = _corners(view, ring)
        for (a, b), *line in zip(ends, corners[:-1], corners[1:], strict=True):
            if not abs(a[0]) == abs(b[0]) == 180:
                draw.line(line, colour, width * FINER)


def _rings(area: Any) -> Iterator[Any]:
    for part in shapely.get_parts(area):
        yield part.exterior
        yield from part.interiors


def _write_words(
    draw: ImageDraw.ImageDraw, view: View, title: str, tiles: dict[str, tuple[Any, str]]
) -> None:
    """Write the title, the tiles' names and the legend with the number of tiles in each state."""
    large, text = (ImageFont.load_default(size) for size in (19, 15))
    draw.text((EDGE, EDGE), title, INK, large)
    if len(tiles) <= MOST_NAMES:
        _write_names(draw, view, tiles)
    counts = Counter(state for _, state in tiles.values())
    y = view.height - EDGE - (1 + len(COLOURS)) * LINE
    for state, colour in COLOURS.items():
        draw.rectangle((EDGE, y, EDGE + 22, y + 16), colour, INK)
        what = "tile" if counts[state] == 1 else "tiles"
        draw.text((EDGE + 34, y), f"{counts[state]} {what} {WORDS[state]}", INK, text)
        y += LINE
    draw.line((EDGE, y + 8, EDGE + 22, y + 8), OUTLINE, 3)
    draw.text((EDGE + 34, y), "the polygons of the regions", INK, text)


def _write_names(draw: ImageDraw.ImageDraw, view: View, tiles: dict[str, tuple[Any, str]]) -> None:
    """Write each tile's name in its colour below its centroid, and below names already there."""
    font = ImageFont.load_default(12)
    written: list[Any] = []
    for name, (geometry, state) in tiles.items():
        part = max(shapely.get_parts(geometry), key=lambda part: part.area)
        [[x, y]] = view.project(part.centroid.coords)
        while True:
            y += 8
            box = shapely.box(*draw.textbbox((x, y), name, font=font, anchor="ma"))
            if not any(box.intersects(other) for other in written):
                break
        written.append(box)
        draw.rectangle(box.buffer(2, join_style="mitre").bounds, COLOURS[state])
        draw.text((x, y), name, INK, font, anchor="ma")
