"""Make a draft: the map of all regions from the smallest reduced images of the bands, in draft/.

It is the same workflow in a working directory of its own, with a lower max_zoom, and takes about a
thousandth of the bytes. So polygon, quarter, holes, snow and look can be checked before anything
else is downloaded.
"""

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.build.config import named_path, read_source, read_yaml
from basemake.build.manifest import check_quarter, describe_request, read_manifest
from basemake.build.paths import CONFIGFILE, DRAFT, MANIFEST
from basemake.build.quarter import Quarter
from basemake.engine.open_build import Build, as_command, open_build
from basemake.errors import ConfigError, ManifestError
from basemake.pixels.webtiles import resolution

PIXEL = 320.0  # metres: that of the smallest reduced image of bands of 10 m
FOLDER = Path("simulated")  # in which the simulated source keeps its bands


def draft(build: Build) -> int:
    """Make the draft of a build in its directory, which is the current one; return the status."""
    if DRAFT.exists() and not DRAFT.is_dir():
        raise ConfigError(f"{DRAFT.absolute()} is a file, where the draft is to be made; move it.")
    (DRAFT / CONFIGFILE).parent.mkdir(parents=True, exist_ok=True)
    config = _config(build)
    _write(config)
    try:
        check_quarter(DRAFT / MANIFEST, build.config["quarter"])
    except ManifestError:  # nothing of a draft of another quarter is worth keeping
        (DRAFT / MANIFEST).unlink()
    if not _has_manifest(build) and (status := _snakemake(build, "manifest")):
        return status
    zoom, asked = _zoom(build, config), config["pyramid"]["max_zoom"]
    zoom = zoom if asked == "auto" else min(zoom, asked)
    config["pyramid"] |= {"max_zoom": zoom, "metatile_zoom": "auto"}
    config["pyramid"]["min_zoom"] = min(config["pyramid"]["min_zoom"], zoom)
    _write(config)
    return _snakemake(build)


def _config(build: Build) -> dict[str, Any]:
    """Return the draft's config: the build's, with paths that hold in the draft's directory."""
    # Its bands and tiles are small, and are kept so that another look takes no download.
    config = {**build.config, "fetch": "needed", "keep_bands": True, "keep_tiles": True}
    config["pyramid"] = {**config["pyramid"], "outputs": ["pmtiles"]}
    config["regions"] = {
        name: str(Path(what).expanduser().absolute()) if isinstance(what, str) else what
        for name, what in config["regions"].items()
    }
    for kind in ("source", "recipe"):
        config[kind] = str(named_path(kind, config[kind]).absolute())
    if build.source.type == "catalog":
        source = read_yaml(Path(config["source"]), "source")
        source["items"] = str(Path(source["items"]).expanduser().absolute())
        config["source"] = str((DRAFT / "source.yaml").absolute())
        Path(config["source"]).write_text(yaml.safe_dump(source))
    link = DRAFT / FOLDER
    if build.source.type == "simulated" and not link.exists():
        FOLDER.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)  # after the directory was moved it leads nowhere
        link.symlink_to(FOLDER.absolute())
    return config


def _write(config: dict[str, Any]) -> None:
    (DRAFT / CONFIGFILE).write_text(yaml.safe_dump(config, sort_keys=False))


def _has_manifest(build: Build) -> bool:
    """Return whether the draft has a manifest; an API's answer is taken from the build's."""
    if build.source.type != "api":
        return False
    quarter, fill = Quarter.parse(build.config["quarter"]), build.config["fill"]
    request = describe_request(build.source, quarter, build.regions, fill)
    try:
        read_manifest(MANIFEST, request)
    except ManifestError:
        return False
    (DRAFT / MANIFEST).parent.mkdir(exist_ok=True)
    shutil.copyfile(MANIFEST, DRAFT / MANIFEST)
    return True


def _zoom(build: Build, config: dict[str, Any]) -> int:
    """Return the highest zoom whose pixels are nowhere in the tiles smaller than PIXEL."""
    source, quarter = read_source(config["source"]), Quarter.parse(config["quarter"])
    request = describe_request(source, quarter, build.regions, config["fill"])
    zooms = []
    for tile in read_manifest(DRAFT / MANIFEST, request).values():
        latitude = min(85.0, max(map(abs, tile.geometry.bounds[1::2])))
        ground = resolution(0, config["pyramid"]["tile_size"]) * math.cos(math.radians(latitude))
        zooms.append(math.floor(math.log2(ground / PIXEL)))
    return max(0, min(zooms))


def _snakemake(build: Build, *targets: str) -> int:
    """Run snakemake in the draft's directory; return its status."""
    place = ["--directory", str(DRAFT.absolute())]
    place += ["--configfile", str((DRAFT / CONFIGFILE).absolute())]
    place += ["--default-storage-prefix", ""]  # a draft is made here, even if its map is not
    # The last ones count: an empty --config sets nothing.
    command = [*build.command.line(*targets), *place, "--config"]
    running = subprocess.Popen(command, cwd=build.command.called_in)
    while True:
        try:
            return running.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches snakemake, too, which stops its jobs first
            continue


if __name__ == "__main__":
    with as_command("draft"):
        sys.exit(draft(open_build(sys.argv[1:], whole=True)))
