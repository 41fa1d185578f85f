"""Jobs whose results are kept in a bucket: what is brought before each, and sent after it."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.script import PythonScript

from basemake.build.bucket import Bucket, is_placeholder
from basemake.build.records import is_record, made_of, read_record
from basemake.errors import BasemakeError


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
