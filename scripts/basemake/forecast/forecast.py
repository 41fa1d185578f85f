"""The forecast of a run: the jobs that Snakemake plans, their reasons, and what they take."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from basemake.build.bands import connections_of_a_tile
from basemake.build.layout import Layout
from basemake.build.reasons import MISSING
from basemake.build.records import read_record
from basemake.build.shares import hidden_share
from basemake.engine.graph import Graph, Job, read_benchmark
from basemake.engine.open_build import Build
from basemake.forecast.briefing import in_bytes
from basemake.forecast.costs import (
    ENHANCE,
    FETCH,
    Amount,
    Quantities,
    amount_of,
    count,
    shipped_costs,
    sized_here,
)
from basemake.forecast.coverage_map import draw_coverage
from basemake.forecast.estimate import (
    HAND_MADE,
    Cost,
    Measured,
    Time,
    Work,
    bands_in_flight,
    estimate_time,
    fit,
    size_of,
)
from basemake.system.files import part_of
from basemake.system.machine import memory_for_jobs, usable_memory
from basemake.web.addresses import is_remote

MAP = Path("results/plan.png")


@dataclass(frozen=True)
class Entry:
    """A job of the build and its amount of work."""

    job: Job
    amount: Amount
    missing: float = 0.0  # bytes that a download still has to fetch, but for `part`

    @property
    def planned(self) -> bool:
        """Whether a run would do it."""
        return self.job.causes is not None

    @cached_property
    def why(self) -> str | None:
        """The reason why its outputs are stale; None if they are new or fresh.

        Outputs that do not exist are new if the job has no benchmark, so that it never finished.
        """
        gone = not any(path.exists() for path in self.job.outputs)
        if not self.planned or (gone and not self.job.benchmark.exists()):
            return None
        if gone and self.job.rule == FETCH and self.job.causes == [MISSING]:
            return "no longer here, and needed again"
        return self.job.reason

    @cached_property
    def part(self) -> int:
        """The bytes of its interrupted download that are on disk; 0 if there is none."""
        return sum(
            size_of(part.with_name(part.name + end))
            for part in map(part_of, self.job.outputs)
            for end in ("", ".ranges")
        )

    @property
    def download(self) -> float:
        """The bytes that a run would download for it; 0 if it is no download."""
        return max(0.0, self.missing - self.part) if self.job.rule == FETCH else 0.0

    @property
    def work(self) -> Work:
        """Its work, of which an interrupted download has only the remaining bytes."""
        units = self.download / 1e6 if self.job.rule == FETCH else self.amount.units
        return Work(self.job.rule, units, self.job.threads, self.job.wildcards.get("region"))


@dataclass(frozen=True)
class Planned:
    """A build with all of its jobs and the cost of each rule's jobs.

    `remote` is whether bands come over the network, `downloads_at_a_time` of how many tiles.
    """

    build: Build
    layout: Layout
    graph: Graph
    quantities: Quantities
    entries: list[Entry]
    costs: dict[str, Cost]
    remote: bool
    downloads_at_a_time: int

    @cached_property
    def todo(self) -> list[Entry]:
        """The jobs that a run would do."""
        return [entry for entry in self.entries if entry.planned]

    @cached_property
    def downloads(self) -> list[Entry]:
        """The downloads that a run would do."""
        return [entry for entry in self.todo if entry.job.rule == FETCH]

    def files_to_fetch(self, entry: Entry) -> int:
        """Return how many bands a download brings; of items that fill, those that are missing."""
        tile = self.layout.tiles[entry.job.wildcards["tile"]]
        sizes = self.quantities.bands[tile.name]
        return sum(key in tile.bands or bool(sizes[key].missing) for key in tile.files)

    def of_region(self, name: str) -> list[Entry]:
        """Return the jobs that a region needs, including those shared with other regions."""

        def needs(job: Job) -> bool:
            if "tile" in job.wildcards:
                return name in self.layout.tiles[job.wildcards["tile"]].regions
            return job.wildcards.get("region", name) == name

        return [entry for entry in self.entries if needs(entry.job)]


def forecast(build: Build) -> dict[str, Any]:
    """Return the plan of a build, and draw its map.

    The plan is a JSON object. Sizes are bytes, and times seconds. `regions` has, by name and stage,
    the numbers of jobs that are new, stale (`why`: number of jobs by reason) and fresh; `stages`
    the same for the whole build, with each stage's bytes and CPU seconds; `tiles` each tile's state
    as on the map, why it is stale, its regions and its bytes to download; `files` the paths that a
    run would write; `figures_from_jobs_here`, by rule or size, how many local jobs or files each
    estimate is based on; 0: shipped figures. Raises as `Build.layout` and `Build.graph` do.
    """
    plan, counts = plan_of(build)
    cores, at_a_time, config = build.cores, plan.downloads_at_a_time, build.config
    time = estimate_time([entry.work for entry in plan.todo], plan.costs, cores, at_a_time)
    stages = {
        stage: {**states, **totals_of(stage, plan)}
        for stage, states in count_states(plan, plan.entries).items()
    }
    disk, memory, tiles = disk_of(plan, stages, time), memory_of(plan), tiles_of(plan)
    draw(plan, tiles)
    return {
        "quarter": config["quarter"],
        "source": config["source"],
        "directory": str(Path.cwd()),
        "cores": cores,
        "connections": build.connections,
        "regions": {name: region_of(name, plan) for name in plan.layout.zooms},
        "stages": stages,
        "tiles": tiles,
        "files": sorted(
            str(path) for entry in plan.todo for path in (*entry.job.outputs, *entry.job.records)
        ),
        "download": download_of(plan),
        "disk": disk,
        "memory": memory,
        "time": {
            **{f"{what}_seconds": round(seconds, 1) for what, seconds in time._asdict().items()},
            "bound_by": time.bound_by,
        },
        "figures_from_jobs_here": counts,
        "cost": {
            "usd": round(time.wall / 3600 * cores * config["price_per_vcpu_hour"], 4),
            "price_per_vcpu_hour": config["price_per_vcpu_hour"],
            "hand_made": HAND_MADE,
        },
        "warnings": list(warnings(disk, memory, config["keep_bands"])),
        "map": str(MAP),
    }


def plan_of(build: Build) -> tuple[Planned, dict[str, int]]:
    """Return a build's jobs and costs, and from how many jobs or files each estimate comes."""
    layout, graph = build.layout(), build.graph()
    mask = build.source.mask["asset"] if build.source.mask else None
    quantities, sizes = sized_here(count(layout, build.config, mask), graph.jobs)
    entries = [
        Entry(
            job,
            amount_of(job, quantities),
            quantities.missing(job.wildcards["tile"]) if job.rule == FETCH else 0.0,
        )
        for job in graph.jobs
    ]
    bands = (band for tile in layout.tiles.values() for band in tile.bands.values())
    remote = any(is_remote(band.href) for band in bands)
    bands_of_a_tile = len(set(build.source.bands.values()))
    each = connections_of_a_tile(build.connections, len(layout.tiles), bands_of_a_tile)
    at_a_time = build.connections // each
    costs, jobs = costs_here(entries, shipped_costs(at_a_time, remote))
    planned = Planned(build, layout, graph, quantities, entries, costs, remote, at_a_time)
    return planned, {**jobs, **sizes}


