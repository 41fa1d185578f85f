"""Whole runs on a real Slurm of two nodes, by the profile that the docs name."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from faults import INJECTOR
from runs import CHECKOUT, SOURCE, Scene

from servers import FaultyServer
from servers.slurm import NODES, Slurm, slurm, why_not

PROFILE = ("--workflow-profile", str(CHECKOUT / "profiles/slurm"))
SOONER = ("--slurm-init-seconds-before-status-checks", "1")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Snakemake's plugin, as only these tests need it and it slows every start.

    They are skipped where it cannot be installed, as without a network.
    """
    folder = tmp_path_factory.mktemp("plugin")
    pins = CHECKOUT / "envs/requirements-slurm.txt"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
    done = subprocess.run([*command, "-r", pins], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"skipped: {pins.name} cannot be installed: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """A cluster for all tests here; they are skipped where its daemons cannot be started."""
    if why_not():
        pytest.skip(f"skipped: no Slurm here: {why_not()}")
    with slurm() as cluster:
        yield cluster


@pytest.fixture
def unbuilt(base: Scene, cluster: Slurm, plugin: Path, tmp_path: Path) -> Scene:
    """The base, of which nothing is built, with what its runs on the cluster need."""
    scene = base.copy(tmp_path / "scene")
    for place in ("results", "logs", "benchmarks", ".snakemake"):
        subprocess.run(["rm", "-r", scene.directory / place], check=True)
    scene.run("manifest")
    scene.environment = {**cluster.environment, "PYTHONPATH": str(plugin)}
    return scene


def test_the_same_files_by_few_slurm_jobs(unbuilt: Scene, base: Scene, cluster: Slurm) -> None:
    before = cluster.jobs()
    printed = unbuilt.run(*PROFILE, *SOONER)
    assert unbuilt.lasting() == base.lasting()
    # Of 7 tiles and 10 metatiles, by 4 and 8; the VRTs of the mosaic, and what follows metatiles.
    assert len(cluster.jobs()) - len(before) == 2 + 2 + 2, printed
    assert "Nothing to be done" in unbuilt.run(*PROFILE, *SOONER)
    # A new quality: what is to be made again is made again, by the cluster too.
    unbuilt.config["pyramid"]["quality"] = 50
    expected = unbuilt.jobs("--dry-run", *PROFILE)
    assert {job.split()[0] for job in expected} == {
        *("render_metatile", "render_overview", "pack_pyramid"),
        *("build_preview", "build_index", "build_web", "build_stac"),
    }
    unbuilt.run(*PROFILE, *SOONER)
    unbuilt.environment = {}
    assert "Nothing to be done" in unbuilt.run("--cores", "2")


@contextmanager
def served(scene: Scene, latency: float = 0) -> Iterator[FaultyServer]:
    """Put the bands of a scene on a web server, and search again."""
    folder = scene.directory / "catalog"
    files = {f"/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.tif")}
    with FaultyServer(files, latency=latency) as server:
        items = scene.items
        for asset in (asset for item in items for asset in item["assets"].values()):
            asset["href"] = f"{server.url}/{asset['href']}"
        scene.items = items
        source = {**SOURCE, "hosts": ["127.0.0.1"]}
        (scene.directory / "source.yaml").write_text(yaml.safe_dump(source))
        scene.run("manifest")
        yield server


def test_a_space_in_the_path_of_python_is_refused(
    base: Scene, plugin: Path, tmp_path: Path
) -> None:
    """Snakemake does not quote it in the jobs that it sends to others."""
    (tmp_path / "of spaces").symlink_to(sys.prefix)
    scene = base.copy(tmp_path / "scene")
    scene.interpreter = str(tmp_path / "of spaces/bin/python")
    scene.environment = {"PYTHONPATH": str(plugin)}
    printed = scene.run("--forceall", *PROFILE, check=False)
    lines = [line for line in printed.splitlines() if line.startswith("basemake: ")]
    assert len(lines) == 1, printed
    assert scene.interpreter in lines[0]
    assert "Nothing to be done" in scene.run("--cores", "2")


def test_downloads_are_limited_over_all_nodes(unbuilt: Scene, cluster: Slurm) -> None:
    with served(unbuilt, latency=0.5) as server:
        before = cluster.jobs()
        limits = ("--resources", "connections=2", "--group-components", "tile=1")
        unbuilt.run(*PROFILE, *SOONER, *limits, "--until", "fetch_bands")
        assert server.most_in_flight == 2
    own = [job for number, job in cluster.jobs().items() if number not in before]
    assert {job["NodeList"] for job in own} == set(NODES)
    assert len(own) == 7


def test_a_job_over_its_memory_gets_more(unbuilt: Scene, base: Scene, cluster: Slurm) -> None:
    """The second tile to be enhanced uses more than its Slurm job asked for, and is killed for it.

    The bands that its Slurm job had fetched are not fetched again.
    """
    marker = unbuilt.directory / "struck"
    fault = {"rule": "enhance_tile", "moment": "before", "kind": "memory", "number": 2}
    fault |= {"marker": str(marker), "outputs": {}, "bytes": 3_000_000_000}
    with served(unbuilt) as server:
        unbuilt.environment["FAULT"] = json.dumps(fault)
        unbuilt.environment["PYTHONPATH"] += f"{os.pathsep}{INJECTOR}"
        before = cluster.jobs()
        unbuilt.run(*PROFILE, *SOONER)
        assert marker.with_name("struck.2").exists()
        # A band without reduced images is asked for its header twice, and then for the rest.
        assert set(Counter(asked.path for asked in server.asked()).values()) == {3}
    assert unbuilt.lasting() == base.lasting()
    own = [job for number, job in cluster.jobs().items() if number not in before]
    failed = [job for job in own if job["JobState"] != "COMPLETED"]
    assert len(failed) == 1
    again = [job for job in own if job["Comment"] == failed[0]["Comment"]]
    assert max(map(_memory, again)) == 2 * _memory(failed[0])


def _memory(job: dict[str, str]) -> int:
    """What a Slurm job asked for, in MB."""
    return int(re.search(r"mem=(\d+)M", job["TRES"])[1])


def test_a_node_that_dies(unbuilt: Scene, base: Scene, cluster: Slurm) -> None:
    running = unbuilt.start(*PROFILE, *SOONER)
    while not any(job["JobState"] == "RUNNING" for job in cluster.jobs().values()):
        time.sleep(0.1)
    lost = next(job for job in cluster.jobs().values() if job["JobState"] == "RUNNING")
    cluster.kill(lost["NodeList"])
    cluster.start_node(lost["NodeList"])
    printed, _ = running.communicate()
    assert running.returncode == 0, printed
    assert unbuilt.lasting() == base.lasting()
