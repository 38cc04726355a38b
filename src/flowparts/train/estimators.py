"""Find an estimator by name, check its parameters, and train it."""

import functools
import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from flowparts.models import fitted_estimators
from flowparts.prepare.preprocess import Preprocessor, label_values
from flowparts.train import constraints, estimator_parameters
from flowparts.util import errors
from flowparts.util.names import hint

_KINDS = {"classification": "classifier", "regression": "regressor"}
_SUFFIXES = {"classification": "Classifier", "regression": "Regressor"}
_LINEAR = {"classification": "LogisticRegression", "regression": "Ridge"}
# With fewer values, threads cost more than they save, most of all if candidates train side by side.
_VALUES_WORTH_THREADS = 200_000


@dataclass(frozen=True)
class Examples:
    """Rows to train on or to validate with.

    Attributes:
        matrix: Float32 features, rows by columns.
        truth: The label of each row.
        weights: Sample weights, if there are any.
        columns: Raw column to its type and the positions of its features, for constraints by column name.
    """

    matrix: Any
    truth: pl.Series
    weights: Any | None
    columns: Mapping[str, tuple[str, list[int]]] = field(default_factory=dict)

    @property
    def label(self) -> Any:
        """The label as an array for estimators."""
        return label_values(self.truth)


def resolve(name: str, task: str) -> type:
    """Return the class of an estimator.

    Args:
        name: Exact class name of scikit-learn, XGBoost or LightGBM ("RandomForestClassifier"), or the family
            for both tasks ("RandomForest", "HistGradientBoosting", "XGB", "LGBM"; "Linear" is
            LogisticRegression or Ridge).
        task: "classification" or "regression".

    Raises:
        ValueError: There is no such estimator for this task.
    """
    fitting, others = _classes(task), _classes(*(other for other in _KINDS if other != task))
    found = _LINEAR[task] if name == "Linear" else name
    if found not in fitting and found + _SUFFIXES[task] in fitting:
        found += _SUFFIXES[task]
    if found in fitting:
        module = fitting[found]
        if isinstance(module, type):
            return module
        return typing.cast(type, getattr(__import__(module), found))
    families = {"Linear", *(known.removesuffix(_SUFFIXES[task]) for known in fitting)}
    if found in others:
        base = found.removesuffix("Regressor").removesuffix("Classifier")
        kin = base + _SUFFIXES[task]
        kind = next(kind for other, kind in _KINDS.items() if other != task)
        raise ValueError(
            f"estimator {name!r} is a {kind}, but the task is {task}"
            + (f"; use {kin!r}" if kin in fitting else estimator_parameters.near(found, fitting))
        )
    raise ValueError(
        f"estimator {name!r} is unknown for {task}; {hint(found, [*fitting, *families])}"
        "give a class name of scikit-learn, XGBoost or LightGBM"
    )


def build(
    name: str,
    task: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    class_weight: str | None = None,
    weighted: bool = False,
    early_stopping_rounds: int | None = None,
    seed: int = 0,
) -> Any:
    """Build an untrained estimator and check every option; needs no data.

    Args:
        name: As for `resolve`.
        task: "classification" or "regression".
        parameters: Constructor parameters. Whole floats become ints if needed. For a parameter that takes an
            estimator, give its name, or a dict of its "name" and parameters. Monotone and interaction
            constraints may name raw columns: `{"income": 1}`, `[["income", "age"]]`.
        class_weight: "balanced" to weight classes inversely to their frequency.
        weighted: Whether the rows have weights.
        early_stopping_rounds: Stop when the validation loss hasn't improved for this many rounds.
        seed: Random state, unless the parameters set one.

    Raises:
        ValueError: An option is unknown, out of range, or not supported by the estimator.
    """
    cls = resolve(name, task)
    known = inspect.signature(cls).parameters
    checked = check_parameters(cls, parameters or {}, task, seed)
    defaults: dict[str, Any] = {}
    if _takes_random_state(cls):
        defaults["random_state"] = seed
    if estimator_parameters.is_booster(cls):
        quiet_and_steady = {"verbosity": -1, "deterministic": True, "force_row_wise": True}
        defaults |= {"verbosity": 0} if estimator_parameters.library(cls) == "xgboost" else quiet_and_steady
    if class_weight is not None:
        if task != "classification":
            raise ValueError(f"class_weight {class_weight!r} is for classification; the task is {task}")
        if class_weight != "balanced":
            raise ValueError(f"class_weight must be 'balanced', not {class_weight!r}")
        if "class_weight" in checked:
            raise ValueError("class_weight is given twice: as an option and among the parameters")
        if "class_weight" in known:
            checked["class_weight"] = class_weight
    needs_weights = weighted or (class_weight is not None and "class_weight" not in known)
    if needs_weights and "sample_weight" not in inspect.signature(cls.fit).parameters:  # type: ignore[attr-defined]
        what = "a weight column" if weighted else "class_weight"
        raise ValueError(f"estimator {cls.__name__!r} can't take sample weights; leave out {what}")
    if early_stopping_rounds is not None:
        checked |= _early_stopping(cls, early_stopping_rounds)
    return cls(**{**defaults, **checked})


