"""Preview: one HTML page that shows a pyramid in any browser, and a thumbnail of it.

MapLibre GL JS and its PMTiles protocol are those of the Python package `maplibre`. The page reads
ranges of the archive beside it, so it has to be served over HTTP (`make serve`). It fetches nothing
from elsewhere, but what the config names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import shapely
from jinja2 import Environment
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from basemake.build.region import uncovered
from basemake.build.shares import hidden_share
from basemake.pixels.archive import read_about
from basemake.pixels.webtiles import MAX_LATITUDE, together
from basemake.preview.thumbnail import write_thumbnail
from basemake.preview.world import world
from basemake.readers.pages import bundled
from basemake.readers.shown import GROUND
from basemake.system.files import writing

PAGE = Path(__file__).parent / "basemake" / "preview" / "page"
GAP = 0.01  # degrees: half the width of gaps that footprints, which are not exact, leave
WHOLE_MAP = shapely.box(-180, -MAX_LATITUDE, 180, MAX_LATITUDE)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a page tells of a map beside what its archive does.

    `footprints` is a GeoJSON FeatureCollection of tiles with the property `id`, `outline` the
    region as a GeoJSON geometry, both in degrees. `items` are those of each tile, best first, each
    with `id` and `updated`. `clip` is whether the map is cut at the region, `background` its colour
    where tiles have no pixel, such as #12304a, or None. `stac` is the address to which an item's id
    is added, and `files` that of the tiles' files; None where there are none. `hillshade` and
    `labels` are addresses of web tiles with {z}, {x} and {y}, or None, and `credit` is theirs.
    """

    title: str
    quarter: str
    source: str
    recipe: str
    footprints: dict[str, Any]
    items: Mapping[str, list[dict[str, Any]]]
    outline: dict[str, Any]
    clip: bool
    background: str | None = None
    stac: str | None = None
    files: str | None = None
    hillshade: str | None = None
    labels: str | None = None
    credit: str | None = None


