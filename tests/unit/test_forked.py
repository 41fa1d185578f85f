"""Scripts that are forked from a server: their status, what they get, and what they leave."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from basemake.system.forked import SCRIPTS, Forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")


@pytest.fixture(scope="module")
def forks():
    """Forks of a server that has imported a module of scripts/, and tried one that is not there."""
    forks = Forks(["no_such_module", "enhance_tile"])
    yield forks
    forks.stop()


def run(forks: Forks, script: Path, environment: dict | None = None, held: tuple = ()) -> int:
    return forks.run(str(script), environment or {}, list(held))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", 0),
        ("raise RuntimeError('of a test')", 1),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('a sentence')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os; os._exit(7)", 7),
    ],
)
def test_the_status_of_a_script(forks, tmp_path, code, status) -> None:
    script = tmp_path / "script.py"
    script.write_text(code)
    assert run(forks, script) == status


def test_lines_that_a_script_prints_are_given_while_it_runs(forks, tmp_path) -> None:
    script, go = tmp_path / "script.py", tmp_path / "go"
    script.write_text(f"""
import os, sys, time
print("one", flush=True)
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
print("two\\nthree", file=sys.stderr)
os.write(2, b"of a library: \\xff")
""")
    said = []

    def say(line: str) -> None:
        said.append(line)
        go.touch()

    assert forks.run(str(script), {}, [], say=say) == 0
    assert said == ["one", "two", "three", "of a library: \ufffd"]


def test_ctrl_c_ends_a_script_without_a_traceback(forks, tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    said: list[str] = []
    assert forks.run(str(script), {}, [], say=said.append) == 1
    assert said == []


TOLD = """
import json, os, sys
told = {
    "name": __name__, "argv": sys.argv, "folder": os.getcwd(), "parent": os.getppid(),
    "there": "enhance_tile" in sys.modules, "pytest": "pytest" in sys.modules,
    "own": os.environ["OWN"], "blas": os.environ["OPENBLAS_NUM_THREADS"],
}
open(os.environ["OWN"], "w").write(json.dumps(told))
"""


def test_what_a_script_gets(forks, tmp_path, monkeypatch) -> None:
    """It runs as the program, where this process is, and all come from one server."""
    script = tmp_path / "script.py"
    script.write_text(TOLD)
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    told = []
    for number in range(2):
        output = tmp_path / f"{number}.json"
        assert run(forks, script, {"OWN": str(output)}) == 0
        told.append(json.loads(output.read_text()))
        assert told[-1].pop("own") == str(output)
    assert told[0] == told[1]
    assert told[0].pop("parent") not in (os.getpid(), os.getppid())
    assert told[0] == {
        "name": "__main__",
        "argv": [str(script)],
        "folder": str(tmp_path),
        "there": True,
        "pytest": False,
        "blas": "1",
    }
    assert dict(os.environ) == before


def test_a_script_starts_when_it_is_watched(forks, tmp_path) -> None:
    """However short it is, who watches it finds its process."""
    script = tmp_path / "script.py"
    output = tmp_path / "ran"
    script.write_text(f"open({str(output)!r}, 'w').write('')")

    @contextmanager
    def watched(process: int):
        time.sleep(0.2)  # as long as the script could take
        seen.append(psutil.Process(process).is_running() and not output.exists())
        yield

    seen: list[bool] = []
    assert forks.run(str(script), {}, [], watched) == 0
    assert seen == [True]
    assert output.exists()


ABANDONED = """
import os, sys
from contextlib import contextmanager
from basemake.system.forked import Forks

@contextmanager
def watched(process):
    os.write(1, str(process).encode())
    os._exit(0)
    yield

Forks([]).run(sys.argv[1], {}, [], watched)
"""


def test_a_script_does_not_start_when_its_run_was_killed(tmp_path) -> None:
    script = tmp_path / "script.py"
    output = tmp_path / "ran"
    script.write_text(f"open({str(output)!r}, 'w').write('')")
    program = tmp_path / "program.py"
    program.write_text(ABANDONED)
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    # The pipe of its output ends when all that have it open, the script's process too, have ended.
    done = subprocess.run([sys.executable, program, script], env=environment, stdout=-1, check=True)
    assert int(done.stdout)
    assert not output.exists()


def test_many_at_a_time(forks, tmp_path) -> None:
    scripts = []
    for number in range(60):
        scripts.append(tmp_path / f"{number}.py")
        scripts[-1].write_text(f"import sys; sys.exit({number})")
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda script: run(forks, script), scripts)) == list(range(60))


def test_a_script_keeps_a_lock_until_it_ends(forks, tmp_path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    script = tmp_path / "script.py"
    script.write_text(f"open({str(go)!r}).read()")
    with ThreadPoolExecutor(1) as pool:
        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            status = pool.submit(run, forks, script, held=(lock.fileno(),))
            writer = go.open("w")  # when the script has opened it to read
        with (tmp_path / "lock").open("w") as other:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            writer.close()
            assert status.result() == 0
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_new_server_follows_one_that_died(tmp_path) -> None:
    output = tmp_path / "parent"
    script = tmp_path / "script.py"
    script.write_text(f"import os; open({str(output)!r}, 'w').write(str(os.getppid()))")
    forks = Forks(["json"])
    assert run(forks, script) == 0
    first = int(output.read_text())
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert run(forks, script) == 0
    assert int(output.read_text()) != first
    forks.stop()


LONG = """
import sys, tempfile
from basemake.system.forked import Forks, can_fork
assert can_fork() == (sys.argv[1] == "True"), tempfile.gettempdir()
if can_fork():
    forks = Forks([])
    assert forks.run(sys.argv[2], {}, []) == 5
"""


@pytest.mark.parametrize(("length", "can"), [(75, True), (76, False)])
def test_a_long_folder_for_temporary_files(tmp_path, length: int, can: bool) -> None:
    """A socket's path has a limit; up to it forks work."""
    folder = Path("/tmp") / f"{tmp_path.name}{'x' * length}"[: length - len("/tmp/")]
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.exit(5)")
    program = tmp_path / "program.py"
    program.write_text(LONG)
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(SCRIPTS)}
    folder.mkdir()
    try:
        subprocess.run([sys.executable, program, str(can), script], env=environment, check=True)
    finally:
        shutil.rmtree(folder)