def costs_here(
    entries: Iterable[Entry], shipped: dict[str, Cost]
) -> tuple[dict[str, Cost], dict[str, int]]:
    """Return costs from the benchmarks of this directory, and the number of benchmarks, by rule.

    A rule without benchmarks has its `shipped` cost.
    """
    done: dict[str, list] = {rule: [] for rule in shipped}
    for entry in entries:
        took = read_benchmark(entry.job.benchmark)
        if took is not None:
            done[entry.job.rule].append(Measured(entry.amount.units, took.cpu, took.wall))
    costs = {rule: fit(cost, done[rule]) for rule, cost in shipped.items()}
    return costs, {rule: len(measured) for rule, measured in done.items()}


def count_states(plan: Planned, entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """Return the numbers of new, stale and fresh jobs, and of stale ones by reason, by stage."""
    counts: dict[str, dict[str, Any]] = {
        stage: {"new": 0, "stale": 0, "fresh": 0, "why": Counter()}
        for stage in plan.graph.stages.values()
    }
    for entry in entries:
        row, why = counts[entry.job.stage], entry.why
        row["fresh" if not entry.planned else "stale" if why else "new"] += 1
        if why is not None:
            row["why"][why] += 1
    return {stage: {**row, "why": dict(row["why"].most_common())} for stage, row in counts.items()}


def region_of(name: str, plan: Planned) -> dict[str, Any]:
    """Return a region's number of tiles, its zooms, and its jobs by stage and state."""
    return {
        "tiles": len(plan.layout.tiles_of(name)),
        "zooms": plan.layout.zooms[name]._asdict(),
        "stages": count_states(plan, plan.of_region(name)),
    }


def tiles_of(plan: Planned) -> dict[str, dict[str, Any]]:
    """Return each tile's state (a key of coverage_map.COLOURS), why it is stale, and its bytes.

    `items` are the shares of the items that a tile showed when it was made, where several could,
    and `hidden` is the share that masks of all of them hide.
    """
    tiles: dict[str, dict[str, Any]] = {
        name: {"state": "fresh", "why": None, "download_bytes": 0, "regions": tile.regions}
        for name, tile in plan.layout.tiles.items()
    }
    for entry in plan.todo:
        if entry.job.rule == ENHANCE:
            why = entry.why
            tiles[entry.job.wildcards["tile"]] |= {"state": "stale" if why else "new", "why": why}
    for entry in plan.downloads:
        tile = tiles[entry.job.wildcards["tile"]]
        tile["state"] = "download"
        tile["download_bytes"] += round(entry.download)
    for name, tile in tiles.items():
        record = plan.layout.tiles[name].fill and read_record(f"results/tiles/{name}.tif")
        if record and "items" in record.known:  # not in that of a tile made before `fill` was set
            tile["items"] = dict(zip(record.known["items"], record.known["shares"], strict=True))
            tile["hidden"] = hidden_share(record.known)
    return tiles


def draw(plan: Planned, tiles: dict[str, dict[str, Any]]) -> None:
    """Write the map of a plan to MAP; `tiles` is the value of `tiles_of`."""
    places = {
        name: (plan.layout.tiles[name].geometry, tile["state"]) for name, tile in tiles.items()
    }
    title = f"Plan of {plan.build.config['quarter']}: {', '.join(plan.layout.zooms)}"
    draw_coverage(MAP, title, places, plan.build.regions)


def download_of(plan: Planned) -> dict[str, Any]:
    """Return the number and bytes of downloads, and the bytes a second of all connections."""
    jobs, rate = plan.downloads, plan.costs[FETCH].wall.per_unit  # seconds a MB of one job
    return {
        "files": sum(map(plan.files_to_fetch, jobs)),
        "bytes": round(sum(entry.download for entry in jobs)),
        "filling_bytes": round(
            sum(
                plan.quantities.filling(plan.layout.tiles[entry.job.wildcards["tile"]])
                for entry in jobs
            )
        ),
        "already_here_bytes": sum(entry.part for entry in jobs),
        "files_of_unknown_size": sum(
            plan.quantities.unsized[entry.job.wildcards["tile"]] for entry in jobs
        ),
        "over_the_network": plan.remote,
        "bytes_per_second": round(plan.downloads_at_a_time * 1e6 / rate) if rate else None,
    }


def totals_of(stage: str, plan: Planned) -> dict[str, Any]:
    """Return a stage's bytes to download, on disk now and after the run, and its CPU seconds."""
    entries = [entry for entry in plan.entries if entry.job.stage == stage]
    # All files in results/{folder} count, whether they belong to this build or not.
    folders = {Path(*path.parts[:2]) for entry in entries for path in entry.job.outputs}
    now = sum(map(size_of, folders))
    todo = [entry for entry in entries if entry.planned]
    config = plan.build.config
    kept = {FETCH: config["keep_bands"], ENHANCE: config["keep_tiles"]}
    made = sum(entry.amount.bytes for entry in todo if kept.get(entry.job.rule, True))
    replaced = sum(entry.part + sum(map(size_of, entry.job.outputs)) for entry in todo)
    return {
        "download_bytes": round(sum(entry.download for entry in todo)),
        "disk_now_bytes": now,
        "disk_after_bytes": round(now + made - replaced),
        "cpu_seconds": round(
            sum(plan.costs[entry.job.rule].cpu.of(entry.work.units) for entry in todo), 1
        ),
    }


def disk_of(plan: Planned, stages: dict[str, dict], time: Time) -> dict[str, Any]:
    """Return bytes on disk: now, at the peak of the run, after it, and free.

    If a bucket keeps the results, these are in the bucket, but for the peak, which is on this disk.
    """
    in_bucket = plan.build.bucket is not None
    now = sum(stage["disk_now_bytes"] for stage in stages.values())
    after = sum(stage["disk_after_bytes"] for stage in stages.values())
    waiting = 0.0
    if plan.downloads and (in_bucket or not plan.build.config["keep_bands"]):
        threads = next(e.job.threads for e in plan.todo if e.job.rule == ENHANCE)
        cores, at_a_time = plan.build.cores, plan.downloads_at_a_time
        flight = bands_in_flight(len(plan.downloads), time, cores, threads, at_a_time)
        waiting += flight * mean(entry.amount.bytes for entry in plan.downloads)
    # With a bucket, fresh tiles come from there, too.
    work = plan.entries if in_bucket and plan.todo else plan.todo
    enhanced = [entry for entry in work if entry.job.rule == ENHANCE]
    if enhanced and (in_bucket or not plan.build.config["keep_tiles"]):
        flight = min(len(enhanced), tiles_in_flight(plan.layout))
        waiting += flight * mean(entry.amount.bytes for entry in enhanced)
    if in_bucket:  # an archive is packed from all metatiles
        peak = waiting + (stages["pyramid"]["disk_after_bytes"] if plan.todo else 0)
    else:
        peak = max(now, after + waiting)
    return {
        "in_bucket": in_bucket,
        "now_bytes": now,
        "peak_bytes": round(peak),
        "after_bytes": after,
        "free_bytes": shutil.disk_usage(Path("results")).free,
    }


def tiles_in_flight(layout: Layout) -> int:
    """Return the most enhanced tiles that wait for others, if tiles are made in order.

    A tile is of use until all metatiles in which it shows are made, each of which is made as soon
    as its last tile is.
    """
    places = {name: place for place, name in enumerate(layout.tiles)}
    until = dict.fromkeys(layout.tiles, 0)
    for metatiles in layout.metatiles.values():
        for metatile in metatiles.values():
            last = max(places[tile] for tile in metatile.tiles)
            for tile in metatile.tiles:
                until[tile] = max(until[tile], last)
    waiting, most = 0, 0
    left = Counter(until.values())
    for place in places.values():
        waiting += 1
        most = max(most, waiting)
        waiting -= left[place]
    return most


def memory_of(plan: Planned) -> dict[str, int]:
    """Return bytes of memory: of the largest job, of all jobs at a time, and of the machine."""
    jobs = {entry.job.rule: entry.job for entry in plan.todo}
    largest, asked = 0, {}
    for rule, number in Counter(entry.job.rule for entry in plan.todo).items():
        job = jobs[rule]
        slots = max(1, plan.build.cores // job.threads) if job.threads else plan.downloads_at_a_time
        largest = max(largest, job.memory_mb)
        asked[rule] = min(number, slots) * job.memory_mb
    downloads = asked.pop(FETCH, 0)  # beside one rule's jobs, which hold all cores
    together = (downloads + max(asked.values(), default=0)) * 10**6
    return {
        "largest_job_bytes": largest * 10**6,
        "at_a_time_bytes": min(together, max(memory_for_jobs(), largest * 10**6)),
        "machine_bytes": usable_memory(),
    }


def warnings(disk: dict[str, Any], memory: dict[str, int], keep_bands: bool) -> Iterator[str]:
    """Yield one sentence for each resource (disk, memory) that is too small, and the remedy."""
    needed = disk["peak_bytes"] - (0 if disk["in_bucket"] else disk["now_bytes"])
    if needed > disk["free_bytes"]:
        spare = ", or set keep_bands: false and run make prune" if keep_bands else ""
        yield (
            f"The disk is too small: {in_bytes(needed)} more are needed at the peak,"
            f" {in_bytes(disk['free_bytes'])} are free. Make room{spare}."
        )
    if memory["largest_job_bytes"] > memory["machine_bytes"]:
        yield (
            f"The memory is too small: a job asks for {in_bytes(memory['largest_job_bytes'])},"
            f" the machine has {in_bytes(memory['machine_bytes'])}. Take a metatile_zoom that is"
            " one higher, or a smaller gdal_cache_mb."
        )
