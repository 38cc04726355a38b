import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from flowparts import models
from flowparts.components.register.register_champion import register_champion
from flowparts.register import registry
from flowparts.util import outputs


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def compare(
    artifact: Callable[..., Any], table: Callable[..., dsl.Dataset], database: str
) -> Callable[..., tuple[Any, dict[str, Any], Path]]:
    """Run the component; give what it returns, its JSON and the path of its report."""

    def run(
        model: dsl.Model, rows: Any, servable: bool | None = True, **options: Any
    ) -> tuple[Any, dict[str, Any], Path]:
        comparison, report = artifact("comparison"), artifact("run summary", dsl.HTML)
        metrics, evaluation = artifact("comparison metrics", dsl.Metrics), artifact("evaluation", dsl.HTML)
        if servable is not None:
            options["serving_metrics"] = artifact("serving metrics", dsl.Metrics)
            found = {"servable": int(servable), "latency_ms_median": 2.25}
            outputs.write_json(options["serving_metrics"].path, found)
        outputs.write_text(evaluation.path, "<p>evaluation</p>")
        returned = register_champion.python_func(
            model=model,
            test=table(rows, "test"),
            comparison=comparison,
            comparison_metrics=metrics,
            run_summary=report,
            **{"tracking_uri": database, "evaluation_report": evaluation} | options,
        )
        found = json.loads(Path(comparison.path).read_text())
        assert json.loads(Path(metrics.path).read_text()) == metrics.metadata
        return returned, {**found, "numbers": metrics.metadata}, Path(report.path)

    return run


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri, uri)


def versions(uri: str) -> list[str]:
    return sorted(str(version.version) for version in client_of(uri).search_model_versions())


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
    assert returned == (True, found["reason"], "1", False)
    assert found["version"] == "1"
    first = found["numbers"]
    assert first == {"challenger_roc_auc": found["challenger"]["metrics"]["roc_auc"]["score"]}
    assert (found["champion"], found["champion_version"]) == (None, None)
    assert "first model" in open_page(page).page_source

    (promote, reason, version, _), found, page = compare(strong, test, model_name="tumours", tracking_uri=uri)
    assert (promote, version) == (True, "2")
    new, old = found["numbers"]["challenger_roc_auc"], found["numbers"]["champion_roc_auc"]
    assert old == pytest.approx(first["challenger_roc_auc"])
    assert found["numbers"]["improvement"] == pytest.approx(new - old)
    assert found["champion_version"] == "1"
    low, high = found["improvement"]["low"], found["improvement"]["high"]
    assert 0 < low < new - old < high
    text = open_page(page).find_element("tag name", "body").text
    assert reason in text
    assert "champion, version 1" in text

    options = {"model_name": "tumours", "tracking_uri": uri, "deploy_target": "docker"}
    returned, found, _ = compare(strong, test, **options)
    assert returned == (False, found["reason"], "", False)
    assert found["numbers"]["improvement"] == 0
    assert "no improvement" in found["reason"]
    assert found["champion_version"] == "2"
    assert registry.champion_version("tumours", uri) == "2"


def test_a_regression_is_compared_by_rmse_against_a_ceiling(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
) -> None:
    from sklearn.linear_model import Ridge

    rows, test = sklearn_rows("diabetes", "progression")
    model = trained(rows, "progression", Ridge(), "regression")
    (promote, *_), found, _ = compare(model, test, model_name="diabetes", floor=100.0, metric="")
    assert (promote, found["floor"], found["metric"]) == (True, 100.0, "rmse")
    assert found["numbers"]["challenger_rmse"] < 100
    (promote, reason, *_), _, _ = compare(model, test, model_name="others", floor=10.0)
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
    compare(model, test, model_name="iris", tracking_uri=uri)
    for file in (tmp_path / "mlflow").rglob("model.skops"):
        file.write_bytes(b"damaged")
    (promote, reason, version, _), found, page = compare(model, test, model_name="iris", tracking_uri=uri)
    assert (promote, version) == (True, "2")
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
    assert not (tmp_path / "artifacts" / "run summary").exists()


def test_a_model_that_cannot_serve_is_never_promoted(
    compare: Callable[..., Any], trained: Callable[..., dsl.Model], sklearn_rows: Callable[..., Any]
) -> None:
    from sklearn.linear_model import LogisticRegression

    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    (promote, reason, version, _), found, _ = compare(model, test, model_name="unservable", servable=False)
    assert not promote
    assert not found["servable"]
    assert version == ""
    assert reason == "not promoted: the model failed the serving check"


