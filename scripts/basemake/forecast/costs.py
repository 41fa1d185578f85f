"""What a job of each rule takes: the table COSTS, by rule, with the shipped figures.

Sizes are bytes on disk and times seconds; MB and Mpx are millions of bytes and pixels. A new rule
needs an entry in COSTS; everything else about it comes from Snakemake's graph of jobs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from basemake.build.bands import band_path, known_here, known_in_draft
from basemake.build.layout import Layout
from basemake.build.manifest import Tile, file_key
from basemake.engine.graph import Job
from basemake.errors import ConfigError
from basemake.forecast.downloads import (
    CLOUDED,
    HOLED,
    MASK_BYTES,
    PIXEL_SIZE,
    BandSize,
    Seen,
    held_bytes,
    size_of_band,
    size_of_filling,
)
from basemake.forecast.estimate import Cost, Pace, size_of
from basemake.pixels.webtiles import RADIUS, geometry_to_mercator, resolution
from basemake.web.addresses import is_remote

# ASSUME: until a directory has files of its own, sizes are those of Sentinel-2's quarterly mosaics.
# Bytes of an enhanced tile with its reduced images per byte of its bands without them: 205 MB from
# 334 MB of 461 MB.
TILE_BYTES = {"webp": 0.61, "jxl": 0.59, "zstd": 0.77, "deflate": 0.83}
# Bytes of web tiles of all zooms per pixel of the top zoom, at each of QUALITIES; from docs/bench,
# and from Pillow on the same pixels.
QUALITIES = [1, 50, 80, 95, 100]
WEB_BYTES = {
    "webp": [0.03, 0.09, 0.17, 0.40, 0.54],
    "jpeg": [0.03, 0.13, 0.22, 0.46, 0.70],
}
LOSSLESS_WEB_BYTES = {"webp": 1.75, "png": 1.95}
ROOT_BYTES = 6.0  # bytes a pixel of a metatile's root, of 16 bits a band
# bytes of a job's files
VRT_BYTES, PAGE_BYTES, INDEX_BYTES, READERS_BYTES = 5_000, 1_500_000, 3_000, 1_150_000
ITEM_BYTES = 2_000
NETWORK = 12.5e6  # bytes a second over all connections together: 100 Mbit/s
LOCAL = 200e6  # bytes a second when bands are copied from files
# If one of these settings changed, the sizes of existing outputs do not predict those of new ones.
SIZING = {"codec", "image_format", "quality", "tile_size", "min_zoom", "max_zoom", "resampling"}
FETCH, ENHANCE, RENDER = "fetch_bands", "enhance_tile", "render_metatile"


class Amount(NamedTuple):
    """The work of a job in the units of its rule (see COSTS), and the bytes of its outputs."""

    units: float
    bytes: float


@dataclass(frozen=True)
class Sizes:
    """Mean output bytes per unit of input."""

    tile: float  # bytes of an enhanced tile per byte of its bands without reduced images
    web: float  # bytes of web tiles of all zooms per pixel of the top zoom
    root: float  # bytes of a metatile's root per pixel of the root


@dataclass(frozen=True)
class Quantities:
    """The sizes of all parts of a build.

    `bands` are what the maps need of each band, by tile and file key; `unsized` is the number of
    bands by tile whose items do not give their size, which is then estimated. `metatile_pixels` are
    pixels of the top zoom by region and metatile, where tiles cover it. `levels` is the number of
    zooms from a region's metatiles to its top zoom. `sizes` are used for all outputs.
    """

    bands: dict[str, dict[str, BandSize]]
    unsized: dict[str, int]
    metatile_pixels: dict[tuple[str, str], float]
    levels: dict[str, int]
    sizes: Sizes

    def image_bytes(self, tile: str) -> float:
        """Return the bytes of the blocks of a tile's bands, without reduced images."""
        return sum(band.image_bytes for band in self.bands[tile].values())

    def missing(self, tile: str) -> float:
        """Return the bytes of a tile's bands that are still to be fetched."""
        return sum(band.missing for band in self.bands[tile].values())

    def filling(self, tile: Tile) -> float:
        """Return the bytes of what fills a tile's holes that are still to be fetched."""
        sizes = self.bands[tile.name]
        return sum(sizes[key].missing for key in tile.files if key not in tile.bands)

    def region_pixels(self, region: str) -> float:
        """Return the number of pixels of a region's top zoom that tiles cover."""
        return sum(n for (name, _), n in self.metatile_pixels.items() if name == region)

    def root_pixels(self, region: str, metatile: str) -> float:
        """Return the number of pixels of a metatile's root that tiles cover."""
        return self.metatile_pixels[region, metatile] / 4 ** self.levels[region]

    def overview_bytes(self, region: str) -> float:
        """Return the bytes of a region's web tiles of lower zooms than its metatiles.

        Each zoom has a quarter of the pixels of the next higher zoom, and 1/4 + 1/16 + ... is 1/3.
        """
        return self.sizes.web * self.region_pixels(region) / 4 ** self.levels[region] / 3

    def archive_bytes(self, region: str) -> float:
        """Return the bytes of all web tiles of a region."""
        return self.sizes.web * self.region_pixels(region) + self.overview_bytes(region)


