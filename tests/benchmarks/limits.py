"""Memory and disk of builds whose memory is limited, as a container's is.

A control group holds each run and all of its processes: if its limit does not suffice, the kernel
kills one of them. Only root can make groups.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import shapely
import yaml

from basemake.demo.grid import tiles_covering
from basemake.system.machine import SYSTEM, control_groups
from benchmarks.builds import Build, most, watching
from benchmarks.downloads import circle, source_of
from benchmarks.measure import CORES, TESTS, prepare
from benchmarks.objects import objects_of
from benchmarks.report import Check, Measured, Section
from servers import FaultyServer

GIGABYTES = (2, 1)
WHOLE = {"clip": False}  # all blocks of all tiles
NOTHING_KEPT = {"keep_bands": False, "keep_tiles": False}
CONFIG = TESTS.parent / "config"
# The files of a control group by what they tell, in version 1 and in version 2.
LIMIT = ("memory.limit_in_bytes", "memory.max")
KILLS = ("memory.oom_control", "memory.events")
OWN = ("total_rss", "total_shmem", "anon", "shmem")  # in memory.stat; the rest is copies of files


@dataclass(frozen=True)
class Group:
    """A control group of version 1 or 2, by its folder."""

    path: Path

    @property
    def entering(self) -> list[str]:
        """What begins a command, so that it runs in the group."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["/bin/sh", "-c", enter, str(self.path / "cgroup.procs")]

    def memory(self) -> int:
        """Return the bytes that its processes have now, besides copies of files."""
        return sum(self._read("memory.stat").get(name, 0) for name in OWN)

    def kills(self) -> int:
        """Return how many of its processes the kernel killed for want of memory."""
        return sum(self._read(name).get("oom_kill", 0) for name in KILLS)

    def _read(self, name: str) -> dict[str, int]:
        path = self.path / name
        lines = path.read_text().splitlines() if path.exists() else []
        return {key: int(value) for key, value in map(str.split, lines)}


@contextmanager
def limited(size: int) -> Iterator[Group]:
    """Make a control group with a limit of `size` bytes of memory; OSError where that fails."""
    own = next(control_groups(SYSTEM, "memory"))
    # In version 2 a group that has processes can have no groups with limits in it.
    above = own if (own / LIMIT[0]).exists() else own.parent
    group = Group(above / f"basemake-{os.getpid()}")
    group.path.mkdir()
    try:
        [limit] = [group.path / name for name in LIMIT if (group.path / name).exists()]
        limit.write_text(str(size))
        yield group
    finally:
        group.path.rmdir()


def bench_limits(folder: Path, side: int, kilometres: float) -> Section:
    """Build the demo, and a circle of tiles of `side` pixels, under limits of memory."""
    title = f"Under a limit of memory: the demo, and tiles of {side} px"
    try:
        with limited(GIGABYTES[0] * 10**9):
            pass
    except (OSError, StopIteration, ValueError) as error:
        return Section(title, [Measured("all", note=f"a control group cannot be made: {error}")])
    objects, region = folder / "limits-objects", circle(kilometres)
    objects.mkdir()
    prepare("inputs", "object_bands", folder=objects, side=side)
    tiles = tiles_covering(region)
    rows, kills = [], 0
    archives: dict[str, set[bytes]] = {}
    with FaultyServer() as server:
        for tile in tiles:
            server.files |= objects_of(tile, objects, side)
        sizes = {path: len(content) for path, content in server.files.items()}
        fast = {"requests_per_minute": 60_000}
        source = source_of(folder / "limits.json", tiles, side, server.url, sizes, **fast)
        for size in GIGABYTES:
            for name, build in (
                ("the demo", _demo(folder / f"demo-{size}")),
                (
                    f"{len(tiles)} tiles, none kept",
                    Build(folder / f"tiles-{size}", region, source, pyramid=WHOLE, **NOTHING_KEPT),
                ),
            ):
                row, killed = _measure(f"{name}: {size} GB", build, size * 10**9)
                rows.append(row)
                kills += killed
                archive = build.directory / "results/pyramid/region.pmtiles"
                archives.setdefault(name, set()).add(hashlib.sha256(archive.read_bytes()).digest())
    different = sum(len(found) - 1 for found in archives.values())
    return Section(
        title,
        rows,
        [
            Check("processes killed for want of memory", kills, 0),
            Check("archives that depend on the limit", different, 0),
        ],
        [
            f"On {CORES} cores. Peak: of all processes of a run together, Snakemake's with them,"
            " without copies of files that the kernel gives up when it needs memory. MB: all files"
            " in the working directory at the peak."
        ],
    )


def _demo(directory: Path) -> Build:
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    source = yaml.safe_load((CONFIG / "sources/simulated.yaml").read_text())
    regions = shapely.from_geojson((CONFIG / "regions/demo.geojson").read_text())
    return Build(directory, shapely.union_all(regions.geoms), source, pyramid=config["pyramid"])


def _measure(name: str, build: Build, size: int) -> tuple[Measured, int]:
    """Search and build under a limit of `size` bytes; return also how many processes it killed."""
    with limited(size) as group:
        build.within = group.entering
        with most(group.memory) as memory, watching(build.directory, files="*") as disk:
            build.snakemake("manifest")
            usage = build.snakemake("--cores", "all")
        kills = group.kills()
    return Measured(name, [usage._replace(peak=memory[0] / 1e6)], disk[0] / 1e6, own=True), kills
