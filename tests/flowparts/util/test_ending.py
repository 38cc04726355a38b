import os
import signal
import threading

import pytest

from flowparts.util import ending
from flowparts.util.ending import EndedError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_raises_once_at_the_next_pause(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with ending.in_order():
        os.kill(os.getpid(), number)
        with pytest.raises(EndedError, match=rf"told to end \({number.name}\)"):
            ending.pause(60)
        os.kill(os.getpid(), number)
        ending.pause(0)
        ending.check()
    assert signal.getsignal(number) is before


def test_a_signal_interrupts_a_pause() -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    with ending.in_order():
        timer.start()
        with pytest.raises(EndedError):
            ending.pause(60)
    timer.join()


def test_cleanup_is_not_interrupted_after_disarming() -> None:
    with ending.in_order():
        ending.disarm()
        os.kill(os.getpid(), signal.SIGTERM)
        ending.pause(0.01)


def test_other_threads_and_other_times_know_of_nothing() -> None:
    def run() -> None:
        with ending.in_order():
            ending.pause(0.01)

    thread = threading.Thread(target=run)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    ending.pause(0)
