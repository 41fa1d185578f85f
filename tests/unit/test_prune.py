"""Which files are orphans, and that no others are deleted."""

import json
from pathlib import Path

import pytest

from basemake.build.reasons import MISSING
from basemake.build.records import MadeOf, record_of, write_record
from basemake.engine.graph import Graph, Job
from prune import Orphans, delete, find_orphans, table

KEPT = "results/tiles/33TWM_0_0.tif"
GONE = "results/tiles/33TWN_0_0.tif"


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch) -> Path:
    directory = tmp_path / "maps"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def write(path: str, content: str = "x") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)
    return Path(path)


def log_of(output: str) -> str:
    place = output.removeprefix("results/")
    if place == "pyramid/alps":
        return "logs/pyramid/alps.folder.log"
    return f"logs/{place.rsplit('.', 1)[0].removesuffix('_3857')}.log"


class Notes:
    """Stands in for Snakemake's persistence, which locates its metadata."""

    _metadata_path, _incomplete_path = ".snakemake/metadata", ".snakemake/incomplete"

    def _record_path(self, folder: str, output: str) -> str:
        return f"{folder}/{output.replace('/', '@')}"


def note(output: str | Path, folder: str = "metadata") -> Path:
    """Write a file of Snakemake's metadata for an output."""
    return write(Notes()._record_path(f".snakemake/{folder}", str(output)))


def record(output: str) -> Path:
    """Write the record of an output that need not exist any more."""
    gone = not Path(output).exists()
    if gone:
        write(output)
    write_record(Path(output), MadeOf({}, {}, []), log_of(output))
    if gone:
        Path(output).unlink()
    return record_of(output)


def make(output: str) -> None:
    write(output)
    record(output)
    note(output)


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if not path.is_dir()}


def job(output: str) -> Job:
    log = Path(log_of(output))
    causes = None if Path(output).exists() else [MISSING]
    return Job("a_rule", "a", {}, [], [Path(output)], [], log, Path("b.tsv"), causes, 0, 0)


def orphans(*wanted: str) -> Orphans:
    return find_orphans(Graph([job(output) for output in wanted], {}, Notes()))


def prune(*wanted: str) -> set[str]:
    """Delete orphans; return the deleted files, without records and Snakemake's metadata."""
    before = files()
    delete(orphans(*wanted))
    deleted = {path for path in before - files() if not path.startswith(".snakemake")}
    return {path for path in deleted if not path.startswith("results/records/")}


def test_an_orphan_is_deleted_with_its_log_benchmark_record_and_empty_folders():
    make(KEPT)
    band = "results/bands/33TWN_0_0/B04.tif"
    make(band)
    log = write("logs/bands/33TWN_0_0/B04.log")
    benchmark = write("benchmarks/bands/33TWN_0_0/B04.tsv")
    assert prune(KEPT) == {band, str(log), str(benchmark)}
    assert files() == {KEPT, str(record(KEPT)), str(note(KEPT))}
    assert not Path("results/bands").exists()
    assert not Path("benchmarks/bands").exists()


def test_files_without_a_record_are_the_users():
    for path in (
        GONE,
        "results/tiles/mine.tif",
        "results/bands/33TWN_0_0/mine.tif",
        "results/bands/33TWN_0_0/mine.tif.part",
        "logs/tiles/33TWN_0_0.log",
    ):
        write(path)
    assert prune() == set()


def test_files_that_only_snakemakes_metadata_knows_are_another_workflows():
    for path in ("results/mine/a.tif", "results/tiles/a.csv", "results/manifest.geojson", "a.tif"):
        write(path)
        note(path)
    assert prune() == set()
    assert Path("a.tif").exists()


def test_a_record_of_a_file_outside_results_deletes_nothing():
    write("outside.tif")
    write("results/records/../../outside.tif.json", "{}")
    write("results/records/a.tif.json", "{}")
    assert prune() == set()
    assert Path("outside.tif").exists()


@pytest.mark.parametrize("name", ["/precious", "../../../../precious", "../kept.tif"])
def test_a_file_that_a_record_names_elsewhere_is_not_in_its_folder(tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text("x")
    kept = write("results/pyramid/kept.tif")
    folder = Path("results/pyramid/alps")
    folder.mkdir(parents=True)
    write_record(folder, MadeOf({}, {}, []))
    text = record_of(folder).read_text()
    named = str(precious) if name == "/precious" else name
    forged = {**json.loads(text), "names": [named]}
    del forged["sealed"]
    record_of(folder).write_text(json.dumps(forged))
    assert prune() == set()
    assert precious.exists()
    assert kept.exists()


def test_a_log_that_a_record_names_elsewhere_is_not_a_log(tmp_path):
    precious = tmp_path / "precious.log"
    precious.write_text("x")
    write(GONE)
    for log in (str(precious), "../precious.log", "logs/../../precious.log"):
        write_record(Path(GONE), MadeOf({}, {}, []), log)
        assert {file.path for file in orphans().files} == {Path(GONE)}
    assert prune() == {GONE}
    assert precious.exists()


def test_symlinks_are_never_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "33TWN_0_0.tif").write_text("x")
    record(GONE)
    Path("results/tiles").rmdir()
    Path("results/tiles").symlink_to(outside)
    found = orphans()
    delete(found)
    assert found.files == []
    assert found.left == [Path(GONE)]
    assert record_of(GONE).exists(), "a later prune must still know it"
    assert (outside / "33TWN_0_0.tif").exists()

    Path("results/tiles").unlink()
    Path("results/tiles").mkdir()
    Path(GONE).symlink_to(outside / "33TWN_0_0.tif")
    record(GONE)
    assert prune() == set()
    assert Path(GONE).is_symlink()
    assert (outside / "33TWN_0_0.tif").exists()


