"""The one module that knows Snakemake's internals.

It makes records decide which jobs a run does, spares Snakemake work that grows with the number of
jobs, shows a run to people, holds a lock while it executes, sets what the jobs that run at the same
time may use, and returns the graph of jobs to commands.

Snakemake 9.27 cannot tell which jobs are stale. It stores a job's params in .snakemake/metadata
even when the job failed (`Job.postprocess` in jobs.py calls `persistence.finished` on errors, too),
restores the `update` outputs of a failed job with the current time, loses its metadata when
.snakemake is deleted, and compares the times of files. So its triggers are switched off, inputs are
marked as `ancient`, which ignores their times, and each job whose outputs' records disagree with
the rule's params and inputs is forced.
"""

import atexit
import gc
import heapq
import io
import itertools
import logging
import os
import shutil
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    chdir,
    contextmanager,
    nullcontext,
    redirect_stderr,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from types import FrameType, FunctionType
from typing import Any, NamedTuple

from snakemake import cli, common, jobs, rules
from snakemake import workflow as workflow_module
from snakemake.benchmark import benchmarked
from snakemake.common import get_function_params
from snakemake.exceptions import CliException, WorkflowError
from snakemake.io import _IOFile, ancient
from snakemake.jobs import Reason
from snakemake.logging import LogEvent, get_event, logger
from snakemake.scheduling.job_scheduler import _ERROR_MSG_FINAL, JobScheduler
from snakemake.script import PythonScript
from snakemake.settings.types import DeploymentMethod
from snakemake.shell import shell
from snakemake.utils import available_cpu_count, update_config

from basemake.build.bucket import Bucket, is_placeholder
from basemake.build.reasons import (
    DAMAGED,
    FORCED,
    INPUT,
    INPUTS,
    MISSING,
    NOTHING_STALE,
    UNRECORDED,
    explain,
    summary,
)
from basemake.build.records import MadeOf, is_intact, is_record, made_of, read_record
from basemake.errors import BasemakeError, ConfigError
from basemake.system.forked import Forks, can_fork
from basemake.system.interrupts import on_interrupt
from basemake.system.machine import Asked
from basemake.system.screen import Screen, screen_on

SNAKEFILE = Path(__file__).resolve().parents[3] / "Snakefile"
CONFIGFILE = Path("config/config.yaml")  # the Snakefile's own, in the working directory
LOCKS = Path(".snakemake/locks")
# Options that leave jobs out of a run.
PARTIAL = ("targets", "until", "omit_from", "batch", "allowed_rules", "target_jobs")
# Options with which snakemake builds nothing.
NO_BUILD = (
    *("touch", "unlock", "lint", "list_rules", "list_target_rules", "summary", "detailed_summary"),
    *("dag", "rulegraph", "filegraph", "list_changes", "list_input_changes"),
    *("list_params_changes", "list_untracked", "cleanup_metadata", "cleanup_shadow"),
    *("delete_all_output", "delete_temp_output", "print_compilation", "report", "archive"),
    *("generate_unit_tests", "containerize", "export_cwl", "edit_notebook", "draft_notebook"),
    *("list_conda_envs", "conda_create_envs_only", "conda_cleanup_envs"),
    "container_cleanup_images",
)


# -- What a run has to do --------------------------------------------------------------------------


class Planned(NamedTuple):
    """Snakemake's workflow and graph of jobs, and the causes of each stale job in it."""

    workflow: Any
    dag: Any
    stale: dict[Any, list[str]]


