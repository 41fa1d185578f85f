"""The log file of a job, and how its errors reach the log and the terminal."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basemake.errors import BasemakeError


@contextmanager
def job_log(path: str | Path) -> Iterator[None]:
    """Write the messages and warnings of a job to its log file at `path`.

    A BasemakeError is written as one sentence to the log and the terminal, and ends the process
    with status 1. Any other exception is written to both with its traceback.
    """
    logging.basicConfig(
        filename=path,
        filemode="w",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    logging.captureWarnings(True)
    try:
        yield
    except BasemakeError as error:
        logging.error(str(error))
        sys.exit(f"basemake: {error}")
    except Exception:
        logging.error(traceback.format_exc())
        raise
