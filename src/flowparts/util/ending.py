"""End a step in order: SIGTERM and Ctrl-C become an error at the next pause, so that a step undoes its work.

An error from a signal handler could come between any two instructions, such as after a platform was changed
and before that is known here. So the signal is only noted, and raised where a step waits or asks for it.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_EVERY_SECONDS = 0.2


class EndedError(ValueError):
    """The step got a signal to end."""


class _Notice:
    """Which signal came, and whether it is still to be raised."""

    received: str = ""
    armed: bool = False


@contextmanager
def in_order() -> Iterator[None]:
    """Let SIGTERM and SIGINT raise EndedError at the next `check` or `pause` of the block, once.

    In another thread than the main one, which can't take signals, nothing changes.
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
    """Finish what was begun: signals raise nothing more in this block."""
    _Notice.armed = False


def check() -> None:
    """Raise EndedError if the step got a signal to end."""
    if _Notice.armed and _Notice.received:
        disarm()
        raise EndedError(f"the step was told to end ({_Notice.received})")


def pause(seconds: float) -> None:
    """Sleep, and raise EndedError as soon as the step gets a signal to end."""
    until = time.monotonic() + seconds
    check()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_EVERY_SECONDS))
        check()
