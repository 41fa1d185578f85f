"""Strikes one job of a run. Python imports this at its start if this folder is on PYTHONPATH.

The environment variable FAULT holds a Fault of tests/workflow/faults.py as JSON, and `marker`, a
path: a file is made there when a job is struck, and only the first job to make it is struck.
"""

import atexit
import json
import os
import resource
import signal
import sys

FAULT = json.loads(os.environ.get("FAULT", "{}"))
renamed = 0  # outputs that have been given their names


def strike() -> None:
    """Strike this job, unless another was struck."""
    global listening
    listening = False  # what follows opens files itself
    try:
        os.close(os.open(FAULT["marker"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if FAULT["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT["kind"] == "kill all":
        os.killpg(0, signal.SIGKILL)
    elif FAULT["kind"] == "full disk":  # a stand-in: from now on no file of this job can grow
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    elif FAULT["moment"] == "after":  # an exception would no longer change the status
        os._exit(1)
    else:
        raise RuntimeError("a fault was injected")


def listen(event: str, args: tuple) -> None:
    """Strike when an audit event tells that the moment has come."""
    global renamed
    if not listening or event not in ("open", "os.rename"):
        return
    path = str(args[1] if event == "os.rename" else args[0])
    record = "results/records/" in path
    writes = (
        event == "os.rename"
        or set(args[1] or "") & set("wxa+")
        or args[2] & (os.O_WRONLY | os.O_RDWR)
    )
    if event == "os.rename" and "results/" in path and not record:
        renamed += 1
    reached = {
        "before": writes and "/logs/" in path,
        "middle": event == "os.rename" and not record and renamed == FAULT["output"],
        "recording": writes and record,
    }
    if reached.get(FAULT["moment"]):
        strike()


# Snakemake runs a copy of a rule's script, such as .snakemake/scripts/tmpab12.enhance_tile.py.
listening = bool(FAULT) and sys.orig_argv[-1].endswith(f".{FAULT['rule']}.py")
if listening:
    sys.addaudithook(listen)
    if FAULT["moment"] == "after":
        atexit.register(strike)
