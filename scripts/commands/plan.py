"""`make plan`: what a run would do, before a byte moves. Takes what snakemake takes, and --json.

It asks Snakemake for the jobs, and estimates what they take by what was done here before.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # basemake lies beside this folder

from basemake.build.layout import Plan
from basemake.build.reasons import CODEC, DELETED, WEB_TILES
from basemake.build.records import is_record
from basemake.forecast.briefing import brief, in_bytes
from basemake.forecast.coverage_map import draw_coverage
from basemake.forecast.estimate import (
    HAND_MADE,
    Cost,
    Time,
    Work,
    bands_in_flight,
    estimate_time,
    fit,
    shipped_costs,
    size_of,
)
from basemake.forecast.pieces import (
    Piece,
    Pixels,
    Sizes,
    band_bytes,
    count_pixels,
    key_of,
    own_size,
    pieces_of,
    root_pixels,
    shipped_sizes,
)
from basemake.system.machine import memory_for_jobs, usable_memory
from basemake.web.addresses import is_remote
from command import Build, Job, as_command, open_build

MAP = Path("results/plan.png")
FOLDERS = {
    "bands": ["bands"],
    "tiles": ["tiles"],
    "mosaic": ["mosaic"],
    "pyramid": ["metatiles", "pyramid"],
    "preview": ["preview"],
}


class Planned(NamedTuple):
    """A piece that a run would make: `why` it is stale, or None if it is new."""

    piece: Piece
    job: Job
    why: str | None

    @property
    def part(self) -> int:
        """Bytes that are here of a download that was broken off."""
        path = self.job.output[0]
        return size_of(path.with_name(path.name + ".part"))

    @property
    def download(self) -> float:
        """Bytes to download."""
        return max(0.0, self.piece.bytes - self.part) if self.piece.stage == "bands" else 0.0

    @property
    def work(self) -> Work:
        """What there is to do."""
        region = self.piece.wildcards.get("region")
        units = self.download / 1e6 if self.piece.stage == "bands" else self.piece.units
        return Work(self.piece.rule, units, self.job.threads, region)


def main(arguments: list[str]) -> None:
    """Print the plan of the build that `arguments` name, and draw its map."""
    parser = argparse.ArgumentParser("plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    own, rest = parser.parse_known_args(arguments)
    with as_command("plan"):
        report = {"arguments": rest, **forecast(open_build(rest))}
    print(json.dumps(report, indent=1) if own.json else brief(report))


def forecast(build: Build) -> dict[str, Any]:
    """Return the plan of a build, and draw its map.

    Sizes are bytes, and times seconds. `regions` has, by name and stage, how many jobs are new,
    stale (`why`: reason -> jobs) and fresh; `stages` the same for all, and each stage's bytes and
    CPU seconds; `tiles` each tile's state as on the map, why it is stale, its regions and its
    bytes to download; `files` what a run would write; `figures_from_jobs_here` how many jobs or
    files of this directory an estimate comes from, by rule or size: 0 if it is the shipped one.
    """
    config, plan = build.config, build.plan()
    jobs = {key_of(job.rule, job.wildcards): job for job in build.jobs()}
    reasons = {key: job.reason for key, job in jobs.items()}
    pixels = count_pixels(plan, config["pyramid"]["tile_size"])
    sizes, sized = own_sizes(config, plan, pixels, reasons)
    pieces = list(pieces_of(plan, config, pixels, sizes))
    planned = [
        Planned(piece, jobs[piece.key], why(piece, jobs[piece.key], reasons[piece.key]))
        for piece in pieces
        if piece.key in jobs
    ]
    remote = any(is_remote(band["href"]) for row in plan.tiles["bands"] for band in row.values())
    costs, counted = own_costs(pieces, shipped_costs(build.connections, remote))
    time = estimate_time([p.work for p in planned], costs, build.cores, build.connections)
    stages = {
        stage: {**counts, **totals_of(stage, planned, costs, config["keep_bands"])}
        for stage, counts in count(pieces, planned).items()
    }
    disk, memory = disk_of(build, planned, stages, time), memory_of(build, planned)
    tiles = tiles_of(plan, planned)
    draw(build, plan, tiles)
    return {
        "quarter": config["quarter"],
        "source": config["source"],
        "directory": str(Path.cwd()),
        "cores": build.cores,
        "connections": build.connections,
        "regions": {
            name: {
                "tiles": len(plan.tiles_of(name)),
                "zooms": zooms._asdict(),
                "stages": count(
                    [piece for piece in pieces if name in piece.regions],
                    [p for p in planned if name in p.piece.regions],
                ),
            }
            for name, zooms in plan.zooms.items()
        },
        "stages": stages,
        "tiles": tiles,
        "files": sorted(str(path) for p in planned for path in p.job.output),
        "download": download_of(planned, costs["fetch_band"], build.connections, remote),
        "disk": disk,
        "memory": memory,
        "time": {
            **{f"{what}_seconds": round(seconds, 1) for what, seconds in time._asdict().items()},
            "bound_by": time.bound_by,
        },
        "figures_from_jobs_here": {**counted, **sized},
        "cost": {
            "usd": round(time.wall / 3600 * build.cores * config["price_per_vcpu_hour"], 4),
            "price_per_vcpu_hour": config["price_per_vcpu_hour"],
            "hand_made": HAND_MADE,
        },
        "warnings": list(warnings(disk, memory, config["keep_bands"])),
        "map": str(MAP),
    }


def draw(build: Build, plan: Plan, tiles: dict[str, dict[str, Any]]) -> None:
    """Draw the map of a plan."""
    places = {
        name: (plan.tiles.at[name, "geometry"], tile["state"]) for name, tile in tiles.items()
    }
    title = f"Plan of {build.config['quarter']}: {', '.join(plan.zooms)}"
    draw_coverage(MAP, title, places, build.regions)


def why(piece: Piece, job: Job, reason: str) -> str | None:
    """Return why what a job makes is stale; None if it is new."""
    gone = not any(path.exists() for path in job.output if not is_record(path))
    if gone and not piece.benchmark.exists():
        return None
    if gone and piece.stage == "bands" and reason == DELETED:
        return "no longer here, and needed again"
    return reason


def own_sizes(
    config: dict, plan: Plan, pixels: Pixels, reasons: dict[tuple, str]
) -> tuple[Sizes, dict[str, int]]:
    """Return sizes by what this directory holds, else as shipped, and how many files say so.

    Files that other settings made say nothing.
    """
    tiles = {
        Path(f"results/tiles/{tile}.tif"): sum(band_bytes(row, pixels.tiles[tile]).values())
        for tile, row in plan.tiles.iterrows()
        if CODEC not in reasons.get(key_of("enhance_tile", {"tile": tile}), "")
    }
    archives, roots = {}, {}
    for (region, metatile), count in pixels.metatiles.items():
        key = key_of("render_metatile", {"region": region, "metatile": metatile})
        if WEB_TILES not in reasons.get(key, ""):
            zooms, path = plan.zooms[region], Path(f"results/metatiles/{region}/{metatile}")
            archives[path.with_suffix(".pmtiles")] = count
            roots[path.with_suffix(".png")] = root_pixels(count, zooms.max - zooms.metatile)
    shipped = shipped_sizes(config)
    own = [own_size(files) for files in (tiles, archives, roots)]
    sizes = Sizes(*(own or size for (own, _), size in zip(own, shipped, strict=True)))
    return sizes, {"size_of_tiles": own[0][1], "size_of_pyramid": own[1][1]}


def own_costs(
    pieces: Iterable[Piece], shipped: dict[str, Cost]
) -> tuple[dict[str, Cost], dict[str, int]]:
    """Return what each rule's jobs take by those done here, else as shipped; and of how many."""
    done: dict[str, list] = {rule: [] for rule in shipped}
    for piece in pieces:
        measured = piece.measured
        if measured is not None:
            done[piece.rule].append(measured)
    costs = {rule: fit(cost, done[rule]) for rule, cost in shipped.items()}
    return costs, {rule: len(done[rule]) for rule in shipped}


