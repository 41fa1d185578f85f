"""Builds for tests of whole runs."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import chromium
import pytest
from runs import CHECKOUT, NORTH, Build, Scene, small_scene


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests on Slurm: they wait for it, while others use the machine."""
    items.sort(key=lambda item: item.path.name != "test_slurm.py")


@pytest.fixture(scope="session")
def new_build(tmp_path_factory: pytest.TempPathFactory):
    """A function that makes a Build with a config, in a new directory."""

    def make(**config) -> Build:
        return Build(tmp_path_factory.mktemp("build"), config)

    return make


@pytest.fixture(scope="session")
def demo_config() -> dict:
    """The demo, with lossless web tiles so that pixels can be compared."""
    return {
        "source": "simulated",
        "quarter": "2025Q3",
        "regions": {"demo": str(CHECKOUT / "config/regions/demo.geojson")},
        "pyramid": {"metatile_zoom": 8, "quality": "lossless"},
    }


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A small build of two UTM zones."""
    return built_once(tmp_path_factory, "base", small_scene)


@pytest.fixture(scope="session")
def north(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A smaller build: the northern end of the base."""
    return built_once(tmp_path_factory, "north", lambda directory: small_scene(directory, NORTH))


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Scene]) -> Scene:
    """Return a Scene that the first process of this test run to ask for it builds for all."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    directory, finished = root / name, root / f"{name}.json"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            finished.write_text(json.dumps(build(directory).config))
    return Scene(directory, json.loads(finished.read_text()))


@pytest.fixture
def scene(base: Scene, tmp_path: Path) -> Scene:
    """A copy of the base, with the times of files, that a test may change."""
    return base.copy(tmp_path / "scene")


@pytest.fixture(scope="module")
def from_nothing(tmp_path_factory) -> Callable[[Scene], dict[str, bytes]]:
    """A function that builds a scene in a new directory and returns the content of its outputs."""

    def build(scene: Scene) -> dict[str, bytes]:
        directory = tmp_path_factory.mktemp("fresh")
        for path in (*scene.directory.glob("*.geojson"), scene.directory / "source.yaml"):
            shutil.copy(path, directory)
        shutil.copytree(scene.directory / "catalog", directory / "catalog")
        fresh = replace(scene, directory=directory)
        fresh.build(cores=4)
        return fresh.lasting()

    return build


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a browser's DevTools."""
    if not chromium.CHROMIUM:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with chromium.running(tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture
def tab(browser: str) -> Iterator[chromium.Tab]:
    with chromium.opened(browser) as tab:
        yield tab
