"""One run at a time changes a working directory, and none while jobs of a killed run remain."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event

import psutil
import pytest
import yaml
from runs import CHECKOUT, EDGE, SOURCE, Scene

from servers import FaultyServer

BAND = f"bands/{EDGE}/B04.tif"
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile")]
GOES_ON = "was killed; this run goes on where it stopped."


@pytest.fixture
def base(north) -> Scene:
    return north


class Gate:
    """Makes the server hold requests for a band until the gate is opened."""

    def __init__(self, server: FaultyServer) -> None:
        self.reached, self.opened = Event(), Event()
        server.protect("/", self._pass)

    def _pass(self, _: object) -> bool:
        self.reached.set()
        return self.opened.wait(600)


@pytest.fixture
def gate(scene: Scene) -> Iterator[Gate]:
    """The gate before one band of `scene`, which a run must download and enhance again."""
    with FaultyServer() as server:
        items = scene.items
        item = next(item for item in items if item["id"].endswith(EDGE))
        asset = item["assets"]["B04"]
        server.files["/B04.tif"] = (scene.directory / "catalog" / asset["href"]).read_bytes()
        asset["href"] = f"{server.url}/B04.tif"
        scene.items = items
        patient = {"hosts": [server.host], "limits": {"stall": {"seconds": 600}}}
        (scene.directory / "source.yaml").write_text(yaml.safe_dump({**SOURCE, **patient}))
        scene.run("manifest")
        for gone in (BAND, f"tiles/{EDGE}.tif"):
            (scene.results / gone).unlink()
        gate = Gate(server)
        yield gate
        gate.opened.set()


def begin(scene: Scene, gate: Gate) -> subprocess.Popen:
    """Start a build, and wait until its download waits at the gate."""
    running = scene.start("--cores", "2")
    assert gate.reached.wait(120)
    return running


def locks(scene: Scene) -> dict[str, bytes]:
    """Return Snakemake's lock files and ours."""
    paths = [*scene.directory.glob(".snakemake/locks/*"), scene.directory / ".basemake/lock"]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def ended(running: subprocess.Popen) -> tuple[int, str]:
    printed, _ = running.communicate(timeout=300)
    return running.returncode, printed


def refusal(scene: Scene, *arguments: str) -> str:
    """Return the one sentence with which a run of snakemake is refused."""
    status, printed = ended(scene.start(*arguments))
    assert status == 1, printed
    assert "Traceback" not in printed
    (sentence,) = [line for line in printed.splitlines() if line.startswith("basemake:")]
    return sentence


