"""What the files beside this one share: config, source, recipe, regions and layout. No rule."""

import functools
import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

from shapely.geometry import mapping

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from basemake.system.interrupts import end_at_interrupt

end_at_interrupt()  # before the rest is imported, which takes a while

from basemake import __version__
from basemake.build.bands import Asked, connections_of_a_tile, known_here, settings_together
from basemake.build.bucket import bucket_at
from basemake.build.code_digest import code_digest
from basemake.build.config import (
    check,
    check_fill,
    credit_of,
    read_recipe,
    read_source,
    read_yaml,
)
from basemake.build.layout import mercator_grid, outline_text, read_layout
from basemake.build.manifest import dn_reading, file_key
from basemake.build.paths import CONFIGFILE, MANIFEST
from basemake.build.region import read_regions
from basemake.build.run_lock import alone, show_bucket
from basemake.engine.display import show
from basemake.engine.reporting import answer_report
from basemake.engine.running import (
    asked_of,
    bound,
    fork_jobs,
    lock_when_it_executes,
    run_jobs_of_slurm_here,
)
from basemake.engine.staleness import decide_by_records
from basemake.engine.storage import keep_in_bucket
from basemake.errors import BasemakeError
from basemake.pixels.codecs import check_codecs
from basemake.pixels.dn import MaskRule
from basemake.pixels.tilejson import SUFFIXES
from basemake.readers.qgis import best_for_qgis
from basemake.system.machine import bounds, memory_for_jobs, share, usable_cores
from basemake.system.screen import in_megabytes
from basemake.system.shared_state import begin_run
from basemake.web.addresses import is_remote

MOST_THREADS = {"enhance": 4, "render": 2}  # of a job where config has `auto`
# Memory of Snakemake, and of the process that jobs are forked from, in a job on another machine.
SNAKEMAKE_MB = 350


def stop(error):
    """End with one line, because a user's mistake needs no traceback."""
    sys.exit(f"basemake: {error}")


begin_run()
fork_jobs(workflow)
STORAGE = workflow.storage_settings
if STORAGE.default_storage_provider:
    stop(
        f"--default-storage-provider is {STORAGE.default_storage_provider!r}: leave it out. With"
        " --default-storage-prefix s3://bucket/maps alone basemake keeps the results there itself."
    )
try:
    BUCKET = bucket_at(STORAGE.default_storage_prefix or None)
except BasemakeError as error:
    stop(error)
if BUCKET:
    keep_in_bucket(workflow, BUCKET, show_bucket)
lock_when_it_executes(workflow, alone)
show(workflow, lambda targets: summary(targets))
run_jobs_of_slurm_here(workflow)
answer_report(
    workflow, lambda: BUCKET and show_bucket(BUCKET), lambda path, graph: report(path, graph)
)

# Snakemake would merge a --configfile into this one, and so also build the demo's region.
if not workflow.overwrite_configfiles:
    if not CONFIGFILE.is_file():
        stop(
            f"{Path.cwd()} has no {CONFIGFILE}; `make new` in the checkout writes one, or name"
            " another directory by --directory."
        )
    try:
        read_yaml(CONFIGFILE, "config")  # which names the line of a mistake, as Snakemake does not
    except BasemakeError as error:
        stop(error)

    configfile: str(CONFIGFILE)


try:
    files = [Path(path) for path in workflow.overwrite_configfiles or [CONFIGFILE]]
    config.update(check(dict(config), "config", "config", files))
    check_codecs(config["tile_codec"], config["pyramid"]["format"])
    SOURCE = read_source(config["source"])
    check_fill(config, SOURCE)
    STEPS = read_recipe(config["recipe"])["steps"]
    RECIPE = Path(config["recipe"]).stem
    REGIONS = read_regions(config["regions"])
except BasemakeError as error:
    stop(error)

