"""Constraints name raw columns, and hold in the trained model."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from flowparts.prepare import preprocess
from flowparts.train import estimators, stages

ROWS = 400


def table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    income, age = random.normal(size=ROWS), random.integers(18, 80, ROWS)
    town = random.choice(["Bonn", "Köln", "Mainz"], ROWS)
    noise = random.normal(scale=3, size=ROWS)
    value = income + 0.1 * age * (town == "Bonn") + noise
    return pl.DataFrame({"town": town, "income": income, "age": age, "value": value})


def trained(estimator: str, parameters: dict[str, Any]) -> tuple[preprocess.Preprocessor, Any]:
    learned, features = preprocess.fit(table().lazy(), label="value", task="regression")
    rows = estimators.examples(features.lazy(), learned)
    return learned, estimators.fit(estimators.build(estimator, "regression", parameters), rows, rows)


def predicted(learned: preprocess.Preprocessor, fitted: Any, rows: pl.DataFrame) -> Any:
    return np.asarray(fitted.predict(preprocess.matrix(rows, learned)))


MONOTONE = [
    ("LGBM", "monotone_constraints"),
    ("XGB", "monotone_constraints"),
    ("HistGradientBoosting", "monotonic_cst"),
    ("ExtraTrees", "monotonic_cst"),
]


@pytest.mark.parametrize(("estimator", "parameter"), MONOTONE, ids=[name for name, _ in MONOTONE])
def test_predictions_move_one_way_with_a_named_column(estimator: str, parameter: str) -> None:
    steps = pl.DataFrame({"town": ["Bonn"] * 50, "income": np.linspace(-3, 3, 50), "age": [40] * 50})
    free = predicted(*trained(estimator, {}), steps)
    assert (np.diff(free) < 0).any()
    falling, rising = (
        predicted(*trained(estimator, {parameter: {"income": direction, "age": 0}}), steps)
        for direction in (-1.0, 1)
    )
    assert (np.diff(falling) <= 0).all()
    assert (np.diff(rising) >= 0).all()
    assert rising[0] < rising[-1]


INTERACTION = [
    ("LGBM", "interaction_constraints"),
    ("XGB", "interaction_constraints"),
    ("HistGradientBoosting", "interaction_cst"),
]


@pytest.mark.parametrize(("estimator", "parameter"), INTERACTION, ids=[name for name, _ in INTERACTION])
def test_columns_of_different_groups_do_not_interact(estimator: str, parameter: str) -> None:
    def interaction(parameters: dict[str, Any]) -> float:
        """How much the step from one age to another differs by town."""
        learned, fitted = trained(estimator, parameters)
        rows = pl.DataFrame(
            {"town": ["Bonn", "Bonn", "Köln", "Köln"], "income": [0.0] * 4, "age": [20, 70] * 2}
        )
        young_bonn, old_bonn, young_köln, old_köln = predicted(learned, fitted, rows)
        return float(abs((old_bonn - young_bonn) - (old_köln - young_köln)))

    assert interaction({}) > 1
    assert interaction({parameter: [["town", "income"]]}) == pytest.approx(0, abs=1e-4)
    assert interaction({parameter: [["town", "age"], ["income"]]}) > 1


def test_a_search_gives_constraints_to_the_part_of_the_rows_that_a_trial_sees() -> None:
    learned, features = preprocess.fit(table().lazy(), label="value", task="regression")
    rows = estimators.examples(features.lazy(), learned)
    some = stages._rows(rows, pl.Series(range(100)))
    built = estimators.build("LGBM", "regression", {"monotone_constraints": {"income": 1}})
    fitted = estimators.fit(built, some, rows)
    positions = learned.positions
    assert positions == {"income": [0], "age": [1], "town": [2, 3, 4]}
    assert fitted.get_params()["monotone_constraints"] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("estimator", "parameters", "message"),
    [
        ("LGBM", {"monotone_constraints": {"incme": 1}},
         "monotone_constraints names .incme., which isn.t a feature; did you mean .income.*are: inc"),
        ("LGBM", {"monotone_constraints": {"town": 1}},
         "monotone_constraints takes numbers and booleans; column 'town' holds values of type string"),
        ("XGB", {"monotone_constraints": {"income": 2}},
         r"monotone_constraints of column 'income' must be 1 \(rising\), -1 \(falling\) or 0, not 2"),
        ("HistGradientBoosting", {"monotonic_cst": {"income": True}}, "must be 1 .* not True"),
        ("HistGradientBoosting", {"interaction_cst": [["income", "pay"]]}, "interaction_cst names 'pay'"),
        ("XGB", {"interaction_constraints": [["income", 3]]},
         r"interaction_constraints must be a list of lists of columns, not of \['income', 3\]"),
        ("HistGradientBoosting", {"monotone_constraints": {"income": 1}},
         "has no parameter .monotone_constraints.; did you mean .monotonic_cst."),
        ("Linear", {"monotone_constraints": {"income": 1}}, "has no parameter .monotone_constraints."),
    ],
)  # fmt: skip
def test_a_wrong_constraint_gives_a_one_line_error(
    estimator: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trained(estimator, parameters)
