"""The one module that knows Snakemake's internals.

It lets records decide which jobs a run has to do, holds a lock while Snakemake executes, sets the
bounds of jobs that run at the same time, and hands the graph of jobs to the commands beside the
workflow.

Snakemake 9.27 cannot decide by itself which jobs are stale. It notes a job's params in
.snakemake/metadata even when the job failed (`Job.postprocess` in jobs.py calls
`persistence.finished` on errors, too), restores what a failed job had `update`d with the current
time, forgets everything with .snakemake, and judges files by their times. So its triggers are
switched off, inputs are made `ancient`, which ignores their times, and each job whose outputs'
records disagree with the rule's params and inputs is forced.
"""

import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, chdir, contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from snakemake import cli
from snakemake.io import ancient
from snakemake.logging import logger
from snakemake.shell import shell
from snakemake.utils import available_cpu_count, update_config

from basemake.build.reasons import DAMAGED, INPUT, INPUTS, MISSING, UNRECORDED, explain, summary
from basemake.build.records import MadeOf, is_intact, is_record, made_of, read_record
from basemake.errors import BasemakeError, ConfigError
from basemake.system.machine import Asked

SNAKEFILE = Path(__file__).resolve().parents[3] / "Snakefile"
CONFIGFILE = Path("config/config.yaml")  # the Snakefile's own, in the working directory
LOCKS = Path(".snakemake/locks")
EXECUTES_PART = ("targets", "until", "omit_from", "batch")  # options that leave jobs out


# -- What a run has to do --------------------------------------------------------------------------


class Planned(NamedTuple):
    """Snakemake's workflow and graph of jobs, and the stale jobs in it with their causes."""

    workflow: Any
    dag: Any
    stale: dict[Any, list[str]]


_planned: list[Planned] = []  # of the dry run that `read_graph` makes in this process


def decide_by_records(workflow: Any) -> None:
    """Make Snakemake do just those jobs whose outputs' records disagree with what rules state now.

    Logs a summary of these jobs. Snakemake offers no hook between building the graph of jobs and
    deciding which of them to do, so the graph's own method for that is wrapped.
    """
    prepare = workflow._prepare_dag

    def prepare_and_wrap(*args: Any, **kwargs: Any) -> None:
        prepare(*args, **kwargs)
        dag = workflow.dag
        update_needrun = dag.update_needrun

        async def decide(create_inventory: bool = False) -> None:
            stale = find_stale(dag)
            logger.info(summary([(job.rule.name, causes) for job, causes in stale.items()]))
            dag.forcefiles.update(file for job in stale for file in job.output)
            _leave_times_out(dag, stale)
            await update_needrun(create_inventory)
            _add(dag, stale)
            _planned[:] = [Planned(workflow, dag, stale)]

        async def trust_records() -> None:
            """Take nothing for incomplete: an output that is not whole has no record."""

        dag.update_needrun, dag.check_incomplete = decide, trust_records
        # Its own records need not be read, nor missed, and trigger nothing.
        workflow.dag_settings.rerun_triggers = frozenset()
        workflow.persistence.has_metadata = lambda job: True
        workflow.persistence.has_outdated_metadata = lambda job: False

    workflow._prepare_dag = prepare_and_wrap


def _add(dag: Any, stale: Collection[Any]) -> None:
    """Add stale jobs that follow a stale one only through jobs that need not be done.

    Snakemake does not look at these, as it assumes that whatever follows a job is done, too.
    """
    for job in stale:
        if not dag.needrun(job):
            dag.reason(job).forced = True
            dag._needrun.add(job)
    for job in dag._needrun:
        dag._n_until_ready[job] = sum(source in dag._needrun for source in dag.dependencies[job])
    dag._len = len(dag._finished | dag._needrun)


def find_stale(dag: Any) -> dict[Any, list[str]]:
    """Return the jobs of Snakemake's graph that have to be done, and why.

    A job has to be done if its outputs are asked for, or needed by one that has to be done, and
    their records disagree with what they should be made of, or an input that was missing is made.
    """
    jobs = [job for level in dag.toposorted() for job in level]  # those that others need first
    expect = Expectation(dag)
    found: dict[Any, list[str]] = {}
    needed = set(dag.targetjobs)
    stale: dict[Any, list[str]] = {}
    before = -1
    while before != len(needed) + len(stale):
        before = len(needed) + len(stale)
        for job in reversed(jobs):
            if job in needed and job.output and job not in stale:
                if job not in found:
                    found[job] = _causes(job, expect)
                if found[job]:
                    stale[job] = found[job]
            if job in stale or (job in needed and not job.output):
                needed.update(dag.dependencies[job])
        for job in jobs:  # Snakemake does what follows from inputs that were missing
            if job.output and job not in stale:
                for source, files in dag.dependencies[job].items():
                    if source in stale and not all(map(_exists, files)):
                        stale[job] = [INPUT]
    return stale