BANDS = list(dict.fromkeys(SOURCE.bands.values()))  # asset keys of red, green and blue
FILL = config["fill"] if isinstance(config["fill"], int) else len(config["fill"])
MASK = SOURCE.mask if FILL else None
# Keys of the files of each of a tile's items, by rank.
KEYS = [
    [file_key(key, rank) for key in [*BANDS, *([MASK["asset"]] if MASK else [])]]
    for rank in range(1, 2 + FILL)
]
PYRAMID = config["pyramid"]
SUFFIX = SUFFIXES[PYRAMID["format"]]  # of web tiles that are files
URL = None if PYRAMID["url"] == "none" else PYRAMID["url"]  # where results/ is served
ATTRIBUTION = credit_of(SOURCE, config)
ASKED = asked_of(workflow)
BOUNDS = bounds(ASKED, usable_cores(), memory_for_jobs(), SOURCE.limits.connections)
bound(workflow, connections=BOUNDS.connections)
if workflow.is_main_process:
    bound(workflow, _cores=BOUNDS.cores, mem_mb=BOUNDS.memory_mb)
    decide_by_records(workflow)
if BUCKET and ASKED.elsewhere:
    stop(
        "--default-storage-prefix is for jobs on this machine; those on others leave their results"
        " in the working directory, which they share: leave it out, or leave --executor out."
    )
if BUCKET and "folder" in PYRAMID["outputs"]:
    stop(
        "config: pyramid.outputs has 'folder', which is not kept in a bucket: leave it out, or"
        " leave --default-storage-prefix out."
    )
HERE = workflow.is_main_process and not ASKED.elsewhere  # whether jobs run in this process's reach
THREADS = {
    name: (
        threads
        if threads != "auto"
        else share(BOUNDS.cores, MOST_THREADS[name]) if HERE else MOST_THREADS[name]
    )
    for name, threads in config["threads"].items()
}
# Only what changes web tiles: a PNG has no quality, so changing it must make nothing stale.
RENDERING = {
    "image_format": PYRAMID["format"],
    "quality": None if PYRAMID["format"] == "png" else PYRAMID["quality"],
    "background": None if PYRAMID["background"] == "none" else PYRAMID["background"].lower(),
}


def memory(own_mb, attempt):
    """Return the memory in MB to ask for, for a job that uses `own_mb` itself.

    A job on another machine asks for what Snakemake takes there, too, and for more each time that
    it is tried again, as it may have been killed for want of memory.
    """
    return own_mb if HERE else attempt * (own_mb + SNAKEMAKE_MB)


@functools.cache
def layout():
    """Return the layout; the manifest is read on demand, because a search has none yet."""
    try:
        return read_layout(MANIFEST, config, SOURCE, REGIONS)
    except BasemakeError as error:
        stop(error)


def code(script, *pages):
    """Return a digest of a script, the modules that it imports, and the files of a page it makes.

    As a param it makes the outputs stale when the code changes.
    """
    scripts = Path(workflow.basedir) / "scripts"
    return code_digest(scripts / script, *(scripts / "basemake/preview/page" / p for p in pages))


def tile(name):
    """Return a tile of the manifest by its name."""
    if name not in layout().tiles:
        stop(f"{name} is not a tile of {MANIFEST}; it has: {', '.join(layout().tiles)}.")
    return layout().tiles[name]


@functools.cache
def places():
    """Return each tile's place in the order of the manifest's tiles."""
    return {name: place for place, name in enumerate(layout().tiles)}


def bands(wildcards):
    """Return the manifest's bands of a tile and their identities, by file key in order of rank."""
    known = tile(wildcards.tile).files
    for key in KEYS[0]:
        if key not in known:
            stop(f"{key} is not a band of {MANIFEST}; it has: {', '.join(known)}.")
    return {key: known[key] for keys in KEYS for key in keys if key in known}


@functools.cache
def need(name):
    """Return what the maps need of a tile's bands; None if they are to be fetched whole."""
    return layout().need(name)


def asked(wildcards):
    """Return what is asked for of a tile's bands, by file key in order of rank."""
    needed = need(wildcards.tile)
    of_masks = None
    if needed and MASK:
        hiding = MaskRule.of(MASK)
        of_masks = replace(needed, nodata=hiding.unobserved, around=hiding.grow)
    masks = {keys[-1] for keys in KEYS} if MASK else set()
    ranks = {key: rank for rank, keys in enumerate(KEYS, 1) for key in keys}
    found = {}
    for key, (band, identity) in bands(wildcards).items():
        own = of_masks if key in masks else needed
        own = own if is_remote(band.href) else None
        found[key] = Asked(identity, own, ranks[key], key in masks)
    return found


def asked_as_json(wildcards):
    """Return what is asked for of a tile's bands as a param."""
    return {key: band.as_json() for key, band in asked(wildcards).items()}


