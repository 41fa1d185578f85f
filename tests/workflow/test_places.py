"""Where checkout and working directory are, and how the user's shell is set up, changes no byte."""

import os
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from runs import Scene, copy_of_checkout

UNLIKE = {"LANG": "C", "LC_ALL": "C", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with spaces, a quote and letters beyond ASCII in its name."""
    folder = tmp_path / "Käse & Brot's 地图"
    folder.mkdir()
    return folder


@pytest.fixture
def interpreter(place: Path) -> str:
    """This Python, in a place like that of a checkout's own."""
    (place / ".venv").symlink_to(sys.prefix)
    return str(place / ".venv/bin/python")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_files_in_a_place_unlike_others(
    north: Scene, place: Path, interpreter: str
) -> None:
    """Nothing is written to the checkout, which may be read-only."""
    scene = replace(north.copy(place / "map"), interpreter=interpreter, environment=UNLIKE)
    scene.checkout = copy_of_checkout(place / "checkout")
    for name in ("results", "logs", "benchmarks", ".snakemake", ".basemake"):
        shutil.rmtree(scene.directory / name)
    before, umask = contents(scene.checkout), os.umask(0o077)
    try:
        *_, last = scene.build().splitlines()
    finally:
        os.umask(umask)
    assert scene.lasting() == north.lasting()
    # The command that it ends with can be copied.
    _, folder, _, results = shlex.split(last.removeprefix("To look at it:  make"))
    assert folder == str(scene.checkout)
    assert shlex.split(results.removeprefix("RESULTS=")) == [str(scene.results)]
    assert contents(scene.checkout) == before
    # With so long a path of temporary files jobs are not forks.
    (place / ("t" * 120)).mkdir()
    scene.environment = {**UNLIKE, "TMPDIR": str(place / ("t" * 120))}
    assert scene.jobs("--cores", "2", "--forcerun", "build_preview") == {"build_preview first"}
    assert scene.lasting() == north.lasting()
