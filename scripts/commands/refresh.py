"""Search again, print what changed since the last manifest, and build; for cron or a systemd timer.

Nothing is printed if nothing changed and nothing was to be built. Exit status: 0 if the map is
fresh, 1 if the search or the build failed, 75 if another run is using the working directory.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.build.manifest import Band
from basemake.build.paths import MANIFEST
from basemake.build.run_lock import alone, hand_on
from basemake.engine.graph import Graph
from basemake.engine.open_build import BUSY, Build, as_command, open_build
from basemake.errors import BusyError, ConfigError
from basemake.forecast.briefing import in_bytes
from basemake.system.screen import counted
from basemake.system.shared_state import begin_run
from prune import FEW, delete, find_orphans, surplus

LOG = Path("logs/refresh.log")
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LINES = 20  # last lines of the log to print if it has no line of an error


class Changes(NamedTuple):
    """The names of tiles that a search found to be new, updated or gone."""

    new: list[str]
    updated: list[str]
    gone: list[str]


class Stopped(Exception):
    """A signal asked this process to stop; its argument is the signal's number."""


def tiles_in(manifest: Path) -> dict[str, Any]:
    """Return the items and the identities of their bands of each tile in a manifest, by tile.

    A file that is missing or is not a manifest has no tiles.
    """
    tiles = {}
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        for feature in json.loads(manifest.read_text())["features"]:
            first = feature["properties"]
            tiles[feature["id"]] = [
                (
                    said["item"],
                    [Band(**band).identity(said["updated"]) for band in said["bands"].values()],
                )
                for said in [first, *first.get("fill", [])]
            ]
    return tiles


def compare(old: dict[str, Any], new: dict[str, Any]) -> Changes:
    """Return what changed between two values of `tiles_in`."""
    return Changes(
        sorted(new.keys() - old.keys()),
        sorted(tile for tile in old.keys() & new.keys() if old[tile] != new[tile]),
        sorted(old.keys() - new.keys()),
    )


def refresh(build: Build, lock: int, prune: bool) -> int:
    """Search, build and, with `prune`, delete orphans; print what changed.

    Works in the current directory, which is the build's, and returns the exit status. `lock` is the
    file descriptor of its lock.
    """
    title = f"basemake refresh: {', '.join(build.regions)} {build.config['quarter']}:"
    start = time.monotonic()
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("")
    old = tiles_in(MANIFEST)
    if _snakemake(build, lock, "manifest"):
        return _failed(f"{title} the search failed, and nothing was changed")
    changes = compare(old, tiles_in(MANIFEST))
    for kind, tiles in changes._asdict().items():
        if tiles:
            print(f"{kind}: {', '.join(tiles[:FEW])}{' ...' * (len(tiles) > FEW)}", flush=True)
    new, updated, gone = map(len, changes)
    tiles = f"{counted(updated, 'tile')} updated, {new} new, {gone} gone"

    graph = _graph(build)
    jobs = graph.stale
    if jobs and _snakemake(build, lock):
        return _failed(f"{title} {tiles}; the build failed, and the next refresh goes on with it")
    orphans = find_orphans(graph, surplus(build, graph, stale=[]))  # all are built
    if prune:
        delete(orphans, build.bucket)
    if jobs or any(changes) or (prune and orphans.files):
        minutes, seconds = divmod(round(time.monotonic() - start), 60)
        took = f"{minutes} min" if minutes else f"{seconds} s"
        said = f"{title} {tiles}; built {counted(len(jobs), 'job')} in {took}"
        if orphans.files:
            size = in_bytes(orphans.size)
            said += f"; deleted {size} of orphans" if prune else f"; {size} of orphans (make prune)"
        print(said)
    return 0


def _snakemake(build: Build, lock: int, *targets: str) -> int:
    """Run snakemake with the build's arguments, append its output to the log, return its status.

    It inherits the lock, so that the directory stays locked if this process is killed. It has a
    process group of its own, so that a signal to this process can stop snakemake with its jobs.
    """
    command = build.command.line(*targets)
    with LOG.open("a") as log:
        running = subprocess.Popen(
            command,
            cwd=build.command.called_in,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **hand_on(lock),
        )
    try:
        return running.wait()
    except Stopped:
        _on_stop(signal.SIG_IGN)
        os.killpg(running.pid, signal.SIGTERM)
        running.wait()
        raise


def _graph(build: Build) -> Graph:
    """Return the build's graph of jobs.

    The dry run has a thread of its own: Snakemake installs signal handlers in the main one only.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(build.graph).result()


def _failed(said: str) -> int:
    """Print the errors of jobs, or the end of the log, and `said` to stderr; return 1."""
    lines = LOG.read_text().splitlines()
    errors = [line for line in lines if line.startswith("basemake: ")] or lines[-LINES:]
    print(*dict.fromkeys(errors), f"{said}; see {LOG.absolute()}", sep="\n", file=sys.stderr)
    return 1


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _on_stop(handler: Any) -> None:
    for number in STOPS:
        signal.signal(number, handler)


def main() -> None:
    """Refresh the map of a working directory and exit with the status."""
    parser = argparse.ArgumentParser(
        description="Search again, say what changed, and build. Other options are snakemake's.",
        allow_abbrev=False,
    )
    parser.add_argument("--prune", action="store_true", help="then delete orphans")
    options, arguments = parser.parse_known_args()
    _on_stop(_stop)
    begin_run(0)  # long ago: a timer is patient with services that do not answer at first
    try:
        with as_command("basemake refresh"):
            build = open_build(arguments, whole=True)
            if build.command.dry_run:
                raise ConfigError("it has no dry-run; `snakemake -n` and `make plan` tell of jobs.")
            try:
                with alone() as lock:
                    sys.exit(refresh(build, lock, options.prune))
            except BusyError as error:
                print(f"basemake refresh: {error}", file=sys.stderr)
                sys.exit(BUSY)
    except Stopped as stop:
        print("basemake refresh: stopped; the next one goes on", file=sys.stderr, flush=True)
        number = stop.args[0]
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


if __name__ == "__main__":
    main()
