"""What a record states about an output, and when the two no longer agree."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from basemake.build.records import (
    MadeOf,
    canonical,
    digest,
    is_intact,
    made_of,
    output_of,
    read_record,
    record_of,
    recorded,
    write_record,
)
from basemake.errors import RecordError

TILE, BAND = Path("results/tiles/33TWM_0_0.tif"), Path("results/bands/33TWM_0_0/B04.tif")
LATER = 4_000_000_000  # seconds: in 2096


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (BAND, TILE):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"pixels of " + path.name.encode())
    write_record(BAND, MadeOf({"size": "1"}, {}, []))


def job(**params) -> SimpleNamespace:
    """What Snakemake hands to the script that makes TILE."""
    return SimpleNamespace(
        input=[str(BAND)],
        output=[str(TILE), str(record_of(TILE))],
        params=params,
        log=["logs/tiles/T.log"],
    )


def test_a_record_lies_in_its_own_folder_under_the_outputs_name():
    assert record_of(TILE) == Path("results/records/tiles/33TWM_0_0.tif.json")
    assert output_of(record_of(TILE)) == TILE


def test_numbers_and_order_of_keys_do_not_count():
    assert digest({"a": 3, "b": [1.5, 2.0]}) == digest({"b": (1.5, 2), "a": 3.0})
    assert digest({"a": 3}) != digest({"a": 3.5})
    assert digest(True) != digest(1)
    assert digest([1, 2]) != digest([2, 1])
    assert canonical({"gain": 3.0, "bands": ("red",)}) == {"gain": 3, "bands": ["red"]}


def test_a_finished_job_leaves_a_record_that_reads_back():
    with recorded(job(code="c", settings={"recipe": [1]}, container={"codec": "webp"})):
        TILE.write_bytes(b"new pixels")
    record = read_record(TILE)
    assert record.made_of.settings == {"code": digest("c"), "recipe": digest([1])}
    assert record.made_of.container == {"codec": digest("webp")}
    assert record.made_of.inputs == [[str(BAND), read_record(BAND).made_of.content]]
    assert (record.files, record.size) == (1, 10)
    assert is_intact(TILE, record)


def test_a_failed_job_leaves_none_and_deletes_the_old_one():
    write_record(TILE, MadeOf({}, {}, []))

    def work() -> None:
        with recorded(job()):
            assert read_record(TILE) is None
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        work()
    assert read_record(TILE) is None


def test_an_input_without_a_record_is_refused():
    record_of(BAND).unlink()
    without = pytest.raises(RecordError, match=r"B04.tif has no record of what it was made of")
    with without, recorded(job()):
        pytest.fail("the job must not begin")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"made_of": {}}', "null", "[" * 100_000])
def test_a_damaged_record_reads_as_none(text):
    record_of(BAND).write_text(text)
    assert read_record(BAND) is None


def test_a_record_with_a_flipped_bit_reads_as_none_and_one_without_a_seal_as_before():
    path = record_of(BAND)
    record, content = read_record(BAND), path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert read_record(BAND) is None, place
    document = json.loads(content)
    del document["sealed"]
    path.write_text(json.dumps(document))
    assert read_record(BAND) == record


def test_a_container_does_not_change_the_content():
    params = {"settings": {"recipe": 1}}
    plain, other = (made_of({**params, "container": {"codec": c}}, []) for c in ("webp", "zstd"))
    assert plain != other
    assert plain.content == other.content
    assert plain.content != made_of({"settings": {"recipe": 2}}, []).content
    assert plain.content != made_of(params, [(str(BAND), "x")]).content


@pytest.mark.parametrize(
    ("params", "changed"),
    [
        ({}, {"codec"}),
        ({"container": {"codec": "zstd", "item": "a"}}, {"codec", "item"}),
        ({"settings": {"recipe": 2}}, None),
    ],
)
def test_a_job_is_told_which_container_settings_change(params, changed):
    with recorded(job(container={"codec": "webp"})) as at_first:
        TILE.write_bytes(b"pixels")
    assert at_first is None
    with recorded(job(**params)) as found:
        assert found == changed
    with recorded(job(**params)) as found:
        assert found == set()
        TILE.write_bytes(b"damaged")
    TILE.write_bytes(b"")
    with recorded(job(**params)) as found:
        assert found is None


def test_an_output_of_another_size_is_not_intact():
    TILE.write_bytes(b"12345")
    write_record(TILE, MadeOf({}, {}, []))
    TILE.write_bytes(b"1234")
    assert not is_intact(TILE, read_record(TILE))
    TILE.unlink()
    assert not is_intact(TILE, read_record(TILE))


def test_an_output_of_another_time_is_compared_by_its_bytes_once():
    TILE.write_bytes(b"12345")
    write_record(TILE, MadeOf({}, {}, []))
    os.utime(TILE, (LATER, LATER))
    assert is_intact(TILE, read_record(TILE))
    assert record_of(TILE).stat().st_mtime == LATER
    TILE.write_bytes(b"54321")
    os.utime(TILE, (LATER, LATER))
    assert is_intact(TILE, read_record(TILE)), "only the time shows that a file changed"
    for seconds in (1, -60):
        os.utime(TILE, (LATER + seconds, LATER + seconds))
        assert not is_intact(TILE, read_record(TILE))


def test_a_folder_is_known_by_the_number_and_bytes_of_its_files():
    folder = Path("results/pyramid/demo")
    (folder / "3/4").mkdir(parents=True)
    (folder / "3/4/5.webp").write_bytes(b"tile")
    write_record(folder, MadeOf({}, {}, []))
    (folder / ".snakemake_timestamp").touch()
    assert is_intact(folder, read_record(folder))
    shutil.rmtree(folder / "3/4")
    assert not is_intact(folder, read_record(folder))


def test_inputs_from_the_future_are_brought_to_now():
    os.utime(BAND, (LATER, LATER))
    with recorded(job()):
        assert BAND.stat().st_mtime < LATER


def test_records_hold_digests_and_no_settings():
    with recorded(job(settings={"href": "https://host/B04.tif?signature=secret"})):
        pass
    text = record_of(TILE).read_text()
    assert "secret" not in text
    assert json.loads(text)["made_of"]["settings"].keys() == {"code", "href"}