def _leave_times_out(dag: Any, stale: Collection[Any]) -> None:
    """Make Snakemake ignore the times of inputs, but do what follows from a job that it does.

    A job without outputs is done whenever it is asked for, after what it reads.
    """
    for job, sources in dag.dependencies.items():
        for source, files in sources.items():
            if not (source in stale and (job in stale or not job.output)):
                for file in files:
                    file._file = ancient(str(file))


class Expectation:
    """What the outputs of jobs should be made of now; found when it is asked for."""

    def __init__(self, dag: Any) -> None:
        """Take Snakemake's graph of jobs."""
        self._dag = dag
        self._known: dict[Any, MadeOf] = {}

    def of(self, job: Any) -> MadeOf:
        """Return what the outputs of a job should be made of."""
        if job not in self._known:
            sources = {
                file: source
                for source, files in self._dag.dependencies[job].items()
                for file in files
            }
            # Snakemake may give up on how to make a file that is there.
            inputs = [
                (file, self.of(sources[file]).content if file in sources else "")
                for file in job.input
            ]
            self._known[job] = made_of(job.params, inputs)
        return self._known[job]


def _causes(job: Any, expect: Expectation) -> list[str]:
    """Return why a job's outputs are stale; nothing if they are not."""
    causes: dict[str, None] = {}
    for output in job.output:
        if not is_record(output):
            causes |= dict.fromkeys(_differences(Path(output), job, expect))
    return list(causes)


def _differences(output: Path, job: Any, expect: Expectation) -> list[str]:
    if not _exists(output):
        return [MISSING]
    record = read_record(output)
    if record is None:
        return [UNRECORDED]
    was, expected = record.made_of, expect.of(job)
    if was == expected:
        return [] if is_intact(output, record) else [DAMAGED]
    old, new = was.settings | was.container, expected.settings | expected.container
    causes = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if {path for path, _ in was.inputs} != {path for path, _ in expected.inputs}:
        causes.append(INPUTS)
    elif was.inputs != expected.inputs:
        causes.append(INPUT)
    return causes


