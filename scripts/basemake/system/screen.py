"""What people see of a run: in a terminal a live display, elsewhere one line for each job.

In both, what jobs print is shown as it comes, and a failure once: what its job said, or the end of
its log, and where the whole log is.
"""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from basemake.system.shared_state import peek

if TYPE_CHECKING:
    from rich.console import RenderableType

LAST = 8  # lines of a failure that are shown; its log has all
# How the words begin by which a job tells why it failed: by a sentence, or by a traceback.
SENTENCE, TRACEBACK = "basemake: ", ("Traceback ", "Process ForkServerProcess")
DEFECT = "This is a defect of basemake, or of a library: please report it, with the log."
DOWNLOADS = "bands"  # the stage whose bytes are shown
WINDOW = 10.0  # seconds over which the speed of downloads is measured
A_SECOND = 4  # pictures of the live display


@dataclass
class Running:
    """A job that runs: its name (rule and wildcards), its stage, and since when.

    `reasons` are the lines from the first on by which it told why it fails.
    """

    name: str
    stage: str
    since: float = field(default_factory=time.monotonic)
    reasons: list[str] = field(default_factory=list)

    @property
    def told(self) -> list[str]:
        """The reasons to show: of a traceback, which is in the log, only what it ends with."""
        if self.reasons and self.reasons[0].startswith(TRACEBACK):
            return [self.reasons[-1], DEFECT]
        return self.reasons[-LAST:]


