"""Progress of downloads, as lines for a terminal, a log file or a cluster's output."""

import json
import logging
import sys
import time
from pathlib import Path

from basemake.build.paths import MANIFEST
from basemake.system.shared_state import shared

EVERY = 10.0  # seconds between two lines of one download


class Progress:
    """Reports the progress of one band, and of all bands in the manifest."""

    def __init__(self, label: str) -> None:
        """Start the report of the download `label`, such as "33TWM_0_0 B04"."""
        self._label = label
        self._time = time.monotonic()
        self._done: int | None = None

    def update(self, done: int, total: int | None) -> None:
        """Note that `done` of `total` bytes are on disk; write a line every EVERY seconds."""
        if self._done is None:  # bytes of an earlier run do not count for the speed of this one
            self._done = done
        elapsed = time.monotonic() - self._time
        if elapsed < EVERY:
            return
        rate = (done - self._done) / elapsed
        self._time, self._done = time.monotonic(), done
        line = f"{self._label}: {_megabytes(done, total)}, {_speed(rate, total and total - done)}"
        line += f"; all bands: {self._all(done, rate)}"
        logging.info(line)
        print(line, file=sys.stderr, flush=True)

    def _all(self, done: int, rate: float) -> str:
        """Return bytes, speed and time left of all bands, from the downloads that run now."""
        now = time.time()
        with shared("progress") as state:
            state[self._label] = [now, done, rate]
            running = {name: x for name, x in state.items() if now - x[0] < 3 * EVERY}
            state.clear()
            state.update(running)
        here, total = _fetched()
        here += sum(done for _, done, _ in running.values())
        speed = sum(rate for _, _, rate in running.values())
        return f"{_megabytes(here, total)}, {_speed(speed, total and total - here)}"


def _fetched() -> tuple[int, int | None]:
    """Return the bytes of the bands that are fetched or enhanced already, and of all bands.

    The second is None if the size of a band is unknown.
    """
    here, total = 0, 0
    for feature in json.loads(MANIFEST.read_text())["features"]:
        enhanced = Path(f"results/tiles/{feature['id']}.tif").exists()
        for name, band in feature["properties"]["bands"].items():
            if band["size"] is None:
                return here, None
            total += band["size"]
            if enhanced or Path(f"results/bands/{feature['id']}/{name}.tif").exists():
                here += band["size"]
    return here, total


def _megabytes(done: int, total: int | None) -> str:
    return (
        f"{done / 1e6:,.0f} MB" if total is None else f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
    )


def _speed(rate: float, left: int | None) -> str:
    speed = f"{rate / 1e6:.1f} MB/s"
    if left is None or rate <= 0:
        return speed
    minutes, seconds = divmod(round(max(0, left) / rate), 60)
    return f"{speed}, {minutes}:{seconds:02} min left"
