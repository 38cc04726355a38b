import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flowparts.prepare import folds
from flowparts.train import candidates, stages
from flowparts.train.candidates import Options
from flowparts.tune import objective, space, study, study_report, suggest, tuning
from flowparts.tune.journal import Journal
from flowparts.tune.objective import Configuration, Objective, Trial
from flowparts.tune.study import Budget

SPACES = space.check(
    {
        "Ridge": {"alpha": {"type": "float", "low": 1e-3, "high": 1e3, "log": True}},
        "LGBM": {
            "num_leaves": {"type": "int", "low": 2, "high": 64},
            "boosting_type": {"type": "categorical", "choices": ["gbdt", "dart"]},
            "drop_rate": {"type": "float", "low": 0, "high": 1, "when": {"boosting_type": "dart"}},
        },
    },
    "regression",
)


class Curve(Objective):
    """An objective that trains nothing: the score follows from the parameters."""

    def evaluate(
        self, number: int, configuration: Configuration, earlier: Sequence[Trial], seconds: float
    ) -> Trial:
        chosen = configuration.chosen
        score = abs(math.log10(chosen.get("alpha", 1e-3)) - 1) + 0.1
        if configuration.estimator == "LGBM":
            score = 3 + abs(chosen.get("num_leaves", 31) - 20) / 64 + chosen.get("drop_rate", 0.5)
        if self._is_pruned(0, score, earlier):
            return Trial(number, configuration, objective.PRUNED, [score])
        return Trial(number, configuration, objective.COMPLETE, [score, score], {"rmse": score})


CURVE = Curve("regression", "rmse", Options(), [None, None], True)  # type: ignore[list-item]


def run(place: Path, trials: int = 40, seed: int = 0, judged: Objective = CURVE) -> list[Trial]:
    return study.run(judged, SPACES, Budget(trials), Journal(str(place), {"a": 1}), seed)


def test_the_search_comes_near_the_best_and_prunes_what_is_worse(tmp_path: Path) -> None:
    trials = run(tmp_path, 60)
    best = study.best(trials, maximizes=False)
    assert best.configuration.estimator == "Ridge"
    assert 5 < best.configuration.chosen["alpha"] < 20  # the best is 10, of six decades
    states = [trial.state for trial in trials]
    assert states[:2] == ["complete", "complete"]
    assert states.count("pruned") > 15
    # It spends more on what is better.
    later = [trial.configuration.estimator for trial in trials[30:]]
    assert later.count("Ridge") > later.count("LGBM")


def test_the_first_trial_of_each_estimator_chooses_nothing(tmp_path: Path) -> None:
    assert [trial.configuration.chosen for trial in run(tmp_path, 2)] == [{}, {}]


def test_a_conditional_parameter_is_chosen_beside_the_value_that_it_needs(tmp_path: Path) -> None:
    chosen = [t.configuration.chosen for t in run(tmp_path) if t.configuration.estimator == "LGBM"][1:]
    assert {each["boosting_type"] for each in chosen} == {"gbdt", "dart"}
    for each in chosen:
        assert ("drop_rate" in each) == (each["boosting_type"] == "dart")
        assert isinstance(each["num_leaves"], int)


def test_the_seed_decides_the_trials(tmp_path: Path) -> None:
    first, again, other = (run(tmp_path / name, 12, seed) for name, seed in [("a", 1), ("b", 1), ("c", 2)])
    what = [[trial.configuration for trial in trials] for trials in (first, again, other)]
    assert what[0] == what[1] != what[2]


@pytest.mark.parametrize("known", [0, 3, 11, 39])
def test_suggestions_depend_only_on_the_given_trials(tmp_path: Path, known: int) -> None:
    trials = run(tmp_path, 40)
    fresh = suggest.Suggester(SPACES, False, 0)
    assert fresh.suggest(known, trials[:known]) == trials[known].configuration


def test_a_journal_gives_back_equal_trials_and_drops_a_cut_line(tmp_path: Path) -> None:
    place = f"memory://journal{tmp_path}"
    for where in (str(tmp_path / "folder"), place):
        journal, trials = Journal(where, {"seed": 1}), run(tmp_path / "run", 6)
        for trial in trials:
            journal.append(trial)
        assert Journal(where, {"seed": 1}).read() == trials
        assert Journal(where, {"seed": 2}).read() == []
    (file,) = (tmp_path / "folder").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    cut = Journal(str(tmp_path / "folder"), {"seed": 1})
    assert cut.read() == trials[:5]
    cut.append(trials[5])
    assert cut.read() == trials
    cut.clear()
    assert not (tmp_path / "folder").exists()


class Failing(Objective):
    """An objective of which some estimators fail."""

    def evaluate(
        self, number: int, configuration: Configuration, earlier: Sequence[Trial], seconds: float
    ) -> Trial:
        if configuration.estimator == "Ridge" or self.metric == "mae":
            reason = f"no {configuration.estimator}, of {number} rows"
            return Trial(number, configuration, objective.FAILED, [], reason=reason)
        return Trial(number, configuration, objective.COMPLETE, [float(number)])


