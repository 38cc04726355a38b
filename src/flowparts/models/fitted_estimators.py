"""The library and the predictions of a fitted estimator of scikit-learn, XGBoost or LightGBM."""

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

# Imported lazily: each takes longer to import than most steps take to train.
BOOSTERS = {
    "LGBMClassifier": "lightgbm",
    "LGBMRegressor": "lightgbm",
    "XGBClassifier": "xgboost",
    "XGBRFClassifier": "xgboost",
    "XGBRFRegressor": "xgboost",
    "XGBRegressor": "xgboost",
}

# Estimators that predict the most probable class, so that scoring once gives both.
_MOST_PROBABLE = (
    "xgboost",
    "lightgbm",
    "sklearn.ensemble._forest",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting",
    "sklearn.neural_network._multilayer_perceptron",
    "sklearn.tree._classes",
)


def predictions(estimator: Any, matrix: Any, classes: Sequence[Any] | None) -> pl.DataFrame:
    """Score transformed features with a fitted estimator.

    Args:
        estimator: A fitted scikit-learn, XGBoost or LightGBM estimator.
        matrix: Float32 features, rows by columns.
        classes: Sorted classes of a classifier; None for a regressor.

    Returns:
        The columns of `Model.predict`.
    """
    import numpy as np

    if classes is None:
        values = np.asarray(estimator.predict(matrix), dtype=float).reshape(len(matrix))
        return pl.DataFrame({"prediction": values})
    from flowparts.models.adjusted import DecisionThreshold

    probabilities = _probabilities(estimator, matrix)
    if isinstance(estimator, DecisionThreshold):
        predicted = np.asarray(estimator.classes_)[estimator.decide(probabilities)]
    elif predicts_most_probable(estimator):
        predicted = np.asarray(estimator.classes_)[probabilities.argmax(axis=1)]
    else:
        predicted = np.asarray(estimator.predict(matrix))
    columns = {
        f"probability_{value}": np.ascontiguousarray(probabilities[:, index])
        for index, value in enumerate(classes)
    }
    prediction = pl.Series("prediction", predicted.tolist(), dtype=prediction_schema(classes)["prediction"])
    return pl.DataFrame([prediction]).with_columns(**columns)


def predicts_most_probable(estimator: Any) -> bool:
    """Return whether a classifier is known to predict the most probable class."""
    from flowparts.models.adjusted import CalibratedProbabilities

    if isinstance(estimator, CalibratedProbabilities) or getattr(estimator, "voting", "") == "soft":
        return True
    return library(estimator) in _MOST_PROBABLE or type(estimator).__module__ in _MOST_PROBABLE


def prediction_schema(classes: Sequence[Any] | None) -> dict[str, pl.DataType]:
    """Return the columns of predictions with their types."""
    if classes is None:
        return {"prediction": pl.Float64()}
    kinds: dict[type, pl.DataType] = {bool: pl.Boolean(), int: pl.Int64(), float: pl.Float64()}
    dtype = kinds.get(type(classes[0]), pl.String())
    return {"prediction": dtype} | {f"probability_{value}": pl.Float64() for value in classes}


def _probabilities(estimator: Any, matrix: Any) -> Any:
    """Return a float64 matrix: rows, classes."""
    import numpy as np
    from scipy.special import expit, softmax

    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(matrix), dtype=float)
    if hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(matrix), dtype=float)
        if scores.ndim == 1:
            positive = expit(scores)
            return np.column_stack([1 - positive, positive])
        if scores.shape[1] == len(estimator.classes_):
            return softmax(scores, axis=1)
    predicted = np.asarray(estimator.predict(matrix))
    return (predicted[:, None] == np.asarray(estimator.classes_)[None, :]).astype(float)


def framework(estimator: Any) -> str:
    """Return the usual name of an estimator's library."""
    name = library(estimator)
    return "scikit-learn" if name == "sklearn" else name


def library(estimator: Any) -> str:
    """Return an estimator's package, such as "sklearn"."""
    return type(bare(estimator)).__module__.partition(".")[0]


def bare(estimator: Any) -> Any:
    """Return a library's estimator without the wrappers of flowparts."""
    from flowparts.models.adjusted import ADJUSTED
    from flowparts.prepare.transformers import EncodedLabels

    while isinstance(estimator, (*ADJUSTED, EncodedLabels)):
        estimator = estimator.estimator
    return estimator


def members(estimator: Any) -> Iterator[Any]:
    """Yield the members of a weighted mean, or the estimator itself."""
    found = bare(estimator)
    if type(found).__module__ == "sklearn.ensemble._voting":
        for each in found.estimators_:
            yield from members(each)
    else:
        yield found
