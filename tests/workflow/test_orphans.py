"""Pruning deletes the files that a changed build no longer needs, and no others."""

import fcntl
import json
import re

import pytest
from runs import CHECKOUT, EDGE, TIP, Scene

from basemake.build.records import record_of


@pytest.fixture
def base(north) -> Scene:
    return north


OUTPUTS = ["pmtiles", "mbtiles", "folder", "cog"]


def graph(scene: Scene) -> dict[str, list[str]]:
    """Return the files and rules in the graph of jobs, and the rules in the table of costs."""
    script = f"""
import json, sys
sys.path.insert(0, {str(CHECKOUT / "scripts")!r})
from basemake.engine.open_build import open_build
from basemake.forecast.costs import COSTS
graph = open_build(sys.argv[1:]).graph()
print(json.dumps({{
    "outputs": [str(path) for job in graph.jobs for path in (*job.outputs, *job.records)],
    "logs": [str(job.log) for job in graph.jobs],
    "benchmarks": [str(job.benchmark) for job in graph.jobs],
    "rules": [*graph.stages],
    "costs": [*COSTS],
}}))
"""
    return json.loads(scene.python(["-c", script]).communicate()[0])


def test_each_rule_that_makes_files_has_a_cost(scene):
    known = graph(scene)
    assert {*known["rules"]} == {*known["costs"]}


def test_graph_names_all_files_that_a_build_writes(scene):
    exports = [rule for rule in graph(scene)["rules"] if rule.startswith("export_")]
    scene.config["pyramid"]["outputs"] = [rule.removeprefix("export_") for rule in exports]
    scene.run("--cores", "4")
    known = graph(scene)
    folder, catalog = scene.results / "pyramid/first", scene.results / "stac"
    written = {path for path in scene.results.rglob("*") if not path.is_dir()}
    assert folder / ".snakemake_timestamp" not in written
    inside = {path for path in written if {folder, catalog} & {*path.parents}}
    written = written - inside | {folder, catalog}
    manifest = "results/manifest.geojson"
    names = {str(path.relative_to(scene.directory)) for path in written} - {manifest}
    assert {*known["outputs"]} == names
    for place in ("logs", "benchmarks"):
        files = [path for path in (scene.directory / place).rglob("*") if path.is_file()]
        assert {*known[place]} == {str(path.relative_to(scene.directory)) for path in files} - {
            "logs/manifest.log"
        }
    # Prune relies on this to find the benchmark of a job whose log a record names.
    for log, benchmark in zip(known["logs"], known["benchmarks"], strict=True):
        assert benchmark == log.replace("logs/", "benchmarks/").replace(".log", ".tsv")


def test_what_leaves_jobs_out_or_builds_nothing_is_refused(scene):
    """Else the files of jobs that were left out would be deleted."""
    before = scene.content()
    for command, *arguments in (
        ("prune", "--yes", "--allowed-rules", "all"),
        ("refresh", "--prune", "--until", "enhance_tile"),
        ("refresh", "--prune", "--touch"),
    ):
        done = scene.call(command, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert scene.content() == before


def test_prune_after_a_tile_left(scene):
    assert scene.says("prune") == "nothing to prune\n"
    scene.drop(EDGE)
    scene.build(cores=4)
    users = ["results/tiles/mine.tif", f"results/bands/{EDGE}/notes.txt", "logs/mine.log"]
    users.append(f"results/tiles/{EDGE}.tif.aux.xml")
    for path in users:
        (scene.directory / path).write_text("mine")
    before = scene.content()

    listed = scene.says("prune")
    assert re.search(rf"^tiles +1 +[\d.]+ [kM]B  {EDGE}$", listed, re.MULTILINE)
    assert re.search(rf"^bands +3 .*{EDGE}/B02, {EDGE}/B03, {EDGE}/B04$", listed, re.MULTILINE)
    assert f"{EDGE}.tif.aux.xml" in listed
    assert "--yes" in listed.splitlines()[-1]
    assert scene.content() == before

    assert "deleted" in scene.says("prune", "--yes")
    after = scene.content()
    gone = before.keys() - after.keys()
    outputs = {
        f"results/tiles/{EDGE}.tif",
        f"results/metatiles/first/{TIP}.pmtiles",
        f"results/metatiles/first/{TIP}.tif",
        *(f"results/bands/{EDGE}/{band}.tif" for band in ("B02", "B03", "B04")),
    }
    assert {path for path in gone if not path.startswith(".")} == {
        *outputs,
        *(str(record_of(output)) for output in outputs),
        *(
            f"{place}/{job}.{end}"
            for place, end in (("logs", "log"), ("benchmarks", "tsv"))
            for job in (
                f"tiles/{EDGE}",
                f"metatiles/first/{TIP}",
                f"bands/{EDGE}",
            )
        ),
    }
    assert not any(path.startswith(".snakemake/metadata/") for path in before), "none is written"
    assert after == {path: data for path, data in before.items() if path not in gone}
    assert set(users) < after.keys()
    assert scene.jobs("--dry-run") == set()
    assert scene.says("prune", "--yes") == "nothing to prune\n"


def test_bands_that_are_no_longer_kept(scene):
    scene.config["keep_bands"] = False
    assert re.search(r"^bands +9 ", scene.says("prune"), re.MULTILINE)
    scene.config["recipe"] = "natural"
    assert scene.says("prune") == "nothing to prune\n", "the next run needs them"
    del scene.config["recipe"]
    scene.says("prune", "--yes")
    assert not (scene.results / "bands").exists()
    assert scene.jobs("--dry-run") == set()
    scene.config["recipe"] = "natural"
    scene.run("--cores", "4")
    assert not scene.files("bands/**/*")


def test_prune_after_an_output_and_a_region_left(scene):
    scene.config["pyramid"]["outputs"] = OUTPUTS
    scene.config["regions"]["other"] = "other.geojson"
    scene.build(cores=4)
    del scene.config["pyramid"]["outputs"], scene.config["regions"]["other"]
    done = scene.call("prune", "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("basemake prune: the regions have (other) changed since")
    assert len(done.stderr.splitlines()) == 1
    scene.build(cores=4)
    scene.says("prune", "--yes")
    assert {path.name for path in (scene.results / "pyramid").iterdir()} == {"first.pmtiles"}
    assert not any("other" in path for path in scene.content())
    assert not (scene.results / "metatiles/other").exists()
    assert scene.jobs("--dry-run") == set()


def test_prune_without_a_manifest(base, tmp_path):
    scene = base.copy(tmp_path / "scene")
    (scene.results / "manifest.geojson").unlink()
    done = scene.call("prune", "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("basemake prune: there is no results/manifest.geojson yet")
    assert len(done.stderr.splitlines()) == 1


def test_prune_deletes_nothing_while_another_runs(scene):
    scene.drop(EDGE)
    scene.run("manifest")
    before = scene.content()
    with (scene.directory / ".basemake/lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = scene.call("prune", "--yes")
        assert EDGE in scene.says("prune")
    assert done.returncode == 1
    assert done.stderr.startswith(f"basemake prune: a run is going on in {scene.directory}:")
    assert len(done.stderr.splitlines()) == 1
    assert scene.content() == before
