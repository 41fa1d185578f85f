"""The PSNR of web tiles against a reference: `python -m benchmarks.quality NAME JSON`.

The reference is GDAL's warper on the enhanced tile with resampling bilinear, every pixel
transformed exactly (-et 0) and computed in float64, at web tiles of the top zoom spread over it.
"""

import json
import math
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from osgeo import gdal
from PIL import Image
from pmtiles.reader import MmapSource, all_tiles

from basemake.pixels.archive import read_tile
from basemake.pixels.webtiles import WebTile
from benchmarks.jobs import WEB_TILE

gdal.UseExceptions()


def psnr(error: NDArray[np.float64]) -> float:
    """Return the peak signal-to-noise ratio, in dB, of errors in levels of 0..255."""
    mean = float(np.mean(error**2))
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def compare(tile: str, archive: str, folders: list[str], zoom: int, count: int) -> list[float]:
    """Return the PSNR of `count` web tiles in a PMTiles archive and in z/x/y folders."""
    errors: list[list[NDArray]] = [[] for _ in range(len(folders) + 1)]
    source = gdal.Open(tile)
    for place in _sampled(Path(archive), zoom, count):
        expected = _reference(source, place)
        opaque = expected[..., 3] == 255
        files = [Path(folder, *map(str, place)).with_suffix(".webp") for folder in folders]
        contents = [read_tile(Path(archive), place), *(file.read_bytes() for file in files)]
        for content, found in zip(contents, errors, strict=True):
            image = Image.open(BytesIO(content or b"")).convert("RGBA")
            found.append((np.asarray(image, np.float64) - expected)[opaque][:, :3])
    return [psnr(np.concatenate(found)) for found in errors]


def _sampled(archive: Path, zoom: int, count: int) -> list[WebTile]:
    """Return web tiles of a zoom of an archive, evenly spread in its order."""
    with archive.open("rb") as file:
        places = [WebTile(*place) for place, _ in all_tiles(MmapSource(file)) if place[0] == zoom]
    return places[:: max(1, len(places) // count)][:count]


def _reference(source: gdal.Dataset, place: WebTile) -> NDArray[np.float64]:
    """Return the web tile, (height, width, 4), in float64, without compression."""
    warped = gdal.Warp(
        "",
        source,
        format="MEM",
        dstSRS="EPSG:3857",
        outputBounds=place.bounds,
        width=WEB_TILE,
        height=WEB_TILE,
        resampleAlg="bilinear",
        errorThreshold=0,
        outputType=gdal.GDT_Float64,
        workingType=gdal.GDT_Float64,
        overviewLevel="NONE",
    )
    return np.moveaxis(warped.ReadAsArray(), 0, -1)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