class Screen:
    """Shows a run as lines on a stream. Threads may share it.

    `totals` and `done` are numbers of jobs by stage, `failed` the jobs that failed, by number, and
    `stopped` is whether the user asked the run to stop.
    """

    def __init__(self, stream: TextIO) -> None:
        """Show nothing yet; a run begins."""
        self._stream = stream
        self._lock = threading.RLock()
        self._running: dict[int, Running] = {}
        self._begun = time.monotonic()
        self.stopped = False
        self.totals: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.failed: dict[int, str] = {}

    @property
    def seconds(self) -> float:
        """The seconds since the run began."""
        return time.monotonic() - self._begun

    @property
    def counts(self) -> str:
        """How many of all jobs are done, such as "3/37"."""
        total = str(self.totals.total())
        return f"{self.done.total():>{len(total)}}/{total}"

    @property
    def outcome(self) -> str:
        """One sentence about the run when it has ended."""
        done, total, took = self.done.total(), self.totals.total(), duration(self._begun)
        if self.stopped:
            so_far = f"{done} of {counted(total, 'job')} done; the next run goes on from there."
            return f"Stopped after {took}: {so_far}" if total else f"Stopped after {took}."
        if self.failed:
            return (
                f"{counted(len(self.failed), 'job')} failed, {done} of {total} done, in {took}; the"
                " next run goes on from there."
            )
        if not total:
            return "Nothing to be done: all is up to date."
        return f"{counted(done, 'job')} done in {took}."

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the run during the block."""
        yield

    def begin(self, totals: Counter[str]) -> None:
        """Take the numbers of jobs that are to be done."""
        with self._lock:
            self.totals = totals

    def start(self, number: int, name: str, stage: str) -> None:
        """Note that a job begins to run."""
        with self._lock:
            self._running[number] = Running(name, stage)

    def say(self, number: int, line: str) -> None:
        """Show a line that a job printed; why it fails is kept until it has failed."""
        with self._lock:
            job = self._running.get(number)
            if job and (job.reasons or line.startswith((SENTENCE, *TRACEBACK))):
                job.reasons.append(line)
            elif job and self.totals.total() > 1:
                self.tell(f"{job.name}: {line}")
            else:
                self.tell(line)

    def finish(self, number: int) -> None:
        """Note that a job is done."""
        with self._lock:
            job = self._running.pop(number, None)
            if job:
                self.done[job.stage] += 1
                self.failed.pop(number, None)
                self._tell_of_success(job)

    def fail(self, numbers: Sequence[int], logs: Iterable[str], otherwise: str) -> None:
        """Show why a job, or a group of jobs, failed.

        That is what it said, or the end of its last log, or `otherwise` if there is neither.
        After `stop` nothing is shown, as it is then stopping that makes jobs fail.
        """
        with self._lock:
            jobs = {n: self._running.pop(n) for n in numbers if n in self._running}
            if not jobs or self.stopped:
                return
            self.failed |= {number: job.name for number, job in jobs.items()}
            first, *others = jobs.values()
            also = f" and {counted(len(others), 'job')} with it" if others else ""
            logs = [log for log in logs if Path(log).exists()]
            named = f"; its log: {', '.join(logs)}" if logs else ""
            self._tell_of_failure(f"{first.name}{also} failed after {duration(first.since)}{named}")
            for line in first.told or last_lines(logs) or otherwise.splitlines()[-LAST:]:
                self.tell(line)

    def stop(self) -> None:
        """Note that the user asked the run to stop; a handler of signals may call it."""
        self.stopped = True

    def tell(self, text: str) -> None:
        """Show a text of the run itself."""
        # Who reads it may have gone; that is no reason for jobs to fail.
        with self._lock, suppress(OSError, ValueError):
            print(text, file=self._stream, flush=True)

    def _tell_of_success(self, job: Running) -> None:
        self.tell(f"[{self.counts}] {job.name}, {duration(job.since)}")

    def _tell_of_failure(self, text: str) -> None:
        self.tell(text)


class LiveScreen(Screen):
    """Shows a run in a terminal: bars by stage, and above them what is worth keeping."""

    def __init__(self, stream: TextIO, color: bool = True) -> None:
        """Take a terminal; it is not changed before `shown`."""
        from rich.console import Console  # here, as only terminals need it
        from rich.live import Live

        super().__init__(stream)
        self._console = Console(file=stream, highlight=False, soft_wrap=True, no_color=not color)
        self._live = Live(
            get_renderable=self._picture,
            console=self._console,
            refresh_per_second=A_SECOND,
            transient=True,
        )
        self._fetched: deque[tuple[float, int]] = deque()  # times, and bytes fetched until then
        self._before = self._latest = bytes_fetched()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars during the block."""
        with self._live:
            yield

    def tell(self, text: str) -> None:
        """Show a text above the bars."""
        with suppress(OSError, ValueError):
            style = "yellow" if text.startswith("WARNING") else None
            self._console.print(text, markup=False, style=style)

    def _tell_of_success(self, job: Running) -> None:
        """Leave it to the bars."""

    def _tell_of_failure(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._console.print(text, markup=False, style="bold red")

    def _picture(self) -> "RenderableType":
        """Return what is shown now.

        It takes no lock: rich calls it while it holds its own, and `tell` waits for that one.
        """
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self.totals:
            return Text(f"Finding out what is to be done: {clock(self.seconds)}", style="dim")
        running = [*self._running.values()]
        bars = Table.grid(padding=(0, 2, 0, 0))
        bars.add_column(no_wrap=True)
        bars.add_column()
        bars.add_column(justify="right", no_wrap=True)
        bars.add_column(no_wrap=True)
        for stage, total in self.totals.items():
            done = self.done[stage]
            bars.add_row(
                Text(stage, style="dim" if done == total else "bold"),
                ProgressBar(total, done, width=30),
                f"{done}/{total}",
                self._downloads(total - done, running) if stage == DOWNLOADS else "",
            )
        names = ", ".join(job.name for job in running)
        line = f"{clock(self.seconds)}  {'Stopping. ' * self.stopped}{names}"
        return Group(bars, Text(line, style="dim", no_wrap=True, overflow="ellipsis"))

    def _downloads(self, left: int, running: Sequence[Running]) -> str:
        """Return bytes, speed and time left of the downloads of `left` tiles and of those before.

        The time takes tiles to be equally large, and downloads that run to be half done.
        """
        self._latest = max(self._latest, bytes_fetched())  # 0 while a job writes it
        now, fetched = time.monotonic(), self._latest - self._before
        if not fetched:
            return ""
        self._fetched.append((now, fetched))
        while len(self._fetched) > 2 and now - self._fetched[1][0] > WINDOW:
            self._fetched.popleft()
        since, before = self._fetched[0]
        text, done = in_megabytes(fetched), self.done[DOWNLOADS]
        if left and fetched > before:
            speed = (fetched - before) / (now - since)
            text += f", {speed / 1e6:.1f} MB/s"
            halves = sum(job.stage == DOWNLOADS for job in running) / 2
            seconds = fetched / (done + halves) * (left - halves) / speed if done else 0
            text += f", about {clock(seconds)} left" if done else ""
        return text


def screen_on(stream: TextIO, color: bool = True, apart: bool = True) -> Screen:
    """Return the screen for a stream: live if it is a terminal that can move its cursor.

    `apart` is whether all that jobs print comes by `say`, and not straight to the terminal.
    """
    can_move = os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    live = apart and can_move and stream.isatty()
    return LiveScreen(stream, color) if live else Screen(stream)


def counted(number: int, thing: str) -> str:
    """Return a number of things with their noun, such as "1 job"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def in_megabytes(size: int) -> str:
    """Return a number of bytes in MB, in GB from 1000 MB on, in kB where it would be 0.0 MB."""
    if 0 < size < 50_000:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def bytes_fetched() -> int:
    """Return how many bytes the jobs in this working directory ever fetched."""
    return int(peek("progress").get("bytes", 0))


def last_lines(logs: Iterable[str]) -> list[str]:
    """Return the last sentences, or else the last lines, of the last of some logs that has any."""
    lines: list[str] = []
    for log in logs:
        with suppress(OSError):
            lines = Path(log).read_text(errors="replace").splitlines() or lines
    return [line for line in lines if line.startswith(SENTENCE)][-LAST:] or lines[-LAST:]


def duration(since: float) -> str:
    """Return the time since a moment of time.monotonic(): seconds, or minutes and seconds."""
    seconds = time.monotonic() - since
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds, without hours if there are none."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