_planned: list[Planned] = []  # the last graph that was decided, for `read_graph`


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
            _planned[:] = [Planned(workflow, dag, stale)]

        async def trust_records() -> None:
            """Report no output as incomplete: such an output has no record and is stale anyway."""

        dag.update_needrun, dag.check_incomplete = decide, trust_records
        _IOFile.touch = _touch
        _spare(workflow, dag)
        _start_in_order(workflow)
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
        return "not made yet, or deleted" if self.causes == [MISSING] else explain(self.causes)


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
    disagree with what they should be made of, or one of its inputs is missing and will be made. So
    is a job that the user forces (--forcerun, --force, --forceall): of a forced rule, or with one
    of the files `asked` for.
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
                for source, files in dag.dependencies[job].items():
                    if source in stale and not all(map(_exists, files)):
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
            inputs = [
                (file, self.of(sources[file]).content if file in sources else "")
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


# -- What Snakemake need not do --------------------------------------------------------------------


def _spare(workflow: Any, dag: Any) -> None:
    """Leave out of the planning what takes long for many jobs and can find nothing here.

    Snakemake would read the script of each job to see that it exists, although `code` in its params
    is a digest of it; look for outputs inside folders that are outputs, although only an exported
    folder is one; and expand the params of each job for its conda environment, even if none is
    used. It would also inspect the signature of a function at each of its calls, and look for each
    input of a job in all outputs of all jobs that it needs, in case it is a pipe.
    """
    build = workflow._build_dag

    def build_uncollected() -> None:
        """Build the graph without looking for garbage in it, which takes longer the more there is.

        Nor is the graph looked at later, as it stays until the process ends.
        """
        gc.disable()
        try:
            build()
        finally:
            gc.freeze()
            gc.enable()

    workflow._build_dag = build_uncollected
    dag.dag_processors = ()
    dag.check_directory_outputs = lambda: None
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        dag.update_conda_envs = lambda: None
    jobs.Job.is_pipe_or_service_input = lambda job, path: False
    for module in (common, rules):
        module.get_function_params = _parameters


def _parameters(function: Callable) -> Any:
    """Return the parameters of a function by name, as Snakemake's get_function_params."""
    plain = getattr(function, "__func__", function)  # as a bound method is new at each access
    if not isinstance(plain, FunctionType):
        return get_function_params(function)
    if plain not in _signatures:
        _signatures[plain] = get_function_params(function)
    return _signatures[plain]


_signatures: dict[FunctionType, Any] = {}  # by function; those in rules are few


def _start_in_order(workflow: Any) -> None:
    """Make Snakemake's greedy scheduler look at few of the ready jobs at a time (see `InOrder`)."""
    settings = workflow.scheduling_settings  # None where Snakemake runs no jobs
    greedy = settings is not None and settings.scheduler == "greedy"
    workflow_module.JobScheduler = InOrder if greedy else JobScheduler


class InOrder(JobScheduler):
    """A scheduler that starts ready jobs by priority, then in the order in which they got ready.

    Whenever a job ends, Snakemake's own weighs all ready jobs, and goes through all others: with a
    hundred thousand jobs that takes longer than a job. This one looks at the first jobs of each
    rule, as many as may run at the same time. A rule's jobs need the same resources, or nearly so.

    Downloads of bands that are not kept, or in a bucket, hold no core, and could run far ahead of
    the jobs that use up the bands: no more of them start than `_ahead_at_most` says.
    """

    _is_in_bucket = False

    def __init__(self, workflow: Any, *arguments: Any) -> None:
        """Take what JobScheduler takes."""
        super().__init__(workflow, *arguments)
        self._ready = ReadyJobs(workflow.dag.ready_jobs)
        workflow.dag._ready_jobs = self._ready
        self._order: dict[Any, tuple] = {}
        self._job_selector = self._select
        self._waits = False  # whether a timer is running
        # The started jobs whose files are still to be used.
        self._ahead: set[Any] = set()
        limits = (self.global_resources.get(name, 0) for name in ("_cores", "connections"))
        self._ahead_at_most = sum(limits)
        self._is_in_bucket = getattr(workflow, "is_in_bucket", False)

    @property
    def open_jobs(self) -> list[Any]:
        """The ready jobs to choose from; all in a dry run."""
        if self.dryrun:
            return list(self._ready)
        self._order = self._ready.first(self._most)
        return list(self._order)

    @property
    def remaining_jobs(self) -> list[Any]:
        """The jobs that were not started; none while there are ready jobs, when nobody asks."""
        return [] if self._ready else JobScheduler.remaining_jobs.fget(self)

    def _schedule_reevalutation(self, delay: int) -> None:
        """Look for jobs to start again after `delay` seconds, with one timer at a time.

        Snakemake starts a timer each time that it looked, and looks each time that a timer ends: so
        each job that ends adds a look a second until the run ends.
        """
        if not self._waits:
            self._waits = True
            threading.Timer(delay, self._look_again).start()

    def exit_gracefully(self, *_: Any) -> None:
        """Begin to end the run, at SIGTERM, in a thread.

        The signal interrupts the main thread, which may hold the lock that Snakemake's method
        takes.
        """
        if self.workflow.screen:
            self.workflow.screen.stop()
        threading.Thread(target=super().exit_gracefully).start()

    def _look_again(self) -> None:
        self._waits = False  # first, as the look that follows may need another timer
        self._open_jobs.release()

    async def update_input_sizes(self, jobs: Any) -> None:
        """Look up no sizes, as the order of jobs does not depend on them."""

    def _most(self, job: Any) -> int:
        """Return how many jobs like this one may be started now, at least 1."""
        job.reset_params_and_resources()  # as Snakemake does before it looks at them
        needs = job.scheduler_resources
        fits = (left // needs[name] for name, left in self.resources.items() if needs.get(name))
        return max(1, min(fits))

    def _select(self, jobs: Any, remaining: Any, available: dict[str, int], sizes: Any) -> list:
        """Return those of `jobs` to start: in order, as far as the resources reach."""
        left = dict(available)
        chosen: list[Any] = []
        self._ahead = {job for job in self._ahead if self._is_of_use(job)}
        for job in sorted(jobs, key=self._order.__getitem__):
            needs = {name: job.scheduler_resources.get(name, 0) for name in left}
            if all(needs[name] <= left[name] for name in left):
                # A group has no temporary outputs.
                waits = self._is_in_bucket or getattr(job, "temp_output", None)
                if waits and not needs.get("_cores"):
                    # While nothing runs, nothing would use up what there is.
                    if len(self._ahead) >= self._ahead_at_most and (chosen or self.running):
                        continue
                    self._ahead.add(job)
                left = {name: amount - needs[name] for name, amount in left.items()}
                chosen.append(job)
        return chosen

    def _is_of_use(self, job: Any) -> bool:
        """Return whether a job that uses the outputs of `job` is still to be done."""
        dag = self.workflow.dag
        return any(
            dag.needrun(user) and not dag.finished(user) and user not in self.failed
            for user in dag.depending[job]
        )


class ReadyJobs(set):
    """The set of jobs that are ready, from which the first of each rule can be taken quickly."""

    def __init__(self, jobs: Iterable[Any]) -> None:
        """Take the jobs that are ready now."""
        super().__init__()
        self._queues: dict[Any, list[tuple]] = defaultdict(list)  # heaps, by rule
        self._number = itertools.count()
        self.update(sorted(jobs, key=lambda job: (-job.priority, str(job.jobid).zfill(9))))

    def add(self, job: Any) -> None:
        """Add a job."""
        if job not in self:
            super().add(job)
            # Jobs of a group have several rules.
            queue = self._queues[None if job.is_group() else job.rule]
            heapq.heappush(queue, (-job.priority, next(self._number), job))

    def update(self, *jobs: Iterable[Any]) -> None:
        """Add jobs."""
        for job in itertools.chain(*jobs):
            self.add(job)

    def first(self, most: Callable[[Any], int]) -> dict[Any, tuple]:
        """Return the first jobs of each rule, with what orders them; `most(job)` is how many."""
        found: dict[Any, tuple] = {}
        for queue in self._queues.values():
            own: dict[Any, tuple] = {}
            count = 1
            while queue and len(own) < count:
                entry = heapq.heappop(queue)
                job = entry[-1]
                if job in self and job not in own:  # else it was started since
                    count = count if own else most(job)
                    own[job] = entry
            for entry in own.values():
                heapq.heappush(queue, entry)
            found |= own
        return found


# -- How jobs are started --------------------------------------------------------------------------

# What Snakemake's preamble of a script imports.
PREAMBLE = ["snakemake.iocontainers", "snakemake.logging"]
# What is said of a job that SIGKILL ended.
MEMORY = ", as when memory runs out; `--resources mem_mb=N` bounds what jobs take together"


def fork_jobs(workflow: Any) -> None:
    """Start the scripts of jobs as forks of one process, which has imported what they need.

    Snakemake would start a shell for each job, and Python in it. It still does where a job runs in
    an environment of its own, and where there are no forks (see `can_fork`).
    """
    execute = PythonScript.execute_script
    forks: list[Forks] = []
    making = threading.Lock()

    def execute_forked(script: Any, fname: str, edit: bool = False) -> None:
        if any((script.container_img, script.conda_env, script.env_modules)):
            execute(script, fname, edit)
            return
        if not can_fork():
            # As Snakemake does it, but the interpreter may be in a folder with a space in its name.
            command = "{python:q} {fname:q}"
            script._execute_cmd(command, python=sys.executable, fname=fname, is_python_script=True)
            return
        with making:
            if not forks:
                rules = {job.rule for job in workflow.dag.needrun_jobs()}
                scripts = sorted({Path(rule.script).stem for rule in rules if rule.script})
                forks.append(Forks([*PREAMBLE, *scripts]))
                atexit.register(forks[0].stop)
        folder = script.resources.get("tmpdir")
        environment = {"TMPDIR": str(folder)} if folder else {}
        record, screen = script.bench_record, workflow.screen
        say = partial(screen.say, script.jobid) if screen else None
        status = forks[0].run(
            fname,
            environment,
            shell._process_args.get("pass_fds", []),
            lambda process: benchmarked(process, record) if record else nullcontext(),
            say,
        )
        if say and status < 0:
            name = signal.Signals(-status).name
            say(f"basemake: it was ended by {name}{MEMORY if name == 'SIGKILL' else ''}.")
        if status:
            raise CalledProcessError(status, f"{sys.executable} {fname}")

    PythonScript.execute_script = execute_forked


def keep_in_bucket(workflow: Any, bucket: Bucket, show_bucket: Callable[[Bucket], None]) -> None:
    """Let jobs take what they need from `bucket`, and send what they make there.

    `show_bucket` is run_lock's. Call it after `fork_jobs`, and before `lock_when_it_executes`, so
    that runs begin with this when they hold the lock.
    """
    execute, prepare, run = workflow.execute, workflow._prepare_dag, PythonScript.execute_script
    keep = workflow.storage_settings.keep_storage_local
    scratch: list[_Scratch] = []
    making = threading.Lock()
    workflow.is_in_bucket = True  # for `InOrder`

    def execute_in_bucket(*, executor_plugin: Any, **settings: Any) -> Any:
        try:
            if executor_plugin.common_settings.dryrun_exec:
                show_bucket(bucket)
                return execute(executor_plugin=executor_plugin, **settings)
            bucket.pull()
            bucket.send_search()
            try:
                return execute(executor_plugin=executor_plugin, **settings)
            finally:
                if not keep:
                    bucket.release_all()
                bucket.send_index()
        except BasemakeError as error:
            sys.exit(f"basemake: {error}")

    def prepare_without_backups(*arguments: Any, **settings: Any) -> None:
        prepare(*arguments, **settings)
        workflow.persistence.backup_output = lambda path: None  # the bucket has the old output
        workflow.persistence.restore_output = lambda path: False

    def execute_script(script: Any, fname: str, edit: bool = False) -> None:
        with making:
            if not scratch:
                scratch.append(_Scratch(workflow, bucket, keep))
        try:
            with scratch[0].around(script):
                run(script, fname, edit)
        except BasemakeError as error:
            say = partial(workflow.screen.say, script.jobid) if workflow.screen else print
            say(f"basemake: {error}")
            raise WorkflowError(str(error)) from None

    workflow.execute, workflow._prepare_dag = execute_in_bucket, prepare_without_backups
    PythonScript.execute_script = execute_script


class _Scratch:
    """What of a bucket is here: the files of jobs at work, and those that later jobs will read."""

    def __init__(self, workflow: Any, bucket: Bucket, keep: bool) -> None:
        """Take a workflow whose jobs are planned; `keep` is whether all is to stay here."""
        self._bucket, self._keep = bucket, keep
        jobs = [job for job in workflow.dag.needrun_jobs() if job.output]
        self._temporary = {str(path) for job in jobs for path in job.temp_output}
        self._lock = threading.Lock()
        self._readers = Counter(
            path
            for job in jobs
            if not hasattr(job.rule.params, "headers")
            for path in _read_by(job)
        )

    @contextmanager
    def around(self, script: Any) -> Iterator[None]:
        """Bring what a job reads before the block, and send what it made after it."""
        inputs, headers = _read_by(script), hasattr(script.params, "headers")
        outputs = [str(path) for path in script.output if not is_record(path)]
        if headers:  # which did not count yet, or else all tiles would stay until it runs
            with self._lock:
                self._readers.update(inputs)
        self._bucket.fetch(map(Path, inputs), headers)
        self._bucket.fetch(_useful(script, [*map(Path, outputs)]))
        yield
        if outputs:
            self._bucket.send([Path(path) for path in outputs if path not in self._temporary])
            self._bucket.send([Path(path) for path in outputs if path in self._temporary], False)
        else:
            self._bucket.send_search()
        with self._lock:  # until they are released, so that no job begins to read them
            self._readers.subtract(inputs)
            unread = [path for path in (*inputs, *outputs) if self._readers[path] <= 0]
            if not self._keep:
                self._bucket.release(map(Path, unread))


def _read_by(job: Any) -> list[str]:
    """Return what a job, or its script, reads: its inputs, and the files to which these refer."""
    named = getattr(job, "rule", job).params  # as to expand those of each job takes long
    also = job.params.also if hasattr(named, "also") else ()
    return [str(path) for path in (*job.input, *also)]


def _useful(script: Any, outputs: list[Path]) -> list[Path]:
    """Return the old outputs of which a job may keep something; the others are removed here.

    They are bands, which have no inputs, and what is made with the same settings as before.
    """
    settings, useful = made_of(script.params, ()).settings, []
    for path in filter(is_placeholder, outputs):
        record = read_record(path)
        if record and (not script.input or record.made_of.settings == settings):
            useful.append(path)
        else:
            path.unlink()
    return useful


def run_jobs_of_slurm_here(workflow: Any) -> None:
    """Let the process of a Slurm job run its jobs itself.

    Slurm's plugin starts snakemake in a Slurm job, which would start another snakemake by srun for
    each job of the group, one after another: that takes longer than many a job does, and as much
    memory. This one runs them as a run on one machine does, side by side on the cores it has.
    """
    execute = workflow.execute

    def execute_here(*, executor_plugin: Any, executor_settings: Any, **settings: Any) -> Any:
        if executor_plugin.name == "slurm-jobstep":
            plugins = cli.ExecutorPluginRegistry()
            executor_plugin, executor_settings = plugins.get_plugin("local"), None
            workflow.global_resources["_nodes"] = None  # else cores have no bound
        return execute(
            executor_plugin=executor_plugin, executor_settings=executor_settings, **settings
        )

    workflow.execute = execute_here


# -- What people see of a run ----------------------------------------------------------------------

WORTH_TELLING = "worth_telling"  # the attribute of log records that are shown though only INFO
# What Snakemake says before it executes, and is of no use here.
UNSHARED = "Assuming unrestricted shared filesystem usage."
# How its warnings begin that are of no use: records tell which outputs are whole.
OF_NO_USE = (_ERROR_MSG_FINAL, "Restored previous version of", "Cannot restore")
# Settings by which people ask for more, or less, of Snakemake's own words than a screen shows.
OWN_WORDS = ("verbose", "printshellcmds", "debug_dag", "quiet")


def show(workflow: Any, summary: Callable[[set[str]], list[str]]) -> None:
    """Show the run on a screen instead of Snakemake's own words, unless somebody asks for these.

    `summary` returns lines about what a run has made, by the rules that were its targets and are
    made with all that they need. `workflow.screen` becomes the screen, or None. What Snakemake
    prints before it executes, or without executing, stays as it is.
    """
    workflow.screen = None
    execute, usual = workflow.execute, _usual_handler(workflow)
    if usual:
        usual.addFilter(lambda record: record.msg != UNSHARED)

    def shown(*, executor_plugin: Any, **settings: Any) -> None:
        kind = executor_plugin.common_settings
        if usual is None or kind.touch_exec:
            on_interrupt(signal.default_int_handler)
            execute(executor_plugin=executor_plugin, **settings)
            return
        # Jobs that are not forked print across a live display.
        apart = can_fork() and not workflow.deployment_settings.deployment_method
        color = not workflow.output_settings.nocolor
        screen = workflow.screen = screen_on(usual.stream, color, apart)
        teller = _Teller(workflow, screen, kind.dryrun_exec)
        logger.removeHandler(usual)
        logger.addHandler(teller)
        try:
            with screen.shown():
                on_interrupt(partial(_stop, screen))
                execute(executor_plugin=executor_plugin, **settings)
        except (KeyboardInterrupt, WorkflowError):
            if not (screen.failed or screen.stopped):
                raise
            screen.tell(screen.outcome)
            sys.exit(1)
        made = set() if kind.dryrun_exec else _made_whole(workflow)
        for line in [teller.listed or screen.outcome, *summary(made)]:
            screen.tell(line)

    workflow.execute = shown


def _made_whole(workflow: Any) -> set[str]:
    """Return the names of the rules that a run makes with all that they need."""
    parts = workflow.dag_settings
    if parts.until or parts.omit_from or parts.batch:
        return set()
    return {rule.name for rule in workflow.dag.targetrules}


def _usual_handler(workflow: Any) -> Any:
    """Return the handler that prints Snakemake's own words; None if they are asked for."""
    asked = any(getattr(workflow.output_settings, name) for name in OWN_WORDS)
    if asked or not workflow.is_main_process:
        return None
    handlers = (found for found in logger.handlers if found.name == "DefaultStreamHandler")
    return next(handlers, None)  # there is none where --logger names another


def _stop(screen: Screen, number: int, frame: FrameType | None) -> None:
    screen.stop()
    signal.default_int_handler(number, frame)


class _Teller(logging.Handler):
    """Tells a screen what Snakemake logs.

    `listed` is, after a dry run, how many jobs of which rules it named.
    """

    def __init__(self, workflow: Any, screen: Screen, dryrun: bool) -> None:
        super().__init__()
        self._screen, self._dryrun = screen, dryrun
        # Only jobs of these are counted: `all` does nothing.
        self._stages = {rule.name: _stage(rule) for rule in workflow.rules if rule.script}
        self.listed = ""
        self._exception = ""  # the words of the last one that a job raised

    def emit(self, record: logging.LogRecord) -> None:
        """Tell the screen of an event, or show a message if it is of use."""
        event, said = get_event(record), vars(record)
        if event == LogEvent.RUN_INFO:
            self._begin({name: said["stats"].get(name, 0) for name in self._stages})
        elif event == LogEvent.JOB_INFO:
            self._start(said)
        elif event == LogEvent.JOB_FINISHED:
            self._screen.finish(said["job_id"])
        elif event == LogEvent.JOB_ERROR:
            self._screen.fail([said["jobid"]], said["log"], self._exception)
        elif event == LogEvent.GROUP_ERROR:
            numbers = [job["jobid"] for job in said["job_error_info"]]
            self._screen.fail(numbers, said["aux_logs"], self._exception)
        elif said.get("exception") == "RuleException":  # told of by JOB_ERROR, which follows
            self._exception = record.getMessage()
        elif _is_of_use(record):
            self._screen.tell(record.getMessage())

    def _begin(self, counts: dict[str, int]) -> None:
        if self._dryrun:
            rules = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            self.listed = f"{sum(counts.values())} jobs: {rules}"
            return
        totals: Counter[str] = Counter()
        for name, count in counts.items():
            totals[self._stages[name]] += count
        self._screen.begin(+totals)

    def _start(self, said: dict[str, Any]) -> None:
        if said["rule_name"] in self._stages:
            name = " ".join([said["rule_name"], *said["wildcards"].values()])
            if self._dryrun:
                self._screen.tell(f"{name}: {said['reason']}")
            else:
                self._screen.start(said["jobid"], name, self._stages[said["rule_name"]])


def _is_of_use(record: logging.LogRecord) -> bool:
    """Return whether a message tells people more than the screen does without it."""
    if str(record.msg).startswith(OF_NO_USE):
        return False
    return _is_warning(record) or getattr(record, WORTH_TELLING, False)


# -- What a run may use ----------------------------------------------------------------------------


def asked_of(workflow: Any) -> Asked:
    """Return what profile and command line ask for: cores, memory and connections of a run."""

    def value(name: str) -> int | None:
        resource = workflow.global_resources.get(name)
        return resource.value if resource else None

    return Asked(
        cores=value("_cores") or 1,
        # Snakemake resolves `cores: all` to the processors of this machine, whatever a container
        # allows and wherever jobs run.
        all_cores=value("_cores") == available_cpu_count(),
        elsewhere=value("_nodes") is not None,
        memory_mb=value("mem_mb"),
        connections=value("connections"),
    )


def bound(workflow: Any, **resources: int | None) -> None:
    """Set how much of each resource concurrent jobs may use together; None leaves it as it is."""
    for name, amount in resources.items():
        if amount is not None:
            workflow.register_resource(name, amount)


# -- One run at a time -----------------------------------------------------------------------------


def lock_when_it_executes(
    workflow: Any, alone: Callable[[bool], AbstractContextManager[int]]
) -> None:
    """Make `workflow` execute jobs only while it holds the lock of the working directory.

    `alone` is run_lock.alone. The process ends with one sentence if another run holds the lock.
    Dry-runs, `--summary`, `--unlock`, processes of single jobs and runs with `--nolock` take no
    lock. Which kind a run is can be known only when Snakemake calls `execute`, which then checks
    Snakemake's own locks: so that method is wrapped.
    """
    execute = workflow.execute

    def locked(*, executor_plugin: Any, **settings: Any) -> Any:
        kind = executor_plugin.common_settings
        if workflow.is_main_process and not kind.local_exec and " " in sys.executable:
            sys.exit(
                f"basemake: {sys.executable} has a space in its path, which Snakemake does not"
                " quote in the jobs of other machines; move the checkout to a path without one,"
                " and set up again there."
            )
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
                # Jobs inherit the lock's descriptor when they are started. Snakemake has no public
                # way to pass one; `shell.executable` writes to the same dictionary.
                shell._process_args["pass_fds"] = [lock]
                held.callback(shell._process_args.pop, "pass_fds")
            return execute(executor_plugin=executor_plugin, **settings)

    workflow.execute = locked


def has_locks() -> bool:
    """Return whether Snakemake's own lock files are in the working directory."""
    return any(LOCKS.glob("*.lock"))


def delete_locks() -> None:
    """Delete Snakemake's own lock files; call it only if the run that left them has ended."""
    shutil.rmtree(LOCKS)


# -- What commands ask -----------------------------------------------------------------------------


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


class Command(NamedTuple):
    """What snakemake's `arguments` ask for if it is called in the directory `called_in`.

    `given` is the value of `--config`. `cores`, `jobs` and `connections` are None where neither
    profile nor command line give them. `bucket` is the address at which results are kept, if they
    are not kept here. `partial` are the options present that leave jobs out.
    """

    arguments: list[str]
    called_in: Path
    directory: Path
    configfiles: list[Path]
    given: dict[str, Any]
    cores: int | None
    jobs: int | None
    connections: int | None
    dry_run: bool
    bucket: str | None
    partial: list[str]

    def line(self, *targets: str) -> list[str]:
        """Return the command line of a run, or of one that makes `targets`."""
        return [sys.executable, "-m", "snakemake", *targets, *self.arguments]

    def config(self, read: Callable[[Path], Any]) -> Any:
        """Return the config of the config files, read by `read`, and of `--config`, not checked."""
        config: dict[str, Any] = {}
        for part in [*map(read, self.configfiles or [CONFIGFILE]), self.given]:
            if not isinstance(part, dict):
                return part  # which the check refuses
            update_config(config, part)
        return config


def parse(arguments: list[str]) -> Command:
    """Return what snakemake's `arguments` and its profile ask for.

    Raises ConfigError for options with which snakemake builds nothing; ends the process with
    Snakemake's message if Snakemake refuses them.
    """
    arguments = ["--snakefile", str(SNAKEFILE), *arguments]
    try:
        with _quiet_unless_it_ends():
            _, options = cli.parse_args(arguments)
            given = cli.parse_config(options.config)
    except CliException as error:
        raise ConfigError(f"{error.msg}") from None
    for name in NO_BUILD:
        if getattr(options, name, None):
            raise ConfigError(f"--{name.replace('_', '-')} builds nothing; leave it out.")
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
        options.dryrun,
        options.default_storage_prefix or None,
        [name for name in PARTIAL if getattr(options, name)],
    )


def read_graph(command: Command) -> Graph:
    """Return the graph of jobs, from a dry run; the current directory must be the build's.

    Raises BasemakeError if the Snakefile stops with a message; ends the process with Snakemake's
    message if Snakemake refuses.
    """
    _planned.clear()
    logger.addFilter(_is_warning)
    try:
        with chdir(command.called_in), _quiet_unless_it_ends():
            # With just these, a dry run ends once it has the graph, and prints no jobs.
            cli.main([*command.arguments, "--dry-run", "--quiet", "rules", "progress"])
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
        {rule.name: _stage(rule) for rule in workflow.rules if rule.output},
        workflow.persistence,
    )


def read_benchmark(path: Path) -> tuple[float, float] | None:
    """Return the CPU seconds and wall seconds in a benchmark file; None if there are none."""
    try:
        lines = path.read_text().splitlines()
        row = dict(zip(lines[0].split("\t"), lines[-1].split("\t"), strict=True))
        wall, cpu = float(row["s"]), float(row["cpu_time"])
        return cpu or wall, wall  # a short job's CPU time may have been missed
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _describe(job: Any, causes: list[str] | None = None, needs: tuple[int, int] = (0, 0)) -> Job:
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
        *needs,
    )


def _stage(rule: Any) -> str:
    return Path(rule.snakefile).stem


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


@contextmanager
def _quiet_unless_it_ends() -> Iterator[None]:
    """Drop what Snakemake prints to stderr, such as its profile, unless it ends the process."""
    with io.StringIO() as said:
        try:
            with redirect_stderr(said):
                yield
        except SystemExit as end:
            if end.code and not isinstance(end.code, str):
                print(said.getvalue(), end="", file=sys.stderr)
            raise
