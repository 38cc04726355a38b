"""Limit the time and memory that one estimator takes in a training.

Forests are limited by their parameters (`forests`). The limits here apply to every estimator: rows, if its
cost grows with their square or cube, seconds, and the size of the trained estimator.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

# Default limit for training and scoring a candidate.
SECONDS = 300.0
# Of a trained estimator in memory. Loading takes up to three times as much; steps have 2 to 4 GiB.
MAX_MEGABYTES = 800.0

# Maximum number of training rows by an estimator's base class or module. On 59 features and two cores, an SVC
# takes 5 s for 10,000 rows and seven times as long for twice as many; the others hold one or more numbers for
# each pair of rows.
_SQUARE = "its training time grows with their square or faster"
_PAIRS = "its memory grows with their square"
_MOST_ROWS = {
    "sklearn.svm._base.BaseLibSVM": (30_000, _SQUARE),
    "sklearn.gaussian_process": (3_000, _PAIRS),
    "sklearn.kernel_ridge": (10_000, _PAIRS),
    "sklearn.semi_supervised._label_propagation": (10_000, _PAIRS),
}
# The exception is raised again after this time, in case a library's callback has swallowed it.
_AGAIN_SECONDS = 10.0


class Expired(BaseException):
    """Raised when the time is up; not an `Exception`, so that no library catches it."""


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
    """Raise ValueError if a trained estimator is too large to serve."""
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
