"""The staleness table: after each kind of change, exactly the jobs that it calls for.

Each row is a build that is changed. The jobs that a dry-run lists, and those that a run then
executes, are held against a list made from the geometry alone; all outputs against a build from
nothing.

Here: settings, code, and what is done by hand; the rest is in test_staleness.py.
"""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from expected import (
    all_of_pyramid,
    enhancing,
    metatiles,
    mosaicking,
    packing,
    rendering,
    showing,
    tiles_of,
)
from runs import BY_TIME, CHECKOUT, EDGE, TIP

# -- Settings --------------------------------------------------------------------------------------


def test_recipe(scene, from_nothing):
    scene.config["recipe"] = "simple-gain"
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene))
    assert scene.lasting() == from_nothing(scene)


@pytest.mark.parametrize("option", [{"quality": 60}, {"format": "png"}, {"resampling": "nearest"}])
def test_web_tiles(scene, option):
    scene.config["pyramid"] |= option
    # The mosaic's view in Web Mercator resamples, too.
    mosaic = mosaicking(tiles_of(scene, "first")) if "resampling" in option else set()
    assert scene.jobs("--dry-run") == all_of_pyramid(scene) | mosaic


def test_quality(scene, from_nothing):
    scene.config["pyramid"]["quality"] = 60
    scene.rebuild(all_of_pyramid(scene))
    assert scene.lasting() == from_nothing(scene)


def test_tile_codec(scene, from_nothing):
    """Tiles are written anew, of the same pixels: metatiles are not rendered."""
    scene.config["tile_codec"] = "zstd"
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene))
    for metatile in metatiles(scene):
        log = (scene.directory / f"logs/metatiles/first/{metatile}.log").read_text()
        assert "nothing to render" in log
    assert scene.lasting() == from_nothing(scene)


def test_max_zoom(scene, from_nothing):
    scene.config["pyramid"]["max_zoom"] += 1
    # The mosaic's view has the pixels of the top zoom.
    scene.rebuild(all_of_pyramid(scene) | mosaicking(tiles_of(scene, "first")))
    assert scene.lasting() == from_nothing(scene)


def test_another_quarter_is_refused(base, scene):
    scene.config["quarter"] = "2025Q2"
    for arguments in (["manifest"], ["--cores", "2"], ["--dry-run"]):
        printed = scene.run(*arguments, check=False)
        assert "this working directory holds 2025Q3, and 2025Q2 is asked for" in printed
        assert "--directory" in printed
        assert "Traceback" not in printed
    assert scene.lasting() == base.lasting()


# -- Code ------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the workflow, to be edited."""
    copy = tmp_path / "checkout"
    for name in ("rules", "scripts", "config", "envs", "profiles"):
        shutil.copytree(CHECKOUT / name, copy / name)
    shutil.copy(CHECKOUT / "Snakefile", copy)
    return copy


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_code_that_only_looks_new(scene, checkout):
    for path in checkout.glob("scripts/**/*.py"):
        path.write_text(re.sub(r'^"""', '"""New words. ', path.read_text()) + "\n\n# A comment.\n")
    assert replace(scene, checkout=checkout).jobs("--dry-run") == set()


def test_script_edited(scene, checkout, from_nothing):
    edit(checkout / "scripts/render_overview.py", "encode(image)", "encode(255 - image)")
    scene = replace(scene, checkout=checkout)
    scene.rebuild(packing())
    assert scene.lasting() == from_nothing(scene)


def test_shared_module_edited(scene, checkout, from_nothing):
    edit(checkout / "scripts/basemake/recipe.py", "np.floor(255 * table", "np.floor(250 * table")
    scene = replace(scene, checkout=checkout)
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene))
    assert scene.lasting() == from_nothing(scene)


def test_tiles_made_again_alike_end_there(base, scene, checkout):
    """Early cut-off: Snakemake has planned all that follows, but metatiles are not rendered."""
    path = checkout / "scripts/basemake/recipe.py"
    path.write_text(path.read_text() + "\nNOTHING = 0\n")
    scene = replace(scene, checkout=checkout)
    tiles = tiles_of(scene, "first")
    scene.rebuild(enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene))
    for metatile in metatiles(scene):
        log = (scene.directory / f"logs/metatiles/first/{metatile}.log").read_text()
        assert "nothing to render" in log
    assert scene.jobs("--dry-run", *BY_TIME) == set(), "they are newer than their tiles"
    assert scene.lasting() == base.lasting()


# -- By hand ---------------------------------------------------------------------------------------


def test_tile_deleted(base, scene):
    (scene.results / f"tiles/{EDGE}.tif").unlink()
    touched = rendering(showing(scene, [EDGE]))
    scene.rebuild(enhancing([EDGE]) | mosaicking([EDGE]) | touched | packing())
    assert scene.lasting() == base.lasting()


def test_tile_truncated(base, scene):
    tile = scene.results / f"tiles/{EDGE}.tif"
    tile.write_bytes(tile.read_bytes()[:-4000])
    touched = rendering(showing(scene, [EDGE]))
    assert scene.jobs("--dry-run") == mosaicking([EDGE]) | touched | packing()
    printed = scene.run("--cores", "4", check=False)
    assert f"the enhanced tile results/tiles/{EDGE}.tif cannot be read" in printed
    assert "delete it and run again to make it anew" in printed
    tile.unlink()
    scene.run("--cores", "4")
    assert scene.lasting() == base.lasting()


@pytest.mark.parametrize("suffix", [".pmtiles", ".png"])
def test_metatile_deleted(base, scene, suffix):
    (scene.results / f"metatiles/first/{TIP}{suffix}").unlink()
    expected = rendering([TIP]) | packing()
    scene.rebuild(expected)
    assert scene.lasting() == base.lasting()


def test_archive_deleted(base, scene):
    (scene.results / "pyramid/first.pmtiles").unlink()
    scene.rebuild({"pack_pyramid first", "build_preview first"})
    assert scene.lasting() == base.lasting()


def test_times_lost_by_a_copy(base, scene):
    """As `cp -r` leaves them: what was made first may be the newest. One command heals it."""
    later = 1_700_000_000
    for number, stage in enumerate(("preview", "pyramid", "metatiles", "mosaic", "tiles", "bands")):
        for path in (scene.results / stage).rglob("*"):
            os.utime(path, (later + number, later + number))
    assert scene.jobs("--dry-run") == set(), "small files are compared by content"
    tiles = tiles_of(scene, "first")
    everything = enhancing(tiles) | mosaicking(tiles) | all_of_pyramid(scene)
    assert scene.jobs("--dry-run", *BY_TIME) == everything
    scene.run("--cores", "1", "--touch", *BY_TIME)
    assert scene.jobs("--dry-run", *BY_TIME) == set()
    assert scene.lasting() == base.lasting()