def fit(
    estimator: Any,
    train: Examples,
    validation: Examples,
    class_weight: str | None = None,
    early_stopping_rounds: int | None = None,
) -> Any:
    """Train an estimator that `build` made with the same options.

    Args:
        estimator: The estimator; it is trained in place.
        train: Rows to learn from.
        validation: Rows for early stopping; otherwise unused.
        class_weight: As given to `build`.
        early_stopping_rounds: As given to `build`.

    Returns:
        The trained estimator; XGBoost classifiers come wrapped so that they predict the original labels.

    Raises:
        ValueError: The estimator can't be trained on these rows; the message quotes the library's reason.
    """
    import joblib
    import threadpoolctl

    from flowparts.prepare.transformers import EncodedLabels

    constraints.apply(estimator, train.columns)
    name, library = type(estimator).__name__, estimator_parameters.library(type(estimator))
    options: dict[str, Any] = {}
    weights = _weights(estimator, train, class_weight)
    if weights is not None:
        options["sample_weight"] = weights
    threads = joblib.cpu_count() if train.matrix.size >= _VALUES_WORTH_THREADS else 1
    if estimator_parameters.is_booster(type(estimator)) and estimator.n_jobs is None:
        estimator.set_params(n_jobs=threads)
    if early_stopping_rounds is not None:
        options |= _validation_options(estimator, train, validation, early_stopping_rounds)
    if getattr(estimator, "early_stopping", None) == "auto" and _has_single_row_class(estimator, train.label):
        # scikit-learn holds rows of every class out for it, which takes two.
        estimator.set_params(early_stopping=False)
    if library == "xgboost":
        options["verbose"] = False
        if not _counts_from_zero(estimator, train.label):
            estimator = EncodedLabels(estimator)
    try:
        # Processes would copy the table, and need more shared memory than a container has by default.
        with joblib.parallel_config("threading", n_jobs=threads), threadpoolctl.threadpool_limits(threads):
            return estimator.fit(train.matrix, train.label, **options)
    except MemoryError:
        raise
    # Each library has its own error classes; the user gets the message.
    except Exception as error:
        raise ValueError(
            f"estimator {name!r} can't be trained on this table: {errors.first_line(error)}"
        ) from error


def _has_single_row_class(estimator: Any, label: Any) -> bool:
    import numpy as np
    from sklearn.base import is_classifier

    return bool(is_classifier(estimator)) and bool(np.unique(label, return_counts=True)[1].min() < 2)


