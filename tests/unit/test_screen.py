"""What a screen shows of a run: lines, or in a terminal bars and what is worth keeping."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pyte
import pytest

from basemake.engine.open_build import as_command
from basemake.system.interrupts import end_at_interrupt
from basemake.system.screen import DEFECT, LiveScreen, Screen, clock, in_megabytes, screen_on
from basemake.system.shared_state import shared

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = re.compile(r"\d+\.\d s")


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What jobs share lies in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def screen(stream: io.StringIO) -> Screen:
    """A screen of lines on which a run of three jobs has begun, and two of them run."""
    screen = screen_on(stream)
    assert type(screen) is Screen
    screen.begin(Counter(bands=2, tiles=1))
    screen.start(7, "fetch_bands 33TWM_0_0", "bands")
    screen.start(9, "fetch_bands 33TWN_0_0", "bands")
    return screen


def lines(stream: io.StringIO) -> list[str]:
    """Return the lines that were shown, with S for seconds."""
    return SECONDS.sub("S", stream.getvalue()).splitlines()


def test_a_line_for_each_job_that_is_done(screen: Screen, stream: io.StringIO) -> None:
    screen.finish(9)
    screen.say(7, "x.org: connection refused; next try in 3 s")
    screen.finish(7)
    screen.finish(99)  # of a rule that is not counted
    assert lines(stream) == [
        "[1/3] fetch_bands 33TWN_0_0, S",
        "fetch_bands 33TWM_0_0: x.org: connection refused; next try in 3 s",
        "[2/3] fetch_bands 33TWM_0_0, S",
    ]


def test_why_a_job_failed_is_told_once_and_after_its_name(
    screen: Screen, stream: io.StringIO
) -> None:
    Path("7.log").write_text("ERROR 33TWM_0_0: 404\n")
    screen.say(7, "basemake: 33TWM_0_0: 404; run again.")
    assert lines(stream) == []
    screen.fail([7], ["7.log", "gone.log"], "RuleException")
    assert lines(stream) == [
        "fetch_bands 33TWM_0_0 failed after S; its log: 7.log",
        "basemake: 33TWM_0_0: 404; run again.",
    ]
    assert SECONDS.sub("S", screen.outcome) == (
        "1 job failed, 0 of 3 done, in S; the next run goes on from there."
    )
    screen.start(7, "fetch_bands 33TWM_0_0", "bands")  # tried again
    screen.finish(7)
    assert not screen.failed


@pytest.mark.parametrize(
    ("said", "log", "told"),
    [
        (["Traceback (most recent call last):", "  File x", "ValueError: 3"], "long", None),
        ([], "\n".join(map(str, range(50))), [str(n) for n in range(42, 50)]),
        ([], "Error in rule\nbasemake: 404.\nExiting", ["basemake: 404."]),
        ([], "", ["RuleException:", "no shell"]),
    ],
    ids=["traceback", "log", "a log of jobs elsewhere", "neither"],
)
def test_without_a_sentence_the_end_of_what_there_is_is_told(
    screen: Screen, stream: io.StringIO, said: list[str], log: str, told: list[str] | None
) -> None:
    Path("9.log").write_text(log)
    for line in said:
        screen.say(9, line)
    screen.fail([9], ["9.log"], "RuleException:\nno shell")
    assert lines(stream)[1:] == (told or ["ValueError: 3", DEFECT])


def test_a_group_fails_as_one(screen: Screen, stream: io.StringIO) -> None:
    screen.fail([7, 9], [], "why")
    screen.fail([9], [], "why")
    assert lines(stream) == ["fetch_bands 33TWM_0_0 and 1 job with it failed after S", "why"]


def test_what_stopping_does_to_jobs_is_not_told(screen: Screen, stream: io.StringIO) -> None:
    screen.finish(7)
    screen.stop()
    screen.say(9, "Traceback (most recent call last):")
    screen.fail([9], [], "KeyboardInterrupt")
    assert len(lines(stream)) == 1
    said = "Stopped after S: 1 of 3 jobs done; the next run goes on from there."
    assert SECONDS.sub("S", screen.outcome) == said


def test_a_reader_that_has_gone_fails_no_job(stream: io.StringIO, screen: Screen) -> None:
    stream.close()
    screen.say(7, "a line")
    screen.finish(7)
    screen.fail([9], [], "why")
    assert screen.done.total() == 1


def test_a_run_without_jobs_says_so(stream: io.StringIO) -> None:
    assert Screen(stream).outcome == "Nothing to be done: all is up to date."


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (91, "1:31"), (3661.4, "1:01:01")])
def test_the_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


# -- In a terminal --------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LiveScreen, Callable[[], str]]]:
    """A live screen, and a function that returns what its terminal of 100 columns shows."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    master, slave = os.openpty()
    os.set_blocking(master, False)
    shown = pyte.Screen(100, 24)
    feed = pyte.ByteStream(shown)

    def look() -> str:
        with suppress(BlockingIOError):
            feed.feed(os.read(master, 1 << 20))
        return "\n".join(line.rstrip() for line in shown.display).rstrip()

    with os.fdopen(slave, "w") as stream:
        screen = screen_on(stream)
        assert isinstance(screen, LiveScreen)
        yield screen, look
    os.close(master)