@dataclass(frozen=True)
class RuleCost:
    """The seconds of a rule's jobs per unit of work, and the function that counts a job's work."""

    cost: Cost
    amount: Callable[[Job, Quantities], Amount]


def _bands(job: Job, quantities: Quantities) -> Amount:
    """Units: MB that come, as if nothing was here yet."""
    bands = quantities.bands[job.wildcards["tile"]].values()
    return Amount(sum(band.fetched for band in bands) / 1e6, sum(b.file_bytes for b in bands))


def _tile(job: Job, quantities: Quantities) -> Amount:
    """Units: Mpx of the tile that its bands hold."""
    tile = job.wildcards["tile"]
    pixels = max(band.pixels for band in quantities.bands[tile].values())
    return Amount(pixels / 1e6, quantities.sizes.tile * quantities.image_bytes(tile))


def _vrts(job: Job, quantities: Quantities) -> Amount:
    """Units: none. Both VRTs of a zone grow with its number of tiles."""
    return Amount(0, VRT_BYTES * (2 + len(job.inputs) / 3))


def _vrt(job: Job, quantities: Quantities) -> Amount:
    """Units: none."""
    return Amount(0, VRT_BYTES)


def _metatile(job: Job, quantities: Quantities) -> Amount:
    """Units: Mpx of the top zoom."""
    key = job.wildcards["region"], job.wildcards["metatile"]
    pixels, root = quantities.metatile_pixels[key], quantities.root_pixels(*key)
    return Amount(pixels / 1e6, quantities.sizes.web * pixels + quantities.sizes.root * root)


def _overview(job: Job, quantities: Quantities) -> Amount:
    """Units: metatiles."""
    return Amount(len(job.inputs), quantities.overview_bytes(job.wildcards["region"]))


def _archive(job: Job, quantities: Quantities) -> Amount:
    """Units: MB of the archive."""
    size = quantities.archive_bytes(job.wildcards["region"])
    return Amount(size / 1e6, size)


def _image(job: Job, quantities: Quantities) -> Amount:
    """Units: Mpx of the top zoom."""
    region = job.wildcards["region"]
    return Amount(quantities.region_pixels(region) / 1e6, quantities.archive_bytes(region))


def _catalog(job: Job, quantities: Quantities) -> Amount:
    """Units: files that it describes."""
    return Amount(len(job.inputs), ITEM_BYTES * len(job.inputs))


def _page(job: Job, quantities: Quantities) -> Amount:
    """Units: none."""
    return Amount(0, PAGE_BYTES)


def _readers(job: Job, quantities: Quantities) -> Amount:
    """Units: none."""
    return Amount(0, READERS_BYTES)


def _index(job: Job, quantities: Quantities) -> Amount:
    """Units: none."""
    return Amount(0, INDEX_BYTES)


