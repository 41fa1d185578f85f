"""How true a map is at each zoom, beside maps of other tools: `python -m benchmarks.zooms ...`.

The reference of the top zoom is GDAL's warper on the enhanced tile with resampling bilinear, every
pixel transformed exactly (-et 0) and computed in float64. That of each lower zoom is its mean in
linear light, weighted by alpha, in float64. No reference is compressed or rounded.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from osgeo import gdal
from PIL import Image
from pmtiles.reader import MmapSource, all_tiles

from basemake.pixels.light import linear_light, srgb
from basemake.pixels.webtiles import HALF_WORLD
from benchmarks.jobs import WEB_TILE, WEBP_QUALITY
from benchmarks.measure import prepare, run
from benchmarks.pyramid import (
    MAX_ZOOM,
    METATILE_ZOOM,
    MIN_ZOOM,
    build_ours,
    gdal2tiles,
    raster_tile,
)
from benchmarks.quality import psnr
from benchmarks.report import Check, Measured, Section
from benchmarks.tiles import enhance_bands

NEAR = 4  # pixels from transparency that count as near to it
PEER = "gdal raster tile"

Doubles = NDArray[np.float64]


class Picture(NamedTuple):
    """A part of a zoom: RGBA (height, width, 4) in levels, and the pixel of its upper left."""

    rgba: Doubles
    left: int
    top: int


class Trueness(NamedTuple):
    """How near a map's zoom is to the reference, over pixels that are opaque in it.

    `psnr` is in dB, `ssim` that of luma (Wang et al. 2004, Gaussian window of 11 pixels), `drift`
    the mean difference in levels, `shift` the displacement in metres on the ground, `step` the
    largest mean step at the border of two web tiles beyond that of the reference, `halo` the mean
    absolute difference in levels within NEAR pixels of transparency, and `megabytes` the web tiles.
    `p99` is the 99th percentile of absolute differences of means of 8 x 8 pixels, in levels.
    """

    psnr: float
    ssim: float
    drift: float
    p99: float
    shift: float
    step: float
    halo: float
    megabytes: float


def bench_quality(folder: Path, side: int, gdal_program: str | None) -> Section:
    """Compare maps of real texture and of the simulated world, `side` pixels of 10 m a side."""
    lines: list[str] = []
    checks: list[Check] = []
    for kind in ("real", "simulated"):
        place = folder / kind
        place.mkdir()
        made_of = prepare("inputs", "bands", folder=place, side=side, kind=kind).strip()
        run(enhance_bands(place))
        maps = _maps(place, gdal_program)
        found = json.loads(prepare("zooms", "compare", tile=place / "tile.tif", maps=maps))
        lines += ["", f"{made_of[0].upper()}{made_of[1:]}:", "", *_table(found)]
        checks += _checks(kind, found)
    return Section(f"Quality, zoom by zoom, of {side} x {side} px", [], checks, _remarks(), lines)


def _maps(folder: Path, program: str | None) -> dict[str, Path]:
    """Make the maps of tile.tif in `folder`, by each tool that is there; return where they are."""
    tile = folder / "tile.tif"
    names = json.loads(prepare("inputs", "metatiles", tile=tile, zoom=METATILE_ZOOM))
    maps = {}
    for name, quality in (("basemake", WEBP_QUALITY), ("basemake, lossless", "lossless")):
        maps[name] = folder / f"{quality}.pmtiles"
        build_ours(folder / "metatiles", tile, maps[name], names, quality)
    peers: Iterable[Measured] = (
        raster_tile(program, tile, folder / "raster_tile", 1),
        gdal2tiles(tile, folder / "gdal2tiles", 1),
    )
    return maps | {peer.name: folder / peer.note for peer in peers if peer.runs}


def _table(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return a Markdown table of Trueness by zoom and map."""
    head = ("zoom", "map", "PSNR", "SSIM", "drift", "shift", "step", "halo", "bytes")
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for zoom in range(MAX_ZOOM, MIN_ZOOM - 1, -1):
        for name, zooms in found.items():
            true = Trueness(*zooms[str(zoom)])
            cells = (
                f"z{zoom}",
                name,
                f"{true.psnr:.1f} dB",
                f"{true.ssim:.3f}",
                f"{true.drift:+.2f}",
                f"{true.shift:.2f} m",
                f"{true.step:.2f}",
                f"{true.halo:.2f}",
                f"{1000 * true.megabytes:,.0f} kB",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def _checks(kind: str, found: dict[str, dict[str, list[float]]]) -> Iterator[Check]:
    lossless = {zoom: Trueness(*true) for zoom, true in found["basemake, lossless"].items()}
    drift = max(abs(true.drift) for true in lossless.values())
    yield Check(f"{kind}: drift at any zoom", drift, 1, "levels")
    yield Check(
        f"{kind}: 99 % of means of 8 px", max(true.p99 for true in lossless.values()), 2, "levels"
    )
    pixel = 2 * HALF_WORLD / WEB_TILE / 2**MAX_ZOOM
    yield Check(f"{kind}: shift at the top zoom", lossless[str(MAX_ZOOM)].shift, 0.05 * pixel, "m")
    peer = next((zooms for name, zooms in found.items() if name.startswith(PEER)), None)
    gains = [
        Trueness(*true).psnr - Trueness(*peer[zoom]).psnr
        for zoom, true in found["basemake"].items()
        if peer and zoom != str(MAX_ZOOM)
    ]
    least = min(gains, default=None)
    yield Check(f"{kind}: PSNR above {PEER}'s, at lower zooms", least, 0, "dB", at_least=True)


def _remarks() -> list[str]:
    return [
        "PSNR, SSIM, drift (mean difference), step (at borders of web tiles) and halo (within"
        f" {NEAR} pixels of transparency) in levels of 0 to 255, shift in metres on the ground:"
        " all against a reference in float64 and linear light. Targets are of lossless web tiles,"
        " where the encoder adds nothing."
    ]


# -- Measuring, in a process of its own ------------------------------------------------------------


def compare(tile: str, maps: dict[str, str]) -> dict[str, dict[int, Trueness]]:
    """Return how true each map of a tile is, by zoom: PMTiles archives, or folders z/x/y."""
    found: dict[str, dict[int, Trueness]] = {name: {} for name in maps}
    for zoom, reference in _references(tile):
        for name, place in maps.items():
            found[name][zoom] = _trueness(reference, zoom, Path(place))
    return found


def _references(tile: str) -> Iterator[tuple[int, Picture]]:
    """Yield the reference of each zoom, from the top one down."""
    source = gdal.Open(tile)
    pixel = 2 * HALF_WORLD / WEB_TILE / 2**MAX_ZOOM
    whole = 2 ** (MAX_ZOOM - MIN_ZOOM)  # pixels of the top zoom in one of the lowest
    corners = gdal.Info(gdal.Warp("", source, format="VRT", dstSRS="EPSG:3857"), format="json")
    corners = corners["cornerCoordinates"]
    left, top = (
        math.floor(place / pixel / whole) * whole
        for place in (corners["upperLeft"][0] + HALF_WORLD, HALF_WORLD - corners["upperLeft"][1])
    )
    right, bottom = (
        math.ceil(place / pixel / whole) * whole
        for place in (corners["lowerRight"][0] + HALF_WORLD, HALF_WORLD - corners["lowerRight"][1])
    )
    bounds = (
        left * pixel - HALF_WORLD,
        HALF_WORLD - bottom * pixel,
        right * pixel - HALF_WORLD,
        HALF_WORLD - top * pixel,
    )
    warped = gdal.Warp(
        "",
        source,
        format="MEM",
        dstSRS="EPSG:3857",
        outputBounds=bounds,
        width=right - left,
        height=bottom - top,
        resampleAlg="bilinear",
        errorThreshold=0,
        outputType=gdal.GDT_Float64,
        workingType=gdal.GDT_Float64,
        overviewLevel="NONE",
    )
    rgba = np.moveaxis(warped.ReadAsArray(), 0, -1)
    light = linear_light(rgba[..., :3] / 255)
    alpha = rgba[..., 3:] / 255
    for zoom in range(MAX_ZOOM, MIN_ZOOM - 1, -1):
        yield zoom, Picture(np.concatenate([255 * srgb(light), 255 * alpha], axis=2), left, top)
        if zoom == MIN_ZOOM:
            return
        weighted, alpha = _halved(light * alpha), _halved(alpha)
        light = np.divide(weighted, alpha, out=np.zeros_like(weighted), where=alpha > 0)
        left, top = left // 2, top // 2


def _halved(image: Doubles) -> Doubles:
    height, width, bands = image.shape
    return image.reshape(height // 2, 2, width // 2, 2, bands).mean(axis=(1, 3))


def _trueness(reference: Picture, zoom: int, place: Path) -> Trueness:
    found, size = _drawn(reference, zoom, place)
    opaque = reference.rgba[..., 3] == 255
    error = np.where(opaque[..., None], found - reference.rgba[..., :3], 0.0)
    near = cv2.dilate((~opaque).astype(np.uint8), np.ones((2 * NEAR + 1,) * 2)).astype(bool)
    luma = [image @ [0.299, 0.587, 0.114] for image in (found, reference.rgba[..., :3])]
    halo = np.abs(error[opaque & near])
    return Trueness(
        psnr(error[opaque]),
        _ssim(*luma, opaque & ~near),
        float(error[opaque].mean()),
        _blockwise(error, opaque),
        _shift(*luma, opaque, reference, zoom),
        _step(error, opaque, reference),
        float(halo.mean()) if halo.size else 0.0,
        size / 1e6,
    )


def _drawn(reference: Picture, zoom: int, place: Path) -> tuple[Doubles, int]:
    """Return the map's RGB (height, width, 3) where the reference is, and its bytes at a zoom."""
    height, width = reference.rgba.shape[:2]
    drawn, size = np.zeros((height, width, 3)), 0
    for x, y, content in _web_tiles(place, zoom):
        size += len(content)
        image = np.asarray(Image.open(BytesIO(content)).convert("RGB"), np.float64)
        left, top = x * WEB_TILE - reference.left, y * WEB_TILE - reference.top
        rows = slice(max(0, top), max(0, min(height, top + WEB_TILE)))
        columns = slice(max(0, left), max(0, min(width, left + WEB_TILE)))
        part = image[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        drawn[rows, columns] = part
    return drawn, size


def _web_tiles(place: Path, zoom: int) -> Iterator[tuple[int, int, bytes]]:
    if place.is_dir():
        for path in place.glob(f"{zoom}/*/*.webp"):
            yield int(path.parent.name), int(path.stem), path.read_bytes()
        return
    with place.open("rb") as file:
        for (z, x, y), content in all_tiles(MmapSource(file)):
            if z == zoom:
                yield x, y, content


def _ssim(one: Doubles, other: Doubles, valid: NDArray[np.bool_]) -> float:
    """Return the mean structural similarity, with the constants of Wang et al. 2004."""

    def smooth(image: Doubles) -> Doubles:
        return cv2.GaussianBlur(image, (11, 11), 1.5)

    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean, mean_other = smooth(one), smooth(other)
    variance = smooth(one * one) - mean**2
    variance_other = smooth(other * other) - mean_other**2
    covariance = smooth(one * other) - mean * mean_other
    similarity = (2 * mean * mean_other + first) * (2 * covariance + second)
    similarity /= (mean**2 + mean_other**2 + first) * (variance + variance_other + second)
    return float(similarity[valid].mean())


def _blockwise(error: Doubles, opaque: NDArray[np.bool_]) -> float:
    """Return the 99th percentile of the absolute means of 8 x 8 opaque pixels, by band."""
    height, width = (side // 8 * 8 for side in opaque.shape)
    shape = (height // 8, 8, width // 8, 8)
    full = opaque[:height, :width].reshape(shape).all(axis=(1, 3))
    means = error[:height, :width].reshape(*shape, 3).mean(axis=(1, 3))
    return float(np.percentile(np.abs(means[full]), 99)) if full.any() else 0.0


def _shift(
    one: Doubles, other: Doubles, opaque: NDArray[np.bool_], reference: Picture, zoom: int
) -> float:
    """Return how far a map is displaced, in metres on the ground, by phase correlation."""
    images = [np.where(opaque, image, image[opaque].mean()) for image in (one, other)]
    window = cv2.createHanningWindow(opaque.shape[::-1], cv2.CV_64F)
    (x, y), _ = cv2.phaseCorrelate(*images, window)
    pixel = 2 * HALF_WORLD / WEB_TILE / 2**zoom
    middle = HALF_WORLD - (reference.top + opaque.shape[0] / 2) * pixel
    return float(np.hypot(x, y) * pixel / math.cosh(middle / 6_378_137))


def _step(error: Doubles, opaque: NDArray[np.bool_], reference: Picture) -> float:
    """Return the largest mean step of the error at a border of two web tiles, in levels."""
    steps = [0.0]
    for axis, start in ((0, reference.top), (1, reference.left)):
        turned, fine = np.moveaxis(error, axis, 0), np.moveaxis(opaque, axis, 0)
        for border in range(-start % WEB_TILE or WEB_TILE, len(turned), WEB_TILE):
            both = fine[border - 1] & fine[border]
            if both.sum() >= WEB_TILE // 4:
                step = (turned[border] - turned[border - 1])[both]
                steps.append(float(np.abs(step.mean(axis=0)).max()))
    return max(steps)


if __name__ == "__main__":
    gdal.UseExceptions()
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
