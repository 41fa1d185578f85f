"""The graph of jobs, as commands read it: from a dry run."""

from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from snakemake import cli
from snakemake.logging import logger

from basemake.build.reasons import explain
from basemake.build.records import is_record
from basemake.engine.command import SNAKEFILE, Command, quiet_unless_it_ends
from basemake.engine.display import is_warning, stage_of
from basemake.engine.staleness import Planned, planned
from basemake.errors import BasemakeError, ConfigError


@dataclass(frozen=True)
class Job:
    """A job of the graph, stale or fresh.

    `stage` is the name of the file in rules/ that contains its rule. `outputs` do not include
    `records`. `causes` are why a run would do the job (see reasons.py), empty if it only follows
    from others, or None if it is fresh. `threads` and `memory_mb` are those of some job of its rule
    that a run would do, and 0 for a fresh job.
    """

    rule: str
    stage: str
    wildcards: dict[str, str]
    inputs: list[str]
    outputs: list[Path]
    records: list[Path]
    log: Path
    benchmark: Path
    causes: list[str] | None
    threads: int
    memory_mb: int

    @property
    def reason(self) -> str:
        """Why a run would do the job, as a phrase for people."""
        return explain(self.causes or [])


@dataclass(frozen=True)
class Graph:
    """All jobs of a build that have outputs.

    `stages` are the stage of each rule, in the order of the flow. `persistence` is Snakemake's
    object that locates its own metadata.
    """

    jobs: list[Job]
    stages: dict[str, str]
    persistence: Any

    @property
    def stale(self) -> list[Job]:
        """The jobs that a run would do."""
        return [job for job in self.jobs if job.causes is not None]

    def metadata_of(self, output: str | Path) -> list[Path]:
        """Return the paths at which Snakemake may keep its own metadata of an output."""
        known = self.persistence
        folders = (known._metadata_path, known._incomplete_path)
        return [Path(known._record_path(folder, str(output))) for folder in folders]


def read_graph(command: Command) -> Graph:
    """Return the graph of jobs, from a dry run; the current directory must be the build's.

    Raises BasemakeError if the Snakefile stops with a message; ends the process with Snakemake's
    message if Snakemake refuses.
    """
    planned.clear()
    logger.addFilter(is_warning)
    try:
        with chdir(command.called_in), quiet_unless_it_ends():
            # With just these, a dry run ends once it has the graph, and prints no jobs.
            cli.main([*command.arguments, "--dry-run", "--quiet", "rules", "progress"])
    except SystemExit as end:
        if isinstance(end.code, str):
            raise BasemakeError(end.code.removeprefix("basemake: ")) from None
        if end.code:
            raise
    finally:
        logger.removeFilter(is_warning)
    if not planned:
        raise ConfigError(f"{SNAKEFILE} planned no jobs; run snakemake --dry-run to see why.")
    return graph_of(planned.pop())


def graph_of(plan: Planned) -> Graph:
    """Return the graph of jobs of a plan; ConfigError if its targets are of rules without files."""
    workflow, dag, stale = plan
    todo = set(dag.needrun_jobs())
    jobs = [job for level in dag.toposorted() for job in level if job.output]
    if not jobs:
        raise ConfigError("the targets are of rules that make no files: there is nothing to plan.")
    # One job stands for all of its rule, as expanding the resources of each takes very long.
    some = {job.rule: job for job in todo if job.output}
    needs = {rule: (job.threads, job.resources["mem_mb"]) for rule, job in some.items()}
    return Graph(
        [
            _describe(job, *((stale.get(job, []), needs[job.rule]) if job in todo else ()))
            for job in jobs
        ],
        {rule.name: stage_of(rule) for rule in workflow.rules if rule.output},
        workflow.persistence,
    )


class Benchmark(NamedTuple):
    """What a job took: CPU and wall seconds, and the most bytes of memory, 0 if that was missed."""

    cpu: float
    wall: float
    memory: int


def read_benchmark(path: Path) -> Benchmark | None:
    """Return what a benchmark file tells of a job; None if it tells nothing."""
    try:
        lines = path.read_text().splitlines()
        row = dict(zip(lines[0].split("\t"), lines[-1].split("\t"), strict=True))
        wall, cpu = float(row["s"]), float(row["cpu_time"])
        memory = 0.0 if row["max_rss"] == "NA" else float(row["max_rss"])  # in MiB
        # A short job's CPU time may have been missed.
        return Benchmark(cpu or wall, wall, round(memory * 2**20))
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _describe(job: Any, causes: list[str] | None = None, needs: tuple[int, int] = (0, 0)) -> Job:
    return Job(
        job.rule.name,
        stage_of(job.rule),
        dict(job.wildcards_dict),
        [str(path) for path in job.input],
        [Path(path) for path in job.output if not is_record(path)],
        [Path(path) for path in job.output if is_record(path)],
        Path(job.log[0]),
        Path(str(job.benchmark)),
        causes,
        *needs,
    )
