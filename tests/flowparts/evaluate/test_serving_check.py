import datetime
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flowparts import models
from flowparts.evaluate import serving_check
from flowparts.prepare import preprocess
from flowparts.train import estimators


def raw(rows: int = 80) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    start = datetime.datetime(2024, 1, 1, 12, 30, 0, 5)
    frame = pl.DataFrame(
        {
            "x": rng.normal(size=rows),
            "count": rng.integers(0, 9, rows),
            "member": rng.integers(0, 2, rows).astype(bool),
            "town": rng.choice(["Köln", 'a "quoted" town'], rows),
            "at": [start + datetime.timedelta(minutes=int(m)) for m in rng.integers(0, 99_999, rows)],
            "born": [start.date() - datetime.timedelta(days=int(d)) for d in rng.integers(0, 9999, rows)],
        }
    )
    label = pl.when(frame["x"] > 0).then(pl.lit("yes")).otherwise(pl.lit("no"))
    gaps = [pl.when(pl.int_range(rows) > 3).then(pl.col(name)).alias(name) for name in frame.columns]
    return frame.with_columns(y=label, amount=np.exp(frame["x"])).with_columns(gaps)


@pytest.fixture(scope="module", params=["classification", "regression"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    label, other = ("y", "amount") if request.param == "classification" else ("amount", "y")
    learned, features = preprocess.fit(raw().lazy(), label=label, task=request.param, exclude_columns=[other])
    data = estimators.examples(features.lazy(), learned)
    fitted = estimators.fit(estimators.build("RandomForest", request.param, {"n_estimators": 10}), data, data)
    models.save(
        path,
        fitted,
        preprocessor=learned,
        task=request.param,
        label=label,
        classes=learned.classes,
        metadata={},
    )
    return path


def test_a_sound_model_serves_and_is_timed(model: Path) -> None:
    verdict = serving_check.check(model, raw(), timeout_seconds=60)
    assert verdict.servable, verdict.reason
    assert verdict.reason.startswith("80 rows match the offline predictions; loads in ")
    assert set(verdict.measures) == {"rows", "load_seconds", "latency_ms_median", "latency_ms_p95"}
    assert 0 < verdict.latency_ms <= verdict.measures["latency_ms_p95"] < 5000


def test_a_damaged_model_does_not_serve(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "model.skops").write_bytes(b"broken")
    verdict = serving_check.check(tmp_path / "m", raw(), timeout_seconds=60)
    assert not verdict.servable
    assert "is not a valid skops file" in verdict.reason
    assert verdict.latency_ms == 0


def test_rows_without_a_feature_are_a_reason(model: Path) -> None:
    verdict = serving_check.check(model, raw().drop("town"), timeout_seconds=60)
    assert not verdict.servable
    assert "feature column 'town' is not in the table" in verdict.reason


def test_no_answer_in_time_is_a_reason(model: Path) -> None:
    verdict = serving_check.check(model, raw(), timeout_seconds=0.01)
    assert verdict == serving_check.Verdict(servable=False, reason="the model did not answer within 0.01 s")


def test_rows_that_the_server_refuses_are_a_reason(model: Path) -> None:
    frame = raw().with_columns(pl.col("count").cast(pl.String))
    verdict = serving_check.check(model, frame, timeout_seconds=60)
    assert not verdict.servable
    assert "instances[4].count must be a number or null, not text" in verdict.reason


def test_a_model_that_predicts_otherwise_in_another_process_does_not_serve(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = models.Model.predict

    def shifted(self: models.Model, table: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
        predicted = honest(self, table)
        return predicted.with_columns(pl.selectors.float() + 0.001)

    monkeypatch.setattr(models.Model, "predict", shifted)
    verdict = serving_check.check(model, raw(), timeout_seconds=60)
    assert not verdict.servable
    assert "80 of 80 rows sent at once differ from the offline predictions, such as row 1" in verdict.reason


def test_a_crash_in_the_servers_process_is_a_reason(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    verdict = serving_check.check(model, raw(), timeout_seconds=60)
    assert verdict == serving_check.Verdict(
        servable=False, reason="the model failed in the server's process: exit code 1"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, 1.0), "sample_rows must be at least 1, not 0"),
        ((1, 0.0), "timeout_seconds must be more than 0, not 0"),
    ],
)
def test_wrong_options_give_a_one_line_error(options: tuple[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serving_check.check_options(*options)
