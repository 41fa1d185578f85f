"""Each fault in turn: a job or a run fails while it makes what a change has made stale.

After the fault one plain run must make all that a build from nothing makes, byte for byte, and a
further one nothing. The table has each rule, moment, kind of fault and change at least once. With
BASEMAKE_ALL_FAULTS=1 in the environment it has all their combinations, which takes hours.
"""

import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from itertools import product

import pytest
from faults import KINDS, MOMENTS, RULES, Fault, differences, fails, join, small_region
from runs import EDGE, NORTH, TIP, Scene

CHANGES: dict[str, Callable[[Scene], object]] = {
    "item updated": lambda scene: scene.edit_bands(EDGE),
    "tile joined": join,
    "tile left": lambda scene: scene.drop(EDGE),
    "recipe": lambda scene: scene.config.update(recipe="simple-gain"),
    "fill": lambda scene: scene.config.update(fill=["2025Q2"]),
    "polygon": lambda scene: scene.draw("first", [(18.75, 44.2), *NORTH[1:]]),
    "quality": lambda scene: scene.config["pyramid"].update(quality=60),
    "min_zoom": lambda scene: scene.config["pyramid"].update(min_zoom=8),
}
# What belongs to the tile that leaves: the names of its files, its metatile's and its zone's.
ORPHANS = (EDGE, TIP, "first_32634")

PIXELS = {"item updated", "tile joined", "recipe", "fill"}
MAP = {*PIXELS, "tile left", "polygon", "quality"}
STALE_AFTER = {
    "fetch_bands": {"item updated", "tile joined", "fill"},
    "enhance_tile": PIXELS,
    "build_zone_vrt": PIXELS,
    "build_vrt": {*PIXELS, "tile left"},
    "render_metatile": MAP,
    "export_cog": MAP,
}

ROWS = [
    # rule, moment, kind of fault, change, --keep-going
    ("fetch_bands", "middle", "kill", "tile joined", True),
    ("fetch_bands", "after", "kill all", "item updated", False),
    ("fetch_bands", "recording", "kill", "fill", True),
    ("enhance_tile", "before", "full disk", "recipe", True),
    ("enhance_tile", "middle", "exception", "item updated", False),
    ("enhance_tile", "recording", "kill all", "fill", False),
    ("build_zone_vrt", "middle", "full disk", "item updated", False),
    ("build_vrt", "recording", "exception", "tile left", True),
    ("render_metatile", "middle", "full disk", "polygon", False),
    ("render_metatile", "middle", "kill all", "quality", False),
    ("render_metatile", "after", "kill", "tile left", True),
    ("render_overview", "after", "exception", "min_zoom", False),
    ("render_overview", "recording", "full disk", "quality", True),
    ("pack_pyramid", "before", "full disk", "min_zoom", False),
    ("pack_pyramid", "middle", "kill all", "polygon", False),
    ("export_mbtiles", "middle", "kill", "min_zoom", True),
    ("export_folder", "before", "kill all", "min_zoom", False),
    ("export_folder", "recording", "kill", "quality", True),
    ("export_cog", "before", "kill", "polygon", True),
    ("export_cog", "middle", "exception", "tile left", False),
    ("build_preview", "middle", "exception", "min_zoom", True),
    ("build_preview", "after", "kill", "quality", False),
    ("build_web", "middle", "kill", "quality", True),
    ("build_index", "recording", "kill", "min_zoom", False),
    ("build_stac", "middle", "kill all", "quality", False),
]
if os.environ.get("BASEMAKE_ALL_FAULTS"):
    ROWS = [
        (*fault, change, keep_going)
        for fault in product(RULES, MOMENTS, KINDS)
        for change in CHANGES
        for keep_going in (False, True)
        if Fault(*fault).is_possible() and change in STALE_AFTER.get(fault[0], CHANGES)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Scene:
    scene = small_region(tmp_path_factory.mktemp("base"))
    scene.build(cores=4)
    return scene


@pytest.fixture(scope="module")
def changed(base, from_nothing, tmp_path_factory):
    """A function of changes: the base with them, searched again, and what must come of it."""

    @cache
    def change(*names: str) -> tuple[Scene, dict[str, bytes]]:
        scene = base.copy(tmp_path_factory.mktemp("changed") / "scene")
        for name in names:
            CHANGES[name](scene)
        scene.run("manifest")
        return scene, from_nothing(scene)

    return change


@pytest.fixture
def after(changed, tmp_path):
    """A function of changes: a copy of the base with them, and a function that sees it healed."""

    def copy(*names: str) -> tuple[Scene, Callable[[], None]]:
        original, fresh = changed(*names)
        scene = original.copy(tmp_path / "scene")

        def heals() -> None:
            scene.run("--cores", "4")
            made = scene.lasting()
            orphans = {p for p in made.keys() - fresh.keys() if any(name in p for name in ORPHANS)}
            wrong = differences(made, fresh) - orphans
            assert not wrong, f"not as from nothing: {', '.join(sorted(wrong))}"
            assert "Nothing to be done" in scene.run("--cores", "4")

        return scene, heals

    return copy


def name_row(row: tuple) -> str:
    *words, keep_going = row
    return ", ".join([*words, *(["keep going"] if keep_going else [])])


@pytest.mark.parametrize("row", ROWS, ids=name_row)
def test_fault(after, row):
    rule, moment, kind, change, keep_going = row
    scene, heals = after(change)
    arguments = ["--cores", "4", *(["--keep-going"] if keep_going else [])]
    assert Fault(rule, moment, kind).strikes(scene, *arguments), "the fault struck no job"
    heals()


def test_table_is_complete():
    for column, words in enumerate((RULES, MOMENTS, KINDS, CHANGES, (False, True))):
        assert {row[column] for row in ROWS} == set(words)


# -- Ways in which changes were once lost ----------------------------------------------------------


def test_downloads_of_an_updated_item_fail_once(after):
    scene, heals = after("item updated")
    catalog, away = scene.directory / "catalog", scene.directory / "away"
    item = next(path for path in catalog.iterdir() if path.name.endswith(EDGE))
    item.rename(away)
    fails(scene, "--cores", "4", "--keep-going")
    away.rename(item)
    heals()


def test_bands_are_deleted_before_their_tile_is_made(after):
    scene, heals = after("item updated")
    scene.run("--cores", "4", "--until", "fetch_bands")
    shutil.rmtree(scene.results / "bands")
    heals()


def test_snakemakes_own_records_are_deleted(after):
    scene, heals = after("recipe", "quality")
    shutil.rmtree(scene.directory / ".snakemake")
    heals()


def test_clock_is_set_back_between_two_steps(after):
    scene, heals = after("item updated")
    begin = time.time()
    scene.run("--cores", "4", "--until", "fetch_bands")
    for path in scene.results.rglob("*"):
        if path.stat().st_mtime >= begin:
            os.utime(path, (begin - 86400, begin - 86400))
    heals()
