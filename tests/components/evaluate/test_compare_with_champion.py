import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.evaluate.compare_with_champion import compare_with_champion
from flowparts import registry


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def compare(
    artifact: Callable[..., Any], table: Callable[..., dsl.Dataset], database: str
) -> Callable[..., tuple[Any, dict[str, Any], Path]]:
    """Run the component; give what it returns, its JSON and the path of its report."""

    def run(model: dsl.Model, rows: Any, **options: Any) -> tuple[Any, dict[str, Any], Path]:
        comparison, report = artifact("comparison"), artifact("comparison report", dsl.HTML)
        metrics = artifact("comparison metrics", dsl.Metrics)
        returned = compare_with_champion.python_func(
            model=model,
            test=table(rows, "test"),
            comparison=comparison,
            comparison_metrics=metrics,
            comparison_report=report,
            **{"tracking_uri": database} | options,
        )
        found = json.loads(Path(comparison.path).read_text())
        assert json.loads(Path(metrics.path).read_text()) == metrics.metadata
        return returned, {**found, "numbers": metrics.metadata}, Path(report.path)

    return run


def register(model: dsl.Model, name: str, uri: str) -> str:
    return registry.register(model.path, name, metrics={}, reports={}, tracking_uri=uri)[0]


@pytest.mark.parametrize("where", ["database", "mlflow_server"])
def test_first_model_then_a_better_one_then_the_same_again(
    where: str,
    request: pytest.FixtureRequest,
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    open_page: Callable[[Path], Any],
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    uri = request.getfixturevalue(where)
    rows, test = sklearn_rows("breast_cancer", "malignant")
    weak = trained(rows.select("mean smoothness", "malignant"), "malignant", GaussianNB(), name="weak")
    strong = trained(rows, "malignant", LogisticRegression(max_iter=1000), name="strong")

    returned, found, page = compare(weak, test, model_name="tumours", tracking_uri=uri)
    assert returned == (True, found["reason"])
    first = found["numbers"]
    assert first == {"challenger_roc_auc": found["challenger"]["metrics"]["roc_auc"]["score"]}
    assert (found["champion"], found["champion_version"]) == (None, None)
    assert "first model" in open_page(page).page_source
    assert register(weak, "tumours", uri) == "1"

    (promote, reason), found, page = compare(strong, test, model_name="tumours", tracking_uri=uri)
    assert promote
    new, old = found["numbers"]["challenger_roc_auc"], found["numbers"]["champion_roc_auc"]
    assert old == pytest.approx(first["challenger_roc_auc"])
    assert found["numbers"]["improvement"] == pytest.approx(new - old)
    assert found["champion_version"] == "1"
    low, high = found["improvement"]["low"], found["improvement"]["high"]
    assert 0 < low < new - old < high
    text = open_page(page).find_element("tag name", "body").text
    assert reason in text
    assert "champion, version 1" in text
    assert register(strong, "tumours", uri) == "2"

    (promote, reason), found, _ = compare(strong, test, model_name="tumours", tracking_uri=uri)
    assert not promote
    assert found["numbers"]["improvement"] == 0
    assert "no improvement" in reason
    assert found["champion_version"] == "2"


def test_a_regression_is_compared_by_rmse_against_a_ceiling(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
) -> None:
    from sklearn.linear_model import Ridge

    rows, test = sklearn_rows("diabetes", "progression")
    model = trained(rows, "progression", Ridge(), "regression")
    (promote, _), found, _ = compare(model, test, model_name="diabetes", floor=100.0, metric="")
    assert (promote, found["floor"], found["metric"]) == (True, 100.0, "rmse")
    assert found["numbers"]["challenger_rmse"] < 100
    (promote, reason), _, _ = compare(model, test, model_name="diabetes", floor=10.0)
    assert not promote
    assert "misses the floor 10" in reason


def test_a_damaged_champion_gives_way_and_the_report_says_so(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    open_page: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    from sklearn.linear_model import LogisticRegression

    uri = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    register(model, "iris", uri)
    for file in (tmp_path / "mlflow").rglob("model.skops"):
        file.write_bytes(b"damaged")
    (promote, reason), found, page = compare(model, test, model_name="iris", tracking_uri=uri)
    assert promote
    assert found["numbers"].keys() == {"challenger_roc_auc"}
    assert reason.startswith("promoted: no usable champion (")
    assert found["champion_problem"]
    assert "Champion version 1 could not be compared" in open_page(page).find_element("tag name", "body").text


def test_nothing_is_written_when_the_server_is_not_there(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    from sklearn.linear_model import LogisticRegression

    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    with pytest.raises(ValueError, match=r"MLflow at http://127\.0\.0\.1:1 can't be used: no server answers"):
        compare(model, test, model_name="iris", tracking_uri="http://127.0.0.1:1")
    assert not (tmp_path / "artifacts" / "comparison").exists()
    assert not (tmp_path / "artifacts" / "comparison report").exists()


def test_a_model_that_can_not_serve_is_never_promoted(
    compare: Callable[..., Any], trained: Callable[..., dsl.Model], sklearn_rows: Callable[..., Any]
) -> None:
    from sklearn.linear_model import LogisticRegression

    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    (promote, reason), found, _ = compare(model, test, model_name="unservable", servable=False)
    assert not promote
    assert not found["servable"]
    assert reason == "not promoted: the model failed the serving check"


def test_in_a_container_without_a_registry_there_is_no_champion_and_the_page_says_so(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    open_page: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setenv("_KFP_RUNTIME", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    (promote, reason), found, page = compare(model, test, model_name="iris", tracking_uri="")
    assert promote
    assert reason.startswith("promoted: first model")
    assert (found["registry"], found["champion_version"]) == (False, None)
    text = open_page(page).find_element("tag name", "body").text
    assert "not registered but kept as an artifact of this run only" in text
    assert "set MLFLOW_TRACKING_URI" in text