def kill_all(running: subprocess.Popen) -> None:
    """Kill a run with all of its jobs, as a power failure does, and wait until they are gone."""
    group = [process for process in psutil.process_iter() if _group(process) == running.pid]
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    psutil.wait_procs(group)


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def started(pid: int) -> str:
    """Return the time at which a process started, as the lock file gives it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def edit_owner(scene: Scene, **said: object) -> None:
    """Change what the lock file states about the run that was killed."""
    lock = scene.directory / ".basemake/lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), **said}))


def test_while_a_build_runs_nothing_else_changes_the_directory(base, scene, gate):
    running = begin(scene, gate)
    before, content = locks(scene), scene.content()
    assert before.keys() >= {"0.input.lock", "0.output.lock"}
    sentence = f"a run is going on in {scene.directory} (pid {running.pid} on {platform.node()})"
    for arguments in (
        ("manifest",),
        ("compare_codecs",),
        ("--cores", "1"),
        ("--cores", "1", "--forcerun", "build_vrt", "--", "results/mosaic/first.vrt"),
        ("--touch",),
    ):
        assert sentence in refusal(scene, *arguments)
        assert locks(scene) == before
    for name, options, status in (("prune", ["--yes"], 1), ("refresh", [], 75)):
        done = scene.call(name, *options)
        assert done.returncode == status
        assert done.stderr.startswith(f"basemake {name}: {sentence}")
        assert len(done.stderr.splitlines()) == 1
        assert locks(scene) == before
    # As the README calls it: without --directory.
    done = subprocess.run(
        [*SNAKEMAKE, "manifest", "--configfile", "config.yaml"],
        cwd=scene.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    # Commands that change nothing still work, and so does --nolock.
    for arguments in (
        ("--dry-run",),
        ("--summary",),
        ("--list",),
        ("--lint",),
    ):
        scene.run(*arguments)
    assert "unchanged" in scene.run("manifest", "--nolock")
    scene.says("prune")
    assert scene.call("plan").returncode == 0
    assert locks(scene) == before
    after = scene.content()
    changed = {path for path in after if content.get(path) != after[path]}
    assert changed == {"results/plan.png"}

    gate.opened.set()
    status, printed = ended(running)
    assert status == 0, printed
    assert scene.lasting() == base.lasting()
    assert "Nothing to be done" in scene.run("--cores", "2")


def test_while_a_search_runs_no_build_begins(base, scene):
    items = scene.directory / "catalog/items.json"
    content = items.read_bytes()
    items.unlink()
    os.mkfifo(items)
    (scene.results / "pyramid/first.pmtiles").unlink()
    searching = scene.start("manifest")
    try:
        while True:
            try:
                pipe = os.open(items, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:  # nobody reads yet
                assert searching.poll() is None, searching.communicate()
                time.sleep(0.01)
        with os.fdopen(pipe, "wb") as file:
            os.set_blocking(pipe, True)
            before = locks(scene)
            assert f"(pid {searching.pid} on " in refusal(scene, "--cores", "2")
            assert locks(scene) == before
            file.write(content)
        assert ended(searching)[0] == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(searching.pid, signal.SIGKILL)
        searching.communicate()
    assert GOES_ON not in scene.run("--cores", "2")
    assert scene.lasting() == base.lasting()


def test_after_a_kill_the_next_run_goes_on(base, scene, gate, tmp_path):
    killed = begin(scene, gate)
    kill_all(killed)
    gate.opened.set()
    paths = [*scene.directory.glob(".snakemake/locks/*"), scene.directory / ".basemake/lock"]
    left = {path: path.read_bytes() for path in paths if path.exists()}

    def goes_on(printed: str, pid: int) -> None:
        lines = [line for line in printed.splitlines() if line.startswith("basemake:")]
        assert lines == [f"basemake: the last run in {scene.directory} (pid {pid}) {GOES_ON}"]
        assert locks(scene) == {"lock": b""}
        for path, content in left.items():  # as the kill left them
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)

    goes_on(scene.run("manifest"), killed.pid)
    done = scene.call("prune", "--yes")
    assert (done.returncode, done.stdout) == (0, "nothing to prune\n")
    goes_on(done.stderr, killed.pid)
    # A run of an earlier boot, whose pid this process may have now.
    edit_owner(scene, boot="earlier", pid=os.getpid(), started=started(os.getpid()))
    goes_on(scene.run("--cores", "2"), os.getpid())
    assert scene.lasting() == base.lasting()


def test_a_job_that_outlives_its_run_keeps_others_out(base, scene, gate):
    running = begin(scene, gate)
    jobs = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait()
    before = locks(scene)
    for sentence in (refusal(scene, "--cores", "2"), refusal(scene, "manifest")):
        assert f"a job of a killed run is still running in {scene.directory}" in sentence
        assert any(str(job.pid) in sentence for job in jobs)
    for name, status in (("prune", 1), ("refresh", 75)):
        done = scene.call(name, *(["--yes"] if name == "prune" else []))
        assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)
    assert locks(scene) == before
    gate.opened.set()
    psutil.wait_procs(jobs)
    running.communicate()
    assert GOES_ON in scene.run("--cores", "2")
    assert scene.lasting() == base.lasting()


def test_a_refresh_whose_snakemake_was_killed_fails_and_the_next_goes_on(base, scene, gate):
    running = scene.command("refresh")
    assert gate.reached.wait(120)
    below = psutil.Process(running.pid).children(recursive=True)
    for process in below:
        process.kill()
    psutil.wait_procs(below)
    _, said = running.communicate()
    assert running.returncode == 1
    assert "the build failed, and the next refresh goes on with it" in said
    gate.opened.set()
    done = scene.call("refresh")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"basemake: the last run in {scene.directory} (pid {running.pid}) {GOES_ON}"
    ]
    assert scene.lasting() == base.lasting()


def test_the_user_decides_if_it_is_not_certain_that_a_run_was_killed(base, scene, gate):
    kill_all(begin(scene, gate))
    gate.opened.set()
    lock = scene.directory / ".basemake/lock"
    left = lock.read_text()
    for unsure in (
        {"boot": "another", "host": "elsewhere"},
        {"boot": "another", "machine": "a namesake"},
        {"jobs_elsewhere": True},
        # The run is alive but its lock is free, as on a file system without locks.
        {"pid": os.getpid(), "started": started(os.getpid())},
        None,  # no record
    ):
        lock.write_text(left)
        if unsure:
            edit_owner(scene, **unsure)
        else:
            lock.write_text("")
        before = locks(scene)
        sentence = refusal(scene, "manifest")
        assert f"{scene.directory} is locked by a snakemake" in sentence
        assert (f"(pid {os.getpid()} on " in sentence) == bool(unsure and "pid" in unsure)
        assert "--unlock" in sentence
        assert locks(scene) == before
    assert refusal(scene, "--cores", "2") == sentence
    done = scene.call("refresh")
    assert done.returncode == 75
    assert "--unlock" in done.stderr
    assert locks(scene) == before
    scene.run("--unlock")
    assert GOES_ON not in scene.run("--cores", "2")
    assert scene.lasting() == base.lasting()


def test_a_directory_that_cannot_be_locked_is_named(base, tmp_path):
    scene = base.copy(tmp_path / "scene")
    (scene.directory / ".basemake/lock").unlink(missing_ok=True)
    (scene.directory / ".basemake/lock").mkdir(parents=True)
    assert f"{scene.directory} cannot be locked: Is a directory" in refusal(scene, "manifest")
    scene.run("--dry-run")
    done = scene.call("refresh")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