def test_trials_that_fail_are_counted_by_cause_and_avoided(tmp_path: Path) -> None:
    trials = run(tmp_path, 40, judged=Failing("regression", "rmse", Options(), [], True))
    failed = [trial for trial in trials if trial.state == "failed"]
    assert study.causes(trials) == [f"Ridge ({len(failed)} times): no Ridge, of 0 rows"]
    assert len([trial for trial in failed if trial.number >= 20]) < 10


def test_if_all_trials_fail_the_error_groups_the_causes(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"all 9 trials failed: \w+ \(\d times\): no \w+, of . rows; \w+ .*: .*rows$"
    ):
        run(tmp_path, 9, judged=Failing("regression", "mae", Options(), [], True))


def test_a_study_that_has_no_time_for_a_trial_says_so(tmp_path: Path) -> None:
    budget = Budget(trials=0, seconds=1e-9)
    with pytest.raises(ValueError, match="no trial finished within max_seconds=1e-09"):
        study.run(CURVE, SPACES, budget, Journal(str(tmp_path), {}), 0)


def test_seconds_end_a_study_and_count_what_a_killed_try_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    budget, journal = Budget(trials=0, seconds=20), Journal(str(tmp_path), {})
    trials = study.run(CURVE, SPACES, budget, journal, 0)
    assert 2 < len(trials) < 20
    assert trials[-1].elapsed <= 20
    more = study.run(CURVE, SPACES, replace(budget, seconds=30), journal, 0)
    assert more[: len(trials)] == trials
    assert len(trials) < len(more) < 1.6 * len(trials)


def test_importance_reflects_the_parameters_that_determine_the_score(tmp_path: Path) -> None:
    trials = run(tmp_path, 60)
    found = suggest.importances(SPACES[1], trials, False, 0)
    assert set(found) <= {"num_leaves", "boosting_type"}
    assert suggest.importances(SPACES[0], trials, False, 0) == {"alpha": pytest.approx(1.0)}
    assert suggest.importances(SPACES[0], trials[:2], False, 0) == {}


def test_the_page_of_any_study_can_be_drawn(tmp_path: Path) -> None:
    for trials in (run(tmp_path / "a", 40), run(tmp_path / "b", 1)):
        best = study.best(trials, maximizes=False)
        page = study_report.page(CURVE, SPACES, trials, best, 0, "y")
        assert page.endswith("</html>\n") or page.endswith("</html>")
        assert "Hyperparameter search" in page


ROWS = pl.DataFrame(
    {"x": [float(row) for row in range(120)], "y": ["no" if row % 3 else "yes" for row in range(120)]}
)
WHAT: dict[str, Any] = {"label": "y", "task": "classification", "exclude_columns": ()}


def test_folds_are_scored_by_their_mean_and_each_learns_its_own_preprocessing(tmp_path: Path) -> None:
    options = Options()
    parts = folds.assign(ROWS.lazy(), 3, **WHAT)
    divided = stages.on_folds(ROWS.lazy(), parts, tmp_path, **WHAT, options=options)
    assert [stage.train.matrix.shape for stage in divided] == [(80, 1)] * 3
    assert len({stage.learned.training_fingerprint for stage in divided}) == 3
    judged = Objective("classification", "accuracy", options, divided, True)
    trial = judged.evaluate(0, Configuration("DecisionTree", {"max_depth": 2}), [], 60)
    single = [
        Objective("classification", "accuracy", options, [stage], True)
        .evaluate(0, Configuration("DecisionTree", {"max_depth": 2}), [], 60)
        .score
        for stage in divided
    ]
    assert trial.score == pytest.approx(sum(single) / 3)
    assert trial.metrics["accuracy"] == trial.score


def test_the_positive_class_is_the_same_in_every_fold() -> None:
    # Rare enough to be the positive class in the table, and in some folds only.
    rows = pl.DataFrame({"x": range(205), "y": ["a" if row % 21 == 0 else "b" for row in range(205)]})
    settings = tuning.Settings(**WHAT, options=Options(), space={"Linear": {}}, budget=Budget(1), folds=3)
    with settings.compared(rows.lazy(), None) as compared:
        judged = tuning.judge(compared, settings)
        assert (judged.metric, judged.positive) == ("average_precision", "a")
        rare = [(stage.train.truth == "a").mean() < 0.05 for stage in judged.stages]
        assert len(set(rare)) == 2
        trial = judged.evaluate(0, Configuration("DecisionTree", {"max_depth": 1}), [], 60)
    assert trial.score is not None
    assert trial.score < 0.3


def test_a_large_table_is_first_tried_on_fractions_of_its_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stages, "_MIN_ROWS", 10)
    divided = stages.on_validation(
        ROWS.lazy(), ROWS.lazy(), tmp_path, halving=True, **WHAT, options=Options()
    )
    assert [len(stage.train.truth) for stage in divided] == [13, 40, 120]
    for stage in divided:
        assert stage.validation.matrix.shape == (120, 1)
        # Rows keep their labels.
        raw = stage.train.matrix[:, 0] * ROWS["x"].std(ddof=0) + ROWS["x"].mean()
        assert all(
            (round(float(x)) % 3 == 0) == (y == "yes") for x, y in zip(raw, stage.train.truth, strict=True)
        )