def described(estimator: Any, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the given parameters with the values that the estimator holds, if JSON can represent them."""
    taken = estimator.get_params(deep=False)
    return {
        name: taken[name] if isinstance(taken.get(name), bool | int | float | str) else value
        for name, value in (parameters or {}).items()
    }


def examples(table: pl.LazyFrame, preprocessor: Preprocessor, weight_column: str | None = None) -> Examples:
    """Read a table of features into memory.

    Args:
        table: Transformed features, label and weight column, as `preprocess.transform` gives them.
        preprocessor: The preprocessing that made the features.
        weight_column: The column of sample weights, if any.

    Raises:
        ValueError: The table lacks a column, or has no rows.
    """
    from flowparts import tables

    if weight_column not in (None, preprocessor.weight_column):
        raise ValueError(
            f"weight column {weight_column!r} was not given to fit_preprocessor, whose weight_column is "
            f"{preprocessor.weight_column!r}; name the same column in both"
        )
    names = preprocessor.feature_names
    wanted = [*names, preprocessor.label, *([weight_column] if weight_column else [])]
    tables.require_columns(table, names, "feature column")
    tables.require_columns(table, [preprocessor.label], "label column")
    tables.require_columns(table, [weight_column] if weight_column else [], "weight column")
    tables.require_rows(table, "the table of features")
    rows = tables.select(table, wanted).pipe(tables.collect)
    return Examples(
        matrix=tables.select(rows, names).to_numpy(),
        truth=rows[preprocessor.label],
        weights=rows[weight_column].cast(pl.Float64).to_numpy() if weight_column else None,
        columns={
            name: (preprocessor.features[name], places) for name, places in preprocessor.positions.items()
        },
    )


def check_parameters(cls: type, parameters: Mapping[str, Any], task: str, seed: int = 0) -> dict[str, Any]:
    """Return constructor parameters converted to the types that the estimator takes.

    Raises:
        ValueError: A parameter is unknown, missing, of a wrong type or out of range.
    """
    return estimator_parameters.check(cls, parameters, functools.partial(_nested, task=task, seed=seed))


def _nested(value: Any, task: str, seed: int) -> Any:
    if isinstance(value, str):
        return build(value, task, seed=seed)
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        rest = {key: item for key, item in value.items() if key != "name"}
        return build(value["name"], task, rest, seed=seed)
    raise ValueError(
        f"an estimator is given by its name or a dict with 'name' and its parameters, not {value!r}"
    )


def stops_early(cls: type) -> bool:
    """Return whether an estimator can stop early on validation rows."""
    return cls.__name__.startswith(("XGBClassifier", "XGBRegressor", "HistGradientBoosting")) or (
        estimator_parameters.library(cls) == "lightgbm"
    )


def rounds(estimator: Any) -> dict[str, int]:
    """Return the best number of rounds of a boosted estimator, by the parameter's name.

    Args:
        estimator: Trained by `fit` with early stopping.
    """
    inner = fitted_estimators.bare(estimator)
    if estimator_parameters.library(type(inner)) == "xgboost":
        return {"n_estimators": int(inner.best_iteration) + 1}
    if estimator_parameters.library(type(inner)) == "lightgbm":
        return {"n_estimators": int(inner.best_iteration_) or int(inner.n_estimators)}
    return {"max_iter": int(inner.n_iter_)}


def with_rounds(parameters: Mapping[str, Any], kept: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Return parameters for training without early stopping: with the mean of the rounds that it kept.

    Args:
        parameters: Those of the trainings with early stopping.
        kept: What `rounds` returned for each training; if empty, nothing changes.
    """
    if not kept:
        return dict(parameters)
    from lightgbm.basic import _ConfigAliases

    (name,) = kept[0]
    mean = math.ceil(sum(each[name] for each in kept) / len(kept))
    # LightGBM has aliases for the rounds, which take precedence.
    aliases = _ConfigAliases.get("num_iterations") - {name}
    others = {key: value for key, value in parameters.items() if key not in aliases}
    # scikit-learn's early stopping would hold out rows again.
    return {**others, name: max(1, mean), **({"early_stopping": False} if name == "max_iter" else {})}


def _early_stopping(cls: type, rounds: int) -> dict[str, Any]:
    """Return the constructor parameters that early stopping needs."""
    if rounds < 1:
        raise ValueError(f"early_stopping_rounds must be at least 1, not {rounds}")
    if not stops_early(cls):
        raise ValueError(
            f"estimator {cls.__name__!r} can't stop early on the validation table; leave out "
            "early_stopping_rounds, or use HistGradientBoosting, XGB or LGBM"
        )
    if estimator_parameters.library(cls) == "xgboost":
        return {"early_stopping_rounds": rounds}
    if estimator_parameters.library(cls) == "lightgbm":
        return {}
    return {"early_stopping": True, "n_iter_no_change": rounds}


def _validation_options(estimator: Any, train: Examples, validation: Examples, rounds: int) -> dict[str, Any]:
    """Return the arguments of an estimator's `fit` for early stopping on the validation rows."""
    import numpy as np

    library = estimator_parameters.library(type(estimator))
    if library == "sklearn":
        options = {"X_val": validation.matrix, "y_val": validation.label}
        if validation.weights is not None:
            options["sample_weight_val"] = validation.weights
        return options
    weights = None if validation.weights is None else [validation.weights]
    if library == "xgboost":
        return {
            "eval_set": [(validation.matrix, validation.label)],
            "sample_weight_eval_set": weights,
        }
    from lightgbm import early_stopping
    from sklearn.base import is_classifier

    truth = validation.label
    if is_classifier(estimator):
        # LightGBM encodes the training labels but not these.
        truth = np.searchsorted(np.unique(train.label), truth)
    return {
        "eval_X": (validation.matrix,),
        "eval_y": (truth,),
        "eval_sample_weight": weights,
        "callbacks": [early_stopping(rounds, verbose=False)],
    }


def _weights(estimator: Any, train: Examples, class_weight: str | None) -> Any | None:
    if class_weight is None or "class_weight" in estimator.get_params(deep=False):
        return train.weights
    from sklearn.utils.class_weight import compute_sample_weight

    balanced = compute_sample_weight(class_weight, train.label)
    return balanced if train.weights is None else balanced * train.weights


def _counts_from_zero(estimator: Any, label: Any) -> bool:
    """Return whether XGBoost takes these labels as they are."""
    import numpy as np
    from sklearn.base import is_classifier

    if not is_classifier(estimator):
        return True
    classes = np.unique(label)
    return classes.dtype.kind in "iu" and bool((classes == np.arange(len(classes))).all())


@functools.cache
def _classes(*tasks: str) -> dict[str, Any]:
    """Return the estimators for tasks: name to class, or to the library that provides it."""
    from sklearn.utils import all_estimators

    found: dict[str, Any] = {}
    for task in tasks:
        found |= dict(all_estimators(type_filter=_KINDS[task]))
        found |= {
            name: module
            for name, module in fitted_estimators.BOOSTERS.items()
            if name.endswith(_SUFFIXES[task])
        }
    return found


def _takes_random_state(cls: type) -> bool:
    return "random_state" in inspect.signature(cls).parameters or estimator_parameters.is_booster(cls)
