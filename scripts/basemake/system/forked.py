"""Python scripts, each in a process that is forked from one that has imported what they need.

To start Python and to import NumPy, GDAL and the like takes half a second of CPU, more than many a
job does; a fork takes a hundredth of that. The library's fork server runs on one thread and holds
nothing but imported modules, which have no effects when they are imported.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import _forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2]
SOCKET_PATH = 107  # bytes, at most
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
    ) -> int:
        """Run a script as __main__, with more environment variables, and wait for it.

        Its process keeps copies of the open file `descriptors` until it ends. It runs within the
        context that `watched` makes of the process's number. Returns the process's status, -n if
        signal n ended it.
        """
        # The script starts when it has been told to: however short it is, its process is still
        # there when it begins to be watched.
        told, go = self._context.Pipe(duplex=False)
        with told, go:
            with self._lock, _server_environment(), _without_main():
                process = self._context.Process(
                    target=_run, args=(script, environment, _Descriptors(descriptors), told)
                )
                process.start()
            assert process.pid
            with watched(process.pid):
                go.send(None)
                wait([process.sentinel])
        with self._lock:
            process.join()
            return process.exitcode or 0

    def stop(self) -> None:
        """End the server and wait for it, so that what its processes took is accounted for."""
        with self._lock:
            getattr(_forkserver, "_stop", lambda: None)()  # which the library has for its tests


class _Descriptors:
    """Open file descriptors that go along with a process that is being started."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __getstate__(self) -> list[Any]:
        return [DupFd(number) for number in self.numbers]

    def __setstate__(self, sent: list[Any]) -> None:
        self.numbers = [descriptor.detach() for descriptor in sent]


def _run(script: str, environment: dict[str, str], _: _Descriptors, told: Connection) -> None:
    try:
        told.recv()
    except EOFError:  # the run was killed
        sys.exit(1)
    os.environ.update(environment)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


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
def _without_main() -> Iterator[None]:
    """Hide the program that runs, which the library would import in each process."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
