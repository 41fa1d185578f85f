"""Working directories in which the benchmarks run the real workflow."""

import fnmatch
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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
        self.within: list[str] = []  # what begins the command of each run
        directory.mkdir()
        (directory / "source.yaml").write_text(yaml.safe_dump(source))
        (directory / "region.geojson").write_text(json.dumps(mapping(region)))
        config |= {"source": "source.yaml", "quarter": "2025Q3"}
        config |= {"regions": {"region": "region.geojson"}}
        (directory / "config.yaml").write_text(yaml.safe_dump(config))

    @property
    def options(self) -> list[object]:
        """The options with which snakemake, or a command that takes its options, works on it."""
        config = self.directory / "config.yaml"
        return ["--directory", self.directory, "--configfile", config, "--snakefile", SNAKEFILE]

    def snakemake(self, *arguments: object) -> Usage:
        """Run snakemake; return the usage of it and all its jobs."""
        command = [*self.within, sys.executable, "-m", "snakemake", *self.options, *arguments]
        return run(command, self.directory)[0]


def snakemake(directory: Path, *arguments: object) -> Usage:
    """Run snakemake in a directory; if it fails, exit with its output."""
    command = [sys.executable, "-m", "snakemake", "--directory", directory, *arguments]
    return run(command, cwd=directory)[0]


@contextmanager
def most(measure: Callable[[], int]) -> Iterator[list[int]]:
    """Ask for a figure ten times a second during the block; yield a list with the largest."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], measure())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def watching(*folders: Path, files: str = "*.tif*") -> AbstractContextManager[list[int]]:
    """Watch files in folders during the block; yield a list with their most bytes at a time."""
    return most(lambda: sum(_on_disk(folder, files) for folder in folders))


def _on_disk(folder: Path, files: str) -> int:
    """Return the bytes of files in a folder; some may be deleted meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):  # which passes over folders that are deleted, too
        for name in fnmatch.filter(names, files):
            with suppress(FileNotFoundError):
                total += Path(parent, name).stat().st_size
    return total