def count(pieces: Iterable[Piece], planned: list[Planned]) -> dict[str, dict[str, Any]]:
    """Return by stage how many pieces are new, stale (and how many for which reason) and fresh."""
    whole = Counter(piece.stage for piece in pieces)
    counts = {}
    for stage in FOLDERS:
        here = [p for p in planned if p.piece.stage == stage]
        reasons = Counter(p.why for p in here if p.why is not None)
        stale = reasons.total()
        counts[stage] = {
            "new": len(here) - stale,
            "stale": stale,
            "fresh": whole[stage] - len(here),
            "why": dict(reasons.most_common()),
        }
    return counts


def tiles_of(plan: Plan, planned: list[Planned]) -> dict[str, dict[str, Any]]:
    """Return each tile's state (a key of coverage.COLOURS), why it is stale, and its bytes."""
    tiles: dict[str, dict[str, Any]] = {
        name: {"state": "fresh", "why": None, "download_bytes": 0, "regions": row["regions"]}
        for name, row in plan.tiles.iterrows()
    }
    for p in planned:
        if p.piece.stage == "tiles":
            tiles[p.piece.wildcards["tile"]] |= {"state": "stale" if p.why else "new", "why": p.why}
    for p in planned:
        if p.piece.stage == "bands":
            tile = tiles[p.piece.wildcards["tile"]]
            tile["state"] = "download"
            tile["download_bytes"] += round(p.download)
    return tiles


