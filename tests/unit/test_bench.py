"""The benchmark's own arithmetic: usage is measured, and targets are judged."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from PIL import Image

from basemake.demo.grid import grid_tile
from basemake.pixels.webtiles import WebTile
from benchmarks.downloads import windows_of
from benchmarks.inputs import METATILE_TILES, _descendants, _mirrored, _write
from benchmarks.measure import Usage, job, prepare, run, together
from benchmarks.objects import BANDS, objects_of
from benchmarks.quality import psnr
from benchmarks.report import (
    Check,
    Measured,
    Section,
    as_text,
    difference,
    ratio,
    write_chart,
    write_json,
)

OURS = Measured("ours", [Usage(1, 2, 30), Usage(3, 1, 10), Usage(2, 9, 20)], 5.0, 40.5, own=True)
THEIRS = Measured("theirs", [Usage(8, 4, 100)], 4.0, 40.0)
MISSING = Measured("a third", note="no such program")
SECTION = Section(
    "A comparison",
    [OURS, THEIRS, MISSING],
    [Check("small enough", 0.25, 0.3), Check("good enough", 2, 3, "dB", True), Check("?", None, 1)],
    ["A remark."],
)


def test_cpu_seconds_hold_all_descendants_and_peak_is_not_of_the_parent() -> None:
    ballast = np.ones(400_000_000, np.uint8)
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    usage, printed = run([sys.executable, "-c", f"print('hello')\n{child}\n{burn}"])
    assert printed == "hello\n"
    assert 0.6 <= usage.cpu < 2
    assert 5 < usage.peak < 100 < ballast.nbytes / 1e6
    assert usage.wall > 0


def test_a_command_that_fails_ends_the_benchmark_with_its_words() -> None:
    with pytest.raises(SystemExit, match="out of luck"):
        run([sys.executable, "-c", "import sys; sys.exit('out of luck')"])
    with pytest.raises(SystemExit, match="KeyError"):
        prepare("jobs", "no_such_job")


def test_usages_are_added() -> None:
    commands = [[sys.executable, "-c", "pass"]] * 3
    both = together(commands, 2)
    assert both.cpu > 0
    assert both.peak < 60


def test_a_job_gets_what_it_is_given() -> None:
    command = job("pack", folder=Path("a b"), output="c")
    assert json.loads(command[-1]) == {"folder": "a b", "output": "c"}


def test_ratios_are_of_medians_and_unknown_without_a_peer() -> None:
    assert ratio(OURS, THEIRS, "cpu") == 2 / 8
    assert ratio(OURS, THEIRS, "wall") == 2 / 4
    assert ratio(OURS, THEIRS, "peak") == 20 / 100
    assert ratio(OURS, THEIRS, "megabytes") == 5 / 4
    assert difference(OURS, THEIRS) == 0.5
    assert ratio(OURS, MISSING, "cpu") is None
    assert ratio(OURS, MISSING, "megabytes") is None
    assert difference(OURS, MISSING) is None


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(2, False, False), (1, False, True), (0.5, False, True), (0.5, True, False), (1, True, True)],
)
def test_targets_are_judged(value: float, at_least: bool, met: bool) -> None:
    assert Check("", value, 1, at_least=at_least).met is met


def test_a_missing_peer_is_named_and_so_is_each_target(tmp_path: Path) -> None:
    text = as_text(SECTION)
    assert "missing: no such program" in text
    assert "2.00 (1.00..3.00)" in text
    assert "[met] small enough: 0.25 (target: at most 0.3)" in text
    assert "[NOT MET] good enough: 2.00 dB (target: at least 3 dB)" in text
    assert "[not measured] ?: -" in text
    write_json(tmp_path / "bench.json", {"machine": {}}, [SECTION])
    [section] = json.loads((tmp_path / "bench.json").read_text())["sections"]
    assert [row["name"] for row in section["measured"]] == ["ours", "theirs", "a third"]
    assert section["measured"][0]["runs"][1] == {"cpu": 3, "wall": 1, "peak": 10}
    assert [check["met"] for check in section["checks"]] == [True, False, None]
    write_chart(tmp_path / "bench.png", "A title", [SECTION])
    with Image.open(tmp_path / "bench.png") as chart:
        assert chart.width > 600


def test_a_table_has_only_the_columns_of_which_something_is_known() -> None:
    size = Measured("its size only", megabytes=7)
    asked = Measured("ours", [Usage(1, 2, 3)], 5.0, requests=1234)
    text = as_text(Section("Bytes", [size, asked, MISSING]))
    head, *rows = (line.split() for line in text.splitlines()[3:7])
    assert head == ["CPU", "s", "wall", "s", "peak", "MB", "MB", "requests"]
    assert rows[0] == ["its", "size", "only", "-", "-", "-", "7.00", "-"]
    assert rows[1] == ["ours", "1.00", "2.00", "3.00", "5.00", "1234"]
    assert "missing: no such program" in text
    assert "requests" not in as_text(SECTION)


def test_windows_are_those_of_the_blocks() -> None:
    runs = [[1, 1], [3, 6], [11, 11]]
    expected = [
        [256, 0, 256, 256],
        [768, 0, 232, 256],
        [0, 256, 768, 256],
        [768, 512, 232, 188],
    ]
    assert windows_of([1000, 700, 256, 256], runs) == expected


def test_each_tile_on_the_server_has_its_own_place(tmp_path: Path) -> None:
    """All bands are the same three files."""
    for number, band in enumerate(BANDS):
        pixels = np.full((500, 500), number + 1, np.int16)
        _write(pixels, tmp_path / f"{band}.tif")
    for name in ("33UWP_0_0", "32TPT_0_0"):
        tile = grid_tile(name)
        for number, band in enumerate(BANDS):
            content = objects_of(tile, tmp_path, 500)[f"/{name}/{band}.tif"]
            (tmp_path / "served.tif").write_bytes(content)
            dataset = gdal.Open(str(tmp_path / "served.tif"))
            assert dataset.GetGeoTransform() == (tile.ulx, 200.16, 0, tile.uly, 0, -200.16)
            assert dataset.GetSpatialRef().GetAuthorityCode(None) == str(tile.epsg)
            assert f"UTM zone {tile.epsg % 100}N" in dataset.GetProjection()
            assert (dataset.ReadAsArray() == number + 1).all()
            assert dataset.GetRasterBand(1).GetOverviewCount() == 1


def test_psnr_is_that_of_the_definition() -> None:
    assert psnr(np.zeros(4)) == math.inf
    assert psnr(np.full((3, 5), 255.0)) == 0
    assert psnr(np.array([2.0, -2.0])) == pytest.approx(20 * math.log10(255 / 2))


def test_what_is_made_to_measure_on_is_as_large_as_asked() -> None:
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    big = _mirrored(pixels, 9)
    assert big.shape == (9, 9)
    assert (big[:3, :4] == pixels).all()
    assert (big[3:6, :4] == pixels[::-1]).all()
    assert (big[:3, 4:8] == pixels[:, ::-1]).all()
    assert (big[6:9, :4] == pixels).all()
    tiles = _descendants(WebTile(8, 1, 2))
    assert len(set(tiles)) == len(tiles) == METATILE_TILES
    assert {tile.z for tile in tiles} == {8, 9, 10, 11, 12}
