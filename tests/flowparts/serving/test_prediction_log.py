import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from flowparts import tables
from flowparts.serving.batching import Answer
from flowparts.serving.prediction_log import PredictionLog
from flowparts.serving.signature import Signature
from tests.flowparts.serving.conftest import Server, rows


def wait_for(log: Path, count: int) -> pl.DataFrame:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if list(log.glob("*.parquet")) and (found := tables.scan(log).collect()).height >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{count} rows did not come: {list(log.iterdir())}")


def test_requests_and_predictions_become_a_table(
    serve: Callable[..., Server], model: Path, records: Any, expected: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    options = (
        f"--prediction-log={log}",
        "--prediction-log-rows=40",
        "--prediction-log-seconds=600",
        "--name=m",
    )
    server = serve(model, *options)
    server.call("/predict", {"instances": records})
    server.call("/predict", {"instances": [{}]})
    found = wait_for(log, 40)
    features = rows().drop("plan", "amount").head(40)
    # Whole numbers are numbers to a model.
    features = features.with_columns(pl.col("visits").cast(pl.Float64))
    assert found.select(features.columns).equals(features)
    assert found.schema["born"] == pl.Date
    assert found["prediction"].to_list() == [row["prediction"] for row in expected]
    assert set(found["protocol"]) == {"predict"}
    assert set(found["model"]) == {"m"}
    assert found["version"].n_unique() == 1
    age = time.time() * 1e6 - found["time"].dt.epoch("us").max()  # type: ignore[operator]
    assert 0 <= age < 60e6
    # What is left is written when the server stops.
    server.call("/v1/models/m:predict", {"instances": records[:3]})
    assert server.stop() == 0
    found = tables.scan(log).collect()
    assert found.height == 43
    assert not [file for file in log.iterdir() if file.suffix != ".parquet"]


def test_a_share_of_the_requests_is_logged_after_a_time_and_workers_share_a_table(
    serve: Callable[..., Server], model: Path, records: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    server = serve(
        model,
        f"--prediction-log={log}",
        "--prediction-log-share=0.5",
        "--prediction-log-seconds=0.2",
        "--workers=2",
    )
    for _ in range(100):
        server.call("/predict", {"instances": records[:1]})
    wait_for(log, 20)
    server.stop()
    assert 25 <= tables.scan(log).collect().height <= 75


@pytest.mark.parametrize("workers", [1, 2])
def test_a_directory_that_cannot_be_made_is_one_sentence(
    serve: Callable[..., Server], model: Path, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "file").touch()
    log = tmp_path / "file" / "log"
    server = serve(model, f"--prediction-log={log}", f"--workers={workers}", ready=False)
    assert server.process.wait(60) == 1
    server.reader.join()
    wrong = {line["message"] for line in server.lines if line["level"] != "info"}
    assert wrong == {f"the prediction log can't be at {log}: Not a directory"}


def test_what_comes_while_a_file_is_written_is_kept_and_what_is_too_much_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[int] = []
    begun, going_on = threading.Event(), threading.Event()

    def write(_: PredictionLog, kept: Sequence[Any]) -> None:
        begun.set()
        going_on.wait(10)
        written.append(len(kept))

    monkeypatch.setattr(PredictionLog, "_write", write)
    lost: list[int] = []
    log: Any = PredictionLog(tmp_path / "log", None, share=1.0, rows=1, seconds=60, lost=lost.append)
    log.add([("row",)], None, "predict")
    assert begun.wait(10)
    for _ in range(99):
        log.add([("row",)], None, "predict")
    threading.Timer(0.2, going_on.set).start()
    with caplog.at_level("WARNING", "flowparts"):
        log.close()
    [told] = [record for record in caplog.records if "the prediction log lacks rows" in record.message]
    assert written == [1, 11]
    assert told.facts == {"rows": 88}
    assert lost == [88]


def test_a_log_that_cannot_be_written_does_not_stop_predictions(
    serve: Callable[..., Server], model: Path, records: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    server = serve(model, f"--prediction-log={log}", "--prediction-log-seconds=0.1")
    log.rmdir()
    log.write_text("in the way")
    deadline = time.monotonic() + 20
    while not server.say("the prediction log can't be written") and time.monotonic() < deadline:
        assert server.call("/predict", {"instances": records[:1]})[0] == 200
    assert server.say("the prediction log can't be written")
    counted = b"flowparts_prediction_log_lost_rows_total "
    lost = next(line for line in server.call("/metrics")[1].splitlines() if line.startswith(counted))
    assert float(lost.removeprefix(counted)) >= 1


def test_features_with_the_names_of_other_columns_keep_them(tmp_path: Path) -> None:
    taken = ["time", "request_time", "prediction", "served_prediction"]
    signature = Signature(dict.fromkeys(taken, "number"), [], None)
    model: Any = SimpleNamespace(name="m", version="1", signature=signature)
    log = PredictionLog(tmp_path / "log", model, share=1.0, rows=1, seconds=60, lost=lambda _: None)
    log.add([(1.0, 2.0, 3.0, 4.0)], Answer({"prediction": [5.0]}, 0, 1), "predict")
    log.close()
    found = tables.scan(tmp_path / "log").collect()
    assert found.select(taken).rows() == [(1.0, 2.0, 3.0, 4.0)]
    assert found["served_served_prediction"].to_list() == [5.0]
    assert found.schema["request_request_time"] == pl.Datetime("us")