def test_in_a_container_without_a_registry_there_is_no_champion_and_the_page_says_so(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    open_page: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setenv("_KFP_RUNTIME", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    returned, found, page = compare(model, test, model_name="iris", tracking_uri="", deploy_target="kserve")
    assert returned == (True, found["reason"], "", True)
    assert "not registered: no MLflow registry is configured" in capsys.readouterr().out
    assert found["reason"].startswith("promoted: first model")
    assert (found["registry"], found["champion_version"]) == (False, None)
    text = open_page(page).find_element("tag name", "body").text
    assert "Good enough, but not registered: there is no MLflow registry" in text
    assert "not registered but kept as an artifact of this run only" in text
    assert "set MLFLOW_TRACKING_URI" in text


@pytest.mark.parametrize("where", ["database", "mlflow_server"])
def test_a_version_holds_what_tells_where_it_comes_from(
    where: str,
    request: pytest.FixtureRequest,
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
) -> None:
    from sklearn.linear_model import Ridge

    uri = request.getfixturevalue(where)
    rows, test = sklearn_rows("diabetes", "progression")
    model = trained(rows, "progression", Ridge(alpha=0.5), "regression", parameters={"alpha": 0.5})
    options = {"model_name": "disease progression", "tracking_uri": uri, "run_id": "run-1"}
    _, found, _ = compare(model, test, **options)

    client = client_of(uri)
    version = client.get_model_version_by_alias("disease progression", "champion")
    rmse = found["challenger"]["metrics"]["rmse"]
    assert version.tags["pipeline_run_id"] == "run-1"
    assert version.tags["rmse"] == f"{rmse['score']:.6g}"
    assert version.tags["data_fingerprint"] == models.metadata(model.path)["training_fingerprint"]
    run = client.get_run(version.run_id)
    assert run.data.metrics["rmse"] == pytest.approx(rmse["score"])
    assert run.data.metrics["rmse_low"] == pytest.approx(rmse["low"])
    assert run.data.params == {"alpha": "0.5", "estimator": "Ridge"}
    reports = [entry.path for entry in client.list_artifacts(version.run_id, "reports")]
    assert sorted(reports) == ["reports/evaluation.html", "reports/summary.html"]


def test_a_step_that_is_retried_decides_as_before_and_makes_no_second_version(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    rows, test = sklearn_rows("breast_cancer", "malignant")
    weak = trained(rows.select("mean smoothness", "malignant"), "malignant", GaussianNB(), name="weak")
    strong = trained(rows, "malignant", LogisticRegression(max_iter=1000), name="strong")
    options = {"model_name": "tumours", "tracking_uri": uri, "deploy_target": "docker"}
    for number, model in enumerate([weak, strong], 1):
        first = compare(model, test, **options, run_id=f"run-{number}")
        again = compare(model, test, **options, run_id=f"run-{number}")
        assert first[:2] == again[:2]
        assert first[0] == (True, first[1]["reason"], str(number), True)
        assert versions(uri) == [str(made) for made in range(1, number + 1)]
    # The same model of another run is a challenger like any other.
    assert compare(strong, test, **options, run_id="run-3")[0][0] is False


def test_of_two_runs_at_once_only_the_first_makes_a_champion(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sklearn.linear_model import LogisticRegression

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    register = registry.register

    def after_another(*given: Any, **options: Any) -> str:
        monkeypatch.undo()
        register(*given, **{**options, "pipeline_run_id": "the other run"})
        return register(*given, **options)

    monkeypatch.setattr(registry, "register", after_another)
    with pytest.raises(ValueError, match="version 1 of model 'iris' became the champion during the compar"):
        compare(model, test, model_name="iris", tracking_uri=uri, run_id="run-1")
    assert versions(uri) == ["1"]


def test_a_name_that_no_model_can_have_is_reported(
    compare: Callable[..., Any], trained: Callable[..., dsl.Model], sklearn_rows: Callable[..., Any]
) -> None:
    from sklearn.linear_model import LogisticRegression

    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    with pytest.raises(ValueError, match="model name 'team/iris' is not valid in MLflow"):
        compare(model, test, model_name="team/iris")


def test_the_page_tells_the_decision_first_then_numbers_and_lineage(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    open_page: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    rows, test = sklearn_rows("breast_cancer", "malignant")
    ranking = [
        {"estimator": "LogisticRegression", "metric": "roc_auc", "score": 0.991, "parameters": {"C": 0.5}},
        {"estimator": "RandomForestClassifier", "metric": "roc_auc", "score": 0.9876},
    ]
    weak = trained(rows.select("mean smoothness", "malignant"), "malignant", GaussianNB(), name="weak")
    model = trained(
        rows,
        "malignant",
        LogisticRegression(C=0.5, max_iter=1000),
        parameters={"C": 0.5, "max_iter": 1000},
        git_commit="0123456789abcdef",
        training_rows=rows.height,
        candidates=ranking,
    )
    options = {"model_name": "tumours", "tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    compare(weak, test, **options)
    _, found, page = compare(model, test, **options)
    text = open_page(page).find_element("tag name", "body").text
    assert 0 < text.index("Promoted as version 2") < text.index("Scores on the 190 test rows")
    for expected in (
        "promoted: roc_auc 0.99",
        "champion, version 1",
        "RandomForestClassifier",
        "0.9876",
        models.metadata(model.path)["training_fingerprint"],
        found["test_fingerprint"],
        "0123456789abcdef",
        "C=0.5, max_iter=1000",
        "models:/tumours/2",
        "2.25",
    ):
        assert expected in text, expected
    client = client_of(options["tracking_uri"])
    run_id = client.get_model_version("tumours", "2").run_id
    kept = Path(client.download_artifacts(run_id, "reports/summary.html", tmp_path)).read_text()
    assert "<strong>Promoted</strong>" in kept

    _, _, page = compare(model, test, **options)
    text = open_page(page).find_element("tag name", "body").text
    assert "Champion stays: version 2" in text


def test_a_model_that_was_not_checked_may_be_promoted_and_the_page_says_so(
    compare: Callable[..., Any],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    open_page: Callable[[Path], Any],
) -> None:
    from sklearn.linear_model import LogisticRegression

    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    returned, _, page = compare(model, test, model_name="unchecked", servable=None)
    assert returned[0]
    assert "not checked" in open_page(page).find_element("tag name", "body").text


def test_a_missing_evaluation_is_reported_before_anything_is_compared(
    compare: Callable[..., Any], trained: Callable[..., dsl.Model], sklearn_rows: Callable[..., Any]
) -> None:
    from sklearn.linear_model import LogisticRegression

    rows, test = sklearn_rows("iris", "species")
    model = trained(rows, "species", LogisticRegression(max_iter=1000))
    with pytest.raises(ValueError, match="the evaluation report is missing: there is no file at /nowhere"):
        compare(model, test, model_name="iris", evaluation_report=dsl.HTML(uri="/nowhere"))
