"""The build that a command (plan, prune, refresh) works on.

Commands take the same options as snakemake (`--configfile`, `--directory`, `--cores`, a profile).
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shapely.geometry.base import BaseGeometry

from basemake.build.bucket import Bucket, bucket_at
from basemake.build.config import check, credit_of, read_source, read_yaml
from basemake.build.layout import Layout, read_layout
from basemake.build.paths import CONFIGFILE, MANIFEST
from basemake.build.region import read_regions
from basemake.build.run_lock import show_bucket
from basemake.build.source import Source
from basemake.engine.command import Command, parse
from basemake.engine.graph import Graph, read_graph
from basemake.errors import BasemakeError, ConfigError
from basemake.system.interrupts import on_interrupt
from basemake.system.machine import usable_cores

BUSY = os.EX_TEMPFAIL  # 75: the exit status of timers' commands if a run is using the directory


@dataclass(frozen=True)
class Build:
    """A build in the current directory.

    `config` and `source` are checked and have their defaults; `regions` are polygons in degrees.
    `cores` and `connections` are how many its jobs may use together. `bucket` keeps its results,
    if the directory does not.
    """

    command: Command
    config: dict
    source: Source
    regions: dict[str, BaseGeometry]
    cores: int
    connections: int
    bucket: Bucket | None = None

    @property
    def attribution(self) -> str:
        """The credit of the imagery, with its years."""
        return credit_of(self.source, self.config)

    def layout(self) -> Layout:
        """Read the manifest and lay out the build; raises what `read_layout` raises."""
        return read_layout(MANIFEST, self.config, self.source, self.regions)

    def graph(self) -> Graph:
        """Return the graph of jobs, from a dry run; raises what `read_graph` raises."""
        return read_graph(self.command)


def open_build(arguments: list[str], whole: bool = False) -> Build:
    """Return the build that snakemake's `arguments` name, and change to its working directory.

    Raises ConfigError or RegionError if config, source or a region is not allowed, or, with
    `whole`, if the arguments leave jobs out (targets, --until, --omit-from, --batch); BucketError
    if the results are in a bucket that cannot be read.
    """
    command = parse(arguments)
    if whole and command.partial:
        named = ", ".join(command.partial).replace("_", "-")
        raise ConfigError(f"the arguments have {named}; allowed are only those of a whole build.")
    try:
        os.chdir(command.directory)
    except OSError as error:
        raise ConfigError(f"--directory is {command.directory}: {error.strerror}.") from None
    document = command.config(lambda path: read_yaml(path, "config"))
    config = check(document, "config", "config", command.configfiles or [CONFIGFILE])
    source = read_source(config["source"])
    regions = read_regions(config["regions"])
    limit = source.limits.connections
    # Snakemake's `cores: all` ignores a container's limit. With --jobs, jobs run on other machines,
    # and each holds at least one core there.
    cores = command.jobs or min(command.cores or 1, usable_cores())
    connections = min(limit, command.connections or limit)
    bucket = bucket_at(command.bucket)
    if bucket:
        show_bucket(bucket)
    return Build(command, config, source, regions, cores, connections, bucket)


@contextmanager
def as_command(name: str) -> Iterator[None]:
    """End the process with status 1 and one line on stderr if the block raises a BasemakeError.

    Ctrl-C ends it with status 130 and without a word.
    """
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    ):  # while it was loaded (envs/interrupts.pth)
        on_interrupt(signal.default_int_handler)
    try:
        yield
    except BasemakeError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