# CPU and wall seconds, each of a job's start, which is a fork, and of one unit of work; from
# docs/bench, with 4 cores and the default threads.
COSTS = {
    # shipped_costs adds the seconds that a MB takes over the network.
    FETCH: RuleCost(Cost(Pace(0.2, 0.01), Pace(0.3, 0.0)), _bands),
    ENHANCE: RuleCost(Cost(Pace(0.15, 0.09), Pace(0.15, 0.025)), _tile),
    "build_zone_vrt": RuleCost(Cost(Pace(0.15, 0.0), Pace(0.15, 0.0)), _vrts),
    "build_vrt": RuleCost(Cost(Pace(0.1, 0.0), Pace(0.1, 0.0)), _vrt),
    RENDER: RuleCost(Cost(Pace(0.2, 0.2), Pace(0.2, 0.15)), _metatile),
    "render_overview": RuleCost(Cost(Pace(0.15, 0.02), Pace(0.15, 0.02), last=True), _overview),
    "pack_pyramid": RuleCost(Cost(Pace(0.1, 0.002), Pace(0.1, 0.002), last=True), _archive),
    "export_mbtiles": RuleCost(Cost(Pace(0.1, 0.02), Pace(0.1, 0.02), last=True), _archive),
    "export_folder": RuleCost(Cost(Pace(0.1, 0.03), Pace(0.1, 0.03), last=True), _archive),
    "export_cog": RuleCost(Cost(Pace(0.3, 2.5), Pace(0.3, 2.5), last=True), _image),
    "build_stac": RuleCost(Cost(Pace(0.1, 0.003), Pace(0.1, 0.003), last=True), _catalog),
    "build_preview": RuleCost(Cost(Pace(0.4, 0.0), Pace(0.4, 0.0), last=True), _page),
    "build_web": RuleCost(Cost(Pace(0.2, 0.0), Pace(0.2, 0.0), last=True), _readers),
    "build_index": RuleCost(Cost(Pace(0.1, 0.0), Pace(0.1, 0.0), last=True), _index),
}


def shipped_costs(downloads_at_a_time: int, remote: bool) -> dict[str, Cost]:
    """Return the shipped costs by rule, with the assumed speed of the network.

    `remote` is false if bands are copied from files; downloads share the network evenly.
    """
    costs = {rule: entry.cost for rule, entry in COSTS.items()}
    seconds = 1e6 * downloads_at_a_time / NETWORK if remote else 1e6 / LOCAL
    wall = Pace(costs[FETCH].wall.start, seconds)
    return {**costs, FETCH: costs[FETCH]._replace(wall=wall)}


def amount_of(job: Job, quantities: Quantities) -> Amount:
    """Return the work of a job in the units of its rule, and the bytes of its outputs."""
    if job.rule not in COSTS:
        raise ConfigError(f"{job.rule} has no entry in COSTS of {Path(__file__).name}; add one.")
    return COSTS[job.rule].amount(job, quantities)


def count(layout: Layout, config: dict, mask: str | None = None) -> Quantities:
    """Return the quantities of a build with checked `config`, with the shipped sizes.

    `mask` is the asset of items' masks.
    """
    pyramid = config["pyramid"]
    web = web_bytes(pyramid["format"], pyramid["quality"])
    known = {
        (name, key): known_here(name, key) or known_in_draft(name, key)
        for name, tile in layout.tiles.items()
        for key in tile.bands
    }
    seen = Seen.of(one for (_, key), one in known.items() if one is not None and key != mask)
    bands: dict[str, dict[str, BandSize]] = {}
    for name, tile in layout.tiles.items():
        pixels = ground_area(tile.geometry) / (tile.gsd or PIXEL_SIZE) ** 2
        need, bands[name] = layout.need(name), {}
        for key, band in tile.bands.items():
            needed = need if is_remote(band.href) else None
            one = known[name, key]
            if key == mask:
                size = size_of_band(tile, key, pixels, needed, one, Seen((), ()), MASK_BYTES)
                bands[name][key] = replace(size, pixels=0.0, image_bytes=0.0)
            else:
                bands[name][key] = size_of_band(tile, key, pixels, needed, one, seen)
    share = holed_share(layout.tiles.values(), CLOUDED if mask else HOLED)
    for tile in layout.tiles.values():
        bands[tile.name] |= _fillings(tile, bands[tile.name], share)
    unsized = {
        name: sum(band.size is None for band in tile.bands.values())
        for name, tile in layout.tiles.items()
    }
    return Quantities(
        bands,
        unsized,
        _metatile_pixels(layout, pyramid["tile_size"]),
        {region: zooms.max - zooms.metatile for region, zooms in layout.zooms.items()},
        Sizes(TILE_BYTES[config["tile_codec"]], web, ROOT_BYTES),
    )


