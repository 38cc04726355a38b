import signal
import threading
import time

import numpy as np
import pytest
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import SVC, LinearSVC, NuSVR

from flowparts.train import budgets


@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (SVC(), 30_000),
        (NuSVR(), 30_000),
        (BaggingClassifier(SVC()), 30_000),
        (make_pipeline(SVC()), 30_000),
        (GaussianProcessClassifier(), 3_000),
        (GaussianProcessRegressor(), 3_000),
        (KernelRidge(), 10_000),
        (LabelSpreading(), 10_000),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_estimators_that_do_not_scale_are_refused_for_many_rows_with_an_alternative(
    estimator: object, rows: int
) -> None:
    budgets.require_rows(estimator, rows)
    with pytest.raises(ValueError, match=rf"takes at most {rows:,} training rows, not {rows + 1:,}, because"):
        budgets.require_rows(estimator, rows + 1)


@pytest.mark.parametrize("estimator", [LogisticRegression(), LinearSVC(), RandomForestClassifier()])
def test_estimators_that_scale_accept_any_number_of_rows(estimator: object) -> None:
    budgets.require_rows(estimator, 10**9)


def test_a_forest_whose_time_is_up_ends_and_leaves_the_signal_as_it_was() -> None:
    rng = np.random.default_rng(0)
    before = signal.getsignal(signal.SIGALRM)
    forest = RandomForestClassifier(20_000, n_jobs=2)
    with pytest.raises(budgets.Expired), budgets.limited(0.3):
        forest.fit(rng.random((200, 3)), rng.integers(0, 2, 200))
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_block_within_its_time_limit_is_not_interrupted() -> None:
    with budgets.limited(60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_another_thread_there_is_no_limit() -> None:
    done = []

    def work() -> None:
        with budgets.limited(0.01):
            time.sleep(0.1)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
