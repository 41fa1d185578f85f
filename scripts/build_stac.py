"""Describe the enhanced tiles and the maps as a static STAC catalog, with relative addresses.

What it says of files is from their records, so that none is opened, or read to tell its checksum.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pystac
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterBand, RasterExtension
from pystac.layout import CustomLayoutStrategy
from pystac.stac_io import DefaultStacIO
from shapely import get_parts
from shapely.geometry import GeometryCollection, shape

from basemake.build.paths import RESULTS
from basemake.build.quarter import Quarter
from basemake.build.records import Record
from basemake.build.shares import hidden_share
from basemake.pixels.webtiles import widest_gap
from basemake.system.files import writing

# Where pystac has the catalog: it takes paths for addresses, in which # ? and ; end the path.
ROOT = "/stac"
# pystac has no class for it.
PROCESSING = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
SHA256 = "1220"  # begins a multihash of one: its code, and its length of 32 bytes
BANDS = ("red", "green", "blue", "alpha")
VRT, PMTILES, MBTILES = "application/xml", "application/vnd.pmtiles", "application/vnd.sqlite3"


@dataclass(frozen=True)
class About:
    """What is said of the whole map; `recipe` are its steps, `software` the version of basemake."""

    title: str
    attribution: str
    quarter: str
    recipe: list[dict]
    software: str


@dataclass(frozen=True)
class Footprint:
    """A tile: `geometry` is GeoJSON, and `items` its items' ids and addresses, best first.

    An address is None where the item does not state its own.
    """

    geometry: dict[str, Any]
    epsg: int
    gsd: float | None
    items: Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class Region:
    """A map: `geometry` is GeoJSON, and `tiles` the names of the tiles that it is made of."""

    geometry: dict[str, Any]
    tiles: Sequence[str]


def build_stac(
    output: Path,
    about: About,
    tiles: Mapping[str, Footprint],
    regions: Mapping[str, Region],
    files: Mapping[Path, Record],
) -> None:
    """Write the catalog of `files`, each with its record, to the folder `output`, whole or not.

    It has a collection of `tiles`, if files are theirs, and one of maps with an item of each of
    `regions`. Raises TileError if the disk is full.
    """
    catalog = pystac.Catalog("basemake", f"{about.title}. {about.attribution}.", about.title)
    described = {
        name: _tile(name, tile, about, files)
        for name, tile in tiles.items()
        if RESULTS / f"tiles/{name}.tif" in files
    }
    maps = [
        _map(name, region, about, files, _sources(region, tiles, described))
        for name, region in regions.items()
    ]
    if described:
        what = "Enhanced tiles: true-colour images of one source tile each, in its own CRS"
        catalog.add_child(_collection("tiles", what, about, described.values()))
    catalog.add_child(_collection("maps", "Web maps, one item a region", about, maps))
    with writing(output) as part:
        layout = CustomLayoutStrategy(item_func=lambda item, folder: f"{folder}/{item.id}.json")
        catalog.normalize_hrefs(f"{ROOT}/catalog.json", strategy=layout)
        catalog.save(pystac.CatalogType.SELF_CONTAINED, stac_io=_Io(part))


class _Io(DefaultStacIO):
    """Output of pystac to a folder, whose bytes do not depend on which JSON library is installed.

    Without line breaks: Python's own library takes twice as long for them as pystac for the rest.
    """

    def __init__(self, folder: Path) -> None:
        """Write what pystac has below ROOT to `folder`."""
        super().__init__()
        self._folder = folder

    def write_text_to_href(self, href: str, txt: str) -> None:
        """Write a file."""
        path = self._folder / Path(href).relative_to(ROOT)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(txt, encoding="utf-8")

    def json_dumps(self, json_dict: dict[str, Any], *args: Any, **kwargs: Any) -> str:
        """Return an object as JSON."""
        return json.dumps(json_dict, ensure_ascii=False) + "\n"


def _collection(
    name: str, what: str, about: About, items: Iterable[pystac.Item]
) -> pystac.Collection:
    items = list(items)
    extent = pystac.Extent(
        pystac.SpatialExtent([_bbox(item.geometry for item in items)]),
        pystac.TemporalExtent([[*_span(about.quarter)]]),
    )
    collection = pystac.Collection(
        name,
        f"{what}. {about.title}. {about.attribution}.",
        extent,
        title=f"{about.title}: {name}",
        license="other",
        extra_fields={"attribution": about.attribution},
    )
    collection.add_items(items)
    return collection


def _bbox(geometries: Iterable[dict[str, Any] | None]) -> list[float]:
    """Return west, south, east and north of GeoJSON geometries in degrees.

    Where they reach 180 degrees from both sides, west and east are those of the widest gap between
    them, so that west is greater than east (RFC 7946, section 5.2).
    """
    everything = GeometryCollection([shape(geometry) for geometry in geometries])
    west, south, east, north = everything.bounds
    parts = get_parts(get_parts(everything))
    if (west, east) == (-180, 180) and (gap := widest_gap(parts)) > -180:
        west = min(part.bounds[0] for part in parts if part.bounds[0] > gap)
        east = max(part.bounds[2] for part in parts if part.bounds[0] < gap)
    return [west, south, east, north]


def _span(quarter: str) -> tuple[Any, Any]:
    """Return the first and the last second of a quarter."""
    start, end = Quarter.parse(quarter).span()
    return start, end - timedelta(seconds=1)


def _item(name: str, geometry: dict[str, Any], about: About) -> pystac.Item:
    """Return an item that has no assets yet."""
    start, end = _span(about.quarter)
    return pystac.Item(
        name,
        geometry,
        _bbox([geometry]),
        None,
        {
            "attribution": about.attribution,
            "processing:software": {"basemake": about.software},
            "processing:expression": {"format": "basemake recipe", "expression": about.recipe},
        },
        start,
        end,
        [PROCESSING],
    )


def _tile(name: str, tile: Footprint, about: About, files: Mapping[Path, Record]) -> pystac.Item:
    """Return the item of a tile, derived from the items that it shows."""
    item = _item(name, tile.geometry, about)
    record = files[path := RESULTS / f"tiles/{name}.tif"]
    if tile.gsd is not None:
        item.common_metadata.gsd = tile.gsd
    _add(item, "image", path, record, pystac.MediaType.COG, ["data", "visual"])
    _place(ProjectionExtension.ext(item, add_if_missing=True), tile.epsg, record)
    _describe_bands(item.assets["image"], BANDS, tile.gsd)
    if (path := RESULTS / f"tiles/{name}.provenance.tif") in files:
        _add(item, "provenance", path, files[path], pystac.MediaType.COG, ["metadata"])
        item.assets["provenance"].title = "Which item each pixel shows: its rank, 0 for none"
        _describe_bands(item.assets["provenance"], ["rank"], tile.gsd, nodata=0)
    known = {"shares": [1.0], **record.known}
    hidden = hidden_share(known)  # which counts in no item's share
    for (source, address), share in zip(tile.items, known["shares"], strict=False):
        if address and (share or hidden):
            item.add_link(_DerivedFrom(source, address))
    return item


def _map(
    name: str,
    region: Region,
    about: About,
    files: Mapping[Path, Record],
    sources: Iterable[pystac.Link],
) -> pystac.Item:
    """Return the item of a region's map."""
    item = _item(name, region.geometry, about)
    kinds = {
        "pmtiles": (f"pyramid/{name}.pmtiles", PMTILES, ["data", "visual", "tiles"]),
        "mbtiles": (f"pyramid/{name}.mbtiles", MBTILES, ["data", "visual", "tiles"]),
        "cog": (f"pyramid/{name}.tif", pystac.MediaType.COG, ["data", "visual"]),
        "mosaic": (f"mosaic/{name}.vrt", VRT, ["data", "visual", "virtual"]),
    }
    for key, (path, media_type, roles) in kinds.items():
        if (place := RESULTS / path) in files:
            _add(item, key, place, files[place], media_type, roles)
            if key == "cog":
                ProjectionExtension.add_to(item)
                _place(ProjectionExtension.ext(item.assets[key]), 3857, files[place])
    item.add_links([*sources])
    return item