def settings_of_bands(wildcards):
    """Return the settings of a tile's bands, as far as their records tell what they are."""
    name, found = wildcards.tile, asked(wildcards)
    known = {key: known_here(name, key) for key in found}
    return settings_together(found, known, tile(name).epsg, MASK)


def dn(item):
    """Return scale, offset and nodata of an item's DN as a dict, which is recorded as JSON."""
    try:
        return asdict(dn_reading(SOURCE.dn, item.dn))
    except BasemakeError as error:
        stop(error)


def filling(wildcards):
    """Return the settings by which a tile's holes are filled; none if they are not."""
    items = tile(wildcards.tile).fill
    return {"fill": [dn(item) for item in items], "mask": MASK} if FILL else {}


def provenance():
    """Return the outputs that tell which item each pixel of a tile shows, if tiles have several."""
    if not FILL:
        return {}
    return {
        "provenance": kept_if("keep_tiles", update("results/tiles/{tile}.provenance.tif")),
        "provenance_record": update("results/records/tiles/{tile}.provenance.tif.json"),
    }


def items_of(name):
    """Return the ids of a tile's items, best first."""
    return [item.item for item in tile(name).items]


def enhanced(tiles):
    """Return the paths of enhanced tiles, by their names."""
    return [f"results/tiles/{tile}.tif" for tile in tiles]


def enhanced_of(region, epsg=None):
    """Return the paths of a region's enhanced tiles, or only of those in one UTM zone."""
    return enhanced(tile.name for tile in layout().tiles_of(region, epsg))


def metatiles(region, suffix):
    """Return the paths of a region's metatiles: archives (.pmtiles) or roots (.tif)."""
    names = layout().metatiles[region]
    return [f"results/metatiles/{region}/{name}{suffix}" for name in names]


def edges(wildcards):
    """Return the settings of a metatile that tell where it is cut and where imagery fades."""
    metatile = layout().metatiles[wildcards.region][wildcards.metatile]
    return {
        "outline": outline_text(metatile.outline),
        "coverage": outline_text(metatile.coverage),
        "fade_km": 0 if metatile.coverage is None else PYRAMID["fade_km"],
    }


def overlap(wildcards):
    """Return how tiles are shown where they overlap in a metatile; with one tile they do not."""
    several = len(layout().metatiles[wildcards.region][wildcards.metatile].tiles) > 1
    return PYRAMID["overlap"] if several else "top"


def zone_vrts(region, view=""):
    """Return the paths of a region's VRTs of one zone each; `view` is "_3857" for their views."""
    return [f"results/mosaic/{region}_{epsg}{view}.vrt" for epsg in layout().zones(region)]


def kept_if(keep, path):
    """Return the output `path`, deleted once it was used unless the config key `keep` is true."""
    return path if config[keep] else temp(path)


def everything():
    """Return the paths of all outputs to keep; bands and overviews are made as their inputs."""
    paths = enhanced(layout().tiles) if config["keep_tiles"] else []
    for region in layout().regions:
        paths += metatiles(region, ".pmtiles") + metatiles(region, ".tif")
        if config["keep_tiles"]:
            paths += [f"results/mosaic/{region}_{epsg}.vrt" for epsg in layout().zones(region)]
            paths.append(f"results/mosaic/{region}.vrt")
        paths.append(f"results/pyramid/{region}.pmtiles")
        paths += [f"results/preview/{region}{suffix}" for suffix in (".html", ".webp")]
        names = ("tilejson.json", "style.json", "openlayers.html", "leaflet.html", f"{region}.qlr")
        paths += [f"results/web/{region}/{name}" for name in names]
        paths += exported(region, EXPORTS)
    paths.append("results/preview/index.html")
    # In a bucket no folder is kept.
    return paths if BUCKET else [*paths, "results/stac"]


def described():
    """Return the paths of the files that the STAC catalog describes."""
    paths = []
    if config["keep_tiles"]:
        paths += enhanced(layout().tiles)
        paths += [f"results/tiles/{name}.provenance.tif" for name in layout().tiles if FILL]
        paths += [f"results/mosaic/{region}.vrt" for region in layout().regions]
    for region in layout().regions:
        paths.append(f"results/pyramid/{region}.pmtiles")
        paths += exported(region, [rule for rule in EXPORTS if rule.name != "export_folder"])
    return paths


def exported(region, rules):
    """Return the first outputs for a region of rules export_*."""
    return [str(rule.output[0].apply_wildcards({"region": region})) for rule in rules]


