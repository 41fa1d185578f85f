"""The pieces of a whole build: every job that it has, done or not, with its work and its bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import shapely

from basemake.build.layout import Plan
from basemake.forecast.estimate import (
    BAND_BYTES,
    PAGE_BYTES,
    ROOT_BYTES,
    TILE_BYTES,
    VRT_BYTES,
    Measured,
    ground_area,
    read_benchmark,
    size_of,
    web_bytes,
)
from basemake.pixels.webtiles import geometry_to_mercator, resolution

STAGES = {
    "fetch_band": "bands",
    "enhance_tile": "tiles",
    "build_zone_vrt": "mosaic",
    "build_vrt": "mosaic",
    "build_preview": "preview",
}  # all other rules: pyramid
PIXEL_SIZE = 10.0  # metres, where items do not say it


class Piece(NamedTuple):
    """A job of the build: of which regions, and how much work and disk it is."""

    rule: str
    wildcards: dict[str, str]
    regions: list[str]
    name: str  # of its log and benchmark files
    units: float  # as estimate.SHIPPED counts them
    bytes: float  # of what it makes
    sized: bool = False  # whether the bytes are known and not estimated

    @property
    def stage(self) -> str:
        """The stage that its rule belongs to."""
        return STAGES.get(self.rule, "pyramid")

    @property
    def key(self) -> tuple:
        """What tells it from all others."""
        return key_of(self.rule, self.wildcards)

    @property
    def benchmark(self) -> Path:
        """The file that says what it took when it was last done here, if it was."""
        return Path(f"benchmarks/{self.name}.tsv")

    @property
    def measured(self) -> Measured | None:
        """What that file says."""
        return read_benchmark(self.benchmark, self.units)


def key_of(rule: str, wildcards: dict[str, str]) -> tuple:
    """Return what tells a job from all others."""
    return rule, *sorted(wildcards.items())


class Pixels(NamedTuple):
    """Pixels of each tile, and of each metatile at the top zoom as far as tiles show in it."""

    tiles: dict[str, float]
    metatiles: dict[tuple[str, str], float]  # (region, metatile)


class Sizes(NamedTuple):
    """What outputs have on disk, for one of what they are made of."""

    tile: float  # bytes of an enhanced tile for a byte of its bands
    web: float  # bytes of web tiles, all zooms, for a pixel of the top zoom
    root: float  # bytes of a metatile's root for a pixel


def count_pixels(plan: Plan, tile_size: int) -> Pixels:
    """Return the pixels of a plan's tiles and metatiles, of web tiles of `tile_size` pixels."""
    tiles = {
        name: ground_area(row["geometry"]) / (row["gsd"] or PIXEL_SIZE) ** 2
        for name, row in plan.tiles.iterrows()
    }
    footprints = {
        name: geometry_to_mercator(row["geometry"]) for name, row in plan.tiles.iterrows()
    }
    metatiles = {}
    for region, table in plan.metatiles.items():
        pixel = resolution(plan.zooms[region].max, tile_size) ** 2
        for name, row in table.iterrows():
            part = shapely.box(*row["metatile"].bounds)
            part = shapely.from_wkt(row["outline"]) if row["outline"] else part
            covered = shapely.union_all([footprints[tile] for tile in row["tiles"]])
            metatiles[region, name] = part.intersection(covered).area / pixel
    return Pixels(tiles, metatiles)


def shipped_sizes(config: dict) -> Sizes:
    """Return the sizes that `config` leads to with imagery as it is shipped for."""
    pyramid = config["pyramid"]
    web = web_bytes(pyramid["format"], pyramid["quality"])
    return Sizes(TILE_BYTES[config["tile_codec"]], web, ROOT_BYTES)


def own_size(files: dict[Path, float]) -> tuple[float | None, int]:
    """Return bytes for one of what `files`, path -> how much of it, are made of; and of how many.

    Only files that are there count; without any the bytes are None.
    """
    there = {path: made_of for path, made_of in files.items() if path.exists()}
    made_of = sum(there.values())
    return (sum(map(size_of, there)) / made_of if made_of else None), len(there)


def root_pixels(pixels: float, levels: int) -> float:
    """Return the pixels of a root whose metatile, `levels` zooms below it, has `pixels`."""
    return pixels / 4**levels


def band_bytes(row: dict, pixels: float) -> dict[str, float]:
    """Return the bytes of each band of a tile with `pixels`; assumed where the item gives none."""
    sizes = {band: about["size"] for band, about in row["bands"].items()}
    return {band: BAND_BYTES * pixels if size is None else size for band, size in sizes.items()}


def pieces_of(plan: Plan, config: dict, pixels: Pixels, sizes: Sizes) -> Iterator[Piece]:
    """Yield every job that a plan has."""
    for tile, row in plan.tiles.iterrows():
        regions, count = row["regions"], pixels.tiles[tile]
        bands = band_bytes(row, count)
        for band, size in bands.items():
            where, name = {"tile": tile, "band": band}, f"bands/{tile}/{band}"
            sized = row["bands"][band]["size"] is not None
            yield Piece("fetch_band", where, regions, name, size / 1e6, size, sized)
        where = {"tile": tile}
        size = sizes.tile * sum(bands.values())
        yield Piece("enhance_tile", where, regions, f"tiles/{tile}", count / 1e6, size)
    for region in plan.zooms:
        yield from _pieces_of_region(plan, region, config["pyramid"]["outputs"], pixels, sizes)


def _pieces_of_region(
    plan: Plan, region: str, outputs: list[str], pixels: Pixels, sizes: Sizes
) -> Iterator[Piece]:
    for epsg in plan.zones(region):
        where = {"region": region, "epsg": str(epsg)}
        size = 2 * VRT_BYTES + VRT_BYTES * len(plan.tiles_of(region, epsg)) / 3
        yield Piece("build_zone_vrt", where, [region], f"mosaic/{region}_{epsg}", 0, size)
    only = {"region": region}
    yield Piece("build_vrt", only, [region], f"mosaic/{region}", 0, VRT_BYTES)
    zooms, total = plan.zooms[region], 0.0
    levels = zooms.max - zooms.metatile
    for metatile in plan.metatiles[region].index:
        count = pixels.metatiles[region, metatile]
        where = {"region": region, "metatile": metatile}
        size = sizes.web * count + sizes.root * root_pixels(count, levels)
        name = f"metatiles/{region}/{metatile}"
        yield Piece("render_metatile", where, [region], name, count / 1e6, size)
        total += count
    overview = sizes.web * root_pixels(total, levels) / 3
    count = len(plan.metatiles[region])
    name = f"metatiles/{region}/overview"
    yield Piece("render_overview", only, [region], name, count, overview)
    archive = sizes.web * total + overview
    name = f"pyramid/{region}"
    yield Piece("pack_pyramid", only, [region], name, archive / 1e6, archive)
    for output in sorted({*outputs} - {"pmtiles"}):
        units = total / 1e6 if output == "cog" else archive / 1e6
        yield Piece(f"export_{output}", only, [region], f"{name}.{output}", units, archive)
    yield Piece("build_preview", only, [region], f"preview/{region}", 0, PAGE_BYTES)
