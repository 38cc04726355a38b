import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from flowparts import models, tables
from flowparts.models import engines
from flowparts.train import candidates, ensemble, portfolio, problem, stages, trainers
from flowparts.train.candidates import Options
from flowparts.train.problem import Problem
from flowparts.tune import effort
from flowparts.tune.effort import Search
from flowparts.tune.objective import Objective, Trial
from flowparts.tune.study import Budget

BOOSTED = {"n_estimators": 200, "learning_rate": 0.1}
LITTLE = {"C": 10, "max_iter": 1_000}
PORTFOLIO = (
    {"estimator": "LGBM", "parameters": BOOSTED},
    {"estimator": "LGBM", "parameters": {**BOOSTED, "num_leaves": 8}},
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "ExtraTrees", "parameters": {"n_estimators": 20}},
)


@pytest.fixture(scope="module", autouse=True)
def cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portfolio, "PORTFOLIO", PORTFOLIO)
        patch.setattr(effort, "SMALL_MEMBERS", PORTFOLIO)
        patch.setattr(effort, "SMALL_ROWS", 700)
        yield


def waves(rows: int = 900, seed: int = 0) -> pl.DataFrame:
    """Rows whose label trees can learn and a linear model can't."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-3, 3, rows), rng.uniform(-3, 3, rows)
    worth = np.sin(2 * x) + np.cos(2 * y) + rng.normal(0, 0.3, rows)
    town = rng.choice(["Köln", "Paris"], rows)
    return pl.DataFrame({"x": x, "y": y, "town": town, "label": np.where(worth > 0, "yes", "no")})


def line(rows: int = 900) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(rows, 4))
    label = columns @ [3.0, -2.0, 1.0, 0.5] + rng.normal(0, 0.1, rows)
    return pl.DataFrame({f"x{place}": columns[:, place] for place in range(4)} | {"label": label})


class Training:
    """One training of two thirds of some rows, chosen by the others."""

    def __init__(self, path: Path, rows: pl.DataFrame, **options: Any):
        self.path, cut = path, 2 * rows.height // 3
        self.table, self.validation = rows.head(cut), rows.tail(rows.height - cut)
        self.held_out: list[pl.DataFrame | None] = []
        given: dict[str, Any] = {"label": "label", "task": "classification", "options": Options()}
        how = {"effort": options.pop("effort", "quick"), "described": options.pop("described", None)}
        self.page, self.metric = effort.train(
            self.table.lazy(),
            self.validation.lazy(),
            path,
            Problem(**{**given, **options}),
            **how,
            complete=lambda _, held_out: self.held_out.append(held_out),
        )
        self.page = html.unescape(self.page)
        self.facts = models.metadata(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("trained") / "model", waves())


def test_the_best_is_retrained_on_all_rows_and_keeps_its_held_out_scores(trained: Training) -> None:
    facts = trained.facts
    assert {each["estimator"] for each in facts["members"]} == {"LGBMClassifier"}
    assert facts["effort"] == "quick"
    assert facts["training_rows"] == trained.table.height + trained.validation.height
    rounds = [each["parameters"]["n_estimators"] for each in facts["members"]]
    assert all(1 < each < 200 for each in rounds), "the rounds that early stopping kept"
    assert facts["training_fingerprint"] == tables.fingerprint(trained.table.lazy())
    (held_out,) = trained.held_out
    assert held_out is not None
    score = roc_auc_score(trained.validation["label"] == "yes", held_out["probability_yes"])
    assert facts["validation"]["roc_auc"] == facts["candidates"][0]["score"] == pytest.approx(score)
    now = models.load(trained.path).predict(trained.validation)["probability_yes"]
    assert roc_auc_score(trained.validation["label"] == "yes", now) > score, "it has seen these rows"
    others = waves(2_000, seed=5)
    found = roc_auc_score(
        others["label"] == "yes", models.load(trained.path).predict(others)["probability_yes"]
    )
    assert found == pytest.approx(score, abs=0.05)


def test_the_served_model_predicts_the_same(trained: Training) -> None:
    rows = waves(50, seed=3)
    expected = models.load(trained.path).predict(rows)["probability_yes"].to_list()
    served = engines.load(trained.path)
    assert served.name == "onnxruntime", served.reason
    columns = {name: rows[name].to_list() for name in trained.facts["features"]}
    assert list(served.predict_columns(columns)["probability_yes"]) == pytest.approx(expected, abs=1e-6)


def test_the_page_is_a_leaderboard_that_says_what_was_not_tried(
    trained: Training, open_page: Callable[[Path], Any], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(trained.page)
    assert "95 % interval" in open_page(page).page_source
    for text in ("so it is slightly optimistic", "trained on training and validation rows", "Not tried"):
        assert text in trained.page
    assert [each["estimator"] for each in trained.facts["candidates"]].count("LGBMClassifier") == 2
    assert "LogisticRegression" in trained.page
    assert re.findall(r"<td[^>]*>(\w+)</td>\s*<td[^>]*>effort '(\w+)' tries it", trained.page) == [
        ("ExtraTrees", "thorough"),
        ("RandomForest", "thorough"),
        ("HistGradientBoosting", "thorough"),
        ("XGB", "standard"),
    ]
    assert "ExtraTreesClassifier" not in trained.page
    small = Training(tmp_path / "small", waves(300)).page
    assert re.findall(r"<td[^>]*>(\w+)</td>\s*<td[^>]*>effort '(\w+)' tries it", small) == [
        ("RandomForest", "thorough"),
        ("HistGradientBoosting", "thorough"),
        ("XGB", "standard"),
    ]


def test_text_that_does_not_recur_is_named_on_the_page_and_may_be_missing_from_requests(
    tmp_path: Path,
) -> None:
    rows = waves().with_columns(hour=pl.format("h{}", pl.int_range(pl.len()) // 10))
    made = Training(tmp_path / "model", rows)
    (warning,) = made.facts["warnings"]
    assert warning.startswith("column 'hour' is left out of the features")
    assert f"Before training: {warning}." in made.page
    model = models.load(made.path)
    assert list(model.features) == ["x", "y", "town"]
    assert model.predict(rows).equals(model.predict(rows.drop("hour")))
    served = engines.load(made.path)
    assert served.name == "onnxruntime", served.reason
    with_hours, without = (
        served.predict_columns({name: each[name].to_list() for name in each.columns})
        for each in (rows.head(9), rows.head(9).drop("hour"))
    )
    assert list(with_hours["probability_yes"]) == list(without["probability_yes"])


def test_a_linear_model_wins_on_linear_data(tmp_path: Path) -> None:
    made = Training(tmp_path / "model", line(), task="regression")
    assert made.facts["estimator"] == "Ridge"
    assert made.facts["training_rows"] == 900


def test_the_same_seed_gives_the_same_files(trained: Training, tmp_path: Path) -> None:
    again = Training(tmp_path / "model", waves())
    for file in trained.path.iterdir():
        assert (again.path / file.name).read_bytes() == file.read_bytes(), file.name


def test_small_tables_are_cross_validated_and_weighted(tmp_path: Path) -> None:
    made = Training(tmp_path / "model", waves(500))
    facts = made.facts
    assert facts["training_rows"] == 500
    assert facts["validation_folds"] == 3
    assert sum(each["weight"] for each in facts["members"]) == pytest.approx(1)
    (held_out,) = made.held_out
    assert held_out is not None
    assert held_out.height == 500
    assert "rows held out of each fold" in made.page
    best = facts["candidates"][0]
    assert best["score"] == facts["validation"]["roc_auc"]
    assert best["score"] >= max(each["score"] for each in facts["candidates"])
    if len(facts["members"]) > 1:
        assert f"Ensemble of {len(facts['members'])}" in made.page
    assert facts["onnx"]["agrees"], facts["onnx"]["reason"]


def test_small_tables_that_need_little_regularization_get_it(tmp_path: Path) -> None:
    # The classes differ in a direction of little variance, for which a linear model needs large coefficients.
    rng = np.random.default_rng(0)
    x, step = rng.normal(size=(2, 400))
    rows = pl.DataFrame({"x": x, "y": x + 0.05 * step, "label": np.where(step > 0, "yes", "no")})
    made = Training(tmp_path / "model", rows)
    (linear,) = (each for each in made.facts["members"] if each["parameters"] == LITTLE)
    assert linear["estimator"] == "LogisticRegression"
    assert linear["weight"] > 0.5


def test_small_tables_of_nothing_but_text_are_learned_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(60)]
    texts = [" ".join(rng.choice(words, 8)) for _ in range(450)]
    rows = pl.DataFrame(
        {"text": texts, "label": ["yes" if "word1 " in f"{each} " else "no" for each in texts]}
    )
    made = Training(tmp_path / "model", rows)
    assert made.facts["features"] == ["text"]
    assert made.facts["validation_folds"] == 3
    assert made.facts["validation"]["roc_auc"] > 0.9


def test_rows_kept_together_by_the_split_stay_in_one_fold(tmp_path: Path) -> None:
    # Each customer has one label, so a fold that has seen a customer knows it.
    rng = np.random.default_rng(0)
    customer = np.repeat(np.arange(60), 8)
    rows = pl.DataFrame(
        {
            "customer": customer.astype(str),
            "x": rng.normal(size=60)[customer],
            "noise": rng.normal(size=480),
            "label": np.where(rng.random(60) > 0.5, "yes", "no")[customer],
        }
    )
    scores = [
        Training(tmp_path / name, rows, exclude_columns=["customer"], described=described).facts[
            "validation"
        ]["roc_auc"]
        for name, described in {"apart": {}, "together": {"kept_together": ["customer"]}}.items()
    ]
    assert scores[0] > 0.9
    assert scores[1] < 0.7


def test_on_large_tables_the_mean_of_members_is_taken_if_it_is_better(tmp_path: Path) -> None:
    # Trees learn the wave, and the linear model the trend that goes on in the validation rows.
    rng = np.random.default_rng(0)
    x = np.linspace(0, 6, 900)
    y = rng.uniform(-3, 3, 900)
    rows = pl.DataFrame({"x": x, "y": y, "label": x + 2 * np.sin(2 * y) + rng.normal(0, 0.2, 900)})
    made = Training(tmp_path / "model", rows, task="regression")
    members = {each["estimator"]: each["weight"] for each in made.facts["members"]}
    assert made.facts["estimator"] == "VotingRegressor"
    assert {"LGBMRegressor", "Ridge"} == set(members)
    best = min(each["score"] for each in made.facts["candidates"] if "Ensemble" not in each["estimator"])
    assert made.facts["validation"]["rmse"] < 0.9 * best


def test_rows_split_by_time_are_never_cross_validated(tmp_path: Path) -> None:
    made = Training(tmp_path / "model", waves(400), described={"time_column": "x"})
    (held_out,) = made.held_out
    assert held_out is not None
    assert held_out.height == made.validation.height


def test_too_few_rows_of_a_class_for_folds_are_compared_on_the_validation_rows(tmp_path: Path) -> None:
    rows = waves(300).with_columns(
        label=pl.when(pl.int_range(300).is_in([0, 299])).then(pl.lit("maybe")).otherwise("label")
    )
    described = {"kept_together": ["town"]}
    made = Training(tmp_path / "model", rows, described=described)
    assert "Not cross-validated: " in made.page
    assert made.facts["training_rows"] == 300


def test_a_search_adds_its_best_configurations_to_the_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(effort.SEARCHES, "standard", Search(("Linear", "XGB"), Budget(trials=4), 700))
    made = Training(tmp_path / "model", waves(300), effort="standard")
    assert "A search of 4 trials" in made.page
    tried = [each["estimator"] for each in made.facts["candidates"]]
    assert {"XGBClassifier", "LogisticRegression", "LGBMClassifier"} <= set(tried)
    assert made.facts["effort"] == "standard"


def test_the_rows_of_a_search_are_examined_and_divided_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(effort.SEARCHES, "standard", Search(("Linear",), Budget(trials=2), 700))
    calls: list[str] = []

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, **more: (calls.append(name), function(*given, **more))[1]
        )

    counted(trainers, "examined")
    counted(problem, "assign")
    counted(candidates, "learn")
    Training(tmp_path / "model", waves(300), effort="standard")
    # The preprocessing of each of five folds, and that of the model.
    assert {name: calls.count(name) for name in calls} == {"examined": 1, "assign": 1, "learn": 6}


def test_on_few_rows_a_search_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(effort.SEARCHES, "standard", Search(("Linear",), Budget(trials=6), 700))
    assert "A search of 3 trials" in Training(tmp_path / "few", waves(300), effort="standard").page
    monkeypatch.setattr(effort, "FEW_ROWS", 300)
    assert "A search of 6 trials" in Training(tmp_path / "more", waves(300), effort="standard").page


def test_forests_are_tried_on_small_tables_and_by_searches_of_forests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forests(rows: int, *searched: str) -> bool:
        monkeypatch.setitem(effort.SEARCHES, "standard", Search(searched, Budget(trials=1), 700))
        made = Training(tmp_path / "model", waves(rows), effort="standard")
        return "ExtraTreesClassifier" in [each["estimator"] for each in made.facts["candidates"]]

    assert forests(300, "Linear")
    assert not forests(900, "Linear")
    assert forests(900, "Linear", "ExtraTrees")


@pytest.mark.parametrize("small", [True, False])
def test_the_best_of_a_search_are_not_trained_again_to_be_weighted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    monkeypatch.setattr(stages, "_MIN_ROWS", 20)  # so a trial is trained on fractions of the rows, too
    rows_of_search = 700 if small else 0
    monkeypatch.setitem(
        effort.SEARCHES, "standard", Search(("Linear", "LGBM"), Budget(trials=4), rows_of_search)
    )
    trained: list[tuple[int, str]] = []
    train = candidates.train

    def counted(candidate: Any, learned: Any, rows: Any, *given: Any) -> Any:
        trained.append((len(rows.truth), str(candidate.parameters)))
        return train(candidate, learned, rows, *given)

    monkeypatch.setattr(candidates, "train", counted)
    made = Training(tmp_path / "model", waves(300), effort="standard")
    folds, stages_of_trial = (5, 5) if small else (1, 3)
    used = len(made.facts["members"])
    default = len(PORTFOLIO) if small else len(PORTFOLIO) - 1  # no forest
    assert len(trained) == 4 * stages_of_trial + default * folds + used
    assert len(set(trained)) >= 4 + default + used - 1
    leaders = made.facts["candidates"]
    assert sum(each["estimator"] in ("LGBMClassifier", "LogisticRegression") for each in leaders) >= 5


@pytest.mark.parametrize("small", [True, False])
def test_the_best_of_a_search_have_the_same_weights_as_if_they_were_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    monkeypatch.setattr(stages, "_MIN_ROWS", 60)  # so a trial is trained on fractions of the rows, too
    monkeypatch.setattr(portfolio, "PORTFOLIO", PORTFOLIO[2:3])
    search = Search(("LGBM",), Budget(trials=2), 700 if small else 0)
    monkeypatch.setitem(effort.SEARCHES, "standard", search)
    once = Training(tmp_path / "once", waves(300 if small else 900), effort="standard").facts
    monkeypatch.setattr(effort, "_known", lambda *_: [])
    twice = Training(tmp_path / "twice", waves(300 if small else 900), effort="standard").facts
    assert once["members"] == twice["members"]
    assert "LGBMClassifier" in [each["estimator"] for each in once["members"]]
    assert once["validation"] == twice["validation"]


class Killed(BaseException):
    """Stands for the end of a process."""


def test_a_step_killed_between_search_and_model_does_not_search_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(effort.SEARCHES, "standard", Search(("Linear", "LGBM"), Budget(trials=3), 700))
    tried: list[int] = []
    evaluate = Objective.evaluate

    def counted(self: Objective, number: int, *given: Any) -> Trial:
        tried.append(number)
        return evaluate(self, number, *given)

    monkeypatch.setattr(Objective, "evaluate", counted)
    rows, place = waves(300), tmp_path / "model"
    whole = Training(tmp_path / "undisturbed", rows, effort="standard")
    assert tried == [0, 1, 2]

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    for moment in (("weighted", ensemble), ("save", models)):
        name, module = moment
        tried.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, kill)
            with pytest.raises(Killed):
                Training(place, rows, effort="standard")
        assert tried == ([0, 1, 2] if name == "weighted" else []), "the trials are stored"
        assert not place.exists()
    Training(place, rows, effort="standard")
    assert tried == []
    for file in place.iterdir():
        assert (whole.path / file.name).read_bytes() == file.read_bytes(), file.name
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model", "undisturbed"], "nothing is left"


def overlapping(rows: int, seed: int) -> pl.DataFrame:
    """Rows of columns that all say the same, which naive Bayes takes for independent: it is too sure."""
    rng = np.random.default_rng(seed)
    label = rng.random(rows) < 0.5
    x = label + rng.normal(0, 1.2, rows)
    copies = {f"x{place}": x + rng.normal(0, 0.1, rows) for place in range(8)}
    return pl.DataFrame({**copies, "label": np.where(label, "yes", "no")})


def test_probabilities_are_calibrated_without_changing_the_order_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effort, "SMALL_MEMBERS", ({"estimator": "GaussianNB", "parameters": {}},))
    monkeypatch.setattr(effort, "LESS_REGULARIZED", {"estimator": "GaussianNB", "parameters": {}})
    made = Training(tmp_path / "model", overlapping(600, 0))
    assert made.facts["calibration"] in ("temperature", "platt")
    assert f"The probabilities are calibrated ({made.facts['calibration']}): the log loss" in made.page
    others = overlapping(2_000, 1)
    calibrated = models.load(tmp_path / "model").predict(others)["probability_yes"].to_numpy()
    monkeypatch.setattr(effort, "_methods", lambda _: ())
    Training(tmp_path / "plain", overlapping(600, 0))
    plain = models.load(tmp_path / "plain").predict(others)["probability_yes"].to_numpy()
    truth = others["label"] == "yes"
    assert log_loss(truth, calibrated) < 0.8 * log_loss(truth, plain)
    assert roc_auc_score(truth, calibrated) == pytest.approx(roc_auc_score(truth, plain), abs=5e-4)
    served = engines.load(tmp_path / "model")
    assert served.name == "onnxruntime", served.reason
    columns = {name: others[name].to_list() for name in made.facts["features"]}
    assert list(served.predict_columns(columns)["probability_yes"]) == pytest.approx(calibrated, abs=1e-5)


def test_validation_rows_of_one_class_calibrate_nothing(tmp_path: Path) -> None:
    rows = waves().sort("label")  # the last third is all "yes"
    made = Training(tmp_path / "model", rows, metric="log_loss")
    assert made.validation["label"].n_unique() == 1
    assert "calibration" not in made.facts


def test_columns_of_another_type_in_the_validation_rows_are_cast_before_both_are_learned(
    tmp_path: Path,
) -> None:
    rows = waves().with_columns(count=pl.int_range(900) % 5)
    validation = rows.tail(300).with_columns(count=pl.col("count").cast(pl.String), more=1)
    effort.train(
        rows.head(600).lazy(),
        validation.lazy(),
        tmp_path / "model",
        Problem(label="label", task="classification", options=Options()),
        effort="quick",
        complete=lambda *_: None,
    )
    loaded = models.load(tmp_path / "model")
    assert loaded.features == ["x", "y", "town", "count"]
    assert loaded.types["count"] in ("integer", "number")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"effort": "quik"}, "unknown effort 'quik'; did you mean 'quick'"),
        ({"options": Options(early_stopping_rounds=5)}, "early_stopping_rounds is for candidates"),
        ({"metric": "rmse"}, "metric 'rmse' does not fit classification"),
        ({"options": Options(class_weight="even")}, "class_weight must be 'balanced'"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused_before_a_row_is_read(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Training(tmp_path / "model", waves().head(0), **options)
