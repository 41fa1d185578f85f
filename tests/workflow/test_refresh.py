"""Refreshing: what it prints, its exit status, and that it can run under cron and systemd."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from runs import CHECKOUT, EDGE, Scene


@pytest.fixture
def base(north) -> Scene:
    return north


def test_refresh_is_quiet_when_nothing_changed(base, scene):
    assert scene.says("refresh") == ""
    assert scene.says("refresh", "--prune") == ""
    assert scene.lasting() == base.lasting()


def test_refresh_names_new_updated_and_gone_tiles_and_prunes(base, scene):
    all_items = scene.items
    scene.drop(EDGE)
    *said, summary = scene.says("refresh").splitlines()
    assert said == [f"gone: {EDGE}"]
    assert re.fullmatch(
        r"basemake refresh: first 2025Q3: 0 tiles updated, 0 new, 1 gone; built 9 jobs in \d+ \w+;"
        r" \d+ kB of orphans \(make prune\)",
        summary,
    )
    said = scene.says("refresh", "--prune")
    assert re.fullmatch(
        r"basemake refresh: .* 0 gone; built 0 jobs in \d+ \w+; deleted \d+ kB of orphans\n",
        said,
    )
    assert not (scene.results / f"tiles/{EDGE}.tif").exists()

    scene.items = all_items
    scene.edit_bands("33TYK_0_0")
    said = scene.says("refresh")
    assert f"new: {EDGE}\nupdated: 33TYK_0_0\n" in said
    assert ": 1 tile updated, 1 new, 0 gone; built " in said
    assert "orphans" not in said
    assert scene.jobs("--dry-run") == set()
    assert scene.lasting().keys() == base.lasting().keys()
    assert scene.lasting() != base.lasting()
    assert scene.says("refresh") == ""


def test_refresh_makes_what_was_deleted(base, scene):
    (scene.results / "pyramid/first.pmtiles").unlink()
    said = scene.says("refresh")
    assert ": 0 tiles updated, 0 new, 0 gone; built 4 jobs in " in said
    assert scene.lasting() == base.lasting()


def test_refresh_says_what_failed_and_recovers(base, scene):
    scene.edit_bands(EDGE)
    band = next(scene.directory.glob(f"catalog/*{EDGE}/*B04*"))
    whole = band.read_bytes()
    band.write_bytes(whole[:1000])
    done = scene.call("refresh")
    assert done.returncode == 1
    assert done.stdout == f"updated: {EDGE}\n"
    error, summary = done.stderr.splitlines()
    assert error.startswith(f"basemake: tile {EDGE}, band B04: ")
    assert "1000 bytes came" in error
    assert "1 tile updated, 0 new, 0 gone; the build failed" in summary
    assert summary.endswith(f"see {scene.directory}/logs/refresh.log")

    band.write_bytes(whole)
    # The search notices that the file is no longer the broken one that it found before.
    assert re.search(r"1 tile updated, .*; built \d+ jobs", scene.says("refresh"))
    assert scene.jobs("--dry-run") == set()
    assert scene.lasting() != base.lasting()


def test_refresh_keeps_all_when_the_search_fails(scene):
    before = scene.content()
    items = scene.directory / "catalog/items.json"
    items.rename(items.with_suffix(".away"))
    done = scene.call("refresh", "--prune")
    assert done.returncode == 1
    assert done.stdout == ""
    error, summary = done.stderr.splitlines()
    assert error.startswith("basemake: the source's items")
    assert "the search failed, and nothing was changed" in summary
    items.with_suffix(".away").rename(items)
    after = scene.content()
    assert {path for path in after if before.get(path) != after[path]} == {
        "logs/refresh.log",
        "logs/manifest.log",
    }


def test_refresh_of_another_quarter_is_refused(scene):
    scene.config["quarter"] = "2025Q4"
    done = scene.call("refresh")
    assert done.returncode == 1
    assert "this working directory holds 2025Q3, and 2025Q4 is asked for" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_at_once(base, scene):
    shutil.rmtree(scene.results / "tiles")
    both = [scene.command("refresh"), scene.command("refresh")]
    said = [(*running.communicate(), running.returncode) for running in both]
    (out, nothing, fine), (nothing_either, err, busy) = sorted(said, key=lambda s: s[2])
    assert (fine, busy) == (0, 75)
    assert nothing == nothing_either == ""
    assert "built" in out
    assert err.startswith(f"basemake refresh: a run is going on in {scene.directory} (pid ")
    assert len(err.splitlines()) == 1
    assert scene.lasting() == base.lasting()


def begin(scene: Scene) -> subprocess.Popen:
    """Start a refresh that has much to do, and wait until it has made a tile."""
    shutil.rmtree(scene.results / "tiles")
    running = scene.command("refresh", "--cores", "1")
    while not any(scene.results.glob("tiles/*.tif")):
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    return running


def test_refresh_that_is_stopped_stops_all_and_the_next_goes_on(base, scene):
    running = begin(scene)
    running.terminate()
    _, said = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGTERM
    assert said == "basemake refresh: stopped; the next one goes on\n"
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(scene.directory) in " ".join(process.info["cmdline"] or [])
    ]
    assert len(list(scene.results.glob("tiles/*.tif"))) < 3

    assert "0 tiles updated, 0 new, 0 gone; built " in scene.says("refresh")
    assert scene.lasting() == base.lasting()


def test_refresh_that_is_stopped_while_it_plans_builds_nothing(scene):
    """The polygon is a named pipe, so that each process that reads it waits for the test."""
    shutil.rmtree(scene.results / "tiles")
    polygon = scene.directory / "first.geojson"
    content = polygon.read_bytes()
    polygon.unlink()
    os.mkfifo(polygon)
    running = scene.command("refresh")
    reads = 0  # of the refresh itself: once to know the build, and once in the dry run
    while reads < 2:
        with polygon.open("wb") as pipe:
            reads += running.pid in readers(running, polygon)
            if reads == 2:
                running.terminate()
            pipe.write(content)
        while readers(running, polygon):
            time.sleep(0.01)
    out, said = running.communicate()
    assert (running.returncode, out) == (-signal.SIGTERM, "")
    assert said == "basemake refresh: stopped; the next one goes on\n"
    assert not (scene.results / "tiles").exists()


def readers(running: subprocess.Popen, path: Path) -> set[int]:
    """The processes of a run that have a file open."""
    found = set()
    with suppress(psutil.NoSuchProcess):
        head = psutil.Process(running.pid)
        for process in (head, *head.children(recursive=True)):
            for file in Path(f"/proc/{process.pid}/fd").glob("*"):
                with suppress(OSError):
                    found |= {process.pid} if file.samefile(path) else set()
    return found


def test_snakemake_that_outlives_its_refresh_keeps_the_lock(base, scene):
    running = begin(scene)
    (snakemake,) = psutil.Process(running.pid).children()
    snakemake.suspend()  # so that it cannot end before the second refresh begins
    running.kill()
    running.wait()
    assert scene.call("refresh").returncode == 75
    snakemake.resume()
    with (scene.directory / ".basemake/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # blocks until snakemake has ended
    running.communicate()
    assert scene.says("refresh") == ""
    assert scene.lasting() == base.lasting()


def test_units_in_the_docs(tmp_path):
    text = (CHECKOUT / "docs/operations.md").read_text()
    blocks = re.findall(
        r"^    # (basemake-alps\.\w+)\n((?:    .*\n|\n(?=    ))+)", text, re.MULTILINE
    )
    units = {name: textwrap.dedent(block) for name, block in blocks}
    assert set(units) == {"basemake-alps.service", "basemake-alps.timer"}
    script = re.search(r"%h/basemake/(scripts/\S+)", units["basemake-alps.service"])[1]
    assert (CHECKOUT / script).is_file()
    if not shutil.which("systemd-analyze"):
        return  # without systemd-analyze only the units' text is checked
    for name, unit in units.items():
        # The .venv that the page names does not exist here.
        (tmp_path / name).write_text(unit.replace("%h/basemake/.venv/bin/python", sys.executable))
    paths = [str(tmp_path / name) for name in units]
    done = subprocess.run(
        ["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
