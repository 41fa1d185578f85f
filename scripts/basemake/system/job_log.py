"""The log of a job: its messages, and how its errors reach the log and the terminal."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basemake.errors import BasemakeError


@contextmanager
def job_log(path: str | Path) -> Iterator[None]:
    """Send a job's messages and warnings to its log file at `path`, from now on.

    An error that the user can mend goes as one sentence to the log and the terminal and ends the
    process with status 1. Any other exception goes with its traceback to both.
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
