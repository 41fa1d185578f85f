"""The measured jobs as forks of one process, as a build starts its jobs.

`python -m benchmarks.forked MODULES STAGES AT_A_TIME`: JSON of the modules that are imported
before, and of lists of jobs, [name, arguments] each; the jobs of a list run side by side.
"""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from basemake.system.forked import Forks

SCRIPT = """
import json, os
from benchmarks import jobs
name, arguments = json.loads({job!r})
os.environ["OMP_NUM_THREADS"] = str(arguments.get("threads", 1))  # as Snakemake does
getattr(jobs, name)(**arguments)
"""


def main(modules: str, stages: str, at_a_time: str) -> None:
    """Run all jobs; exit with a sentence where one fails."""
    forks = Forks(json.loads(modules))

    def run(job: list) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(SCRIPT.format(job=json.dumps(job)))
            script.flush()
            if status := forks.run(script.name, {}, []):
                raise RuntimeError(f"{job[0]} ended with status {status}")

    with ThreadPoolExecutor(int(at_a_time)) as pool:
        for stage in json.loads(stages):
            list(pool.map(run, stage))
    forks.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
