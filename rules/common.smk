"""What the DAG needs: config, source, recipe and regions, and the manifest as tables. No rule."""

import functools
import sys
from pathlib import Path

from shapely.geometry import mapping
from shapely.ops import unary_union

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from basemake.codecs import check_codec
from basemake.config import check, read_recipe, read_source
from basemake.errors import BasemakeError
from basemake.manifest import describe_request, dn_reading, read_manifest
from basemake.plan import mercator_grid, plan_metatiles, plan_zooms
from basemake.recipe import digest
from basemake.region import read_region

MANIFEST = "results/manifest.geojson"


def stop(error):
    """End with one line: a user's mistake needs no traceback."""
    sys.exit(f"basemake: {error}")


try:
    config.update(check(dict(config), "config", "config"))
    check_codec(config["tile_codec"])
    SOURCE = read_source(config["source"])
    STEPS = read_recipe(config["recipe"])["steps"]
    REGIONS = {name: read_region(name, Path(path)) for name, path in config["regions"].items()}
except BasemakeError as error:
    stop(error)

PYRAMID = config["pyramid"]
ATTRIBUTION = SOURCE["attribution"].replace("{year}", config["quarter"][:4])
# A source's limit holds over the connections that profile or command line allow.
ALLOWED = workflow.global_resources.get("connections")
CONNECTIONS = SOURCE["limits"]["connections"]
workflow.register_resource(
    "connections", min(CONNECTIONS, (ALLOWED and ALLOWED.value) or CONNECTIONS)
)
SUFFIXES = {"pmtiles": ".pmtiles", "mbtiles": ".mbtiles", "folder": "", "cog": ".tif"}
# What changes the pixels of web tiles, and nothing else: quality is nothing to a PNG.
RENDERING = {
    "tile_size": PYRAMID["tile_size"],
    "image_format": PYRAMID["format"],
    "quality": None if PYRAMID["format"] == "png" else PYRAMID["quality"],
}


class Plan:
    """The manifest and what follows from it, as tables."""

    def __init__(self):
        request = describe_request(SOURCE, config["quarter"], REGIONS)
        self.tiles = read_manifest(Path(MANIFEST), request)
        self.zooms, self.metatiles = {}, {}
        for name, region in REGIONS.items():
            rows = self.tiles_of(name)
            zooms = self.zooms[name] = plan_zooms(PYRAMID, region, rows)
            self.metatiles[name] = plan_metatiles(region, rows, zooms, PYRAMID["clip"])

    def tiles_of(self, region, epsg=None):
        """The manifest's rows of a region, or of one UTM zone of it."""
        rows = self.tiles[[region in regions for regions in self.tiles["regions"]]]
        return rows if epsg is None else rows[rows["epsg"] == int(epsg)]

    def tile(self, name):
        """The manifest's row of a tile."""
        if name not in self.tiles.index:
            stop(f"{name} is not a tile of {MANIFEST}; it has: {', '.join(self.tiles.index)}.")
        return self.tiles.loc[name]

    def zones(self, region):
        """The EPSG codes of a region's tiles, in the order in which they cover one another."""
        return sorted(self.tiles_of(region)["epsg"].unique())

    def extent(self, region):
        """What the map of a region shows, in degrees: its polygon, or its tiles whole."""
        if PYRAMID["clip"]:
            return REGIONS[region]
        return unary_union(list(self.tiles_of(region)["geometry"]))


@functools.cache
def plan():
    """Read the manifest when the first job is planned: a search needs none yet."""
    try:
        return Plan()
    except BasemakeError as error:
        stop(error)


def band(wildcards):
    """What a band's job must know: href, size and checksum, and when its item was updated."""
    row = plan().tile(wildcards.tile)
    if wildcards.band not in row["bands"]:
        stop(f"{wildcards.band} is not a band of {MANIFEST}; it has: {', '.join(row['bands'])}.")
    return {**row["bands"][wildcards.band], "updated": row["updated"]}


def dn(wildcards):
    """How the digital numbers of a tile read."""
    try:
        return dn_reading(SOURCE["dn"], plan().tile(wildcards.tile)["dn"])
    except BasemakeError as error:
        stop(error)


def enhanced(tiles):
    """The paths of enhanced tiles."""
    return [f"results/tiles/{tile}.tif" for tile in tiles]


def tiles_to_compare():
    """The enhanced tiles on which codecs are compared: a few that are there, or the first of all."""
    paths = enhanced(plan().tiles.index)
    there = [path for path in paths if Path(path).exists()]
    return there[:: max(1, len(there) // 4)][:4] or paths[:1]


def footprints(region):
    """The tiles of a region as GeoJSON, for maps of them."""
    features = [
        {
            "type": "Feature",
            "properties": {"id": row["tile"], "item": row["item"]},
            "geometry": mapping(row["geometry"]),
        }
        for _, row in plan().tiles_of(region).iterrows()
    ]
    return {"type": "FeatureCollection", "features": features}


def everything_that_lasts():
    """All that a build is asked for; bands only come along."""
    paths = enhanced(plan().tiles.index)
    for region in REGIONS:
        paths += [f"results/mosaic/{region}_{epsg}.vrt" for epsg in plan().zones(region)]
        paths += [f"results/mosaic/{region}.vrt", f"results/preview/{region}.html"]
        paths += [
            f"results/pyramid/{region}{SUFFIXES[output]}"
            for output in sorted({"pmtiles", *PYRAMID["outputs"]})
        ]
    return paths
