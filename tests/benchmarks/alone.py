"""Snakemake's own CPU seconds in a run: `python -m benchmarks.alone REPORT ...`

After REPORT, a file for them, come the arguments of snakemake.
"""

import resource
import sys
from pathlib import Path

from snakemake import cli


def main(report: str, *arguments: str) -> None:
    """Run snakemake, and write what its own process took, without those of jobs."""
    try:
        cli.main([*arguments])
    finally:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        Path(report).write_text(str(usage.ru_utime + usage.ru_stime))


if __name__ == "__main__":
    main(*sys.argv[1:])