def test_a_trial_is_scored_on_each_fraction_and_keeps_what_all_rows_gave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stages, "_MIN_ROWS", 10)
    divided = stages.on_validation(
        ROWS.lazy(), ROWS.lazy(), tmp_path, halving=True, **WHAT, options=Options()
    )
    judged = Objective("classification", "accuracy", Options(), divided, False)
    configuration = Configuration("DecisionTree", {"max_depth": 5})
    alone = [
        candidates.train(judged.candidate(configuration), each.learned, each.train, each.validation)
        for each in divided
    ]
    scores = [each.facts["validation"]["accuracy"] for each in alone]
    assert len(set(scores)) == 3
    trial = judged.evaluate(0, configuration, [], 60)
    assert trial.values == scores
    (kept,) = trial.trained
    assert kept.predictions.equals(alone[-1].predictions)


def searched(table: pl.DataFrame, validation: pl.DataFrame, folder: Path) -> tuning.Tuned:
    """Return a search of one trial that compares on a validation table."""
    settings = tuning.Settings(
        **WHAT, options=Options(), space={"DecisionTree": {"max_depth": 2}}, budget=Budget(1)
    )
    journal = Journal(str(folder / "journal"), {})
    return tuning.tune(table.lazy(), validation.lazy(), folder / "model", settings, journal)


def test_a_study_with_validation_rows_tries_fractions_of_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stages, "_MIN_ROWS", 10)
    tuned = searched(ROWS, ROWS, tmp_path)
    assert [len(trial.values) for trial in tuned.trials] == [3]


def test_the_page_says_which_columns_were_left_out_before_the_search(tmp_path: Path) -> None:
    hours = ROWS.with_columns(hour=pl.format("h{}", pl.int_range(pl.len()) // 10))
    tuned = searched(hours.head(90), hours.tail(30), tmp_path)
    assert "Before training: column &#39;hour&#39; is left out of the features: fewer than 10%" in tuned.page


def test_only_the_best_trials_keep_what_was_trained(tmp_path: Path) -> None:
    settings = tuning.Settings(
        **WHAT, options=Options(), space={"Linear": {}, "DecisionTree": {"max_depth": 2}}, budget=Budget(5)
    )
    journal = Journal(str(tmp_path), {})
    with settings.compared(ROWS.lazy(), None) as compared:
        trials = tuning.search(compared, settings, journal, keep=1)
        plain = tuning.search(compared, settings, Journal(str(tmp_path), {"other": 1}))
    kept = [trial for trial in trials if trial.trained]
    assert sorted(trial.configuration.estimator for trial in kept) == ["DecisionTree", "Linear"]
    for trial in kept:
        others = [
            each.score for each in trials if each.configuration.estimator == trial.configuration.estimator
        ]
        assert trial.score == max(score for score in others if score is not None)
        assert [each.estimator for each in trial.trained] == [None] * 5
        assert sum(each.predictions.height for each in trial.trained) == ROWS.height
    assert not any(trial.trained for trial in plain)
    assert journal.read() == trials, "what was trained is not in the journal, and is no part of a trial"
    assert not any(trial.trained for trial in journal.read())


class Training(Curve):
    """The same, with something that was trained."""

    def evaluate(self, *given: Any) -> Trial:
        trial = super().evaluate(*given)
        return replace(trial, trained=["trained"] if trial.score is not None else [])


def test_the_trials_that_keep_what_was_trained_are_the_best_of_each_estimator(tmp_path: Path) -> None:
    judged = Training("regression", "rmse", Options(), [None, None], True)  # type: ignore[list-item]
    trials = study.run(judged, SPACES, Budget(40), Journal(str(tmp_path), {}), 0, keep=2)
    for name in ("Ridge", "LGBM"):
        complete = [
            each for each in trials if each.configuration.estimator == name and each.score is not None
        ]
        best = sorted(complete, key=lambda each: each.score or 0.0)[:2]
        assert [each for each in complete if each.trained] == sorted(best, key=lambda each: each.number)
        assert best[0].number > complete[0].number


def test_a_trial_is_pruned_unless_it_is_in_the_best_third_of_those_before() -> None:
    judged = Objective("classification", "accuracy", Options(), [None] * 2, True)  # type: ignore[list-item]
    others = [
        Trial(n, Configuration("LGBM", {}), "pruned", [score]) for n, score in enumerate([1, 2, 3, 4, 5])
    ]
    assert [judged._is_pruned(0, value, others) for value in (3.5, 4.5, 5.5)] == [True, False, False]
    assert not judged._is_pruned(0, 0.0, others[:4])
    assert not judged._is_pruned(0, 0.0, [])
    assert not judged._is_pruned(1, 0.0, [Trial(0, Configuration("LGBM", {}), "complete", [1, 2])] * 9)
