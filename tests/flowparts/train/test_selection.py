import re
import subprocess
import sys
from typing import Any

import pytest

from flowparts.train import selection


def candidate(estimator: str, **validation: float) -> dict[str, Any]:
    return {
        "estimator": estimator,
        "task": "classification",
        "label": "y",
        "parameters": {"seed": 1},
        "validation": validation,
    }


def test_the_primary_metric_of_the_task_ranks_unless_another_is_named() -> None:
    found = [candidate("A", roc_auc=0.7, log_loss=0.3), candidate("B", roc_auc=0.9, log_loss=0.5)]
    assert selection.rank(found) == ("roc_auc", [1, 0], [0.9, 0.7])
    assert selection.rank(found, "log_loss") == ("log_loss", [0, 1], [0.3, 0.5])


def test_equal_scores_go_by_estimator_then_by_parameters_whatever_the_order() -> None:
    plain, tuned = candidate("A", roc_auc=0.9), candidate("A", roc_auc=0.9) | {"parameters": {"seed": 0}}
    other = candidate("B", roc_auc=0.9)
    assert selection.rank([other, plain, tuned]).order == [2, 1, 0]
    assert selection.rank([tuned, other, plain]).order == [0, 2, 1]


@pytest.mark.parametrize(
    ("metric", "direction", "verdict"),
    [
        ("roc_auc", "higher", "B has the best roc_auc on the validation table, 0.9, 0.2 ahead of A."),
        ("log_loss", "lower", "A has the best log_loss on the validation table, 0.3, 0.2 ahead of B."),
    ],
)
def test_the_page_says_which_direction_is_better_and_how_far_ahead_the_winner_is(
    metric: str, direction: str, verdict: str
) -> None:
    found = [candidate("A", roc_auc=0.7, log_loss=0.3), candidate("B", roc_auc=0.9, log_loss=0.5)]
    page = selection.selection_report(found, selection.rank(found, metric))
    assert verdict in page
    assert f"Leaderboard by {metric} on the validation table ({direction} is better)" in page
    assert page.count("1 (chosen)") == 1
    assert "classification of y: candidates compared" in page


@pytest.mark.parametrize(
    ("metric", "score", "verdict"),
    [
        ("roc_auc", 0.7, "The roc_auc of Final on the validation table is 0.7, 0.2 behind that of A, the"),
        ("log_loss", 0.7, "The log_loss of Final on the validation table is 0.7, 0.2 behind that of A, the"),
        ("accuracy", 0.9, "Final has the best accuracy on the validation table, 0.9, equal to A."),
    ],
)
def test_an_ensemble_is_called_best_only_if_it_is(metric: str, score: float, verdict: str) -> None:
    member = candidate("A", roc_auc=0.9, log_loss=0.5, accuracy=0.9)
    found = [candidate("Final", **{metric: score}), member | {"weight": 1.0}]
    choice = selection.Choice(metric, [0, 1], [score, member["validation"][metric]])
    assert verdict in selection.selection_report(found, choice)


def test_the_page_of_a_single_candidate_says_so() -> None:
    page = selection.selection_report(
        [candidate("A", roc_auc=0.7)], selection.rank([candidate("A", roc_auc=0.7)])
    )
    assert "0.7; it was the only candidate." in page


def test_the_page_has_a_column_for_each_metric_and_cost_the_chosen_metric_first() -> None:
    found = [
        candidate("A", accuracy=0.8, roc_auc=0.7) | {"megabytes": 1.5, "seconds": 2.0},
        candidate("B", accuracy=0.6, roc_auc=0.9) | {"parameters": {}},
    ]
    page = selection.selection_report(found, selection.rank(found, "roc_auc"))
    titles = ["place", "estimator", "roc_auc", "accuracy", "MB", "training s", "parameters"]
    assert re.findall(r'<th [^>]*title="([^"]*)"', page) == titles
    assert page.index("1 (chosen)") < page.index(">2</td>")
    assert "seed=1" in page


def test_of_equal_scores_the_smaller_model_is_chosen_and_the_page_says_why() -> None:
    small, large = (
        candidate(name, roc_auc=0.9) | {"megabytes": size} for name, size in (("B", 1.5), ("A", 60.0))
    )
    choice = selection.rank([large, candidate("C", roc_auc=0.9), small])
    assert choice.order == [2, 0, 1]
    assert [each["megabytes"] for each in selection.ranking([large, small], selection.rank([large, small]))]
    page = selection.selection_report([large, small], selection.rank([large, small]))
    assert "equal to A; the smaller one was taken." in page
    assert ">MB</th>" in page


def test_latency_does_not_decide_because_it_depends_on_the_machine() -> None:
    quick, slow = (
        candidate(name, roc_auc=0.9) | {"megabytes": 1.5, "milliseconds": latency}
        for name, latency in (("C", 3.0), ("A", 400.0))
    )
    choice = selection.rank([quick, slow])
    assert choice.order == [1, 0]
    page = selection.selection_report([quick, slow], choice)
    assert "equal to C; the first by name was taken." in page


@pytest.mark.parametrize(
    ("candidates", "metric", "message"),
    [
        pytest.param([], None, "there are no candidates to select from", id="none"),
        pytest.param(
            [candidate("A", roc_auc=1), candidate("B", roc_auc=1) | {"task": "regression"}],
            None,
            "candidates must share one task, but these have classification, regression",
            id="tasks",
        ),
        pytest.param(
            [candidate("A", roc_auc=1), candidate("B", roc_auc=1) | {"label": "z"}],
            None,
            "candidates must share one label, but these have y, z",
            id="labels",
        ),
        pytest.param(
            [candidate("A", roc_auc=1)], "roc", r"metric 'roc' is unknown; did you mean", id="unknown"
        ),
        pytest.param(
            [candidate("A", roc_auc=1)], "rmse", "metric 'rmse' does not fit classification", id="misfit"
        ),
        pytest.param(
            [candidate("A", roc_auc=1), candidate("B", accuracy=1)],
            None,
            "candidate B has no validation metric 'roc_auc'; it has: accuracy",
            id="not measured",
        ),
        pytest.param(
            [candidate("A", roc_auc=float("nan"))], None, "A has no validation metric 'roc_auc'", id="NaN"
        ),
    ],
)
def test_bad_input_gives_a_one_line_error(candidates: list[Any], metric: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selection.rank(candidates, metric)


def test_selecting_needs_nothing_that_the_base_image_lacks() -> None:
    code = (
        "import sys\n"
        "for name in ('numpy', 'pandas', 'sklearn', 'scipy', 'mlflow', 'skops'): sys.modules[name] = None\n"
        "from flowparts import models; from flowparts.train import selection\n"
        "one = {'estimator': 'A', 'task': 'regression', 'label': 'y', 'validation': {'rmse': 1.0}}\n"
        "print(len(selection.selection_report([one], selection.rank([one]))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000