def _sources(
    region: Region, tiles: Mapping[str, Footprint], described: Collection[str]
) -> list[pystac.Link]:
    """Return links to what a map is made of: items of tiles, or else those of their source."""
    if described:
        return [_DerivedFrom(name, f"../tiles/{name}.json") for name in region.tiles]
    items = [item for name in region.tiles for item in tiles[name].items]
    return [_DerivedFrom(name, address) for name, address in items if address]


class _DerivedFrom(pystac.Link):
    """A link to an item, whose address is written as it is.

    For each address pystac would search the whole catalog, which takes hours if there are many.
    """

    def __init__(self, name: str, address: str) -> None:
        """Link to the item `name` at `address`, on the web or relative."""
        super().__init__("derived_from", address, pystac.MediaType.GEOJSON, name)
        self._address = address

    def get_href(self, transform_href: bool = True) -> str:
        """Return the address as it is."""
        return self._address


def _add(
    item: pystac.Item, key: str, path: Path, record: Record, media_type: str, roles: list[str]
) -> None:
    """Add a file to an item, which is two folders below the results, as an asset."""
    href = f"../../{path.relative_to(RESULTS)}"
    item.add_asset(key, pystac.Asset(href, media_type=media_type, roles=roles))
    stated = FileExtension.ext(item.assets[key], add_if_missing=True)
    stated.apply(checksum=SHA256 + record.sha256, size=record.size)


def _place(projection: ProjectionExtension[Any], epsg: int, record: Record) -> None:
    """State CRS, shape (height, width) and affine transformation of a raster."""
    left, width, shear, top, tilt, height = record.known["transform"]
    transform = [width, shear, left, tilt, height, top]
    projection.apply(code=f"EPSG:{epsg}", shape=record.known["shape"], transform=transform)


def _describe_bands(
    asset: pystac.Asset, names: Iterable[str], gsd: float | None, nodata: float | None = None
) -> None:
    """State the bands of an image of bytes."""
    asset.extra_fields["bands"] = [{"name": name} for name in names]
    raster = RasterExtension.ext(asset, add_if_missing=True)
    band = RasterBand.create(data_type="uint8", nodata=nodata, spatial_resolution=gsd)
    raster.bands = [band for _ in asset.extra_fields["bands"]]


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import read_record, recorded
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        settings = snakemake.params.settings
        said = ("description", "attribution", "quarter", "recipe", "software")
        records = {Path(path): read_record(path) for path in snakemake.input}
        build_stac(
            Path(snakemake.output.folder),
            About(*(settings[name] for name in said)),
            {name: Footprint(**tile) for name, tile in settings["items"].items()},
            {name: Region(**region) for name, region in settings["extent"].items()},
            {path: record for path, record in records.items() if record},
        )