def download_of(
    planned: list[Planned], cost: Cost, connections: int, remote: bool
) -> dict[str, Any]:
    """Return how many files and bytes come, from where, and how fast over all connections."""
    bands = [p for p in planned if p.piece.stage == "bands"]
    rate = cost.wall.per_unit  # seconds a MB
    return {
        "files": len(bands),
        "bytes": round(sum(p.download for p in bands)),
        "already_here_bytes": sum(p.part for p in bands),
        "files_of_unknown_size": sum(not p.piece.sized for p in bands),
        "over_the_network": remote,
        "bytes_per_second": round(connections * 1e6 / rate) if rate else None,
    }


def totals_of(
    stage: str, planned: list[Planned], costs: dict[str, Cost], keep_bands: bool
) -> dict[str, Any]:
    """Return a stage's bytes to download, on disk now and after the run, and its CPU seconds."""
    planned = [p for p in planned if p.piece.stage == stage]
    now = sum(size_of(Path("results") / folder) for folder in FOLDERS[stage])
    made = sum(p.piece.bytes for p in planned) if keep_bands or stage != "bands" else 0.0
    replaced = sum(
        p.part + sum(size_of(path) for path in p.job.output if not is_record(path)) for p in planned
    )
    return {
        "download_bytes": round(sum(p.download for p in planned)),
        "disk_now_bytes": now,
        "disk_after_bytes": round(now + made - replaced),
        "cpu_seconds": round(sum(costs[p.work.rule].cpu.of(p.work.units) for p in planned), 1),
    }


def disk_of(
    build: Build, planned: list[Planned], stages: dict[str, dict], time: Time
) -> dict[str, Any]:
    """Return bytes on disk: now, at most while the run goes on, after it, and free."""
    now = sum(stage["disk_now_bytes"] for stage in stages.values())
    after = sum(stage["disk_after_bytes"] for stage in stages.values())
    bands = [p for p in planned if p.piece.stage == "bands"]
    waiting = 0.0
    if bands and not build.config["keep_bands"]:
        tiles = {p.piece.wildcards["tile"] for p in bands}
        threads = next(p.job.threads for p in planned if p.piece.rule == "enhance_tile")
        flight = bands_in_flight(len(tiles), time, build.cores, threads, build.connections)
        waiting = flight * sum(p.piece.bytes for p in bands) / len(tiles)
    return {
        "now_bytes": now,
        "peak_bytes": round(max(now, after + waiting)),
        "after_bytes": after,
        "free_bytes": shutil.disk_usage(Path("results")).free,
    }


def memory_of(build: Build, planned: list[Planned]) -> dict[str, int]:
    """Return bytes of memory: what the largest job asks for, all at a time, the machine has."""
    largest, asked = 0, {}
    for rule, jobs in Counter(p.piece.rule for p in planned).items():
        job = next(p.job for p in planned if p.piece.rule == rule)
        slots = max(1, build.cores // job.threads) if job.threads else build.connections
        largest = max(largest, job.resources["mem_mb"])
        asked[rule] = min(jobs, slots) * job.resources["mem_mb"]
    downloads = asked.pop("fetch_band", 0)  # beside one rule's jobs, which use all cores
    together = (downloads + max(asked.values(), default=0)) * 10**6
    return {
        "largest_job_bytes": largest * 10**6,
        "at_a_time_bytes": min(together, max(memory_for_jobs(), largest * 10**6)),
        "machine_bytes": usable_memory(),
    }


def warnings(disk: dict[str, Any], memory: dict[str, int], keep_bands: bool) -> Iterator[str]:
    """Yield what does not fit, and what to do."""
    needed = disk["peak_bytes"] - disk["now_bytes"]
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


if __name__ == "__main__":
    main(sys.argv[1:])
