"""The order in which ready jobs start, by a scheduler that looks at few of them at a time."""

import heapq
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from snakemake import workflow as workflow_module
from snakemake.scheduling.job_scheduler import JobScheduler


def start_in_order(workflow: Any) -> None:
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
