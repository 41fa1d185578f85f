"""Files that are whole or not there: what is synced, and when."""

import os
from pathlib import Path

import pytest

from basemake.files import replace


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, output = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(b"whole")
    output.write_bytes(b"older")
    synced = []

    def sync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, output.read_bytes()))

    expected = [(part.stat().st_ino, b"older"), (tmp_path.stat().st_ino, b"whole")]
    monkeypatch.setattr(os, "fsync", sync)
    replace(part, output)
    assert synced == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_cannot_be_synced_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "a.part"
    part.write_bytes(b"whole")

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        replace(part, tmp_path / "a")
    assert not (tmp_path / "a").exists()