def build_preview(
    archive: Path,
    page: Path,
    thumbnail: Path,
    told: Told,
    known: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """Write the page of a raster PMTiles archive and its thumbnail; return what an index tells.

    `known` is what the records of tiles keep of them, by tile. The archive's metadata must have
    `attribution`, shown as plain text, `format`, and `tile_size`, 256 or 512 px (else KeyError).
    Raises TileError if the archive is incomplete. Equal arguments give equal bytes.
    """
    header, metadata = read_about(archive)
    facts = {
        "title": told.title,
        "quarter": told.quarter,
        "source": told.source,
        "recipe": told.recipe,
        "attribution": metadata["attribution"],
        "zooms": [header["min_zoom"], header["max_zoom"]],
    }
    tiles = with_shares(told.footprints, told.items, known)
    shown = areas(told)
    bounds = shape(shown["region"]).bounds if told.clip else shape(shown["coverage"]).bounds
    ground = told.background or GROUND
    links = {
        "archive": quote(Path("..", archive.parent.name, archive.name).as_posix()),
        "index": "index.html",
        "items": told.stac,
        "tiles": told.files,
    }
    opaque = metadata["format"] == "jpg"
    data = {
        **facts,
        **figures(tiles, known),
        "ground": ground,
        "opaque": opaque,
        "holesShow": not (opaque or told.background),  # else they have the background
        "view": opening_view(header, metadata["tile_size"], bounds),
        **shown,
        "tiles": tiles,
        **world(),
        "hillshade": told.hillshade,
        "labels": told.labels,
        "credit": told.credit,
    }
    template = Environment(autoescape=True).from_string(read(PAGE / "map.html"))
    text = template.render(
        title=f"{told.title}, {told.quarter}",
        policy=policy(told.hillshade, told.labels),
        ground=ground,
        library_css=bundled("maplibre", "maplibre/srcjs/pywidget.css"),
        library=bundled("maplibre", "maplibre/srcjs/pywidget.js"),
        css=read(PAGE / "map.css"),
        script=read(PAGE / "map.js"),
        links=links,
        data=data,
    )
    with writing(page) as part:
        part.write_text(text, encoding="utf-8")
    write_thumbnail(archive, thumbnail, ground, bounds)
    return {**facts, "bytes": archive.stat().st_size}


def read(path: Path) -> str:
    """Return the text of a file in UTF-8."""
    return path.read_text(encoding="utf-8")


def policy(*elsewhere: str | None) -> str:
    """Return a Content-Security-Policy by which a page fetches from its own site alone.

    `elsewhere` are addresses whose hosts it may ask, too.
    """
    addresses = [urlsplit(address) for address in elsewhere if address]
    hosts = {f"{address.scheme}://{address.netloc}" for address in addresses}
    sites = " ".join(["'self'", *sorted(hosts)])
    return (
        f"default-src 'none'; connect-src {sites}; img-src {sites} data: blob:; worker-src blob:;"
        " style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )


def with_shares(
    footprints: dict[str, Any],
    items: Mapping[str, list[dict[str, Any]]],
    known: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return footprints with their tiles' items and what is known of them, as shares of 0 to 1.

    Footprints across 180 degrees go on beyond it, so that no line is drawn where they were split.
    Each of `items` has its `share` of the pixels that show one, and the tile `holes`, its pixels
    without data; where a tile has several items, also `filled`, what those after the first one
    show, and `hidden`, what is shown although a mask hides it.
    """
    features = []
    for feature in footprints["features"]:
        tile = feature["properties"]["id"]
        stated = {**feature["properties"], "items": items[tile]}
        told = known.get(tile, {})
        shares = told.get("shares", [])
        if told.get("items") == [item["id"] for item in stated["items"]]:
            pairs = zip(stated["items"], shares, strict=True)
            stated["items"] = [{**item, "share": share} for item, share in pairs]
            stated |= {"filled": sum(shares[1:]), "hidden": hidden_share(told)}
        if empty_of := told.get("holes"):
            stated["holes"] = empty_of[0] / empty_of[1] if empty_of[1] else 0
        area = mapping(together(shape(feature["geometry"])))
        features.append({**feature, "properties": stated, "geometry": area})
    return {**footprints, "features": features}


def figures(tiles: dict[str, Any], known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return shares of a whole map, as `with_shares` has those of tiles, and when it was updated.

    They are None where they are not known; `updated` is the first and the last time of an item that
    shows.
    """
    stated = [feature["properties"] for feature in tiles["features"]]
    counts = [known.get(tile["id"], {}).get("holes", [0, 0]) for tile in stated]
    fetched = sum(count[1] for count in counts)
    shown = [count[1] - count[0] for count in counts]

    def mean(name: str) -> float | None:
        if not sum(shown) or not any(name in tile for tile in stated):
            return None
        values = [tile.get(name, 0) * count for tile, count in zip(stated, shown, strict=True)]
        return float(sum(values) / sum(shown))

    times = sorted(
        item["updated"]
        for tile in stated
        for item in tile["items"]
        if item["updated"] and item.get("share", 1) > 0
    )
    return {
        "holes": sum(count[0] for count in counts) / fetched if fetched else None,
        "filled": mean("filled"),
        "hidden": mean("hidden"),
        "updated": [times[0], times[-1]] if times else None,
    }


def areas(told: Told) -> dict[str, Any]:
    """Return what a map shows: the share of its region that tiles cover, and GeoJSON geometries.

    `coverage` is where it shows imagery, `outside` where it shows none. Region and coverage go on
    beyond 180 degrees, too.
    """
    region = shape(told.outline)
    features = told.footprints["features"]
    footprints = unary_union([shape(feature["geometry"]) for feature in features])
    covered = footprints.buffer(GAP, join_style="mitre").buffer(-GAP, join_style="mitre")
    coverage = polygons(covered.intersection(region if told.clip else WHOLE_MAP))
    return {
        "covered": round(1 - uncovered(region, [footprints]), 6),
        "region": mapping(together(region)),
        "coverage": mapping(together(coverage)),
        "outside": mapping(WHOLE_MAP.difference(coverage)),
    }


def polygons(geometry: BaseGeometry) -> BaseGeometry:
    """Return the polygons of an intersection, with six decimals; points and lines go."""
    parts = [part for part in getattr(geometry, "geoms", [geometry]) if part.area > 0]
    return shapely.set_precision(unary_union(parts), 1e-6)


def opening_view(
    header: dict[str, Any], tile_size: int, bounds: tuple[float, float, float, float]
) -> dict[str, Any]:
    """Return the map options that show `bounds`, from an archive's least zoom to 4 above its last.

    `bounds` are west, south, east and north in degrees, those beyond 180 degrees above 180.
    """
    shift = tile_size // 256 - 2  # MapLibre counts zooms in tiles of 512 px
    return {
        "minZoom": max(0, header["min_zoom"] + shift),
        "maxZoom": header["max_zoom"] + shift + 4,
        "bounds": bounds,
        "fitBoundsOptions": {"padding": 24},  # px
    }


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import read_record, recorded
    from basemake.system.job_log import job_log

    found: dict[str, Any] = {}
    with job_log(snakemake.log[0]), recorded(snakemake, found):
        told = Told(**snakemake.params.settings)
        records = {name: read_record(f"results/tiles/{name}.tif") for name in told.items}
        known = {name: record.known for name, record in records.items() if record}
        found |= build_preview(
            Path(snakemake.input.archive),
            Path(snakemake.output.page),
            Path(snakemake.output.thumbnail),
            told,
            known,
        )
