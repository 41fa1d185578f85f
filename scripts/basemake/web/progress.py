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
    """Reports the progress of one band, and how many tiles of the manifest are fetched."""

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
        line += f"; {_tiles_here()}, all downloads {_megabytes_a_second(self._all(rate))}"
        logging.info(line)
        print(line, file=sys.stderr, flush=True)

    def _all(self, rate: float) -> float:
        """Return the bytes a second of all downloads that run now."""
        now = time.time()
        with shared("progress") as state:
            state[self._label] = [now, rate]
            running = {name: x for name, x in state.items() if now - x[0] < 3 * EVERY}
            state.clear()
            state.update(running)
        return sum(rate for _, rate in running.values())


def _tiles_here() -> str:
    """Return how many tiles of the manifest have their bands, or had them and are enhanced."""
    tiles = {
        feature["id"]: feature["properties"]["bands"]
        for feature in json.loads(MANIFEST.read_text())["features"]
    }
    here = sum(
        Path(f"results/tiles/{tile}.tif").exists()
        or all(Path(f"results/bands/{tile}/{band}.tif").exists() for band in bands)
        for tile, bands in tiles.items()
    )
    return f"{here} of {len(tiles)} tiles are here"


def _megabytes(done: int, total: int | None) -> str:
    return (
        f"{done / 1e6:,.0f} MB" if total is None else f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
    )


def _speed(rate: float, left: int | None) -> str:
    speed = _megabytes_a_second(rate)
    if left is None or rate <= 0:
        return speed
    minutes, seconds = divmod(round(max(0, left) / rate), 60)
    return f"{speed}, {minutes}:{seconds:02} min left"


def _megabytes_a_second(rate: float) -> str:
    return f"{rate / 1e6:.1f} MB/s"