def test_nothing_is_deleted_where_results_is_a_symlink(tmp_path):
    (tmp_path / "disk").mkdir()
    Path("results").symlink_to(tmp_path / "disk")
    make(GONE)
    assert prune() == set()
    assert Path(GONE).exists()


def test_band_that_was_not_kept_leaves_its_log():
    band = "results/bands/33TWN_0_0/B04.tif"
    kept = record(band)
    assert prune(band) == set()
    assert kept.exists()
    write("logs/bands/33TWN_0_0/B04.log")
    assert prune() == {"logs/bands/33TWN_0_0/B04.log"}
    assert not kept.exists()


@pytest.mark.parametrize("known", ["killed", "failed"])
def test_an_interrupted_download_is_deleted(known):
    band = "results/bands/33TWN_0_0/B04.tif"
    write(f"{band}.part")
    write(f"{band}.part.json")
    log = write("logs/bands/33TWN_0_0/B04.log")
    if known == "killed":
        note(band, "incomplete")
        assert prune(band) == set()
    assert prune() == {f"{band}.part", f"{band}.part.json", str(log)}
    assert files() == set()


def test_what_is_left_beside_a_finished_band_is_deleted():
    """Its job was killed after it had written the record."""
    band = "results/bands/33TWN_0_0/B04.tif"
    make(band)
    log = write(log_of(band))
    left = {str(write(f"{band}.part{end}")) for end in (".old", ".old.json", ".ranges")}
    assert prune(band) == left
    assert {band, str(log), str(record_of(Path(band)))} <= files()
    assert prune(band) == set()


def test_parts_of_outputs_that_were_begun_are_deleted():
    parts = {write(f"{GONE}.part"), write("results/pyramid/alps.part/0/0/0.webp")}
    logs = {write("logs/tiles/33TWN_0_0.log"), write("logs/pyramid/alps.folder.log")}
    assert prune(GONE, "results/pyramid/alps") == set()
    assert prune() == {str(path) for path in parts | logs}
    assert files() == set()


def test_a_folder_is_deleted_without_files_of_others():
    folder = "results/pyramid/alps"
    ours = {f"{folder}/{name}" for name in ("9/277/180.webp", "metadata.json", "0/0/0@1x.png")}
    for path in ours:
        write(path)
    write_record(Path(folder), MadeOf({}, {}, []), log_of(folder))
    write(f"{folder}/index.html")
    write(f"{folder}/.snakemake_timestamp")
    assert orphans().left == [Path(folder, "index.html")]
    assert prune() == {*ours, f"{folder}/.snakemake_timestamp"}
    assert files() == {f"{folder}/index.html"}
    assert not Path(folder, "9").exists()


def test_both_views_of_a_zone_share_a_log():
    for view in ("", "_3857"):
        make(f"results/mosaic/alps_32633{view}.vrt")
    make("results/mosaic/alps.vrt")
    log = write("logs/mosaic/alps_32633.log")
    write("logs/mosaic/alps.log")
    deleted = prune("results/mosaic/alps.vrt")
    assert deleted == {f"results/mosaic/alps_32633{v}.vrt" for v in ("", "_3857")} | {str(log)}


def test_table_says_what_and_how_much():
    make(GONE)
    write(GONE, 1_500_000 * "x")
    write(f"{GONE}.aux.xml")
    write("logs/tiles/33TWN_0_0.log")
    said = table(orphans()).splitlines()
    assert said[1].split() == ["tiles", "1", "1.5", "MB", "33TWN_0_0"]
    assert said[2].split() == ["logs", "1", "1", "B", "33TWN_0_0"]
    assert said[3].split() == ["all", "2", "1.5", "MB"]
    assert said[4].endswith(f"(1): {GONE}.aux.xml")


def test_many_names_are_cut():
    for number in range(20):
        make(f"results/tiles/33TWN_0_{number:02}.tif")
    assert "33TWN_0_00 ... 33TWN_0_19" in table(orphans())


def test_a_damaged_record_still_names_its_output():
    write(GONE)
    write(str(record_of(GONE)), "{")
    write(log_of(GONE))
    assert prune() == {GONE, log_of(GONE)}
    assert files() == set()
