"""What a report tells of a build: its maps, tiles, jobs and their use of the machine.

All of it comes from the graph of jobs, the manifest, records, benchmarks and the files themselves,
as they are when the report is written.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import shapely

from basemake.build.layout import Layout, Zooms
from basemake.build.manifest import Tile
from basemake.build.reasons import MISSING, explain_one
from basemake.build.records import Record, read_record
from basemake.build.region import uncovered
from basemake.build.source import Source
from basemake.demo.grid import missing_tiles
from basemake.engine.graph import Graph, Job, read_benchmark
from basemake.forecast.costs import ENHANCE
from basemake.report.frame import Frame
from basemake.report.pictures import (
    MAP_SIDE,
    MAPS,
    QUICKLOOK_SIDE,
    QUICKLOOKS,
    map_of,
    quicklook,
)

MOST_TILES = 2000  # that a report tells one by one
SLIVER = 0.01  # degrees: narrower gaps are between footprints that are not exact


@dataclass(frozen=True)
class Subject:
    """The build that a report is about.

    `config` and `source` are checked and have their defaults; `steps` are the recipe's.
    """

    config: dict[str, Any]
    source: Source
    steps: list[dict[str, Any]]
    attribution: str
    layout: Layout
    graph: Graph

    @cached_property
    def enhancing(self) -> dict[str, Job]:
        """The job that makes each enhanced tile, by the tile's name."""
        return {job.wildcards["tile"]: job for job in self.graph.jobs if job.rule == ENHANCE}


def state_of(job: Job) -> str:
    """Return `fresh`, `new` if a job's outputs do not exist, or `stale`."""
    return "fresh" if job.causes is None else "new" if job.causes == [MISSING] else "stale"


def name_of(job: Job) -> str:
    """Return what a job is for, such as its tile."""
    return " ".join(job.wildcards.values())


def _in_order(jobs: list[Job], graph: Graph) -> list[Job]:
    """Return jobs by rule, in the order of the flow, and by name."""
    rules = [*graph.stages]
    return sorted(jobs, key=lambda job: (rules.index(job.rule), name_of(job)))


def why(job: Job) -> str:
    """Return why a run would do a job, as a phrase for people."""
    return explain_one(job.causes or [])


# -- Maps ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file, or folder, that is made of a region. `record` is None where there is none."""

    path: Path
    state: str
    record: Record | None


@dataclass(frozen=True)
class Map:
    """A region and its map.

    `covered` is the share (0 to 1) of the region that tiles cover, `missing` the names of tiles
    that would cover the rest, if they can be named. `picture` fills `frame`, and is empty if there
    is no archive. `outline` and `gap`, what no tile covers, are paths in it; `footprints` those of
    tiles by name, and `others` one of all tiles that have no name there.
    """

    name: str
    zooms: Zooms
    tiles: int
    covered: float
    missing: list[str]
    files: list[File]
    frame: Frame
    picture: str
    outline: str
    gap: str
    footprints: dict[str, str]
    others: str

    @property
    def archive(self) -> File | None:
        """The archive of its web tiles."""
        return next((file for file in self.files if file.path.suffix == ".pmtiles"), None)


def maps_of(subject: Subject, named: set[str]) -> list[Map]:
    """Return the maps of a build; of tiles that are not `named` only the shape is shown."""
    return [_map(name, subject, named) for name in subject.layout.regions]


def _map(name: str, subject: Subject, named: set[str]) -> Map:
    layout = subject.layout
    region, extent = layout.regions[name], layout.extent(name)
    tiles = {tile.name: tile.geometry for tile in layout.tiles_of(name)}
    frame = Frame(shapely.union_all([region, extent]), [*tiles.values()])
    gap = region.difference(shapely.union_all([*tiles.values()])).buffer(-SLIVER / 2)
    files = list(_files(name, subject.graph))
    return Map(
        name,
        layout.zooms[name],
        len(tiles),
        1 - uncovered(region, tiles.values()),
        missing_tiles(region, tiles),
        files,
        frame,
        map_of(
            Path(f"results/pyramid/{name}.pmtiles"),
            frame,
            subject.config["pyramid"]["tile_size"],
            MAP_SIDE,
            MAPS // len(layout.regions),
        ),
        frame.path(region),
        frame.path(gap),
        {tile: frame.path(area) for tile, area in tiles.items() if tile in named},
        "".join(frame.path(area) for tile, area in tiles.items() if tile not in named),
    )


