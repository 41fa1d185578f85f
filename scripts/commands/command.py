"""What the commands beside the workflow share: the build that they speak of, and its jobs.

They take what snakemake takes (`--configfile`, `--directory`, `--cores`, a profile), and ask it.
"""

import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

from snakemake import cli
from snakemake.logging import logger
from snakemake.utils import update_config

from basemake.build.config import check, read_source, read_yaml
from basemake.build.engine import EVENT
from basemake.build.layout import Plan
from basemake.build.reasons import explain
from basemake.build.region import read_region
from basemake.build.source import Source
from basemake.errors import BasemakeError, ConfigError
from basemake.system.machine import usable_cores

SNAKEFILE = Path(__file__).resolve().parents[2] / "Snakefile"
CONFIGFILE = Path("config/config.yaml")  # the Snakefile's own, in the working directory
MANIFEST = Path("results/manifest.geojson")


class Job(NamedTuple):
    """A job that a run would do: its rule and wildcards, what it makes, and why."""

    rule: str
    wildcards: dict[str, str]
    output: list[Path]
    reason: str  # a sentence of reasons.py
    threads: int
    resources: dict[str, Any]


class Build(NamedTuple):
    """A build in the current directory, as snakemake called with `arguments` in `called_in` has it.

    `config` and `source` are checked, with their defaults; `regions` are shapely, in degrees.
    """

    arguments: list[str]
    called_in: Path
    config: dict
    source: Source
    regions: dict[str, Any]
    cores: int
    connections: int

    def plan(self) -> Plan:
        """Read the manifest; ManifestError if there is none that answers the config."""
        return Plan(MANIFEST, self.config, self.source, self.regions)

    def jobs(self) -> list[Job]:
        """Return the jobs of a dry-run, without `all`. Ends the process if Snakemake refuses."""
        found = _Jobs()
        logger.addFilter(found)
        try:
            with chdir(self.called_in), _quiet_unless_it_ends():
                cli.main([*self.arguments, "--dry-run"])
        except SystemExit as end:
            if end.code:
                raise
        finally:
            logger.removeFilter(found)
        return [
            job._replace(reason=explain(found.causes.get(_key(job.rule, job.wildcards), [])))
            for job in found.jobs
        ]


def open_build(arguments: list[str]) -> Build:
    """Return the build of snakemake's `arguments`, and go to its working directory.

    Raises ConfigError or RegionError for what is not allowed in it.
    """
    arguments = ["--snakefile", str(SNAKEFILE), *arguments]
    with _quiet_unless_it_ends():
        _, options = cli.parse_args([*arguments, "--dry-run"])
        configfiles = [path.absolute() for path in options.configfile or []]
        called_in = Path.cwd()
        _enter(options.directory or Path())
        given = cli.parse_config(options.config)
    config: dict = {}
    for part in [*(read_yaml(path, "config") for path in configfiles or [CONFIGFILE]), given]:
        update_config(config, part)
    config = check(config, "config", "config")
    source = read_source(config["source"])
    regions = {name: read_region(name, Path(path)) for name, path in config["regions"].items()}
    limit, allowed = source.limits.connections, options.resources.get("connections")
    connections = min(limit, allowed.value if allowed else limit)
    # `cores: all` knows no containers; of other machines (--jobs) each job has at least one.
    cores = options.jobs or min(options.cores or 1, usable_cores())
    return Build(arguments, called_in, config, source, regions, cores, connections)


def _enter(directory: Path) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise ConfigError(f"--directory is {directory}: {error.strerror}.") from None


@contextmanager
def as_command(name: str) -> Iterator[None]:
    """End the process with one line for an error that the user can mend."""
    try:
        yield
    except BasemakeError as error:
        sys.exit(f"{name}: {error}")


def _key(rule: str, wildcards: dict[str, str]) -> tuple:
    return rule, *sorted(wildcards.items())


class _Jobs(logging.Filter):
    """Keeps what Snakemake's logger says of jobs, and lets through only what went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []
        self.causes: dict[tuple, list[str]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.__dict__
        for stale in said.get(EVENT, []):
            self.causes[_key(stale.rule, stale.wildcards)] = stale.causes
        if said.get("event") == "job_info" and said["rule_name"] != "all":
            # Snakemake writes what a file is for behind its name: (update), (temp).
            output = [Path(re.sub(r" \(\w+\)$", "", path)) for path in said["output"]]
            resources = dict(said["resources"].items())
            job = Job(
                said["rule_name"],
                dict(said["wildcards"]),
                output,
                "",
                said["threads"],
                resources,
            )
            self.jobs.append(job)
        return record.levelno >= logging.WARNING


@contextmanager
def _quiet_unless_it_ends() -> Iterator[None]:
    """Hold back what Snakemake tells on stderr of its profile, unless it ends the process."""
    with io.StringIO() as said:
        try:
            with redirect_stderr(said):
                yield
        except SystemExit as end:
            if end.code:
                print(said.getvalue(), end="", file=sys.stderr)
            raise
