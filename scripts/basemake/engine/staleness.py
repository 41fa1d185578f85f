"""Which jobs a run does: those whose outputs' records disagree with what they should be made of."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from snakemake.io import _IOFile, ancient
from snakemake.jobs import Reason
from snakemake.logging import logger

from basemake.build.reasons import (
    DAMAGED,
    FORCED,
    INPUT,
    INPUTS,
    MISSING,
    NOTHING_STALE,
    UNRECORDED,
    explain_one,
    summary,
)
from basemake.build.records import (
    MadeOf,
    as_input,
    is_intact,
    is_record,
    made_of,
    read_record,
    states_checksums,
)
from basemake.engine.display import WORTH_TELLING
from basemake.engine.scheduling import start_in_order
from basemake.engine.shortcuts import spare


class Planned(NamedTuple):
    """Snakemake's workflow and graph of jobs, and the causes of each stale job in it."""

    workflow: Any
    dag: Any
    stale: dict[Any, list[str]]


planned: list[Planned] = []  # the last graph that was decided, for `read_graph`


def decide_by_records(workflow: Any) -> None:
    """Make Snakemake run exactly the stale jobs (see `find_stale`) and those that follow them.

    A summary of the stale jobs is logged. Snakemake offers no hook between building the graph of
    jobs and deciding which of them to run, so the graph's method that decides is wrapped.
    """
    prepare = workflow._prepare_dag

    def prepare_and_wrap(*args: Any, **kwargs: Any) -> None:
        prepare(*args, **kwargs)
        dag = workflow.dag
        update_needrun, asked = dag.update_needrun, frozenset(dag.forcefiles)

        async def decide(create_inventory: bool = False) -> None:
            stale = find_stale(dag, asked)
            told = summary([(job.rule.name, causes) for job, causes in stale.items()])
            logger.info(told, extra={WORTH_TELLING: told != NOTHING_STALE})
            dag.forcefiles.update(file for job in stale for file in job.output)
            _leave_times_out(dag, stale)
            await update_needrun(create_inventory)
            _add(dag, stale)
            for job in dag.needrun_jobs():
                if job.output:
                    dag._reason[job] = _Because(stale.get(job, []))
            planned[:] = [Planned(workflow, dag, stale)]

        async def trust_records() -> None:
            """Report no output as incomplete: such an output has no record and is stale anyway."""

        dag.update_needrun, dag.check_incomplete = decide, trust_records
        _IOFile.touch = _touch
        spare(workflow, dag)
        start_in_order(workflow)
        # Snakemake's metadata is not read, triggers nothing, and is not reported as missing. So it
        # is not written, nor are marks of incomplete outputs, but for executors that find jobs by
        # them: that would take a third of Snakemake's time for a job.
        workflow.dag_settings.rerun_triggers = frozenset()
        workflow.persistence.has_metadata = lambda job: True
        workflow.persistence.has_outdated_metadata = lambda job: False
        if workflow.execution_settings is not None:
            workflow.execution_settings.keep_metadata = False
        if workflow.local_exec:
            workflow.persistence.started = lambda job, external_jobid=None: None

    workflow._prepare_dag = prepare_and_wrap


_touch_file = _IOFile.touch


def _touch(path: Any, times: tuple[float, float] | None = None) -> None:
    """Set an output's time; in one that is a folder, Snakemake would leave a file of its own."""
    if path.is_directory and os.path.isdir(path):  # noqa: PTH112 - an output is a str
        os.utime(path, times)
    else:
        _touch_file(path, times)


class _Because(Reason):
    """The reason that Snakemake prints with a job, in the words of reasons.py."""

    def __init__(self, causes: list[str]) -> None:
        super().__init__()
        self.causes, self.forced = causes, True

    def __str__(self) -> str:
        return explain_one(self.causes)


