"""What people see of runs: in a terminal (a pty, whose screen is read) and in a file."""

import os
import re
import shutil
import signal
from dataclasses import replace

import pyte
import pytest
from runs import NORTH, Scene, lay_out

COLUMNS, LINES = 160, 30
SECONDS = re.compile(r"\b\d+\.\d s")
PROFILE = "Using workflow specific profile"


class Terminal:
    """A run of snakemake in a terminal; `shown` is what its screen shows now."""

    def __init__(self, scene: Scene, *arguments: str) -> None:
        self._master, slave = os.openpty()
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        size = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        self.run = replace(scene, environment=size).python(
            scene.snakemake, *arguments, stdout=slave, stderr=slave
        )
        os.close(slave)
        self._all = b""

    def look(self) -> bool:
        """Read what was written; return False at the end of the run."""
        try:
            new = os.read(self._master, 1 << 16)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self._all += new
        self._stream.feed(new)
        return True

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def written(self) -> str:
        """All that was ever written, without what moves the cursor or colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._all.decode(errors="replace"))

    def until(self, words: str) -> list[str]:
        """Wait until the screen shows some words, and return what it shows then."""
        while not any(words in line for line in self.shown):
            assert self.look(), self.shown
        return self.shown

    def end(self) -> tuple[int, list[str]]:
        """Wait for the end; return the status, and what the screen then shows, S for seconds."""
        while self.look():
            pass
        os.close(self._master)
        lines = [SECONDS.sub("S", line) for line in self.shown]
        return self.run.wait(), [line for line in lines if not line.startswith(PROFILE)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A scene that is searched; its build is stopped, fails, and succeeds in this module."""
    scene = lay_out(tmp_path_factory.mktemp("scene"), NORTH)
    scene.run("manifest")
    return scene


def tidy(printed: str) -> list[str]:
    """Return the lines that a run printed to a file, S for seconds, without Snakemake's first."""
    lines = [SECONDS.sub("S", line) for line in printed.splitlines()]
    assert lines[0].startswith(PROFILE)
    return lines[1:]


def test_ctrl_c_stops_a_run_without_a_traceback(scene: Scene) -> None:
    terminal = Terminal(scene, "--cores", "1")
    terminal.until("fetch_bands")
    os.killpg(terminal.run.pid, signal.SIGINT)
    status, shown = terminal.end()
    assert status == 1
    assert "Traceback" not in terminal.written
    assert "KeyboardInterrupt" not in terminal.written
    assert re.fullmatch(r"Stopped after S: \d of \d+ jobs done; the next .*", shown[-1])


def test_a_failure_is_told_once(scene: Scene) -> None:
    """In a terminal and in a file: the job, its log, its sentence, and what became of the run."""
    shutil.rmtree(scene.results / "bands/34TCQ_0_0", ignore_errors=True)
    band = next(scene.directory.glob("catalog/*34TCQ*/*B04*"))
    away = band.rename(scene.directory / "away.tif")
    terminal = Terminal(scene, "--cores", "1", "--until", "fetch_bands")
    in_terminal = terminal.end()
    in_file = scene.run("--cores", "1", "--until", "fetch_bands", check=False)
    away.rename(band)
    assert in_terminal[0] == 1
    for words in ("Traceback", "CalledProcessError", ".snakemake/scripts", "RuleException"):
        assert words not in terminal.written
        assert words not in in_file
    kept = in_terminal[1]
    lines = [line for line in tidy(in_file) if not line.startswith("[")]
    assert kept[-1].startswith("1 job failed, ")
    assert lines[0] == "fetch_bands 34TCQ_0_0 failed after S; its log: logs/bands/34TCQ_0_0.log"
    assert lines[1].startswith("basemake: tile 34TCQ_0_0, band B04: ")
    assert lines[1].endswith("run again.")
    assert lines[2].startswith("1 job failed, ")
    assert len(lines) == 3
    assert terminal.written.count("basemake: tile 34TCQ_0_0") == 1


def test_a_terminal_shows_bars_by_stage_and_then_where_the_map_is(scene: Scene) -> None:
    terminal = Terminal(scene, "--cores", "2")
    shown = terminal.until("render_metatile")
    stages = [line.split()[0] for line in shown[:-1] if re.search(r" \d+/\d+ *$", line)]
    assert stages == ["bands", "tiles", "mosaic", "pyramid", "preview", "web", "stac"]
    assert re.match(r"\d:\d\d  .*render_metatile first 9_", shown[-1])
    status, kept = terminal.end()
    assert status == 0
    size = (scene.results / "pyramid/first.pmtiles").stat().st_size / 1e3
    assert re.fullmatch(r"\d+ jobs done in S\.", kept[0])
    assert kept[1:] == [
        f"first: zooms 0 to 10, {size:.1f} kB in results/pyramid/first.pmtiles",
        "Credit: Simulated imagery",
        f"To look at it:  make serve RESULTS={scene.results}",
    ]


def test_a_file_gets_one_line_for_each_job(scene: Scene) -> None:
    scene.run("--cores", "2")
    nothing = tidy(scene.run("--cores", "2"))
    assert nothing[0] == "Nothing to be done: all is up to date."
    assert len(nothing) == 4
    (scene.results / "tiles/34TCQ_0_0.tif").unlink()
    expected = scene.jobs("--dry-run")
    stale, listed = [], []
    for line in tidy(scene.run("--dry-run")):
        (stale if line.startswith(("Stale:", " ")) else listed).append(line)
    assert {line.split(": ")[0] for line in listed[:-1]} == expected
    assert listed[-1].startswith(f"{len(expected)} jobs: 1 enhance_tile, ")

    lines = tidy(scene.run("--cores", "2"))
    assert lines[: len(stale)] == stale
    count, lines = len(expected), lines[len(stale) :]
    done = [re.fullmatch(r"\[ ?(\d+)/(\d+)\] (.+), S", line) for line in lines[:count]]
    assert {match[3] for match in done if match} == expected
    assert [match[1] for match in done if match] == [str(n + 1) for n in range(count)]
    assert lines[count] == f"{count} jobs done in S."
