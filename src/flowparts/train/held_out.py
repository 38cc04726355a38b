"""The rows that members of an ensemble are compared on, and the metrics of predictions for them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from flowparts.evaluate import metrics
from flowparts.models import fitted_estimators
from flowparts.train.calibration import Threshold
from flowparts.train.problem import Compared

_RESAMPLES = 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """The rows that members are compared on.

    Attributes:
        task: "classification" or "regression".
        metric: What is optimized.
        labels: The label of each row.
        classes: Sorted label values of a classification; None for a regression.
        positive: The positive one of two classes.
        parts: Number of the stage that each row is from.
        weights: Sample weights, if there are any; metrics don't use them.
    """

    task: str
    metric: str
    labels: pl.Series
    classes: list[Any] | None
    positive: Any
    parts: npt.NDArray[np.intp]
    weights: Floats | None = None

    @classmethod
    def of(cls, rows: Compared) -> "HeldOut":
        """Return the held-out rows, one stage after the other."""
        divided, positive = rows.held_out_stages, rows.facts["positive_class"]
        learned = divided[0].learned
        sizes = [len(stage.validation.truth) for stage in divided]
        labels = pl.concat([stage.validation.truth for stage in divided])
        parts = np.repeat(np.arange(len(divided)), sizes)
        given = [stage.validation.weights for stage in divided if stage.validation.weights is not None]
        weights = np.concatenate(given) if given else None
        return cls(learned.task, rows.metric, labels, learned.classes, positive, parts, weights)

    @cached_property
    def truth(self) -> Any:
        """The place of each row's class, or its number."""
        if self.classes is None:
            return metrics.floats(self.labels)
        return metrics.encode(self.labels, self.classes)

    @property
    def positive_index(self) -> int:
        """Place of the positive one of two classes."""
        return metrics.positive_index(self.classes or [], self.positive)

    def found_classes(self) -> list[Any]:
        """Return the classes of the rows with a weight, in order."""
        rows = self.labels if self.weights is None else self.labels.filter(pl.Series(self.weights > 0))
        return rows.unique().sort().to_list()

    def require_two_classes(self) -> None:
        """Raise ValueError if all rows with a weight are of one class."""
        if len(found := self.found_classes()) < 2:
            raise ValueError(
                f"the held-out rows have a single class of {self.labels.name!r}, {found[0]!r}, so neither "
                "calibration nor a threshold can be learned from them; give other validation rows, or "
                "calibrate=False and no threshold"
            )

    def table(self, predicted: Floats, threshold: Threshold | None = None) -> pl.DataFrame:
        """Return predictions as the columns of `Model.predict`."""
        if self.classes is None:
            return pl.DataFrame({"prediction": predicted})
        places = predicted.argmax(axis=1)
        if threshold:
            places = threshold.apply(None).decide(predicted)
        dtype = fitted_estimators.prediction_schema(self.classes)["prediction"]
        answers = pl.Series("prediction", [self.classes[place] for place in places], dtype=dtype)
        columns = {f"probability_{value}": predicted[:, at] for at, value in enumerate(self.classes)}
        return pl.DataFrame([answers]).with_columns(**{k: pl.Series(v) for k, v in columns.items()})

    def measure(self, predicted: Floats, threshold: Threshold | None = None) -> dict[str, float]:
        """Return all metrics of predictions."""
        found = self.table(predicted, threshold)
        return metrics.score(self.task, self.labels, found, self.classes, self.positive)

    def interval(self, predicted: Floats, threshold: Threshold | None = None) -> tuple[float, float] | None:
        """Return the 95 % bootstrap interval of the metric."""
        found = metrics.bootstrap_intervals(
            self.task,
            self.labels,
            self.table(predicted, threshold),
            self.classes,
            _RESAMPLES,
            positive=self.positive,
            only=[self.metric],
        )
        return found.get(self.metric)
