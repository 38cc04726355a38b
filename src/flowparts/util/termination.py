"""Graceful shutdown: SIGTERM and Ctrl-C become an error at the next pause, so a step can undo its work.

An error raised by a signal handler could come between any two instructions, such as after a platform was
changed and before the change is recorded. So the handler only records the signal; `check` and `pause` raise.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_EVERY_SECONDS = 0.2


class TerminatedError(ValueError):
    """The step received a signal to end."""


class _Notice:
    """The signal received, and whether it still has to be raised."""

    received: str = ""
    armed: bool = False


@contextmanager
def deferred() -> Iterator[None]:
    """Let SIGTERM and SIGINT raise TerminatedError once, at the next `check` or `pause` of the block.

    Has no effect outside of the main thread, since other threads can't handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, _frame: FrameType | None) -> None:
        _Notice.received = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    _Notice.received, _Notice.armed = "", True
    try:
        yield
    finally:
        _Notice.armed = False
        for number, handler in before.items():
            signal.signal(number, handler)


def disarm() -> None:
    """Ignore further signals in this block, so that cleanup can finish."""
    _Notice.armed = False


def check() -> None:
    """Raise TerminatedError if the step received a signal to end."""
    if _Notice.armed and _Notice.received:
        disarm()
        raise TerminatedError(f"the step was terminated ({_Notice.received})")


def pause(seconds: float) -> None:
    """Sleep, and raise TerminatedError as soon as the step receives a signal to end."""
    until = time.monotonic() + seconds
    check()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_EVERY_SECONDS))
        check()
