"""Whole runs: the real snakemake, as a user calls it, in a working directory of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import shapely
import yaml
from osgeo import gdal
from preloaded import Preloaded
from shapely.geometry import mapping

from basemake.build.quarter import Quarter
from basemake.demo.simulated import simulate

CHECKOUT = Path(__file__).resolve().parents[2]
# Over the border of UTM zones 33 and 34: 7 tiles, 10 metatiles of zoom 9.
OUTLINE = [
    (17.3, 43.35),
    (18.9, 43.35),
    (18.97, 44.75),
    (18.85, 44.75),
    (18.8, 44.3),
    (17.35, 44.1),
    (17.33, 43.6),
]
# The same with one corner moved along its southern edge.
SMALLER = [(17.41, 43.35), *OUTLINE[1:]]
# Its northern end: 3 tiles, 2 metatiles.
NORTH = [(18.7, 44.2), (18.97, 44.2), (18.97, 44.75), (18.86, 44.75), (18.86, 44.45)]
# Half inside the first region and half south of it, where it needs two more tiles.
OTHER = [(17.5, 43.1), (17.7, 43.1), (17.7, 43.5), (17.5, 43.5)]
# With it snakemake prints its own words, which name inputs, outputs and wildcards of each job.
OWN_WORDS = "--printshellcmds"
# Snakemake compares small files by content; the small files here stand for large ones.
BY_TIME = ("--max-checksum-file-size", "0")
EDGE = "34TCQ_0_0"  # the only tile that shows in the region's northern tip
TIP = "9_282_184"
ZOOM = 9  # of metatiles
SOURCE = {
    "type": "catalog",
    "items": "catalog/items.json",
    "bands": {"red": "B04", "green": "B03", "blue": "B02"},
    "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768},
    "attribution": "Simulated imagery",
}
WORLD = {"seed": 41, "pixel_size": 360}
LASTING = ("tiles/*", "mosaic/*", "metatiles/**/*", "pyramid/**/*", "preview/*", "web/*/*")
LASTING += ("stac/**/*",)
# Rules whose outputs the STAC catalog describes.
DESCRIBED = {"enhance_tile", "build_vrt", "pack_pyramid", "export_mbtiles", "export_cog"}


def opened_for_update(path: Path) -> gdal.Dataset:
    """Open a cloud-optimized GeoTIFF to change its pixels, which GDAL 3.10 would refuse."""
    options = ["IGNORE_COG_LAYOUT_BREAK=YES"]
    return gdal.OpenEx(str(path), gdal.OF_RASTER | gdal.OF_UPDATE, open_options=options)


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment of programs, in which a user's own profile or config is `home`'s."""
    ours = {"XDG_CONFIG_HOME": str(home), "PYTHONWARNINGS": "", "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, **ours}


@cache
def preloaded() -> Preloaded:
    """The process that programs are forked from; it ends with the tests."""
    return Preloaded(environment_of(Path(os.devnull)))


@dataclass
class Build:
    """A working directory and its config, and the runs in it, with `environment` for them."""

    directory: Path
    config: dict
    checkout: Path = CHECKOUT
    environment: dict[str, str] = field(default_factory=dict)
    interpreter: str = sys.executable

    @property
    def results(self) -> Path:
        return self.directory / "results"

    @property
    def snakemake(self) -> list[str]:
        """Python's arguments for snakemake with this workflow."""
        return ["-m", "snakemake", "--snakefile", str(self.checkout / "Snakefile")]

    def script(self, name: str) -> list[str]:
        """Python's arguments for one of the commands beside the workflow."""
        return [str(self.checkout / f"scripts/commands/{name}.py")]

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start snakemake with `arguments` as the leader of a process group."""
        return self.python(self.snakemake, *arguments)

    def command(self, name: str, *arguments: str) -> subprocess.Popen:
        """Start one of the commands, with a pipe of its own for stderr."""
        return self.python(self.script(name), *arguments, stderr=subprocess.PIPE)

    def call(self, name: str, *arguments: str) -> subprocess.CompletedProcess:
        """Run one of the commands to its end."""
        return self.finish(self.script(name), *arguments, stderr=subprocess.PIPE)

    def says(self, name: str, *arguments: str) -> str:
        """Run a command, which must succeed and leave stderr empty; return what it printed."""
        done = self.call(name, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def python(
        self,
        program: list[str],
        *arguments: str,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.STDOUT,
    ) -> subprocess.Popen:
        """Start a Python program with snakemake's options for this build, then `arguments`."""
        return subprocess.Popen(
            [self.interpreter, *program, *self.options(), *arguments],
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=self.variables(),
            start_new_session=True,
        )

    def finish(
        self, program: list[str], *arguments: str, stderr: int = subprocess.STDOUT
    ) -> subprocess.CompletedProcess:
        """Run a program as `python` does, to its end; as a fork where that makes no difference."""
        apart = stderr == subprocess.PIPE
        ours = self.checkout == CHECKOUT and self.interpreter == sys.executable
        if ours and preloaded().fits(self.variables()):
            line = [*program, *self.options(), *arguments]
            return preloaded().run(line, self.variables(), apart)
        running = self.python(program, *arguments, stderr=stderr)
        out, err = running.communicate()
        return subprocess.CompletedProcess(running.args, running.returncode, out, err)

    def options(self) -> list[str]:
        """Write the config; return snakemake's options for this build."""
        configfile = self.directory / "config.yaml"
        configfile.write_text(yaml.safe_dump(self.config))
        return ["--configfile", str(configfile), "--directory", str(self.directory)]

    def variables(self) -> dict[str, str]:
        """Return the environment of this build's programs."""
        # To compile basemake at each start would take a third of the start's time.
        written = {} if self.checkout == CHECKOUT else {"PYTHONDONTWRITEBYTECODE": "1"}
        return {**environment_of(self.directory), **written, **self.environment}

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run snakemake with `arguments`, which must succeed; return what it printed."""
        done = self.finish(self.snakemake, *arguments)
        if check and done.returncode:
            pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{done.stdout}")
        return done.stdout

    def build(self, cores: int = 2) -> str:
        """Search and build all."""
        return self.run("manifest") + self.run("--cores", str(cores))

    def planned(self, *arguments: str) -> set[str]:
        """Return the rules that a dry-run lists, without `all`."""
        lines = self.run("--dry-run", OWN_WORDS, *arguments).splitlines()
        words = [line.split() for line in lines]
        return {w[1].rstrip(":") for w in words if w[:1] in (["rule"], ["localrule"])} - {"all"}

    def jobs(self, *arguments: str, check: bool = True) -> set[str]:
        """Return the jobs that a run, or a dry-run, names: rule and wildcards, without `all`."""
        found, rule = set(), ""
        for line in self.run(OWN_WORDS, *arguments, check=check).splitlines():
            words = line.replace(",", " ").split()
            if words[:1] in (["rule"], ["localrule"]):
                rule = words[1].rstrip(":")
                found.add(rule)
            elif words[:1] == ["wildcards:"]:
                found.discard(rule)
                found.add(" ".join([rule, *(word.split("=", 1)[1] for word in words[1:])]))
        return found - {"all"}

    def files(self, pattern: str) -> dict[str, bytes]:
        """Return the content of the results that match, by path."""
        return {
            str(path.relative_to(self.results)): path.read_bytes()
            for path in sorted(self.results.glob(pattern))
            if path.is_file()
        }


@dataclass
class Scene(Build):
    """A build from a catalog of its own."""

    @property
    def items(self) -> list[dict]:
        return json.loads((self.directory / "catalog/items.json").read_text())["features"]

    @items.setter
    def items(self, items: list[dict]) -> None:
        document = {"type": "FeatureCollection", "features": items}
        (self.directory / "catalog/items.json").write_text(json.dumps(document))

    def draw(self, region: str, outline: list[tuple[float, float]]) -> None:
        polygon = mapping(shapely.Polygon(outline))
        (self.directory / f"{region}.geojson").write_text(json.dumps(polygon))

    def drop(self, tile: str) -> None:
        """Let a tile leave the catalog."""
        self.items = [item for item in self.items if not item["id"].endswith(tile)]

    def content(self) -> dict[str, bytes]:
        """Return the content of all files that runs leave, except Snakemake's logs and scripts."""
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for place in ("results", "logs", "benchmarks", "catalog", ".snakemake/metadata")
            for path in (self.directory / place).rglob("*")
            if path.is_file()
        }

    def lasting(self) -> dict[str, bytes]:
        return {path: data for pattern in LASTING for path, data in self.files(pattern).items()}

    def edit_bands(self, tile: str, updated: str = "2026-02-01T00:00:00Z") -> None:
        """Make a tile's bands brighter and its item newer, as a reprocessed quarter is."""
        items = self.items
        item = next(item for item in items if item["id"].endswith(tile))
        for band, asset in item["assets"].items():
            path = self.directory / "catalog" / asset["href"]
            dataset = opened_for_update(path)
            dn = dataset.ReadAsArray()
            dataset.GetRasterBand(1).WriteArray(np.where(dn == -32768, dn, dn + 200))
            del dataset
            asset["file:size"] = path.stat().st_size
            asset.pop("file:checksum", None)
            assert band in SOURCE["bands"].values()
        item["properties"]["updated"] = updated
        self.items = items

    def copy(self, directory: Path) -> "Scene":
        """Return a copy in a new directory, with the times of files."""
        shutil.copytree(self.directory, directory, symlinks=True)
        return replace(self, directory=directory, config=json.loads(json.dumps(self.config)))

    def rebuild(self, expected: Iterable[str], search: bool = True) -> None:
        """Search again, if asked; see that dry-run and run name these jobs, a second run none.

        On a disk the STAC catalog is expected to be made if it describes what others make.
        """
        if search:
            self.run("manifest")
        kept = "--default-storage-prefix" not in self.options()
        jobs = with_catalog(expected) if kept else {*expected}
        assert self.jobs("--dry-run") == jobs
        assert self.jobs("--cores", "4") == jobs
        assert "Nothing to be done" in self.run("--cores", "4")


