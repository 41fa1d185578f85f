"""Digests of code: what counts as a change of what a script does."""

from pathlib import Path

import pytest

from basemake.build import code_digest as module
from basemake.build.code_digest import code_digest

SCRIPT = '''
"""Do it."""
from basemake.one import work  # and more

def main():
    """Work."""
    from basemake.late import help
    return work() + help()
'''
ONE = "import basemake.two\n\ndef work(): return 1\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that imports one and late, one that imports two, and others."""
    monkeypatch.setattr(module, "SCRIPTS", tmp_path)
    (tmp_path / "basemake").mkdir()
    for name in ("two", "late", "errors", "other"):
        (tmp_path / f"basemake/{name}.py").write_text("X = 1\n")
    (tmp_path / "basemake/one.py").write_text(ONE)
    (tmp_path / "script.py").write_text(SCRIPT + "from basemake.errors import X\n")
    return tmp_path / "script.py"


@pytest.mark.parametrize("line", ["from basemake import other", "import basemake.other as o"])
def test_modules_are_followed_however_they_are_imported(script: Path, line: str) -> None:
    script.write_text(f"{SCRIPT}\n{line}\n")
    before = digest(script)
    (script.parent / "basemake/other.py").write_text("X = 2\n")
    assert digest(script) != before


def digest(script: Path) -> str:
    module._read.cache_clear()
    return code_digest(script)


@pytest.mark.parametrize("name", ["script", "basemake/one", "basemake/two", "basemake/late"])
def test_what_a_script_and_its_modules_do_counts(script: Path, name: str) -> None:
    before = digest(script)
    path = script.parent / f"{name}.py"
    path.write_text(path.read_text() + "\nY = 2\n")
    assert digest(script) != before


@pytest.mark.parametrize("name", ["basemake/errors", "basemake/other"])
def test_modules_that_are_not_used_or_only_report_do_not(script: Path, name: str) -> None:
    before = digest(script)
    (script.parent / f"{name}.py").write_text("X = 2\n")
    assert digest(script) == before


def test_comments_docstrings_and_layout_do_not_count(script: Path) -> None:
    before = digest(script)
    text = SCRIPT.replace("Do it.", "Do it well.").replace("# and more", "").replace("Work.", "W.")
    script.write_text(text.replace("    ", "  ") + "\n\nfrom basemake.errors import (X)\n")
    assert digest(script) == before


def test_the_folder_does_not_count(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(script)
    moved = script.parent / "moved"
    moved.mkdir()
    script.rename(moved / "script.py")
    (script.parent / "basemake").rename(moved / "basemake")
    monkeypatch.setattr(module, "SCRIPTS", moved)
    assert digest(moved / "script.py") == before


def test_basemakes_own_scripts_are_followed() -> None:
    scripts = Path(module.__file__).parents[2]
    names = {path.name for path in module._read(scripts / "render_metatile.py")[1]}
    assert {"raster.py", "picture.py", "archive.py"} <= names
    assert "job_log.py" not in names
