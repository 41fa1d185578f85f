"""Random histories of a working directory: after each, one plain run must make all outputs right.

A history is a sequence of changes, faults, interrupted runs, deletions, copies and clocks set
wrong. `make test` has a few short ones, always the same. With BASEMAKE_STEPS=500 in the
environment a test has about that many steps, from another seed each time, and says which;
BASEMAKE_SEED gives a seed. A failure prints its history; the last line of it is what failed.
"""

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import JOINING, KINDS, MOMENTS, RULES, Fault, differences, join, small_region
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from runs import EDGE, NORTH, SOURCE, Scene

# What `make test` does is always the same, until the steps below change.
SEED, HISTORIES, STEPS = 128, 2, 4
LONG_STEPS = 20

SETTINGS = {
    "recipe": ("l2a-optimized", "simple-gain"),
    "tile_codec": ("webp", "deflate"),
    "keep_bands": (True, False),
    "fill": ([], ["2025Q2"]),
    "pyramid.quality": (80, 60),
    "pyramid.min_zoom": (7, 8),
    "pyramid.max_zoom": (10, 9),
    "pyramid.clip": (True, False),
    "pyramid.outputs": (["pmtiles"], ["mbtiles", "folder"], ["cog"]),
}
POLYGONS = (NORTH, [(18.75, 44.2), *NORTH[1:]])
OTHER = [(18.72, 44.3), (18.8, 44.3), (18.8, 44.5), (18.72, 44.5)]  # inside the first
ATTRIBUTIONS = (SOURCE["attribution"], "Simulated imagery of {year}")
# The ends of items' ids; KEPT always stays, as a region without tiles has no map.
KEPT = "Q3_33TYK_0_0"
ITEMS = (KEPT, *(f"{quarter}_{tile}" for tile in (EDGE, JOINING) for quarter in ("Q3", "Q2")))
# A method of History and its argument. Most of them, done twice, lead back to the same state.
CHANGES = (
    *(f"configure {key}" for key in SETTINGS),
    *(f"update {item}" for item in ITEMS),
    *(f"take_or_give_back {item}" for item in ITEMS if item != KEPT),
    *("move_corner first", "add_or_drop other", "attribute again"),
)
# What can be lost, or have wrong times: each of these, or one file or folder in it.
PLACES = (
    *("results", "results/bands", "results/tiles", "results/mosaic", "results/metatiles"),
    *("results/pyramid", "results/preview", "results/web", "results/records"),
    *("results/manifest.geojson", ".snakemake", ".snakemake/metadata", ".basemake", "logs"),
    "benchmarks",
)
# An intermediate file, which may be missing while what is made of it is right.
NEEDLESS = "overview.pmtiles"
ALL = ("--cores", "4")

