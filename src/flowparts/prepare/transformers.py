"""Our own scikit-learn transformers and estimators, which a saved model may hold."""

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
    """Convert the rows of a request to the columns and types that the model was trained on.

    Args:
        types: Column name to type (integer, number, boolean, string, timestamp, date), in training order.
        optional: Columns that requests may leave out; their values are then missing.
    """

    def __init__(self, types: Mapping[str, str], optional: Sequence[str] = ()):
        self.types = types
        self.optional = optional

    def fit(self, frame: "pd.DataFrame", y: object = None) -> Self:  # noqa: ARG002
        """Learn nothing; the types are given."""
        return self

    def transform(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """Return the frame in the form of `tables.to_pandas`."""
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
    """Transform timestamps into year, month, day of week (Monday is 0), hour, days since 1970 and waves.

    Waves are `clock.WAVES` and, for columns that span a year, `clock.YEAR_WAVES`: in a shorter span, the
    season can't be told from a trend. Missing timestamps become NaN.

    Args:
        hours: Whether there is a time of day, for the hour and its waves.
        waves: Whether to add waves.
    """

    # Defaults for objects that were saved before there were waves.
    waves = False
    yearly_: Sequence[bool] = ()

    def __init__(self, hours: bool = True, waves: bool = False):
        self.hours = hours
        self.waves = waves

    def fit(self, frame: "pd.DataFrame", y: object = None) -> Self:  # noqa: ARG002
        """Store the columns' names, and which of them span a year."""
        self.feature_names_in_ = np.asarray(frame.columns, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        spans = [(frame[name].max() - frame[name].min()).days for name in frame.columns]
        self.yearly_ = [bool(self.waves and span >= _DAYS_OF_A_YEAR) for span in spans]
        return self

    def transform(self, frame: "pd.DataFrame") -> Array:
        """Return a float64 matrix with the features of each column side by side."""
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
        """The number of features of each column."""
        common = 4 + bool(self.hours) + len(clock.WAVES) * bool(self.hours and self.waves)
        return [common + len(clock.YEAR_WAVES) * yearly for yearly in self.yearly]

    @property
    def yearly(self) -> Sequence[bool]:
        """Whether each column has waves of the year."""
        return self.yearly_ or [False] * len(self.feature_names_in_)


class Float32(TransformerMixin, BaseEstimator):
    """Round features to 32 bits, like the tables that estimators are trained on."""

    def fit(self, matrix: Array, y: object = None) -> Self:  # noqa: ARG002
        """Learn nothing."""
        return self

    def transform(self, matrix: Array) -> Array:
        """Return the matrix as float32, clipped to its range so that no value becomes infinite."""
        limit = np.finfo(np.float32).max
        return np.clip(matrix, -limit, limit).astype(np.float32)

    def __sklearn_is_fitted__(self) -> bool:
        return True


class EncodedLabels(ClassifierMixin, BaseEstimator):
    """Let a classifier that only takes labels 0 to k - 1 learn any labels.

    Args:
        estimator: The classifier to train on the encoded labels. It isn't cloned, so that a saved model holds
            it only once.
    """

    def __init__(self, estimator: Any):
        self.estimator = estimator

    def fit(
        self, matrix: Array, labels: Array, eval_set: Sequence[tuple[Array, Array]] = (), **options: Any
    ) -> Self:
        """Train on the labels' indices among the sorted distinct labels; options go to the classifier."""
        self.classes_, positions = np.unique(labels, return_inverse=True)
        if eval_set:
            options["eval_set"] = [(held, np.searchsorted(self.classes_, truth)) for held, truth in eval_set]
        self.estimator.fit(matrix, positions, **options)
        return self

    def predict(self, matrix: Array) -> Array:
        """Return the original labels."""
        predicted: Array = self.classes_[np.asarray(self.estimator.predict(matrix), dtype=int)]
        return predicted

    def predict_proba(self, matrix: Array) -> Array:
        """Return the probabilities, a column for each class in the order of `classes_`."""
        probabilities: Array = self.estimator.predict_proba(matrix)
        return probabilities
