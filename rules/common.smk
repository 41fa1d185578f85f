"""What the DAG needs: config, source, recipe and regions, and the manifest as tables. No rule."""

import functools
import sys
from dataclasses import asdict
from pathlib import Path

from shapely.geometry import mapping
from snakemake.logging import logger
from snakemake.utils import available_cpu_count

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from basemake.build.code_digest import code_digest
from basemake.pixels.codecs import check_codecs
from basemake.build.config import check, read_recipe, read_source
from basemake.build.engine import EVENT, decide_by_records
from basemake.errors import BasemakeError
from basemake.system.machine import memory_for_jobs, share, usable_cores
from basemake.build.manifest import dn_reading
from basemake.build.layout import Plan, mercator_grid
from basemake.build.reasons import summary
from basemake.build.region import read_region
from basemake.system.run_lock import lock_when_it_executes

MANIFEST = "results/manifest.geojson"
MOST_THREADS = {"enhance": 4, "render": 2}  # of `auto`


def tell_stale(stale):
    """Say which jobs are stale, and why, to people and to the commands beside the workflow."""
    logger.info(summary(stale), extra={EVENT: stale})


def stop(error):
    """End with one line: a user's mistake needs no traceback."""
    sys.exit(f"basemake: {error}")


lock_when_it_executes(workflow)

try:
    config.update(check(dict(config), "config", "config"))
    check_codecs(config["tile_codec"], config["pyramid"]["format"])
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
# This machine bounds what runs on it, but not what --jobs sends to others; the process of a single
# job has been given its bounds.
CORES = workflow.global_resources["_cores"].value or 1
HERE = workflow.global_resources["_nodes"].value is None
if workflow.is_main_process:
    if CORES == available_cpu_count():  # `cores: all`, which knows neither containers nor clusters
        CORES = usable_cores() if HERE else 64  # the most that `threads` may say
        workflow.register_resource("_cores", CORES)
    if HERE and "mem_mb" not in workflow.global_resources:
        workflow.register_resource("mem_mb", memory_for_jobs() // 10**6)
    decide_by_records(workflow, tell_stale)
THREADS = {
    name: share(CORES, MOST_THREADS[name]) if threads == "auto" else threads
    for name, threads in config["threads"].items()
}
# What changes the pixels of web tiles, and nothing else: quality is nothing to a PNG.
RENDERING = {
    "image_format": PYRAMID["format"],
    "quality": None if PYRAMID["format"] == "png" else PYRAMID["quality"],
}


@functools.cache
def plan():
    """Read the manifest when the first job is planned: a search needs none yet."""
    try:
        return Plan(Path(MANIFEST), config, SOURCE, REGIONS)
    except BasemakeError as error:
        stop(error)


def code(script):
    """What a rule's script does: its outputs are stale when it changes."""
    return code_digest(Path(workflow.basedir) / "scripts" / script)


@functools.cache
def tile(name):
    """The manifest's row of a tile."""
    if name not in plan().tiles.index:
        stop(f"{name} is not a tile of {MANIFEST}; it has: {', '.join(plan().tiles.index)}.")
    return plan().tiles.loc[name].to_dict()


def band(wildcards):
    """What a band's job must know: href, size, checksum or digest, and its item's `updated`."""
    row = tile(wildcards.tile)
    if wildcards.band not in row["bands"]:
        stop(f"{wildcards.band} is not a band of {MANIFEST}; it has: {', '.join(row['bands'])}.")
    return {**row["bands"][wildcards.band], "updated": row["updated"]}


def band_settings(wildcards):
    """What a band is: one that only moved is the same, if a checksum or digest says what it is."""
    about = band(wildcards)
    digest = about.get("digest")
    return {
        "href": None if digest or about["checksum"] else about["href"],
        "digest": digest,
        **{key: about[key] for key in ("size", "checksum", "updated")},
    }


def dn(wildcards):
    """Scale, offset and nodata of a tile's digital numbers, as JSON: its digest is recorded."""
    try:
        return asdict(dn_reading(SOURCE["dn"], tile(wildcards.tile)["dn"]))
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
