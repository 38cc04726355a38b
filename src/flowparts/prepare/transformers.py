"""The few scikit-learn building blocks of our own that a saved model may hold."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin

from flowparts.prepare import clock

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]

_DAYS_OF_A_YEAR = 360


class RawColumns(TransformerMixin, BaseEstimator):
    """Bring the rows that a server hands over to the columns and types that the model was trained on.

    Args:
        types: Column name to type (integer, number, boolean, string, timestamp, date), in training order.
        optional: Columns that may be left out; their values are then missing.
    """

    def __init__(self, types: Mapping[str, str], optional: Sequence[str] = ()):
        self.types = types
        self.optional = optional

    def fit(self, frame: "pd.DataFrame", y: object = None) -> Self:  # noqa: ARG002
        """Learn nothing; the types are given."""
        return self

    def transform(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """Return the frame as `tables.to_pandas` would give it."""
        import polars as pl

        from flowparts import tables
        from flowparts.tables import casts

        known = frame[[name for name in self.types if name in frame.columns]]
        table = pl.from_pandas(known.reset_index(drop=True))
        missing = [name for name in self.optional if name not in frame.columns]
        table = table.with_columns(pl.lit(None).alias(name) for name in missing)
        return tables.to_pandas(casts.conform(table, self.types))

    def __sklearn_is_fitted__(self) -> bool:
        return True


class TimestampFeatures(TransformerMixin, BaseEstimator):
    """Turn timestamps into year, month, day of week (Monday is 0), hour, days since 1970 and waves.

    Waves are `clock.WAVES` and, of columns that span a year, `clock.YEAR_WAVES`: in less, the season can't be
    told from a trend. Missing timestamps become NaN.

    Args:
        hours: Whether there is a time of day; without, no hour and no waves of it are made.
        waves: Whether waves are made.
    """

    # Saved before there were waves, an object has no such attributes of its own.
    waves = False
    yearly_: Sequence[bool] = ()

    def __init__(self, hours: bool = True, waves: bool = False):
        self.hours = hours
        self.waves = waves

    def fit(self, frame: "pd.DataFrame", y: object = None) -> Self:  # noqa: ARG002
        """Remember the columns' names, and which of them span a year."""
        self.feature_names_in_ = np.asarray(frame.columns, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        spans = [(frame[name].max() - frame[name].min()).days for name in frame.columns]
        self.yearly_ = [bool(self.waves and span >= _DAYS_OF_A_YEAR) for span in spans]
        return self

    def transform(self, frame: "pd.DataFrame") -> Array:
        """Return a float64 matrix, the features of one column side by side."""
        parts = []
        for name, yearly in zip(frame.columns, self.yearly, strict=True):
            moments = frame[name].dt
            parts += [moments.year, moments.month, moments.day_of_week]
            if self.hours:
                parts.append(moments.hour)
            days = (frame[name].to_numpy("datetime64[us]").astype("int64") / 86_400e6).astype(float)
            missing = frame[name].isna().to_numpy()
            parts.append(np.where(missing, np.nan, days))
            if self.hours and self.waves:
                table = np.array(clock.TABLE)[np.where(missing, 0, moments.hour).astype(int)]
                parts += np.where(missing, np.nan, table.T).tolist()
            if yearly:
                table = np.array(clock.YEAR_TABLE)[np.where(missing, 1, moments.day_of_year).astype(int) - 1]
                parts += np.where(missing, np.nan, table.T).tolist()
        return np.column_stack([np.asarray(part, dtype=float) for part in parts])

    def get_feature_names_out(self, input_features: object = None) -> Array:  # noqa: ARG002
        """Return `<column>_<feature>` in the order of the matrix."""
        kinds = ["year", "month", "day_of_week", *(["hour"] if self.hours else []), "days"]
        kinds += clock.WAVES if self.hours and self.waves else []
        names = []
        for name, yearly in zip(self.feature_names_in_, self.yearly, strict=True):
            names += [f"{name}_{kind}" for kind in [*kinds, *(clock.YEAR_WAVES if yearly else [])]]
        return np.asarray(names, dtype=object)

    @property
    def widths(self) -> list[int]:
        """How many features each column has."""
        common = 4 + bool(self.hours) + len(clock.WAVES) * bool(self.hours and self.waves)
        return [common + len(clock.YEAR_WAVES) * yearly for yearly in self.yearly]

    @property
    def yearly(self) -> Sequence[bool]:
        """Which columns have waves of the year."""
        return self.yearly_ or [False] * len(self.feature_names_in_)


class Float32(TransformerMixin, BaseEstimator):
    """Round features to 32 bits, as the tables that estimators are trained on store them."""

    def fit(self, matrix: Array, y: object = None) -> Self:  # noqa: ARG002
        """Learn nothing."""
        return self

    def transform(self, matrix: Array) -> Array:
        """Return the matrix as float32; a value beyond 32 bits becomes the largest, not infinite."""
        limit = np.finfo(np.float32).max
        return np.clip(matrix, -limit, limit).astype(np.float32)

    def __sklearn_is_fitted__(self) -> bool:
        return True


class EncodedLabels(ClassifierMixin, BaseEstimator):
    """A classifier of any labels made of one that only takes 0 to k - 1.

    Args:
        estimator: The classifier to train on the labels' positions; it is trained itself, not a copy, so that
            a saved model holds it once.
    """

    def __init__(self, estimator: Any):
        self.estimator = estimator

    def fit(
        self, matrix: Array, labels: Array, eval_set: Sequence[tuple[Array, Array]] = (), **options: Any
    ) -> Self:
        """Train on the labels' positions among the sorted distinct ones; options go to the classifier."""
        self.classes_, positions = np.unique(labels, return_inverse=True)
        if eval_set:
            options["eval_set"] = [(held, np.searchsorted(self.classes_, truth)) for held, truth in eval_set]
        self.estimator.fit(matrix, positions, **options)
        return self

    def predict(self, matrix: Array) -> Array:
        """Return original labels."""
        predicted: Array = self.classes_[np.asarray(self.estimator.predict(matrix), dtype=int)]
        return predicted

    def predict_proba(self, matrix: Array) -> Array:
        """Return a column for each class, in the order of `classes_`."""
        probabilities: Array = self.estimator.predict_proba(matrix)
        return probabilities
