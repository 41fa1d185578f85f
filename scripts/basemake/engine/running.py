"""How jobs are started, what they may use together, and the lock held while they run."""

import atexit
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from snakemake import cli
from snakemake.benchmark import benchmarked
from snakemake.script import PythonScript
from snakemake.shell import shell
from snakemake.utils import available_cpu_count

from basemake.errors import BasemakeError
from basemake.system.forked import Forks, can_fork
from basemake.system.machine import Asked

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