changes = st.sampled_from(CHANGES)
rules = st.sampled_from(RULES)
numbers = st.integers(1, 6)
faults = st.builds(
    Fault, st.just("any"), st.sampled_from(MOMENTS), st.sampled_from(KINDS), numbers
).filter(Fault.is_possible)
signals = st.sampled_from([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
paths = st.tuples(st.sampled_from(PLACES), st.integers(0, 30))
mostly = st.sampled_from([True, True, False])


def step(**arguments: st.SearchStrategy) -> Callable:
    """Make a method a step of histories, which is printed before it is taken."""

    def decorate(method: Callable) -> Callable:
        @wraps(method)
        def take(self: "History", **values) -> None:
            words = ", ".join(f"{name}={value!r}" for name, value in values.items())
            print(f"{method.__name__}({words})", flush=True)
            History.steps += 1
            self.sound = False
            method(self, **values)
            self.sound = True

        return rule(**arguments)(take)

    return decorate


class History(RuleBasedStateMachine):
    """A working directory, what happens to it, and how it is built in the end."""

    # Set by the test: a build to begin with, a new folder for each history, and the function that
    # returns what a Scene must look like.
    base: Scene
    new_folder: Callable[[], Path]
    from_nothing: Callable[[Scene], dict[str, bytes]]
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        print("\nA history:", flush=True)
        self.folder = History.new_folder()
        self.scene = History.base.copy(self.folder / "0")
        self.names = map(str, count(1))
        self.outline = POLYGONS[0]
        self.edits = dict.fromkeys(ITEMS, 0)
        self.away: dict[str, dict] = {}
        self.sound = True

    def teardown(self) -> None:
        if self.sound:
            print("build, in the end", flush=True)
            self.must_be_right()
        shutil.rmtree(self.folder)

    # -- Changes

    def configure(self, name: str) -> None:
        *inside, key = name.split(".")
        config = self.scene.config["pyramid"] if inside else self.scene.config
        config[key] = following(SETTINGS[name], config.get(key))

    def update(self, name: str) -> None:
        if name not in self.away:
            self.edits[name] += 1
            self.scene.edit_bands(name, f"2026-02-01T00:{self.edits[name]:02}:00Z")

    def take_or_give_back(self, name: str) -> None:
        items = {item["id"][-12:]: item for item in self.scene.items}
        if name in items:
            self.away[name] = items.pop(name)
        else:
            items[name] = self.away.pop(name)
        self.scene.items = list(items.values())

    def move_corner(self, region: str) -> None:
        self.outline = following(POLYGONS, self.outline)
        self.scene.draw(region, self.outline)

    def add_or_drop(self, region: str) -> None:
        regions = self.scene.config["regions"]
        if not regions.pop(region, None):
            regions[region] = f"{region}.geojson"

    def attribute(self, _: str) -> None:
        path = self.scene.directory / "source.yaml"
        source = yaml.safe_load(path.read_text())
        source["attribution"] = following(ATTRIBUTIONS, source["attribution"])
        path.write_text(yaml.safe_dump(source))

    def make(self, change: str, search: bool) -> None:
        method, argument = change.split()
        getattr(self, method)(argument)
        if search:
            self.scene.run("manifest")

    @step(change=changes, search=mostly)
    def only_change(self, change: str, search: bool) -> None:
        self.make(change, search)

    # -- Runs

    @step(change=changes, search=mostly, fault=faults, keep_going=st.booleans())
    def fail(self, change: str, search: bool, fault: Fault, keep_going: bool) -> None:
        self.make(change, search)
        struck = fault.strikes(self.scene, *ALL, *(["--keep-going"] if keep_going else []))
        print("  it struck" if struck else "  it struck no job")

    @step(change=changes, search=mostly, rule=rules)
    def build_until(self, change: str, search: bool, rule: str) -> None:
        self.make(change, search)
        self.scene.run(*ALL, "--until", rule, check=False)

    @step(change=changes, search=mostly, kind=signals, jobs=numbers)
    def break_off(self, change: str, search: bool, kind: signal.Signals, jobs: int) -> None:
        """Send a signal to all processes of a run once it has finished some jobs."""
        self.make(change, search)
        running = self.scene.start(*ALL)
        assert running.stdout
        for line in running.stdout:
            jobs -= line.startswith("[")  # as in "[ 3/18] enhance_tile 33TYH_0_0, 1.2 s"
            if not jobs:
                os.killpg(running.pid, kind)
                break
        try:
            running.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            # Snakemake's handler of SIGTERM waits for ever if the signal comes while it takes note
            # of a finished job. What starts it (systemd, a container) then kills it, and so do we.
            print("  it did not end, and was killed")
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
        print("  it ended by itself" if jobs else f"  its status was {running.returncode}")

    @step()
    def run_to_the_end(self) -> None:
        self.must_be_right()

    # -- What else happens to files

    @step(path=paths)
    def delete(self, path: tuple) -> None:
        found = self.find(*path)
        if found and found.is_dir():
            shutil.rmtree(found)
        elif found:
            found.unlink()

    @step(path=paths, days=st.sampled_from([-4000, -1, 1, 4000]))
    def set_times(self, path: tuple, days: int) -> None:
        found = self.find(*path)
        for file in [found, *found.rglob("*")] if found else []:
            moment = file.stat().st_mtime + days * 86400
            os.utime(file, (moment, moment))

    @step()
    def copy_without_times(self) -> None:
        directory = self.folder / next(self.names)
        subprocess.run(["cp", "-r", self.scene.directory, directory], check=True)
        shutil.rmtree(self.scene.directory)
        self.scene.directory = directory

    def find(self, place: str, number: int) -> Path | None:
        """Return `place` for 0, else one of the paths in it; None if it does not exist."""
        path = self.scene.directory / place
        inside = [path, *sorted(path.rglob("*"))]
        found = inside[number % len(inside)]
        print(f"  {found.relative_to(self.scene.directory)}")
        return found if found.exists() else None

    # -- What must be right after all

    def must_be_right(self) -> None:
        """Search and build; see that outputs are those from nothing, and a further run has none."""
        with ThreadPoolExecutor(1) as pool:
            expected = pool.submit(History.from_nothing, self.scene)
            self.scene.run("manifest")
            self.scene.run(*ALL)
            fresh = expected.result()
        pyramid = self.scene.config["pyramid"]
        whole = "folder" in pyramid["outputs"]
        folders = tuple(f"pyramid/{region}/" for region in self.scene.config["regions"] if whole)
        made = {
            path: data
            for path, data in self.scene.lasting().items()
            if path in fresh or path.startswith(folders)  # others are orphans
        }
        wrong = {
            path
            for path in differences(made, fresh)
            if "/." not in path and not (path.endswith(NEEDLESS) and path not in made)
        }
        assert not wrong, f"not as from nothing: {', '.join(sorted(wrong))}"
        assert "Nothing to be done" in self.scene.run(*ALL)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Scene:
    scene = small_region(tmp_path_factory.mktemp("base"))
    join(scene)
    scene.draw("other", OTHER)
    scene.config["pyramid"]["outputs"] = ["pmtiles"]
    scene.build(cores=4)
    return scene


def following(values: Sequence, value: Any) -> Any:
    """Return the value after `value`, the first after the last; the second if it is not there."""
    known = value if value in values else values[0]
    return values[(values.index(known) + 1) % len(values)]


def state(scene: Scene) -> str:
    """Return a text that is equal for scenes that must have equal outputs."""
    config = {key: value for key, value in scene.config.items() if key != "keep_bands"}
    files = [*sorted(scene.directory.glob("*.geojson")), scene.directory / "source.yaml"]
    known = [config, [path.read_text() for path in files], scene.items]
    return json.dumps(known, sort_keys=True)


def test_one_run_makes_all_right_after_any_history(base, from_nothing, tmp_path_factory, capsys):
    known = {state(base): base.lasting()}

    def remember(scene: Scene) -> dict[str, bytes]:
        key = state(scene)
        if key not in known:
            known[key] = from_nothing(scene)
        return known[key]

    History.base, History.from_nothing = base, remember
    History.new_folder = lambda: tmp_path_factory.mktemp("history")
    wanted = int(os.environ.get("BASEMAKE_STEPS", 0))
    begin = int(os.environ.get("BASEMAKE_SEED", random.randrange(10**6) if wanted else SEED))
    try:
        run_state_machine_as_test(
            seed(begin)(History),
            settings=settings(
                max_examples=max(1, wanted // LONG_STEPS) if wanted else HISTORIES,
                stateful_step_count=LONG_STEPS if wanted else STEPS,
                phases=[Phase.generate],  # to shrink a history would take hours
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
    finally:
        with capsys.disabled():
            print(f"\n{History.steps} steps of histories, BASEMAKE_SEED={begin}")
