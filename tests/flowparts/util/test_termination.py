import os
import signal
import threading

import pytest

from flowparts.util import termination
from flowparts.util.termination import TerminatedError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_raises_once_at_the_next_pause(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with termination.deferred():
        os.kill(os.getpid(), number)
        with pytest.raises(TerminatedError, match=rf"terminated \({number.name}\)"):
            termination.pause(60)
        os.kill(os.getpid(), number)
        termination.pause(0)
        termination.check()
    assert signal.getsignal(number) is before


def test_a_signal_interrupts_a_pause() -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    with termination.deferred():
        timer.start()
        with pytest.raises(TerminatedError):
            termination.pause(60)
    timer.join()


def test_cleanup_is_not_interrupted_after_disarming() -> None:
    with termination.deferred():
        termination.disarm()
        os.kill(os.getpid(), signal.SIGTERM)
        termination.pause(0.01)


def test_other_threads_and_other_times_know_of_nothing() -> None:
    def run() -> None:
        with termination.deferred():
            termination.pause(0.01)

    thread = threading.Thread(target=run)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    termination.pause(0)
