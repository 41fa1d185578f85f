"""The order in which Snakemake starts the jobs that are ready, and how few of them it looks at."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from basemake.engine.scheduling import InOrder, ReadyJobs


@dataclass(eq=False)
class Job:
    """Stands in for a job of Snakemake's."""

    rule: str
    jobid: int
    priority: int = 0
    scheduler_resources: dict[str, int] = field(default_factory=dict)
    temp_output: tuple[str, ...] = ()

    def is_group(self) -> bool:
        return False


def jobs_of(rule: str, priorities: list[int], **needs: int) -> list[Job]:
    return [Job(rule, number, first, needs) for number, first in enumerate(priorities)]


def first(ready: ReadyJobs, count: int) -> list[Job]:
    return list(ready.first(lambda job: count))


def test_the_first_of_each_rule_are_by_priority_and_then_as_they_got_ready():
    bands = jobs_of("fetch", [-2, -1, -2, -1])
    tiles = jobs_of("enhance", [10, 10])
    ready = ReadyJobs([*reversed(bands), tiles[1]])
    ready.add(tiles[0])
    assert first(ready, 3) == [tiles[1], tiles[0], bands[1], bands[3], bands[0]]
    assert first(ready, 1) == [tiles[1], bands[1]]


def test_a_started_job_is_passed_over_and_one_that_is_tried_again_comes_once():
    bands = jobs_of("fetch", [0, 0, 0])
    ready = ReadyJobs(bands)
    assert first(ready, 1) == bands[:1]
    ready -= {bands[0]}
    assert first(ready, 2) == bands[1:]
    ready.remove(bands[1])
    ready.add(bands[1])
    ready.update([bands[1]], [bands[0]])
    assert first(ready, 9) == [bands[1], bands[2], bands[0]]
    assert len(ready) == 3


def test_jobs_start_in_order_as_far_as_the_resources_reach():
    metatiles = jobs_of("render", [20], _cores=2)
    tiles = jobs_of("enhance", [10, 10], _cores=4)
    bands = jobs_of("fetch", [-1, -2, -3], connections=1)
    scheduler = object.__new__(InOrder)
    scheduler._ahead = set()
    scheduler._order = ReadyJobs([*bands, *tiles, *metatiles]).first(lambda job: 3)
    jobs = {*bands, *tiles, *metatiles}

    def started(**available: int) -> list[Job]:
        return scheduler._select(jobs, [], available, {})

    assert started(_cores=4, connections=2) == [*metatiles, *bands[:2]]
    assert started(_cores=6, connections=0) == [*metatiles, tiles[0]]
    assert started(_cores=1, connections=9) == bands
    assert started(_cores=99, connections=0) == [*metatiles, *tiles]


class Dag:
    """Stands in for Snakemake's graph: each band is used by the tile of its number."""

    def __init__(self, bands: list[Job], tiles: list[Job]) -> None:
        self.depending = {band: [tile] for band, tile in zip(bands, tiles, strict=True)}
        self.done: set[Job] = set()

    def needrun(self, job: Job) -> bool:
        return job.rule == "enhance"

    def finished(self, job: Job) -> bool:
        return job in self.done


@pytest.mark.parametrize(("temporary", "in_bucket"), [(("band",), False), ((), True)])
def test_downloads_that_are_not_kept_here_do_not_run_far_ahead_of_their_use(temporary, in_bucket):
    bands = [Job("fetch", n, -n, {"connections": 1}, temporary) for n in range(9)]
    tiles = jobs_of("enhance", [10] * 9, _cores=1)
    scheduler = object.__new__(InOrder)
    dag = Dag(bands, tiles)
    scheduler.workflow = SimpleNamespace(dag=dag)
    scheduler._ahead, scheduler._ahead_at_most = set(), 3
    scheduler._is_in_bucket = in_bucket
    scheduler.failed, scheduler.running = set(), set()

    def started(*jobs: Job) -> list[Job]:
        scheduler._order = ReadyJobs(jobs).first(lambda job: 9)
        scheduler.running = set(
            scheduler._select(set(jobs), [], {"_cores": 4, "connections": 2}, {})
        )
        return sorted(scheduler.running, key=lambda job: job.jobid)

    assert started(*bands) == bands[:2], "as connections allow"
    assert started(*bands[2:]) == bands[2:3], "3 in all"
    scheduler.running = {bands[2]}
    assert started(*bands[3:]) == [], "until a tile is made"
    scheduler.running = {bands[2]}
    dag.done.add(tiles[0])
    assert started(*bands[3:]) == bands[3:4]
    scheduler.running = {bands[3]}
    scheduler.failed.add(tiles[1])
    assert started(*bands[4:]) == bands[4:5], "a tile that failed will not use its bands"
    scheduler.running = set()
    assert started(*bands[5:]) == bands[5:6], "if nothing runs, nothing else would ever start"


def test_a_signal_that_comes_while_the_scheduler_holds_its_lock_ends_the_run():
    scheduler = object.__new__(InOrder)
    scheduler._lock, scheduler._open_jobs = threading.Lock(), threading.Semaphore(0)
    scheduler._user_kill, scheduler.workflow = None, SimpleNamespace(screen=None)
    with scheduler._lock:
        scheduler.exit_gracefully(15, None)
    assert scheduler._open_jobs.acquire(timeout=60)
    assert scheduler._user_kill == "graceful"


def test_one_timer_at_a_time_makes_snakemake_look_again():
    scheduler = object.__new__(InOrder)
    scheduler._waits, scheduler._open_jobs = False, threading.Semaphore(0)
    for _ in range(3):
        before = threading.active_count()
        for _ in range(5):
            scheduler._schedule_reevalutation(0.1)
        assert threading.active_count() <= before + 1
        assert scheduler._open_jobs.acquire(timeout=60)
        assert not scheduler._open_jobs.acquire(blocking=False)