def _add(dag: Any, stale: Collection[Any]) -> None:
    """Add the stale jobs that follow another stale job only through fresh ones.

    Snakemake does not examine these, as it assumes that whatever follows a job that runs does, too.
    """
    for job in stale:
        if not dag.needrun(job):
            dag._needrun.add(job)
    for job in dag._needrun:
        dag._n_until_ready[job] = sum(source in dag._needrun for source in dag.dependencies[job])
    dag._len = len(dag._finished | dag._needrun)


def find_stale(dag: Any, asked: frozenset[str]) -> dict[Any, list[str]]:
    """Return the causes (see reasons.py) of each stale job in Snakemake's graph.

    A job is stale if it is a target or is needed by a stale job, and the records of its outputs
    disagree with what they should be made of, or one of its inputs is missing and will be made, or
    will be made again and the job states its checksum. So is a job that the user forces
    (--forcerun, --force, --forceall): of a forced rule, or with one of the files `asked` for.
    """
    jobs = [job for level in dag.toposorted() for job in level]  # each after those that it needs
    expect = Expectation(dag)
    found: dict[Any, list[str]] = {}
    forced = {
        job for job in dag.jobs if job.rule in dag.forcerules or not asked.isdisjoint(job.output)
    }
    needed = {*dag.targetjobs, *forced}
    stale: dict[Any, list[str]] = {}
    before = -1
    while before != len(needed) + len(stale):
        before = len(needed) + len(stale)
        for job in reversed(jobs):
            if job in needed and job.output and job not in stale:
                if job not in found:
                    found[job] = _causes(job, expect) or ([FORCED] if job in forced else [])
                if found[job]:
                    stale[job] = found[job]
            if job in stale or (job in needed and not job.output):
                needed.update(dag.dependencies[job])
        for job in jobs:  # Snakemake runs a job whose missing input is made
            if job.output and job not in stale:
                stated = states_checksums(job.rule.params)
                for source, files in dag.dependencies[job].items():
                    if source in stale and (stated or not all(map(_exists, files))):
                        stale[job] = [INPUT]
    return stale


def _leave_times_out(dag: Any, stale: Collection[Any]) -> None:
    """Mark inputs as `ancient`, so that Snakemake ignores their times.

    Inputs that one stale job makes for another are left as they are, so that the second follows the
    first; so are those of a job without outputs, which runs whenever it is asked for.
    """
    for job, sources in dag.dependencies.items():
        for source, files in sources.items():
            if not (source in stale and (job in stale or not job.output)):
                for file in files:
                    file._file = ancient(str(file))


class Expectation:
    """What the outputs of jobs should be made of now, computed on demand and kept."""

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
            # Where a file exists that Snakemake finds no way to make, no job in the graph makes it.
            stated = states_checksums(job.rule.params)
            inputs = [
                (
                    file,
                    as_input(
                        self.of(sources[file]).content if file in sources else "",
                        read_record(file) if stated else None,
                    ),
                )
                for file in job.input
            ]
            self._known[job] = made_of(job.params, inputs)
            job._params = job._non_derived_params = None  # as all together are large
        return self._known[job]


def _causes(job: Any, expect: Expectation) -> list[str]:
    """Return the causes for which a job's outputs are stale; an empty list if they are fresh."""
    causes: dict[str, None] = {}
    for output in job.output:
        if not is_record(output):
            causes |= dict.fromkeys(_differences(Path(output), job, expect))
    return list(causes)


def _differences(output: Path, job: Any, expect: Expectation) -> list[str]:
    """Return how an output differs from what its record and the rule state, as causes."""
    record, exists = read_record(output), _exists(output)
    if record is None:
        return [UNRECORDED if exists else MISSING]
    was, expected = record.made_of, expect.of(job)
    if was == expected:
        return [] if exists and is_intact(output, record) else [DAMAGED if exists else MISSING]
    old, new = was.settings | was.container, expected.settings | expected.container
    causes = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if {path for path, _ in was.inputs} != {path for path, _ in expected.inputs}:
        causes.append(INPUTS)
    elif was.inputs != expected.inputs:
        causes.append(INPUT)
    return causes


def _exists(path: str | Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists is slow for a hundred thousand files