def with_catalog(jobs: Iterable[str]) -> set[str]:
    """Return jobs, with that of the STAC catalog if it describes what one of them makes."""
    described = DESCRIBED & {job.split()[0] for job in jobs}
    return {*jobs, *(["build_stac"] if described else [])}


def copy_of_checkout(copy: Path) -> Path:
    """Copy the workflow, without tests and set-up, to a new folder, and return that."""
    for name in ("rules", "scripts", "config", "envs", "profiles"):
        shutil.copytree(CHECKOUT / name, copy / name)
    shutil.copy(CHECKOUT / "Snakefile", copy)
    return copy


def small_scene(directory: Path, outline: list[tuple[float, float]] = OUTLINE) -> Scene:
    """Return a Scene of a region, built in an empty directory."""
    scene = lay_out(directory, outline)
    scene.build(cores=4)
    return scene


def lay_out(directory: Path, outline: list[tuple[float, float]] = OUTLINE) -> Scene:
    """Return a Scene of which nothing is searched or built yet: config, catalog and polygons."""
    scene = Scene(
        directory,
        {
            "source": "source.yaml",
            "quarter": "2025Q3",
            "regions": {"first": "first.geojson"},
            "pyramid": {"max_zoom": 10, "metatile_zoom": ZOOM},
        },
    )
    (directory / "source.yaml").write_text(yaml.safe_dump(SOURCE))
    scene.draw("first", outline)
    scene.draw("other", OTHER)
    (directory / "catalog").mkdir()
    world = shapely.union(shapely.Polygon(OUTLINE), shapely.Polygon(OTHER))
    scene.items = simulate(world, Quarter(2025, 3), directory / "catalog", **WORLD)
    return scene
