"""Whole runs that keep neither bands nor enhanced tiles, and drafts."""

import json
from pathlib import Path

from expected import all_of_pyramid, enhancing, fetching, paging, tiles_of
from runs import Scene, lay_out

NOTHING_KEPT = {"keep_bands": False, "keep_tiles": False}


def test_without_tiles_the_map_is_the_same_and_its_disk_is_small(
    north: Scene, tmp_path: Path
) -> None:
    small = Scene(tmp_path / "small", {**north.config, **NOTHING_KEPT})
    small.directory.mkdir()
    for path in (*north.directory.glob("*.geojson"), north.directory / "source.yaml"):
        (small.directory / path.name).write_bytes(path.read_bytes())
    (small.directory / "catalog").symlink_to(north.directory / "catalog")
    small.run("manifest")
    planned = json.loads(small.says("plan", "--json"))
    small.run("--cores", "2")
    assert "Nothing to be done" in small.run("--cores", "2")
    same = ("preview/index.html", "preview/*.webp", "web/*/*.html")
    for pattern in ("metatiles/**/*", "pyramid/*", *same):
        assert small.files(pattern) == north.files(pattern)
    # The page has no links to tiles that are not kept.
    page, whole = ((s.results / "preview/first.html").read_text() for s in (small, north))
    assert page == whole.replace('"tiles": "../tiles/"', '"tiles": null')
    for folder in ("bands", "tiles", "mosaic"):
        assert not small.files(f"{folder}/**/*")
        assert planned["stages"].get(folder, {}).get("disk_after_bytes", 0) == 0
    assert planned["disk"]["after_bytes"] < planned["disk"]["peak_bytes"]

    # What changes web tiles makes tiles, and so bands, again: the plan says so.
    small.config["pyramid"] = {**small.config["pyramid"], "quality": 60}
    tiles = tiles_of(small, "first")
    expected = fetching(tiles) | enhancing(tiles) | all_of_pyramid(small)
    again = json.loads(small.says("plan", "--json"))
    assert again["stages"]["bands"]["stale"] == again["stages"]["tiles"]["stale"] == len(tiles)
    assert again["download"]["bytes"] == planned["download"]["bytes"]
    small.rebuild(expected, search=False)
    assert not small.files("tiles/*")
    small.config["recipe"] = "natural"
    again = json.loads(small.says("plan", "--json"))
    assert again["stages"]["tiles"]["why"] == {"recipe changed": len(tiles)}
    assert again["stages"]["bands"]["stale"] == len(tiles)


def test_tiles_that_are_no_longer_kept_are_orphans(north: Scene, tmp_path: Path) -> None:
    scene = north.copy(tmp_path / "scene")
    before = scene.lasting()
    scene.config |= NOTHING_KEPT
    # QGIS's layer showed the mosaic, the page links to tiles, and the catalog describes them.
    scene.rebuild({"build_web first", "build_stac", *paging()}, search=False)
    scene.says("prune", "--yes")
    for folder in ("bands", "tiles", "mosaic"):
        assert not scene.files(f"{folder}/**/*.tif")
    assert "Nothing to be done" in scene.run("--cores", "2")
    scene.config |= {"keep_bands": True, "keep_tiles": True}
    scene.run("--cores", "2")
    assert scene.lasting() == before


def test_a_cog_is_made_without_keeping_tiles(north: Scene, tmp_path: Path) -> None:
    scene = north.copy(tmp_path / "scene")
    scene.config["pyramid"] = {**scene.config["pyramid"], "outputs": ["cog"]}
    scene.run("--cores", "2")
    cog = scene.files("pyramid/*.tif")
    scene.config |= NOTHING_KEPT
    (scene.results / "pyramid/first.tif").unlink()
    scene.says("prune", "--yes")
    scene.run("--cores", "2")
    assert scene.files("pyramid/*.tif") == cog
    assert not scene.files("tiles/*") | scene.files("bands/*/*")


def test_a_draft_is_a_map_of_the_region_in_a_folder_of_its_own(tmp_path: Path) -> None:
    scene = lay_out(tmp_path)
    scene.config |= {"keep_bands": False, "pyramid": {"max_zoom": "auto"}}
    done = scene.call("draft", "--cores", "2")
    assert done.returncode == 0, done.stderr
    assert f" serve RESULTS={tmp_path / 'draft/results'}\n" in done.stderr
    draft = tmp_path / "draft"
    assert (draft / "results/preview/first.html").exists()
    assert {path.stem for path in (draft / "results/tiles").iterdir()} == tiles_of(scene, "first")
    assert not (tmp_path / "results/bands").exists()
    # Looks can be chosen before anything else is fetched, even where the build keeps no bands.
    assert "first in 4 recipes" in scene.says("looks")
    # The second time only what changed is made.
    scene.config |= {"recipe": "natural", "source": str(tmp_path / "source.yaml")}
    again = scene.call("draft", "--cores", "2").stderr
    assert "enhance_tile" in again
    assert "fetch_bands" not in again
    assert "build_preview" in again
