"""Run the trials of a study within its budget, one after another or in parallel."""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace

from flowparts.train import budgets, failures
from flowparts.tune import objective
from flowparts.tune.journal import Journal
from flowparts.tune.objective import Configuration, Objective, Trial
from flowparts.tune.space import Space
from flowparts.tune.suggest import Suggester

_log = logging.getLogger("flowparts")

Submit = Callable[[int, Configuration, Sequence[Trial], float], "Future[Trial]"]


@dataclass(frozen=True)
class Budget:
    """Limits of a study.

    Attributes:
        trials: Maximum number of trials; 0 for no limit.
        seconds: Maximum seconds, including those of an earlier attempt that was killed; 0 for no limit.
        parallel: Number of trials at a time.
    """

    trials: int = 30
    seconds: float = 0.0
    parallel: int = 1

    def check(self) -> None:
        """Raise ValueError if a limit is invalid, or there is none."""
        if self.trials < 0:
            raise ValueError(f"trials must be at least 0, not {self.trials}")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"max_seconds must be a number of at least 0, not {self.seconds:g}")
        if not self.trials and not self.seconds:
            raise ValueError(
                "the budget is empty: trials and max_seconds are both 0; limit the number of trials, the "
                "seconds, or both"
            )
        if self.parallel < 1:
            raise ValueError(f"parallel_trials must be at least 1, not {self.parallel}")


def run(
    judged: Objective, spaces: Sequence[Space], budget: Budget, journal: Journal, seed: int, keep: int = 0
) -> list[Trial]:
    """Suggest and try configurations until the budget is spent; return the finished trials by number.

    A trial is suggested from those at least `parallel` before it, in the order of their numbers. So the same
    inputs, seed and `parallel` give the same trials, however long each takes, on any number of processors,
    and whether or not the study was interrupted; only the number of trials within a limit in seconds depends
    on the machine.

    Args:
        judged: Trains and scores each trial.
        spaces: The search spaces of the estimators.
        budget: Limits of the study.
        journal: Where finished trials are stored.
        seed: Seed of the suggestions.
        keep: Number of the best trials of each estimator whose `trained` is kept in memory.

    Raises:
        ValueError: Every trial failed, or none finished in time; the message groups the causes.
    """
    trials = journal.read()[: budget.trials or None]
    suggester = Suggester(spaces, judged.maximizes, seed)
    started = time.monotonic() - (trials[-1].elapsed if trials else 0.0)
    pending: deque[Future[Trial]] = deque()
    number = len(trials)
    timed_out = False
    with _runner(judged, budget.parallel) as submit:
        while True:
            while len(pending) < budget.parallel and not (budget.trials and number >= budget.trials):
                left = budget.seconds - (time.monotonic() - started) if budget.seconds else math.inf
                if left <= 0 or timed_out:
                    break
                known = trials[: max(0, number - budget.parallel + 1)]
                configuration = suggester.suggest(number, known)
                # The default parameters of each estimator are never pruned, so that all can be compared.
                compared = known if number >= len(spaces) else []
                pending.append(submit(number, configuration, compared, min(left, budgets.SECONDS)))
                number += 1
            if not pending:
                break
            trial = _result(pending.popleft())
            trial = replace(trial, elapsed=round(time.monotonic() - started, 3))
            if trial.state == objective.FAILED and budget.seconds and trial.elapsed >= budget.seconds:
                # Cut off by the end of the budget, which says nothing about the configuration.
                timed_out = True
                continue
            if timed_out:
                continue
            journal.append(trial)
            trials.append(trial)
            _forget(trials, trial.configuration.estimator, judged.maximizes, keep)
            _log.info("trial %s: %s", trial.number, _said(trial, judged.metric))
    require_success(trials, budget)
    return trials


def _forget(trials: list[Trial], estimator: str, maximizes: bool, keep: int) -> None:
    """Leave what was trained only in the best of an estimator's trials."""
    sign = -1 if maximizes else 1
    kept = [place for place, trial in enumerate(trials) if trial.trained]
    kept = [place for place in kept if trials[place].configuration.estimator == estimator]
    kept.sort(key=lambda place: sign * (trials[place].score or 0.0))
    for place in kept[keep:]:
        trials[place] = replace(trials[place], trained=[])


def _result(pending: "Future[Trial]") -> Trial:
    try:
        return pending.result()
    except BrokenProcessPool:
        raise MemoryError(
            "a process that ran a trial was killed, most likely for its memory; give the step more memory or "
            "fewer parallel_trials"
        ) from None


def best(trials: Sequence[Trial], maximizes: bool) -> Trial:
    """Return the complete trial with the best score, the first of equals."""
    complete = [trial for trial in trials if trial.score is not None]
    return max(complete, key=lambda trial: (trial.score or 0.0) * (1 if maximizes else -1))


def causes(trials: Sequence[Trial]) -> list[str]:
    """Return why trials failed, as `failures.causes` groups it."""
    return failures.causes(_failed(trials))


def require_success(trials: Sequence[Trial], budget: Budget) -> None:
    """Raise ValueError unless a trial is complete; the message groups the causes."""
    if any(trial.score is not None for trial in trials):
        return
    failed = list(_failed(trials))
    if not failed:
        raise ValueError(
            f"no trial finished within max_seconds={budget.seconds:g}; give more seconds, a smaller space or "
            "fewer folds"
        )
    raise ValueError(f"all {len(trials)} trials failed: {failures.in_short(failed)}")


def _failed(trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    for trial in trials:
        if trial.state == objective.FAILED:
            yield trial.configuration.estimator, trial.reason


def _said(trial: Trial, metric: str) -> str:
    name = trial.configuration.estimator
    if trial.state == objective.FAILED:
        return f"{name} failed: {trial.reason}"
    reached = len(trial.values)
    cut = "" if trial.state == objective.COMPLETE else f", pruned after {reached} stage{'s'[: reached > 1]}"
    return f"{name} {metric} {trial.values[-1]:.6g} in {trial.seconds:.1f} s{cut}"


@contextmanager
def _runner(judged: Objective, parallel: int) -> Iterator[Submit]:
    """Yield a function that starts a trial: in this process, or in one of several."""
    if parallel == 1:
        yield lambda *given: _finished(judged.evaluate(*given))
        return
    import multiprocessing

    import joblib

    processors = joblib.cpu_count()
    workers = min(parallel, processors)
    # Not fork: a forked process hangs if Polars had started its threads.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        _start_worker,
        (judged, max(1, processors // workers)),
    )
    try:
        yield lambda *given: pool.submit(_evaluate, *given)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(trial: Trial) -> "Future[Trial]":
    future: Future[Trial] = Future()
    future.set_result(trial)
    return future


_judged: Objective | None = None


def _start_worker(judged: Objective, threads: int) -> None:
    """Prepare a process for trials; it ends if the one that started it is killed."""
    import multiprocessing

    global _judged
    # The number of processors to joblib, and so to every estimator here.
    os.environ["LOKY_MAX_CPU_COUNT"] = str(threads)
    _judged = judged
    parent = multiprocessing.parent_process()
    assert parent

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _evaluate(number: int, configuration: Configuration, earlier: Sequence[Trial], seconds: float) -> Trial:
    assert _judged
    return _judged.evaluate(number, configuration, earlier, seconds)
