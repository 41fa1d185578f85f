"""Python programs, each in a fork of a process that has imported what they need.

A start of snakemake takes more than a second of CPU, most of it for imports, and the tests start
it hundreds of times. `Preloaded` starts this file as that process. All else is as when a program is
started: its arguments, environment, output, session, and the status that it ends with.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

# What `snakemake` and the commands import before they do anything.
MODULES = (
    *("snakemake.cli", "snakemake.report.html_reporter", "smart_open"),
    *("basemake.engine.open_build", "basemake.build.manifest", "basemake.forecast.forecast"),
)
ROOM = 1 << 20  # bytes, for arguments and environment
AT_START = ("PYTHON", "LD_")  # beginnings of variables that are read when Python starts


def cores() -> set[int]:
    """Return the cores that this process may use; none where that is not known."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


class Preloaded:
    """Runs programs of Python as forks of a process with MODULES. Threads may share it."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start the process with an environment; each program gets one of its own."""
        self._environment = environment
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])

    def fits(self, environment: dict[str, str]) -> bool:
        """Return whether a program with an environment would start as it does in a new process."""
        names = {name for name in environment if name.startswith(AT_START)}
        names |= {name for name in self._environment if name.startswith(AT_START)}
        return all(environment.get(name) == self._environment.get(name) for name in names)

    def run(
        self, arguments: Sequence[str], environment: dict[str, str], apart: bool
    ) -> subprocess.CompletedProcess[str]:
        """Run a program, and return its status, its output, and apart from it that on stderr.

        `arguments` are those of python: a script's path, or -m and a module, and the program's own.
        """
        read: dict[str, str] = {}
        ends = {name: os.pipe() for name in ("status", "out", *(["err"] if apart else []))}
        writers = [writer for _, writer in ends.values()]
        request = json.dumps([arguments, environment, str(Path.cwd()), [*cores()]]).encode()
        socket.send_fds(self._requests, [request], writers)
        for writer in writers:
            os.close(writer)

        def drain(name: str) -> None:
            with os.fdopen(ends[name][0]) as reader:
                read[name] = reader.read()

        threads = [Thread(target=drain, args=(name,)) for name in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return subprocess.CompletedProcess(
            arguments, int(read["status"]), read["out"], read.get("err")
        )


def serve(requests: socket.socket) -> list[str]:
    """Fork for each request; return, in the fork, the arguments of the program that it is to run.

    Between the two stands a process that waits for the program and tells its status.
    """
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, ROOM, 3)
        if not request:  # the tests have ended
            os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            status, out, err = [*descriptors, *descriptors[1:]][:3]
            program = os.fork()
            if program == 0:
                requests.close()
                os.close(status)
                arguments, environment, directory, allowed = json.loads(request)
                os.setsid()
                os.dup2(out, 1)
                os.dup2(err, 2)
                for descriptor in {out, err}:
                    os.close(descriptor)
                os.chdir(directory)
                if set(allowed) != cores():
                    os.sched_setaffinity(0, allowed)
                os.environ.clear()
                os.environ.update(environment)
                return arguments
            for descriptor in {out, err}:  # whose readers wait for their end
                os.close(descriptor)
            ended = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
            os.write(status, str(ended).encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _read_once(scripts: Path) -> None:
    """Read what each start reads of the checkout, and caches: a third of what planning takes.

    Tests that change it do so in a copy, whose programs are no forks.
    """
    from basemake.build.code_digest import code_digest
    from basemake.build.config import read_schema

    for script in scripts.glob("*.py"):
        code_digest(script)
    for name in ("config", "source", "recipe"):
        read_schema(name)


def main() -> None:
    """Import MODULES, wait for requests, and in the fork for each of them run its program."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(Path(__file__).resolve().parents[2] / "scripts")
    for module in MODULES:
        importlib.import_module(module)
    _read_once(Path(sys.path.pop(0)))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that told a status
    arguments = serve(requests)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