def footprint(name):
    """Return what the STAC catalog is told of a tile: JSON."""
    known = tile(name)
    return {
        "geometry": mapping(known.geometry),
        "epsg": known.epsg,
        "gsd": known.gsd and float(known.gsd),  # as JSON tells 10 from 10.0
        "items": [[item.item, item.address] for item in known.items],
    }


def exports():
    """Return the rules export_* that the config's outputs name; pmtiles is always made."""
    known = {
        known.name.removeprefix("export_"): known
        for known in workflow.rules
        if known.name.startswith("export_")
    }
    names = [name for name in PYRAMID["outputs"] if name != "pmtiles"]
    for name in names:
        if name not in known:
            allowed = ", ".join(["pmtiles", *known])
            stop(f"config: pyramid.outputs has {name!r}; allowed: {allowed}.")
    return [known[name] for name in names]


def tiles_to_compare():
    """Return the tiles on which codecs are compared: up to 4 that exist, or else the first."""
    paths = enhanced(layout().tiles)
    there = [path for path in paths if Path(path).exists()]
    return there[:: max(1, len(there) // 4)][:4] or paths[:1]


def told(region):
    """Return what the preview page of a region tells of it, as Told of build_preview.py has it."""
    api = SOURCE.url and f"{SOURCE.url.rstrip('/')}/collections/{SOURCE.collection}/items/"
    return {
        "title": region,
        "quarter": config["quarter"],
        "source": SOURCE.title,
        "recipe": RECIPE,
        "footprints": footprints(region),
        "items": {
            tile.name: [{"id": item.item, "updated": item.updated} for item in tile.items]
            for tile in layout().tiles_of(region)
        },
        "outline": mapping(layout().regions[region]),
        "clip": PYRAMID["clip"],
        "background": RENDERING["background"],
        "stac": api,
        "files": "../tiles/" if config["keep_tiles"] else None,
        **{key: None if value == "none" else value for key, value in config["preview"].items()},
    }


def footprints(region):
    """Return the tiles of a region as GeoJSON, for the preview page."""
    features = [
        {
            "type": "Feature",
            "properties": {"id": tile.name},
            "geometry": mapping(tile.geometry),
        }
        for tile in layout().tiles_of(region)
    ]
    return {"type": "FeatureCollection", "features": features}


def report(path, graph):
    """Write the report of the build to `path`."""
    from datetime import UTC, datetime

    from basemake.forecast.briefing import in_bytes  # here, as no run needs these
    from basemake.pixels.raster import set_up_libraries
    from basemake.report.contents import Subject
    from basemake.report.page import write_page

    set_up_libraries(config["gdal_cache_mb"])
    subject = Subject(dict(config), SOURCE, STEPS, ATTRIBUTION, layout(), graph)
    write_page(path, subject, datetime.now(UTC))
    print(f"{path}: written, {in_bytes(path.stat().st_size)}; it opens in any browser")


def summary(targets):
    """Return lines about what a run has made by its target rules, and how to go on."""
    directory, checkout = Path.cwd(), Path(workflow.basedir)
    there = "" if Path(workflow.rundir) == checkout else f" -C {shlex.quote(str(checkout))}"
    # Under make the next command follows by itself.
    if "manifest" in targets and "MAKELEVEL" not in os.environ:
        place = ["--default-storage-prefix", str(BUCKET)] if BUCKET else []
        arguments = shlex.join(["--directory", str(directory), *place])
        return [
            f"What a build will take:  make{there} plan ARGS={shlex.quote(arguments)}",
            "To build:  this command without `manifest`",
        ]
    if "all" not in targets:
        return []
    lines = []
    for region in layout().regions:
        zooms, archive = layout().zooms[region], Path(f"results/pyramid/{region}.pmtiles")
        size = in_megabytes(archive.stat().st_size)
        where = f"{BUCKET}/{archive}" if BUCKET else archive
        lines.append(f"{region}: zooms {zooms.min} to {zooms.max}, {size} in {where}")
    lines.append(f"Credit: {ATTRIBUTION}")
    if BUCKET:
        return lines
    # Twice, for the shell that starts make, and for the one that make starts.
    results = shlex.quote(shlex.quote(str(directory / "results")))
    place = "" if directory == checkout else f" RESULTS={results}"
    return [*lines, f"To look at it:  make{there} serve{place}"]