def _files(region: str, graph: Graph) -> Iterator[File]:
    """Yield the files that are made of a region as a whole, and are not parts of others."""
    for job in _in_order(graph.jobs, graph):
        if job.wildcards == {"region": region}:
            for path in job.outputs:
                if path.parts[1] != "metatiles":
                    yield File(path, state_of(job), read_record(path))


# -- Tiles -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """An item of a tile, and the share (0 to 1) of what the tile shows that is from it.

    The share is None if the tile was not made, or can show no other item.
    """

    item: str
    updated: str | None
    share: float | None


@dataclass(frozen=True)
class Pictured:
    """A tile with its quicklook, the bytes fetched of its bands, and those of its enhanced tile.

    `holes` is the share (0 to 1) of fetched pixels without data, None if that is not known. Bytes
    are those of the files when they were made, kept or not; 0 of what was not made.
    """

    tile: Tile
    state: str
    why: str
    items: list[Shown]
    picture: str
    holes: float | None
    fetched: int
    size: int


def tiles_of(subject: Subject) -> list[Pictured]:
    """Return the first MOST_TILES tiles, those first that are not up to date."""
    jobs = subject.enhancing
    tiles = sorted(
        subject.layout.tiles.values(),
        key=lambda tile: tile.name not in jobs or jobs[tile.name].causes is None,
    )[:MOST_TILES]
    return [_pictured(tile, subject, QUICKLOOKS // len(tiles)) for tile in tiles]


def _pictured(tile: Tile, subject: Subject, most: int) -> Pictured:
    job, path = subject.enhancing.get(tile.name), Path(f"results/tiles/{tile.name}.tif")
    if subject.config["keep_tiles"]:
        picture = quicklook(path, most)
    else:
        archive = Path(f"results/pyramid/{tile.regions[0]}.pmtiles")
        tile_size = subject.config["pyramid"]["tile_size"]
        picture = map_of(archive, Frame(tile.geometry, []), tile_size, QUICKLOOK_SIDE, most)
    record, sources = read_record(path), job.inputs if job else []
    bands = [band for source in sources if (band := read_record(source))]
    known = record.known if record else {}
    empty, fetched = known.get("holes", (0, 0))  # pixels
    shares = dict(zip(known.get("items", []), known.get("shares", []), strict=False))
    return Pictured(
        tile,
        state_of(job) if job else "fresh",
        why(job) if job else "",
        [Shown(item.item, item.updated, shares.get(item.item)) for item in tile.items],
        picture,
        empty / fetched if fetched else None,
        sum(band.size for band in bands),
        record.size if record else 0,
    )


# -- Jobs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """What the jobs of a rule took when they were last done, as far as benchmarks tell: seconds.

    `measured` is the number of benchmarks, `longest` the most wall seconds of a job, `which` its
    name, and `memory` the most bytes of a job, 0 if none was measured.
    """

    rule: str
    stage: str
    jobs: int
    not_fresh: int
    measured: int
    wall: float
    cpu: float
    longest: float
    which: str
    memory: int


def uses_of(graph: Graph) -> list[Use]:
    """Return what the jobs of each rule took, in the order of the flow."""
    by_rule: dict[str, list[Job]] = defaultdict(list)
    for job in graph.jobs:
        by_rule[job.rule].append(job)
    return [_use(rule, by_rule[rule]) for rule in graph.stages if rule in by_rule]


def _use(rule: str, jobs: list[Job]) -> Use:
    found = [(read_benchmark(job.benchmark), job) for job in jobs]
    measured = [(taken, job) for taken, job in found if taken]
    longest, which = max(
        ((taken.wall, name_of(job)) for taken, job in measured),
        default=(0.0, ""),
    )
    return Use(
        rule,
        jobs[0].stage,
        len(jobs),
        sum(job.causes is not None for job in jobs),
        len(measured),
        sum(taken.wall for taken, _ in measured),
        sum(taken.cpu for taken, _ in measured),
        longest,
        which,
        max((taken.memory for taken, _ in measured), default=0),
    )


def needs_of(graph: Graph) -> dict[str, set[str]]:
    """Return the rules whose outputs each rule reads."""
    makers = {str(path): job.rule for job in graph.jobs for path in job.outputs}
    needs: dict[str, set[str]] = {job.rule: set() for job in graph.jobs}
    for job in graph.jobs:
        needs[job.rule] |= {makers[path] for path in job.inputs if path in makers}
    return needs


def reasons_of(graph: Graph) -> dict[tuple[str, str], list[str]]:
    """Return what the jobs are for that are not up to date, by rule, in the order of the flow, and
    reason.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for job in _in_order(graph.stale, graph):
        found[job.rule, why(job)].append(name_of(job))
    return found
