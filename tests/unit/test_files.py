"""Files are written whole or not at all, whatever the disk says."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from basemake.errors import TileError
from basemake.system.files import replace, writing


def fill(part: Path) -> None:
    part.write_bytes(bytes(200_000))


def fill_a_folder(part: Path) -> None:
    part.mkdir()
    for number in range(200):
        (part / str(number)).write_bytes(bytes(1000 + 300 * number))


def fill_a_database(part: Path) -> None:
    with closing(sqlite3.connect(part)) as database, database:
        database.execute("CREATE TABLE tiles (data blob)")
        database.execute("INSERT INTO tiles VALUES (?)", (bytes(200_000),))


def complain(part: Path) -> None:
    """Fail as GDAL does when it does not say why."""
    with pytest.raises(OSError, match=r"left on device|too large"):
        part.write_bytes(bytes(200_000))
    raise RuntimeError("TIFFAppendToStrip: Seek error")


FILLERS = [fill, fill_a_folder, fill_a_database, complain]


@pytest.mark.parametrize("write", FILLERS)
@pytest.mark.parametrize("there", [False, True])
def test_a_limit_of_the_size_of_files_is_named_and_nothing_is_left(
    tmp_path: Path, files_limited_to, write, there: bool
) -> None:
    output = tmp_path / "map [1].bin"
    if there:
        output.write_bytes(b"of an earlier run")
    with files_limited_to(50_000), pytest.raises(TileError) as refusal, writing(output) as part:
        write(part)
    said = str(refusal.value)
    assert said.startswith(f"{output} cannot be written (File too large; ")
    assert said.endswith("; raise the limit of the size of files (ulimit -f) and run again.")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of an earlier run"] * there


@pytest.mark.parametrize("write", FILLERS)
def test_a_full_disk_is_named_and_nothing_is_left(disk_with_room, write) -> None:
    folder = disk_with_room(50_000)
    output = folder / "map.bin"
    with pytest.raises(TileError) as refusal, writing(output) as part:
        write(part)
    said = str(refusal.value)
    assert said == (
        f"{output} cannot be written (No space left on device; 0.1 MB are free without it);"
        " make room and run again."
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, os.strerror(errno.EACCES)),
        RuntimeError("not a raster"),
        sqlite3.OperationalError("no such table"),
        ValueError("a defect"),
        TileError("the band x cannot be read"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_failures_stay_what_they_are_and_leave_nothing(tmp_path: Path, error) -> None:
    def fail(part: Path) -> None:
        part.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)) as raised, writing(tmp_path / "map.bin") as part:
        fail(part)
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_run_left_is_no_part_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "map.part").mkdir()
    (tmp_path / "map.part/0").write_bytes(b"old")
    (tmp_path / "map.part-journal").write_bytes(b"old")
    with writing(tmp_path / "map") as part:
        assert list(tmp_path.iterdir()) == []
        part.write_bytes(b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_bytes_reach_the_disk_before_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order that a power failure cannot turn into an empty file under the final name."""
    calls = []
    rename, synced = os.replace, os.fsync

    def fsync(number: int) -> None:
        calls.append(Path(f"/proc/self/fd/{number}").readlink().name)
        synced(number)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("rename") or rename(*names))
    part = tmp_path / "map.part"
    part.write_bytes(b"whole")
    replace(part, tmp_path / "map")
    assert calls == ["map.part", "rename", tmp_path.name]