def until(look: Callable[[], str], *words: str) -> str:
    """Return what a terminal shows once all words are on it."""
    deadline = time.monotonic() + 60
    while not all(word in look() for word in words):
        assert time.monotonic() < deadline, look()
        time.sleep(0.02)
    return look()


def test_bars_by_stage_with_the_bytes_of_downloads(terminal) -> None:
    screen, look = terminal
    with screen.shown():
        until(look, "Finding out what is to be done: 0:0")
        screen.begin(Counter(bands=4, tiles=1))
        screen.start(1, "fetch_bands 33TWM_0_0", "bands")
        assert "MB" not in until(look, "bands", "0/4", "tiles", "0/1", "fetch_bands 33TWM_0_0")
        with shared("progress") as state:
            state["bytes"] = 12_300_000
        until(look, "12.3 MB")
        screen.finish(1)
        with shared("progress") as state:
            state["bytes"] += 1_000_000
        picture = until(look, "1/4", "13.3 MB, ", " MB/s, about ", " left")
        assert "fetch_bands" not in picture
        screen.start(2, "enhance_tile 33TWM_0_0", "tiles")
        screen.say(2, "basemake: [bold]out of order[/bold].")
        screen.fail([2], [], "")
        screen.tell("WARNING: a hole")
    kept = until(look, "WARNING").splitlines()
    assert SECONDS.sub("S", kept[0]) == "enhance_tile 33TWM_0_0 failed after S"
    assert kept[1:] == ["basemake: [bold]out of order[/bold].", "WARNING: a hole"]


def test_threads_speak_while_pictures_are_drawn(monkeypatch, request) -> None:
    monkeypatch.setattr("basemake.system.screen.A_SECOND", 500)
    screen, look = request.getfixturevalue("terminal")

    def work(first: int) -> None:
        for number in range(first, first + 50):
            screen.start(number, f"enhance_tile {number}", "tiles")
            screen.say(number, f"line of {number}")
            screen.finish(number)

    with screen.shown():
        screen.begin(Counter(tiles=200))
        threads = [Thread(target=work, args=(1000 * n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        until(look, "200/200")
    assert not any(thread.is_alive() for thread in threads)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    monkeypatch.setenv("TERM", "dumb")
    with os.fdopen(slave, "w") as stream:
        assert type(screen_on(stream)) is Screen
    os.close(master)


# -- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "before", "handler"),
    [
        ("snakemake", signal.default_int_handler, "SIG_DFL"),
        ("scripts/commands/plan.py", signal.default_int_handler, "SIG_DFL"),
        ("other", signal.default_int_handler, "default_int"),
        ("snakemake", signal.SIG_IGN, "SIG_IGN"),  # in the background of a script
    ],
)
def test_ctrl_c_while_a_program_is_loaded_needs_no_words(
    tmp_path: Path, program: str, before: Any, handler: str
) -> None:
    script = tmp_path / program
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f"""
import signal, site
site.addsitedir({str(CHECKOUT / "envs")!r})
print(repr(signal.getsignal(signal.SIGINT)))
""")
    done = subprocess.run(
        [sys.executable, "-S", script],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, before),
    )
    assert handler in done.stdout


def test_a_command_that_was_loaded_handles_ctrl_c_itself() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as end, as_command("plan"):
            signal.raise_signal(signal.SIGINT)
        assert end.value.code == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_of_ctrl_c_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        end_at_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL

        def own(*_: object) -> None:
            """Do nothing."""

        signal.signal(signal.SIGINT, own)
        end_at_interrupt()
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.0 MB"), (34_253, "34.3 kB"), (50_000, "0.1 MB"), (12_345_678, "12.3 MB")],
)
def test_a_small_archive_has_a_size(size: int, text: str) -> None:
    assert in_megabytes(size) == text
