"""A candidate for a better default: three presets of LightGBM, small ensembles, a refit on all rows.

Large tables: the presets stop early on a fifth of the rows that is held out (the newest, where time orders
them); the best one is trained again on all rows, for as many rounds. Small tables: five folds, the presets
beside a linear model and two forests, and the weighted mean that greedy selection (Caruana et al. 2004,
https://doi.org/10.1145/1015330.1015432) finds on the out-of-fold predictions; every member is trained again
on all rows.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from sklearn import metrics

from flowparts.models import fitted_estimators
from flowparts.prepare import folds, preprocess
from flowparts.train import candidates, estimators, stages
from flowparts.train.candidates import Options

# Fewer training rows are cross-validated.
SMALL = 5_000
FOLDS = 5
ROUNDS = 30
ENSEMBLE_SIZE = 20

_CAP = {"n_estimators": 2_000}
PRESETS: list[tuple[str, dict[str, Any]]] = [
    ("LGBM", {**_CAP, "learning_rate": 0.05}),
    (
        "LGBM",
        {**_CAP, "learning_rate": 0.05, "num_leaves": 8, "min_child_samples": 5, "colsample_bytree": 0.8},
    ),
    (
        "LGBM",
        {
            **_CAP,
            "learning_rate": 0.03,
            "num_leaves": 64,
            "colsample_bytree": 0.5,
            "subsample": 0.8,
            "subsample_freq": 1,
        },
    ),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("Linear", {}),
    ("RandomForest", {"n_estimators": 200}),
    ("ExtraTrees", {"n_estimators": 200}),
]


@dataclass
class Member:
    """An estimator that was tried.

    Attributes:
        name: The estimator.
        parameters: Those of its constructor.
        rounds: What early stopping kept, for each fold.
        predicted: Predictions of the validation rows: probabilities, or numbers.
    """

    name: str
    parameters: dict[str, Any]
    rounds: list[dict[str, int]] = field(default_factory=list)
    predicted: Any = None

    def refitted_parameters(self) -> dict[str, Any]:
        if not self.rounds:
            return self.parameters
        mean = sum(each["n_estimators"] for each in self.rounds) / len(self.rounds)
        return {**self.parameters, "n_estimators": max(1, round(mean))}


def predict(
    train: pl.DataFrame, test: pl.DataFrame, label: str, task: str, order: pl.Series | None = None
) -> tuple[Any, str]:
    """Train on rows; return predictions of others (probabilities, or numbers) and what was used.

    Args:
        train: Rows to learn from.
        test: Rows to predict.
        label: Column to predict.
        task: "classification" or "regression".
        order: Number of each training row in time, if time orders them.
    """
    what: dict[str, Any] = {"label": label, "task": task, "exclude_columns": ()}
    options = Options()
    small = train.height < SMALL and order is None
    tried = [Member(name, dict(given)) for name, given in [*PRESETS, *(OTHERS if small else [])]]
    if order is None:
        parts = folds.assign(train.lazy(), FOLDS, label=label, task=task)
    else:
        newest = order > (1 - 1 / FOLDS) * train.height
        parts = [folds.Fold(~newest, newest)]
    divided = stages.on_folds(train.lazy(), parts if small else parts[:1], **what, options=options)
    truth = np.concatenate([stage.validation.label for stage in divided])
    for member in tried:
        member.predicted = np.concatenate([_validated(member, stage, task) for stage in divided])
    weights = _greedy(tried, truth, task) if small else _single(tried, truth, task)
    learned, rows = stages.learn(train.lazy(), label, task, (), options)

    matrix = preprocess.matrix(test, learned)
    total: Any = 0.0
    for member, weight in zip(tried, weights, strict=True):
        if weight:
            fitted = _fitted(member.name, member.refitted_parameters(), rows, rows, task, None)
            total = total + weight * _scores(fitted, matrix, learned.classes)
    used = [f"{weight:.2f} {member.name}" for member, weight in zip(tried, weights, strict=True) if weight]
    return total, " + ".join(used)


def _validated(member: Member, stage: stages.Stage, task: str) -> Any:
    stops = member.name == "LGBM"
    fitted = _fitted(
        member.name, member.parameters, stage.train, stage.validation, task, ROUNDS if stops else None
    )
    if stops:
        member.rounds.append(estimators.rounds(fitted))
    return _scores(fitted, stage.validation.matrix, stage.learned.classes)


def _fitted(
    name: str,
    parameters: dict[str, Any],
    train: estimators.Examples,
    validation: estimators.Examples,
    task: str,
    rounds: int | None,
) -> Any:
    options = Options(early_stopping_rounds=rounds)
    (candidate,) = candidates.build([{"estimator": name, "parameters": parameters}], task, options)
    return estimators.fit(candidate.estimator, train, validation, None, rounds)


def _scores(fitted: Any, matrix: Any, classes: list[Any] | None) -> Any:
    predicted = fitted_estimators.predictions(fitted, matrix, classes)
    if classes is None:
        return predicted["prediction"].to_numpy()
    return predicted.select(f"probability_{value}" for value in classes).to_numpy()


def loss(truth: Any, predicted: Any, task: str) -> float:
    """Return what selection minimizes: log loss, or the mean squared error."""
    if task == "regression":
        return float(((truth - predicted) ** 2).mean())
    return float(metrics.log_loss(truth, predicted, labels=sorted(set(truth.tolist()))))


def _single(tried: list[Member], truth: Any, task: str) -> list[float]:
    losses = [loss(truth, member.predicted, task) for member in tried]
    return [float(place == int(np.argmin(losses))) for place in range(len(tried))]


def _greedy(tried: list[Member], truth: Any, task: str) -> list[float]:
    counts = np.zeros(len(tried))
    total = np.zeros_like(tried[0].predicted)
    best, kept = np.inf, counts
    for size in range(1, ENSEMBLE_SIZE + 1):
        losses = [loss(truth, (total + member.predicted) / size, task) for member in tried]
        chosen = int(np.argmin(losses))
        counts = counts.copy()
        counts[chosen] += 1
        total = total + tried[chosen].predicted
        if losses[chosen] < best:
            best, kept = losses[chosen], counts
    return [float(weight) for weight in kept / kept.sum()]