def holed_share(tiles: Iterable[Tile], shipped: float) -> float:
    """Return the share of what a band's first file holds that the second item's holds, too.

    It is the mean over bands of which both are here, or else `shipped`.
    """
    pairs = [
        (known_here(tile.name, key), known_here(tile.name, file_key(key, 2)))
        for tile in tiles
        if tile.fill
        for key in tile.bands
    ]
    both = [(one, two) for one, two in pairs if one is not None and two is not None]
    held = sum(held_bytes(one) for one, _ in both)
    return sum(held_bytes(two) for _, two in both) / held if held else shipped


def _fillings(tile: Tile, first: dict[str, BandSize], share: float) -> dict[str, BandSize]:
    """Return the sizes of what fills a tile's holes, by file key; each item leaves `share`."""
    found, asked = {}, True
    for rank, item in enumerate(tile.fill, 2):
        for key, band in item.bands.items():
            own = file_key(key, rank)
            known = known_here(tile.name, own)
            asked = asked and not (known is not None and known.unasked)
            if known is not None and asked and known.identity != band.identity(item.updated):
                known = None
            here = band_path(tile.name, own).exists()
            found[own] = size_of_filling(first[key], share ** (rank - 1), known, here)
    return found


def _metatile_pixels(layout: Layout, tile_size: int) -> dict[tuple[str, str], float]:
    """Return the pixels of the top zoom that tiles cover, by region and metatile."""
    footprints = {name: geometry_to_mercator(tile.geometry) for name, tile in layout.tiles.items()}
    pixels = {}
    for region, metatiles in layout.metatiles.items():
        pixel = resolution(layout.zooms[region].max, tile_size) ** 2
        for name, metatile in metatiles.items():
            covered = shapely.union_all([footprints[tile] for tile in metatile.tiles])
            pixels[region, name] = metatile.shown.intersection(covered).area / pixel
    return pixels


def sized_here(quantities: Quantities, jobs: list[Job]) -> tuple[Quantities, dict[str, int]]:
    """Return `quantities` with mean sizes of this directory's files, and the number of files.

    The numbers are by name of a size, as in `figures_from_jobs_here`. Files made
    with other settings (SIZING) are ignored. A size with no such file keeps its shipped value.
    """
    tiles: dict[Path, float] = {}
    archives: dict[Path, float] = {}
    roots: dict[Path, float] = {}
    for job in jobs:
        if SIZING & {*(job.causes or [])}:
            continue
        if job.rule == ENHANCE:
            tile = job.wildcards["tile"]
            tiles[Path(f"results/tiles/{tile}.tif")] = quantities.image_bytes(tile)
        if job.rule == RENDER:
            key = job.wildcards["region"], job.wildcards["metatile"]
            archive, root = job.outputs
            archives[archive] = quantities.metatile_pixels[key]
            roots[root] = quantities.root_pixels(*key)
    (size, tile_count), (web, web_count), (root_size, _) = map(mean_size, (tiles, archives, roots))
    shipped = quantities.sizes
    sizes = Sizes(size or shipped.tile, web or shipped.web, root_size or shipped.root)
    counts = {"size_of_tiles": tile_count, "size_of_pyramid": web_count}
    return replace(quantities, sizes=sizes), counts


def mean_size(files: dict[Path, float]) -> tuple[float | None, int]:
    """Return the mean output bytes per unit of input over the files that exist, and their count.

    `files` are units of input by path. The mean is None if no file exists.
    """
    existing = {path: units for path, units in files.items() if path.exists()}
    units = sum(existing.values())
    return (sum(map(size_of, existing)) / units if units else None), len(existing)


def ground_area(geometry: BaseGeometry) -> float:
    """Return the area in square metres of a geometry in degrees, on a sphere, to about 1 %.

    It is computed in the cylindrical equal-area projection (Lambert).
    """

    def equal_area(lonlat: NDArray) -> NDArray:
        lon, lat = np.radians(lonlat).T
        return np.column_stack([lon, np.sin(lat)]) * RADIUS

    return float(shapely.transform(geometry, equal_area).area)


def web_bytes(image_format: str, quality: int | str | None) -> float:
    """Return the shipped bytes of web tiles of all zooms per pixel of the top zoom."""
    if quality == "lossless" or image_format == "png":
        return LOSSLESS_WEB_BYTES[image_format]
    return float(np.interp(float(quality or 80), QUALITIES, WEB_BYTES[image_format]))
