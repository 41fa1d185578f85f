"""Working directories in which the benchmarks run the real workflow."""

import json
import sys
from pathlib import Path

import yaml
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from benchmarks.measure import TESTS, Usage, run

SNAKEFILE = TESTS.parent / "Snakefile"


class Build:
    """A working directory with its config; the region's name is `region`."""

    def __init__(self, directory: Path, region: BaseGeometry, source: dict, **config: object):
        """Write source, region and config to a new directory."""
        self.directory = directory
        directory.mkdir()
        (directory / "source.yaml").write_text(yaml.safe_dump(source))
        (directory / "region.geojson").write_text(json.dumps(mapping(region)))
        config |= {"source": "source.yaml", "quarter": "2025Q3"}
        config |= {"regions": {"region": "region.geojson"}}
        (directory / "config.yaml").write_text(yaml.safe_dump(config))

    def snakemake(self, *arguments: object) -> Usage:
        """Run snakemake; return the usage of it and all its jobs."""
        options = ["--configfile", self.directory / "config.yaml", "--snakefile", SNAKEFILE]
        return snakemake(self.directory, *options, *arguments)


def snakemake(directory: Path, *arguments: object) -> Usage:
    """Run snakemake in a directory; if it fails, exit with its output."""
    command = [sys.executable, "-m", "snakemake", "--directory", directory, *arguments]
    return run(command, cwd=directory)[0]
