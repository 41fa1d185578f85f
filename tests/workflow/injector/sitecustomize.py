"""Strikes one job of a run. Python imports this at its start if this folder is on PYTHONPATH.

The environment variable FAULT holds a Fault of tests/workflow/faults.py as JSON; with it `marker`,
a path where each job that could be struck makes a file with its number, and `outputs`, which says
of rules whether their first or second output is the one before which it is the middle of a job.
"""

import json
import os
import resource
import signal
import sys
import time
from itertools import count

FAULT = json.loads(os.environ.get("FAULT", "{}"))
renamed = 0  # outputs that have been given their names


def strike() -> None:
    """Strike this job, if it is the one to strike."""
    global listening
    listening = False  # what follows opens files itself
    for number in count(1):
        try:
            os.close(os.open(f"{FAULT['marker']}.{number}", os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            continue
    if number != FAULT["number"]:
        return
    if FAULT["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT["kind"] == "kill all":
        os.killpg(0, signal.SIGKILL)
    elif FAULT["kind"] == "full disk":  # a stand-in: from now on no file of this job can grow
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    elif FAULT["kind"] == "memory":
        held = b"x" * FAULT["bytes"]
        while held:  # until something kills it
            time.sleep(1)
    elif FAULT["moment"] == "after":  # an exception would no longer change the status
        os._exit(1)
    else:
        raise RuntimeError("a fault was injected")


def listen(event: str, args: tuple) -> None:
    """Strike when an audit event tells that the moment has come."""
    global renamed
    if not (waiting or listening) or event not in ("open", "os.rename"):
        return
    path = str(args[1] if event == "os.rename" else args[0])
    if waiting and "/.snakemake/scripts/" in path:
        begin(path)
        return
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
        "middle": event == "os.rename" and not record and renamed == FAULT["outputs"].get(rule, 1),
        "recording": writes and record,
    }
    if reached.get(FAULT["moment"]):
        strike()


def begin(script: str) -> None:
    """Begin to listen if the job of this process could be struck.

    `script` is Snakemake's copy of a rule's, such as .snakemake/scripts/tmpab12.enhance_tile.py.
    """
    global waiting, listening, rule
    waiting, rule = False, script.split(".")[-2]
    listening = FAULT["rule"] in ("any", rule)
    if listening and FAULT["moment"] == "after":
        Finalize(None, strike, exitpriority=0)


# Jobs are forks of a server, which imported this, and then open their script.
waiting, listening, rule = bool(FAULT) and "forkserver" in str(sys.orig_argv), False, ""
if waiting:
    from multiprocessing.util import Finalize

    sys.addaudithook(listen)
