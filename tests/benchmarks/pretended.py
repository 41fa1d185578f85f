"""The real workflow with jobs that only pretend: `python -m benchmarks.pretended REPORT ...`

Each job writes placeholders and their true records within this process, instead of starting a
script. What remains is what Snakemake itself takes for a job, but for starting its process. After
REPORT, a file for the number of jobs and their own CPU seconds, come the arguments of snakemake.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from snakemake import cli
from snakemake.executors import local

from basemake.build.records import is_record, made_of, read_record, write_record

BYTES = b"placeholder"
done: dict[str, float] = {"jobs": 0, "cpu": 0.0}
lock = threading.Lock()


def pretend(rule: Any, inputs: Any, outputs: Any, params: Any, *others: Any) -> None:
    """Write placeholders and records of a job's outputs; takes what Snakemake's run_wrapper takes.

    Of `others` the fourth is the job's log, and the fifth its benchmark.
    """
    start = time.thread_time()
    if not outputs:  # the rule all
        return
    contents = [(path, read_record(path).made_of.content) for path in inputs]
    source = made_of(params, contents)
    for output in map(Path, outputs):
        if not is_record(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(BYTES)
            write_record(output, source, others[3][0])
    Path(others[4]).write_text("s\tcpu_time\n1\t1\n")
    with lock:
        done["jobs"] += 1
        done["cpu"] += time.thread_time() - start


def main(report: str, *arguments: str) -> None:
    """Run snakemake, and write what its jobs took."""
    local.run_wrapper = pretend
    try:
        cli.main([*arguments])
    finally:
        Path(report).write_text(json.dumps(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
