"""Progress of downloads: lines in their logs, and one count of bytes for the screen of a run."""

import logging
import time

from basemake.system.shared_state import shared

EVERY = 10.0  # seconds between two lines of one download
SOON = 0.5  # seconds between two counts


class Progress:
    """Reports the progress of one band."""

    def __init__(self, label: str) -> None:
        """Start the report of the download `label`, such as "33TWM_0_0 B04"."""
        self._label = label
        self._line_time = self._count_time = time.monotonic()
        self._line_bytes: int | None = None
        self._new = 0  # bytes that came and are not counted yet

    def update(self, done: int, total: int | None, new: int) -> None:
        """Note that `new` bytes came, so that `done` of `total` are on disk."""
        now = time.monotonic()
        self._new += new
        if now - self._count_time >= SOON:
            self.count()
        if self._line_bytes is None:  # bytes of an earlier run do not count for this one's speed
            self._line_bytes = done
        elapsed = now - self._line_time
        if elapsed >= EVERY:
            rate = (done - self._line_bytes) / elapsed
            self._line_time, self._line_bytes = now, done
            left = _speed(rate, total and total - done)
            logging.info("%s: %s, %s", self._label, _megabytes(done, total), left)

    def count(self) -> None:
        """Add the bytes that came since the last count to those of all jobs."""
        if self._new:
            with shared("progress") as state:
                state["bytes"] = state.get("bytes", 0) + self._new
        self._count_time, self._new = time.monotonic(), 0


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
