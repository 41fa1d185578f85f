"""What basemake knows of Snakemake's inside: how records decide which jobs a run has to do.

Snakemake 9.27 cannot decide it. It notes a job's params in .snakemake/metadata even when the job
failed (`Job.postprocess` in jobs.py calls `persistence.finished` on errors, too), restores what a
failed job had `update`d with the time of now, forgets everything with .snakemake, and takes a file
for stale or fresh by its time. So its triggers are switched off, inputs are made `ancient`, which
leaves times out, and each job whose outputs' records say something else than the rule's params and
inputs do now is forced.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from snakemake.io import ancient

from basemake.build.records import MadeOf, is_intact, is_record, made_of, read_record

EVENT = "stale"  # the attribute of the log record that holds the stale jobs and their causes
MISSING, DAMAGED, UNRECORDED = "missing", "damaged", "unrecorded"
INPUT, INPUTS = "input", "inputs"  # an input's content changed; inputs joined or left


class Stale(NamedTuple):
    """A job to do: `causes` are names of settings, or one of the words above."""

    rule: str
    wildcards: dict[str, str]
    causes: list[str]


def decide_by_records(workflow: Any, tell: Callable[[list[Stale]], None]) -> None:
    """Make Snakemake do just those jobs whose outputs' records disagree with what rules say now.

    `tell` is called with these jobs. Snakemake offers no hook between building the graph of jobs
    and deciding which of them to do, so the graph's own method for that is wrapped.
    """
    prepare = workflow._prepare_dag

    def prepare_and_wrap(*args: Any, **kwargs: Any) -> None:
        prepare(*args, **kwargs)
        dag = workflow.dag
        update_needrun = dag.update_needrun

        async def decide(create_inventory: bool = False) -> None:
            stale = find_stale(dag)
            tell([Stale(job.rule.name, dict(job.wildcards_dict), c) for job, c in stale.items()])
            dag.forcefiles.update(file for job in stale for file in job.output)
            _leave_times_out(dag, stale)
            await update_needrun(create_inventory)
            _add(dag, stale)

        async def trust_records() -> None:
            """Take nothing for incomplete: an output that is not whole has no record."""

        dag.update_needrun, dag.check_incomplete = decide, trust_records
        # Its own records need not be read, nor missed, and trigger nothing.
        workflow.dag_settings.rerun_triggers = frozenset()
        workflow.persistence.has_metadata = lambda job: True
        workflow.persistence.has_outdated_metadata = lambda job: False

    workflow._prepare_dag = prepare_and_wrap


def _add(dag: Any, stale: Collection[Any]) -> None:
    """Add stale jobs that follow a stale one only by way of jobs that need not be done.

    Snakemake does not look at these, as it takes for granted that what follows is done.
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
    """Make Snakemake ignore the times of inputs, but do what follows from a job that it does."""
    for job, sources in dag.dependencies.items():
        for source, files in sources.items():
            if not (job in stale and source in stale):
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
