"""`make verify` names whatever in a results folder is not as it was made, and nothing else."""

import json
import random
import shutil
from pathlib import Path

import pytest
from runs import Scene, preloaded

from basemake.build.records import record_of
from verify import verify


@pytest.fixture
def received(north: Scene, tmp_path: Path) -> Path:
    """A copy of a results folder, under another name."""
    return Path(shutil.copytree(north.results, tmp_path / "map"))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def named(folder: Path) -> set[str]:
    """The files that problems name, relative to the folder."""
    return {problem.split(":")[0].removeprefix("results/") for problem in verify(folder).problems}


def test_a_build_as_it_was_made_has_no_problem(received: Path) -> None:
    found = verify(received)
    assert not found.problems
    outputs = {path.relative_to(received) for path in files_of(received)}
    outputs -= {path for path in outputs if path.parts[0] in ("records", "stac")}
    outputs.add(Path("stac"))  # a folder is one output
    assert found.intact.total() == len(outputs - {Path("manifest.geojson"), Path("plan.png")})
    assert found.intact["tiles"] == 3


def test_a_flipped_bit_in_any_file_is_named(received: Path) -> None:
    for path in files_of(received):
        name = str(path.relative_to(received))
        if name == "plan.png":  # is not made of the build
            continue
        output = name.removeprefix("records/").removesuffix(".json" if "records/" in name else "")
        output = "stac" if output.startswith("stac/") else output
        content = path.read_bytes()
        for place in random.Random(name).sample(range(len(content) - 1), 3):
            flipped = bytearray(content)
            flipped[place] ^= 4
            path.write_bytes(flipped)
            assert output in named(received), f"{name}, byte {place}"
        path.write_bytes(content[:-2])
        assert output in named(received)
        path.write_bytes(content)
    assert not verify(received).problems


def test_what_is_missing_or_more_is_named(received: Path) -> None:
    (received / "pyramid/first.pmtiles").unlink()
    (received / "preview/notes.txt").write_text("mine")
    for sheet in ("looks/first.png", "codecs/codecs.tsv"):  # made by commands that keep no record
        (received / sheet).parent.mkdir()
        (received / sheet).write_text("a sheet")
    shutil.rmtree(received / "bands")  # which need not be kept
    assert named(received) == {"pyramid/first.pmtiles", "preview/notes.txt"}
    (received / "tiles/x.tif.aux.xml").touch()
    assert any("aux.xml: it has no record; GDAL" in text for text in verify(received).problems)


def test_records_of_something_else_are_named(received: Path) -> None:
    tile = next((received / "tiles").iterdir()).stem
    record = received / record_of(f"results/tiles/{tile}.tif").relative_to("results")
    document = json.loads(record.read_text())
    del document["sealed"]
    document["made_of"]["settings"]["recipe"] = "another"
    record.write_text(json.dumps(document))
    found = verify(received).problems
    assert found
    assert all(f"made of another results/tiles/{tile}.tif" in problem for problem in found)
    for damage in ("{", "[]", "{}", json.dumps({**document, "sha256": 1}), "\0"):
        record.write_text(damage)
        damaged = f"results/tiles/{tile}.tif: its record is not as it was written"
        assert verify(received).problems == [damaged]
    record.unlink()
    assert f"results/tiles/{tile}.tif: it has no record" in verify(received).problems


def test_tiles_of_another_manifest_are_named(received: Path) -> None:
    path = received / "manifest.geojson"
    manifest = json.loads(path.read_text())
    del manifest["sealed"]
    gone, other = manifest["features"][0], manifest["features"][1]
    manifest["features"].remove(gone)
    for band in other["properties"]["bands"].values():
        band["size"] += 1
    path.write_text(json.dumps({**manifest, "sealee": "0"}))  # a flipped bit hides the seal
    assert named(received) == {"manifest.geojson"}
    path.write_text(json.dumps(manifest))
    bands = {f"bands/{other['id']}/{key}.tif" for key in other["properties"]["bands"]}
    assert named(received) == bands | {f"tiles/{gone['id']}.tif"}
    path.unlink()
    assert named(received) == {"manifest.geojson"}


def test_the_command_ends_with_what_it_found(north: Scene, tmp_path: Path) -> None:
    for folder, status, words in (
        (north.results, 0, "problems: 0"),
        (north.directory, 0, "problems: 0"),
        (tmp_path, 1, f"{tmp_path} has no records/"),
    ):
        done = preloaded().run(
            [*north.script("verify"), str(folder)], north.variables(), apart=False
        )
        assert done.returncode == status
        assert words in done.stdout
