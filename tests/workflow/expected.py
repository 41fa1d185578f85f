"""The jobs that a change of a Scene must run, from geometry alone, named as by Build.jobs."""

import json
from collections.abc import Iterable

import shapely
from runs import ZOOM, Scene
from shapely.geometry import shape

from basemake.pixels.webtiles import WebTile, geometry_to_mercator


def footprints(scene: Scene) -> dict[str, shapely.Geometry]:
    """Footprints in Mercator metres, by tile."""
    return {item["id"][-9:]: geometry_to_mercator(shape(item["geometry"])) for item in scene.items}


def metatiles(scene: Scene, region: str = "first") -> dict[str, shapely.Geometry]:
    """The part that each metatile shows of a region, of those that show any tile."""
    polygon = json.loads((scene.directory / f"{region}.geojson").read_text())
    outline = geometry_to_mercator(shape(polygon))
    covered = shapely.union_all(list(footprints(scene).values()))
    parts = {}
    for x in range(276, 288):
        for y in range(180, 192):
            part = outline.intersection(shapely.box(*WebTile(ZOOM, x, y).bounds))
            if part.area and part.intersects(covered):
                parts[f"{ZOOM}_{x}_{y}"] = part
    return parts


def tiles_of(scene: Scene, region: str) -> set[str]:
    outline = shapely.union_all(list(metatiles(scene, region).values()))
    return {tile for tile, place in footprints(scene).items() if place.intersects(outline)}


def fetching(tiles: Iterable[str]) -> set[str]:
    return {f"fetch_bands {tile}" for tile in tiles}


def enhancing(tiles: Iterable[str]) -> set[str]:
    return {f"enhance_tile {tile}" for tile in tiles}


def mosaicking(tiles: Iterable[str], region: str = "first") -> set[str]:
    zones = {f"build_zone_vrt {region} 326{tile[:2]}" for tile in tiles}
    return zones | {f"build_vrt {region}"}


def rendering(parts: Iterable[str], region: str = "first") -> set[str]:
    return {f"render_metatile {region} {metatile}" for metatile in parts}


def packing(region: str = "first") -> set[str]:
    return {f"render_overview {region}", f"pack_pyramid {region}"} | following_archive(region)


def following_archive(region: str = "first") -> set[str]:
    return paging(region) | {f"build_web {region}"}


def paging(region: str = "first") -> set[str]:
    return {f"build_preview {region}", "build_index"}


def showing(scene: Scene, tiles: Iterable[str], region: str = "first") -> set[str]:
    """The metatiles in which tiles show."""
    places = [place for tile, place in footprints(scene).items() if tile in tiles]
    parts = metatiles(scene, region)
    return {name for name, part in parts.items() if any(part.intersects(p) for p in places)}


def all_of_pyramid(scene: Scene) -> set[str]:
    return rendering(metatiles(scene)) | packing()
