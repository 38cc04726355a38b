"""Log the progress of long steps every few seconds."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_SECONDS = 10.0

_log = logging.getLogger("flowparts")


@contextmanager
def reported(what: str, done: Callable[[], float], total: float, unit: str) -> Iterator[None]:
    """Log every 10 seconds how much work is done, its rate and the time left.

    Shorter work logs nothing.

    Args:
        what: The work, such as "reading data.csv".
        done: Returns the number of units done; called from another thread.
        total: Total number of units.
        unit: Name of the units in the plural, such as "rows" or "MB".
    """
    finished = threading.Event()
    start = time.monotonic()

    def report() -> None:
        while not finished.wait(EVERY_SECONDS):
            _log.info(line(what, done(), total, unit, time.monotonic() - start))

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def line(what: str, done: float, total: float, unit: str, seconds: float) -> str:
    """Return one line such as "reading data.csv: 120 of 480 MB (25 %), 60 MB/s, 6 s left"."""
    done = max(0.0, min(done, total))
    rate = done / seconds
    percent = f"{done / total:.0%}".replace("%", " %") if total else "0 %"
    left = f"{_duration((total - done) / rate)} left" if rate else "time left unknown"
    speed = f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}"
    return f"{what}: {done:,.0f} of {total:,.0f} {unit} ({percent}), {speed} {unit}/s, {left}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
