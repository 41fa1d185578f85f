"""Python scripts, each in a process that is forked from one that has imported what they need.

To start Python and to import NumPy, GDAL and the like takes half a second of CPU, more than many a
job does; a fork takes a hundredth of that. The library's fork server runs on one thread and holds
nothing but imported modules, which have no effects when they are imported.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import _forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2]
SOCKET_PATH = 107  # bytes, at most
LISTEN_EVERY = 0.2  # seconds between two looks at what a process printed
SOCKET = len("/pymp-abcdefgh/listener-abcdefgh")  # of the server, in the folder for temporary files


def can_fork() -> bool:
    """Return whether fork servers work here, and the path of one's socket is not too long."""
    folder = os.fsencode(tempfile.gettempdir())
    return sys.platform == "linux" and len(folder) + SOCKET <= SOCKET_PATH


class Forks:
    """Starts scripts as forks of a server that has imported `modules`. Threads may share it."""

    def __init__(self, modules: list[str]) -> None:
        """Name modules of SCRIPTS, or others; those that cannot be imported are left out."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(modules)
        # One process is started or ended at a time, as `run` looks after those that ended, too.
        self._lock = threading.Lock()

    def run(
        self,
        script: str,
        environment: dict[str, str],
        descriptors: list[int],
        watched: Callable[[int], AbstractContextManager[Any]] = nullcontext,
        say: Callable[[str], None] | None = None,
    ) -> int:
        """Run a script as __main__, with more environment variables, and wait for it.

        Its process keeps copies of the open file `descriptors` until it ends. It runs within the
        context that `watched` makes of the process's number. Each line that it prints is given to
        `say`, in this thread; without one, they go where those of this process go. Returns the
        process's status, -n if signal n ended it.
        """
        # The script starts when it has been told to: however short it is, its process is still
        # there when it begins to be watched.
        told, go = self._context.Pipe(duplex=False)
        with told, go, _Printed() if say else nullcontext() as printed:
            output = _Descriptors([printed.file] * 2 if printed else [])
            with self._lock, _server_environment(), _without_main(), _interrupts_blocked():
                process = self._context.Process(
                    target=_run, args=(script, environment, _Descriptors(descriptors), output, told)
                )
                process.start()
            assert process.pid
            with watched(process.pid):
                go.send(None)
                while not wait([process.sentinel], LISTEN_EVERY if say else None):
                    if say and printed:
                        printed.give(say)
            with self._lock:
                process.join()
            if say and printed:
                printed.give(say, ended=True)
            return process.exitcode or 0

    def stop(self) -> None:
        """End the server and wait for it, so that what its processes took is accounted for."""
        with self._lock:
            getattr(_forkserver, "_stop", lambda: None)()  # which the library has for its tests


class _Printed:
    """What a process prints, in a file in memory: unlike a pipe it is never full or broken."""

    def __enter__(self) -> "_Printed":
        self.file = os.memfd_create("printed")
        self._at, self._rest = 0, b""
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)

    def give(self, say: Callable[[str], None], ended: bool = False) -> None:
        """Give the lines that are new to `say`, with what is left of a line if it has `ended`."""
        while new := os.pread(self.file, 1 << 16, self._at):
            self._at += len(new)
            self._rest += new
        *lines, self._rest = self._rest.split(b"\n")
        for line in [*lines, self._rest] if ended and self._rest else lines:
            say(line.decode(errors="replace"))


class _Descriptors:
    """Open file descriptors that go along with a process that is being started."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __getstate__(self) -> list[Any]:
        return [DupFd(number) for number in self.numbers]

    def __setstate__(self, sent: list[Any]) -> None:
        self.numbers = [descriptor.detach() for descriptor in sent]


def _run(
    script: str,
    environment: dict[str, str],
    _: _Descriptors,
    output: _Descriptors,
    told: Connection,
) -> None:
    try:
        told.recv()
    except EOFError:  # the run was killed
        sys.exit(1)
    for own, number in zip(output.numbers, (1, 2), strict=False):
        os.dup2(own, number)
    os.environ.update(environment)
    sys.argv = [script]
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        runpy.run_path(script, run_name="__main__")
    except KeyboardInterrupt:  # Ctrl-C ends all processes of a run, which needs no explanation
        sys.exit(1)


@contextmanager
def _server_environment() -> Iterator[None]:
    """Let the server, if it is started now, find SCRIPTS, and NumPy start no threads in it."""
    before = dict(os.environ)
    paths = [str(SCRIPTS), *filter(None, [before.get("PYTHONPATH")])]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    try:
        yield
    finally:
        for name in ("PYTHONPATH", "OPENBLAS_NUM_THREADS"):
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C from the server, if it is started now, and from processes until they run."""
    resource_tracker.ensure_running()  # which the library else starts first, and unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the program that runs, which the library would import in each process."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
