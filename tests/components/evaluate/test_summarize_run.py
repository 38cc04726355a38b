from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.evaluate.compare_with_champion import compare_with_champion
from components.evaluate.summarize_run import summarize_run
from flowparts import models, outputs, registry, tables


def backend_copy(artifact: dsl.Artifact) -> dsl.Artifact:
    """Return an artifact as a backend hands it on: the same files, and of the metadata nothing to rely on."""
    return dsl.Artifact(name="7", uri=artifact.uri, metadata={"columns": {"list": []}, "display_name": "x"})


@pytest.fixture
def summarize(
    artifact: Callable[..., Any],
    table: Callable[..., dsl.Dataset],
    trained: Callable[..., dsl.Model],
    sklearn_rows: Callable[..., Any],
    tmp_path: Path,
) -> Callable[..., Path]:
    """Run compare_with_champion and summarize_run on a model of real data; give the page's path."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    rows, held_out = sklearn_rows("breast_cancer", "malignant")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ingested, test = table(rows.vstack(held_out)), table(held_out, "test")
    tables.record(ingested.path, "sample://breast_cancer")
    weak = trained(rows.select("mean smoothness", "malignant"), "malignant", GaussianNB(), name="weak")
    registry.register(weak.path, "tumours", metrics={}, reports={}, tracking_uri=uri)
    model = trained(
        rows,
        "malignant",
        LogisticRegression(C=0.5, max_iter=1000),
        parameters={"C": 0.5, "max_iter": 1000},
        git_commit="0123456789abcdef",
        training_rows=rows.height,
        validation={"roc_auc": 0.991, "accuracy": 0.97},
    )
    anomalies, serving = artifact("anomalies"), artifact("serving", dsl.Metrics)
    outputs.write_json(serving.path, {"servable": 1, "latency_ms_median": 2.25, "load_seconds": 0.8})

    def run(
        version: str | None = None,
        found: list[dict[str, Any]] | None = None,
        model_name: str = "tumours",
        **rules: Any,
    ) -> Path:
        comparison, report = artifact("comparison"), artifact("summary", dsl.HTML)
        compare_with_champion.python_func(
            model=model,
            test=test,
            comparison=comparison,
            comparison_metrics=artifact("comparison metrics", dsl.Metrics),
            comparison_report=artifact("comparison report", dsl.HTML),
            model_name=model_name,
            bootstrap_samples=50,
            **{"tracking_uri": uri, **rules},
        )
        outputs.write_json(anomalies.path, found or [])
        summarize_run.python_func(
            table=backend_copy(ingested),
            anomalies=anomalies,
            model=backend_copy(model),
            serving_metrics=serving,
            comparison=comparison,
            run_summary=report,
            version=version,
        )
        page = Path(report.path)
        return page.rename(page.with_name(f"summary-{len(list(page.parent.iterdir()))}"))

    run.model, run.ingested = model, ingested  # type: ignore[attr-defined]
    return run


def test_tells_the_decision_first_then_numbers_and_lineage(
    summarize: Any, open_page: Callable[[Path], Any]
) -> None:
    ranking = [
        {"estimator": "LogisticRegression", "metric": "roc_auc", "score": 0.991, "parameters": {"C": 0.5}},
        {"estimator": "RandomForestClassifier", "metric": "roc_auc", "score": 0.9876},
    ]
    models.annotate(summarize.model.path, {"candidates": ranking})
    text = open_page(summarize(version="2")).find_element("tag name", "body").text
    assert 0 < text.index("Promoted as version 2") < text.index("Scores on the 190 test rows")
    for expected in (
        "promoted: roc_auc 0.99",
        "champion, version 1",
        "RandomForestClassifier",
        "0.9876",
        "sample://breast_cancer",
        tables.description(summarize.ingested.path)["fingerprint"],
        models.metadata(summarize.model.path)["training_fingerprint"],
        "0123456789abcdef",
        "C=0.5, max_iter=1000",
        "models:/tumours/2",
        "no anomalies",
        "2.25",
    ):
        assert expected in text, expected


def test_tells_that_the_champion_stays_and_what_validation_found(
    summarize: Any, open_page: Callable[[Path], Any]
) -> None:
    anomaly = {"column": "age", "rule": "null", "expected": "no missing value", "count": 3, "examples": []}
    text = open_page(summarize(found=[anomaly], margin=0.5)).find_element("tag name", "body").text
    assert "Champion stays: version 1" in text
    assert "less than the margin 0.5" in text
    assert "1 anomaly" in text
    assert "age: null, 3 rows" in text


def test_tells_when_there_is_no_champion_at_all(summarize: Any, open_page: Callable[[Path], Any]) -> None:
    page = summarize(model_name="other", servable=False)
    text = open_page(page).find_element("tag name", "body").text
    assert "Not promoted, and there is no champion" in text
    assert "the model failed the serving check" in text


def test_the_same_run_gives_the_same_page(summarize: Any) -> None:
    assert summarize(version="2").read_bytes() == summarize(version="2").read_bytes()


def test_tells_that_nothing_was_registered_where_there_is_no_registry(
    summarize: Any, open_page: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_KFP_RUNTIME", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    text = open_page(summarize(tracking_uri="")).find_element("tag name", "body").text
    assert "Good enough, but not registered: there is no MLflow registry" in text
    assert "set MLFLOW_TRACKING_URI" in text
