"""Keep one estimator from taking all of a training's time or memory.

Forests are bounded by their parameters (`forests`). Here are the bounds for every estimator: rows, where its
cost grows with their square or cube, seconds, and the size of what it learned.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

# How long a candidate may train and score, if it doesn't say.
SECONDS = 300.0
# Of a trained estimator in memory. Loading takes up to three times as much, and steps have 2 to 4 GiB.
MAX_MEGABYTES = 800.0

# Most training rows by the class that an estimator is of, or by its module. On 59 features and two cores, an
# SVC takes 5 s for 10,000 rows and seven times that for twice as many; the others hold one or more numbers
# for each pair of rows.
_SQUARE = "its training time grows with their square or faster"
_PAIRS = "its memory grows with their square"
_MOST_ROWS = {
    "sklearn.svm._base.BaseLibSVM": (30_000, _SQUARE),
    "sklearn.gaussian_process": (3_000, _PAIRS),
    "sklearn.kernel_ridge": (10_000, _PAIRS),
    "sklearn.semi_supervised._label_propagation": (10_000, _PAIRS),
}
# If an exception is lost in a callback that can't raise, another one follows.
_AGAIN_SECONDS = 10.0


class Expired(BaseException):
    """The time is up; no `Exception`, so that no library takes it for one of its own."""


def require_rows(estimator: Any, rows: int) -> None:
    """Raise ValueError if an estimator, or one inside it, doesn't scale to this many training rows."""
    inner = estimator.get_params(deep=True).values()
    for each in (estimator, *inner):
        for base in type(each).__mro__:
            module = base.__module__
            names = (f"{module}.{base.__name__}", module, module.rpartition(".")[0])
            most, why = next((_MOST_ROWS[name] for name in names if name in _MOST_ROWS), (rows, ""))
            if rows > most:
                name = type(each).__name__
                raise ValueError(
                    f"{name} takes at most {most:,} training rows, not {rows:,}, because {why}; "
                    "use HistGradientBoosting or Linear, or train on a sample of the rows"
                )


def require_size(megabytes: float) -> None:
    """Raise ValueError if a trained estimator takes too much memory to be served."""
    if megabytes > MAX_MEGABYTES:
        raise ValueError(
            f"the trained estimator takes {megabytes:,.0f} MB of memory, more than {MAX_MEGABYTES:,.0f}; "
            "give it fewer or smaller parts, such as n_estimators or max_leaf_nodes"
        )


@contextlib.contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise `Expired` in the block when its time is up.

    Code that isn't Python, such as a single call of libsvm, is interrupted when it returns. Has no effect
    outside the main thread, where signals can't be handled.

    Args:
        seconds: The time; None for no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_: object) -> None:
        raise Expired

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
