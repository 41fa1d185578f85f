"""Reads finished archives as a map client does, for tests."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pmtiles.reader import MmapSource, Reader, all_tiles


def header(archive: Path) -> dict:
    """The archive's header."""
    with archive.open("rb") as file:
        return Reader(MmapSource(file)).header()


def metadata(archive: Path) -> dict:
    """The archive's JSON metadata."""
    with archive.open("rb") as file:
        return Reader(MmapSource(file)).metadata()


def images(archive: Path, zoom: int) -> dict[tuple[int, int], np.ndarray]:
    """(x, y) -> RGBA of every web tile of a zoom."""
    with archive.open("rb") as file:
        return {
            (x, y): np.asarray(Image.open(BytesIO(data)).convert("RGBA"))
            for (z, x, y), data in all_tiles(MmapSource(file))
            if z == zoom
        }


def canvas(archive: Path, zoom: int) -> tuple[np.ndarray, tuple[int, int]]:
    """All web tiles of a zoom as one RGBA image, and the (x, y) pixel of its corner in the quad."""
    tiles = images(archive, zoom)
    size = next(iter(tiles.values())).shape[0]
    left, top = min(x for x, _ in tiles), min(y for _, y in tiles)
    right, bottom = max(x for x, _ in tiles), max(y for _, y in tiles)
    whole = np.zeros(((bottom - top + 1) * size, (right - left + 1) * size, 4), np.uint8)
    for (x, y), image in tiles.items():
        row, column = (y - top) * size, (x - left) * size
        whole[row : row + size, column : column + size] = image
    return whole, (left * size, top * size)


def pixel_centres(
    corner: tuple[int, int], shape: tuple[int, ...], zoom: int, size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude (degrees) of each pixel's centre in a canvas."""
    pixels = size * 2**zoom
    x = (corner[0] + np.arange(shape[1]) + 0.5) / pixels
    y = (corner[1] + np.arange(shape[0]) + 0.5) / pixels
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * y))))
    lon, lat = np.meshgrid(360 * x - 180, lat)
    return lon, lat
