"""`make new`: a working directory of one's own from the shipped config."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from basemake.build.config import CONFIG_FOLDER, check
from basemake.build.region import read_regions
from basemake.errors import BasemakeError
from new import new

SQUARE = {"type": "Polygon", "coordinates": [[[8, 46], [9, 46], [9, 47], [8, 47], [8, 46]]]}
CANTONS = {
    "type": "FeatureCollection",
    "features": [{"type": "Feature", "properties": {"name": "Ticino"}, "geometry": SQUARE}],
}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a polygon and a collection, and no map in it yet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn/alps.geojson").write_text(json.dumps(SQUARE))
    (tmp_path / "cantons.geojson").write_text(json.dumps(CANTONS))
    return tmp_path


@pytest.mark.parametrize(
    ("area", "region", "files"),
    [
        ("drawn/alps.geojson", "alps.geojson", ["alps.geojson"]),
        ("cantons.geojson#name=Ticino", "cantons.geojson#name=Ticino", ["cantons.geojson"]),
        ("8, 46,9,47.0", [8, 46, 9, 47], []),
    ],
)
def test_a_new_directory_is_ready(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, area: str, region: Any, files: list[str]
) -> None:
    assert new(Path("maps/alps"), "alps", area, "2024Q1", "cdse") == ["config/config.yaml", *files]
    monkeypatch.chdir("maps/alps")
    text = Path("config/config.yaml").read_text()
    config = yaml.safe_load(text)
    changed = {"source": "cdse", "quarter": "2024Q1", "regions": {"alps": region}}
    shipped = yaml.safe_load((CONFIG_FOLDER / "config.yaml").read_text())
    shipped["pyramid"]["metatile_zoom"] = "auto"
    assert config == {**shipped, **changed}
    assert check(config, "config", "config") == check(changed, "config", "config")
    assert "demo" not in text
    assert text.count("#") > 40
    assert read_regions(config["regions"])["alps"].bounds == (8, 46, 9, 47)


@pytest.mark.parametrize("name", ["no", "1e3", "2025"])
def test_a_name_that_yaml_has_another_meaning_for_stays_a_name(elsewhere: Path, name: str) -> None:
    new(Path("maps"), name, "8,46,9,47", "2025Q3", "cdse")
    assert [*yaml.safe_load(Path("maps/config/config.yaml").read_text())["regions"]] == [name]


def test_make_takes_a_bounding_box_of_the_west(tmp_path: Path) -> None:
    given = ("NAME=west", "POLYGON=-95,40,-90,42", "QUARTER=2025Q3", f"ARGS=--directory {tmp_path}")
    checkout = CONFIG_FOLDER.parent
    programs = os.path.relpath(Path(sys.executable).parent, checkout)  # no path with a space
    command = ["make", "-o", ".venv/.done", f"BIN={programs}", "new", *given]
    subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL)
    config = yaml.safe_load((tmp_path / "config/config.yaml").read_text())
    assert config["regions"] == {"west": [-95, 40, -90, 42]}


def test_a_polygon_that_lies_there_already_stays(elsewhere: Path) -> None:
    new(Path("drawn"), "alps", "drawn/alps.geojson", "2025Q3", "cdse")
    assert json.loads(Path("drawn/alps.geojson").read_text()) == SQUARE


def test_a_source_of_ones_own_keeps_its_place(elsewhere: Path) -> None:
    (elsewhere / "mine.yaml").write_text((CONFIG_FOLDER / "sources/cdse.yaml").read_text())
    new(Path("maps"), "alps", "8,46,9,47", "2025Q3", "mine.yaml")
    assert yaml.safe_load(Path("maps/config/config.yaml").read_text())["source"] == str(
        elsewhere / "mine.yaml"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "a b"}, "regions has the name 'a b'"),
        ({"area": "gone.geojson"}, "region 'alps' (gone.geojson): there is no such file"),
        ({"area": "8,46,9,4.7.0"}, "region 'alps' (8,46,9,4.7.0): there is no such file"),
        ({"area": "8,46,9,40"}, "allowed is [west, south, east, north]"),
        ({"quarter": "2025-07"}, "quarter is '2025-07'"),
        ({"source": "cdes"}, "source is 'cdes', which is not one of: cdse"),
    ],
)
def test_what_is_not_allowed_is_named_and_nothing_is_written(
    elsewhere: Path, changes: dict[str, str], said: str
) -> None:
    given = {"name": "alps", "area": "drawn/alps.geojson", "quarter": "2025Q3", "source": "cdse"}
    with pytest.raises(BasemakeError) as refusal:
        new(Path("maps"), **{**given, **changes})
    assert said in str(refusal.value)
    assert not Path("maps").exists()


def test_a_config_is_never_replaced(elsewhere: Path) -> None:
    place = elsewhere / "maps/config/config.yaml"
    place.parent.mkdir(parents=True)
    place.write_text("mine: 1")
    with pytest.raises(BasemakeError, match="is there already; give another NAME"):
        new(Path("maps"), "alps", "8,46,9,47", "2025Q3", "cdse")
    assert place.read_text() == "mine: 1"