def _exists(path: str | Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - there may be a hundred thousand


# -- What a run may use ----------------------------------------------------------------------------


def asked_of(workflow: Any) -> Asked:
    """Return the bounds that profile and command line give to a run."""

    def value(name: str) -> int | None:
        resource = workflow.global_resources.get(name)
        return resource.value if resource else None

    return Asked(
        cores=value("_cores") or 1,
        # Snakemake resolves `cores: all` itself, and knows neither containers nor clusters.
        all_cores=value("_cores") == available_cpu_count(),
        elsewhere=value("_nodes") is not None,
        memory_mb=value("mem_mb"),
        connections=value("connections"),
    )


def bound(workflow: Any, **resources: int | None) -> None:
    """Set how much of each resource the jobs that run at the same time may use together."""
    for name, amount in resources.items():
        if amount is not None:
            workflow.register_resource(name, amount)


# -- One run at a time -----------------------------------------------------------------------------


def lock_when_it_executes(
    workflow: Any, alone: Callable[[bool], AbstractContextManager[int]]
) -> None:
    """Let `workflow` execute jobs only while it holds the working directory.

    `alone` is run_lock.alone. Ends the process with one sentence if the directory is held by
    another run. Dry-runs, `--summary`, `--unlock` and the like need no lock, nor do processes of
    single jobs, and `--nolock` is obeyed. Only when Snakemake calls `execute` is it known which of
    these a run is, and `execute` looks at Snakemake's own locks: so that method is wrapped.
    """
    execute = workflow.execute

    def locked(*, executor_plugin: Any, **settings: Any) -> Any:
        kind = executor_plugin.common_settings
        with ExitStack() as held:
            if (
                workflow.is_main_process
                and workflow.execution_settings.lock
                and not kind.dryrun_exec
            ):
                try:
                    lock = held.enter_context(alone(not kind.local_exec))
                except BasemakeError as error:
                    sys.exit(f"basemake: {error}")
                # Jobs inherit the lock from the moment that they exist. Snakemake has no public way
                # to set that; `shell.executable` writes to the same dictionary.
                shell._process_args["pass_fds"] = [lock]
                held.callback(shell._process_args.pop, "pass_fds")
            return execute(executor_plugin=executor_plugin, **settings)

    workflow.execute = locked


def has_locks() -> bool:
    """Tell whether Snakemake's own lock files are in the working directory."""
    return any(LOCKS.glob("*.lock"))


def delete_locks() -> None:
    """Delete Snakemake's own lock files, of a run that is certainly over."""
    shutil.rmtree(LOCKS)


# -- What commands ask -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A job of the graph, to be done or not.

    `stage` is the name of the file in rules/ that has its rule. `outputs` are without records.
    `causes` are why it has to be done (see reasons.py), or None if it is fresh; `threads` and
    `memory_mb` are known of jobs that have to be done, and else 0.
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
        """Why it has to be done, as a sentence for people."""
        return explain(self.causes or [])


@dataclass(frozen=True)
class Graph:
    """All jobs that a build consists of, and the stage of each rule, in the order of the flow.

    `persistence` is Snakemake's, which knows where its own notes are.
    """

    jobs: list[Job]
    stages: dict[str, str]
    persistence: Any

    @property
    def stale(self) -> list[Job]:
        """The jobs that a run would do."""
        return [job for job in self.jobs if job.causes is not None]

    def metadata_of(self, output: str | Path) -> list[Path]:
        """Return the paths at which Snakemake may keep its own notes about an output."""
        known = self.persistence
        folders = (known._metadata_path, known._incomplete_path)
        return [Path(known._record_path(folder, str(output))) for folder in folders]


class Command(NamedTuple):
    """What snakemake's `arguments` ask for, called in the directory `called_in`.

    `config` is as the files and `--config` give it, not yet checked. `cores`, `jobs` and
    `connections` are None where neither profile nor command line give them.
    """

    arguments: list[str]
    called_in: Path
    directory: Path
    configfiles: list[Path]
    given: dict[str, Any]
    cores: int | None
    jobs: int | None
    connections: int | None
    parts: list[str]

    def config(self, read: Callable[[Path], Any]) -> dict[str, Any]:
        """Return the config, not yet checked, of files that `read` reads, and of `--config`."""
        config: dict[str, Any] = {}
        for part in [*map(read, self.configfiles or [CONFIGFILE]), self.given]:
            update_config(config, part)
        return config


def parse(arguments: list[str]) -> Command:
    """Return what snakemake's `arguments`, with those of its profile, ask for."""
    arguments = ["--snakefile", str(SNAKEFILE), *arguments]
    with _quiet_unless_it_ends():
        _, options = cli.parse_args([*arguments, "--dry-run"])
        given = cli.parse_config(options.config)
    connections = options.resources.get("connections")
    return Command(
        arguments,
        Path.cwd(),
        Path(options.directory or Path()),
        [path.absolute() for path in options.configfile or []],
        given,
        options.cores,
        options.jobs,
        connections.value if connections else None,
        [name for name in EXECUTES_PART if getattr(options, name)],
    )


def read_graph(command: Command) -> Graph:
    """Return the graph of jobs, by a dry run in the working directory, which must be the build's.

    Raises BasemakeError for what the Snakefile refuses; ends the process if Snakemake refuses.
    """
    _planned.clear()
    logger.addFilter(_is_warning)
    try:
        with chdir(command.called_in), _quiet_unless_it_ends():
            cli.main([*command.arguments, "--dry-run"])
    except SystemExit as end:
        if isinstance(end.code, str):
            raise BasemakeError(end.code.removeprefix("basemake: ")) from None
        if end.code:
            raise
    finally:
        logger.removeFilter(_is_warning)
    if not _planned:
        raise ConfigError(f"{SNAKEFILE} planned no jobs; run snakemake --dry-run to see why.")
    workflow, dag, stale = _planned.pop()
    todo = set(dag.needrun_jobs(exclude_finished=False))  # the dry run has finished them
    jobs = [job for level in dag.toposorted() for job in level if job.output]
    return Graph(
        [_describe(job, stale.get(job, []) if job in todo else None) for job in jobs],
        {rule.name: _stage(rule) for rule in workflow.rules if rule.output},
        workflow.persistence,
    )


def _describe(job: Any, causes: list[str] | None) -> Job:
    todo = causes is not None
    return Job(
        job.rule.name,
        _stage(job.rule),
        dict(job.wildcards_dict),
        [str(path) for path in job.input],
        [Path(path) for path in job.output if not is_record(path)],
        [Path(path) for path in job.output if is_record(path)],
        Path(job.log[0]),
        Path(str(job.benchmark)),
        causes,
        job.threads if todo else 0,
        job.resources["mem_mb"] if todo else 0,
    )


def _stage(rule: Any) -> str:
    return Path(rule.snakefile).stem


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


@contextmanager
def _quiet_unless_it_ends() -> Iterator[None]:
    """Hold back what Snakemake prints to stderr about its profile, unless it ends the process."""
    with io.StringIO() as said:
        try:
            with redirect_stderr(said):
                yield
        except SystemExit as end:
            if end.code and not isinstance(end.code, str):
                print(said.getvalue(), end="", file=sys.stderr)
            raise
