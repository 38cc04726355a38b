import hmac
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from flowparts import tables
from flowparts.ingest import ingestion
from flowparts.serving.batching import Answer
from flowparts.serving.prediction_log import Asked, Contents, Files, PredictionLog
from flowparts.serving.signature import Signature
from tests.flowparts.serving.conftest import Server, rows


def read(log: Path) -> pl.DataFrame:
    return pl.read_parquet(log / "**/part-*.parquet", hive_partitioning=False)


def wait_for(log: Path, count: int) -> pl.DataFrame:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if list(log.rglob("*.parquet")) and (found := read(log)).height >= count:
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
    found = read(log)
    assert found.height == 43
    assert {file.suffix for file in log.rglob("*") if file.is_file()} == {".parquet"}
    [day] = {folder.name for folder in log.iterdir()}
    assert day == f"date={datetime.now(UTC).date()}"


def test_a_fraction_of_the_requests_is_logged_after_a_time_and_workers_share_a_table(
    serve: Callable[..., Server], model: Path, records: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    server = serve(
        model,
        f"--prediction-log={log}",
        "--prediction-log-fraction=0.5",
        "--prediction-log-seconds=0.2",
        "--workers=2",
    )
    for _ in range(100):
        server.call("/predict", {"instances": records[:1]})
    wait_for(log, 20)
    server.stop()
    assert 25 <= read(log).height <= 75


@pytest.mark.parametrize("workers", [1, 2])
def test_a_directory_that_cannot_be_made_gives_a_one_line_error(
    serve: Callable[..., Server], model: Path, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "file").touch()
    log = tmp_path / "file" / "log"
    server = serve(model, f"--prediction-log={log}", f"--workers={workers}", ready=False)
    assert server.process.wait(60) == 1
    server.reader.join()
    wrong = {line["message"] for line in server.lines if line["level"] != "info"}
    assert wrong == {f"the prediction log can't be at {log}: Not a directory"}


def test_rows_that_arrive_during_a_write_are_kept_and_dropped_ones_are_counted(
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
    log: Any = PredictionLog(tmp_path / "log", None, Contents(), Files(1, 60), lost.append)
    log.add([("row",)], None, Asked("predict"))
    assert begun.wait(10)
    for _ in range(99):
        log.add([("row",)], None, Asked("predict"))
    threading.Timer(0.2, going_on.set).start()
    with caplog.at_level("WARNING", "flowparts"):
        log.close()
    [told] = [record for record in caplog.records if "the prediction log dropped rows" in record.message]
    assert written == [1, 11]
    assert vars(told)["facts"] == {"rows": 88}
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
    log = PredictionLog(tmp_path / "log", model, Contents(), Files(1, 60), lambda _: None)
    log.add([(1.0, 2.0, 3.0, 4.0)], Answer({"prediction": [5.0]}, 0, 1), Asked("predict"))
    log.close()
    found = read(tmp_path / "log")
    assert found.select(taken).rows() == [(1.0, 2.0, 3.0, 4.0)]
    assert found["served_served_prediction"].to_list() == [5.0]
    assert found.schema["request_request_time"] == pl.Datetime("us")


def test_request_ids_and_keys_are_logged_beside_the_features(
    serve: Callable[..., Server], model: Path, records: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    server = serve(model, f"--prediction-log={log}", "--prediction-log-keys=order, customer")
    sent = [{**records[0], "order": 17, "customer": "c-1"}, {**records[1], "order": 18}]
    named = {"x-request-id": "first"}
    assert server.call("/predict", {"instances": sent}, named)[0] == 200
    columns = {name: [row.get(name) for row in records[:2]] for name in records[0]}
    tensors = [
        {"name": name, "datatype": datatype, "shape": [2], "data": values}
        for name, values in columns.items()
        for datatype in [server.call("/v2/models/model")[1]["inputs"][list(columns).index(name)]["datatype"]]
    ]
    tensors.append({"name": "order", "datatype": "INT64", "shape": [2], "data": [19, 20]})
    status, answer, _ = server.call("/v2/models/model/infer", {"id": "second", "inputs": tensors})
    assert status == 200, answer
    assert server.call("/predict", {"instances": records[:1]})[0] == 200
    assert server.stop() == 0
    found = read(log).sort("time", "row")
    assert found.select("request_id", "row", "order", "customer").rows()[:4] == [
        ("first", 0, "17", "c-1"),
        ("first", 1, "18", None),
        ("second", 0, "19", None),
        ("second", 1, "20", None),
    ]
    assert len(found["request_id"][4]) == 32
    # What the log holds, ingest_table makes a table of.
    ingested = tmp_path / "table"
    ingestion.ingest(str(log), ingested, tmp_path / "rejected")
    table = tables.scan(ingested).collect()
    assert table["date"].unique().to_list() == [found["time"][0].date()]
    assert table.sort("time", "row").drop("date").equals(found)


def test_masked_columns_hold_hashes_that_are_equal_for_equal_values(
    serve: Callable[..., Server], model: Path, records: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    options = (
        f"--prediction-log={log}", "--prediction-log-keys=customer", "--prediction-log-mask=customer,town",
    )  # fmt: skip
    secret = {"FLOWPARTS_SERVING_PREDICTION_LOG_SECRET": "s3cret"}
    server = serve(model, *options, environment=secret)
    rows = [{**record, "customer": "Ada Lovelace"} for record in records[:3]]
    assert server.call("/predict", {"instances": rows})[0] == 200
    assert server.stop() == 0
    found = read(log)
    assert (
        found["masked_customer"].to_list()
        == [hmac.digest(b"s3cret", b"Ada Lovelace", "sha256").hex()[:32]] * 3
    )
    towns = [record["town"] for record in records[:3]]
    hashes = found["masked_town"].to_list()
    assert {(town, found) for town, found in zip(towns, hashes, strict=True)} == {
        (town, town and hmac.digest(b"s3cret", town.encode(), "sha256").hex()[:32]) for town in towns
    }
    written = b"".join(file.read_bytes() for file in log.rglob("*.parquet"))
    assert b"Lovelace" not in written
    assert not {"customer", "town"} & set(found.columns)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--prediction-log-mask=town"], "--prediction-log-mask needs the secret of its hashes"),
        (["--prediction-log-mask=twon"], "--prediction-log-mask names 'twon'"),
    ],
)
def test_masking_an_unknown_column_gives_a_one_line_error(
    options: list[str], sentence: str, serve: Callable[..., Server], model: Path, tmp_path: Path
) -> None:
    secret = {"FLOWPARTS_SERVING_PREDICTION_LOG_SECRET": "s3cret"} if "twon" in options[0] else {}
    server = serve(model, f"--prediction-log={tmp_path / 'log'}", *options, environment=secret, ready=False)
    assert server.process.wait(60) != 0
    server.reader.join()
    [wrong] = {line["message"] for line in server.lines if line["level"] != "info"}
    assert wrong.startswith(sentence)
    assert "\n" not in wrong


def test_only_days_that_are_too_old_are_deleted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    today = datetime.now(UTC).date()
    days = {age: log / f"date={today - timedelta(days=age)}" for age in (1, 30, 31, 400)}
    others = [log / "date=2020-01-01-copy", log / "notes"]
    for folder in (*days.values(), *others):
        folder.mkdir(parents=True)
        (folder / "part-1.parquet").touch()
    (days[400] / "notes.txt").touch()
    model: Any = SimpleNamespace(name="m", version="1", signature=Signature({"x": "number"}, [], None))
    PredictionLog(log, model, Contents(), Files(1, 60, days=30), lambda _: None).close()
    assert [age for age, folder in days.items() if (folder / "part-1.parquet").exists()] == [1, 30]
    assert not days[31].exists()
    assert (days[400] / "notes.txt").exists()
    assert all((folder / "part-1.parquet").exists() for folder in others)


def test_servers_that_delete_the_same_day_at_once_lose_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    old = log / "date=2020-01-01"
    old.mkdir(parents=True)
    (old / "part-1.parquet").touch()
    listed = Path.iterdir

    def overtaken(folder: Path) -> Iterator[Path]:
        """List a folder, and have another server delete it meanwhile."""
        found = list(listed(folder))
        if folder == old:
            for file in listed(old):
                file.unlink()
            old.rmdir()
        return iter(found)

    model: Any = SimpleNamespace(name="m", version="1", signature=Signature({"x": "number"}, [], None))
    lost: list[int] = []
    monkeypatch.setattr(Path, "iterdir", overtaken)
    other = PredictionLog(log, model, Contents(), Files(10, 60, days=30), lost.append)
    other.add([(1.0,)], Answer({"prediction": [5.0]}, 0, 1), Asked("predict"))
    other.close()
    assert not lost
    assert read(log)["x"].to_list() == [1.0]
    assert not old.exists()


def test_leftovers_of_an_old_day_from_a_killed_server_are_deleted(tmp_path: Path) -> None:
    old = tmp_path / "log" / "date=2020-01-01"
    old.mkdir(parents=True)
    (old / ".part-2.parquet.partial").touch()
    model: Any = SimpleNamespace(name="m", version="1", signature=Signature({"x": "number"}, [], None))
    PredictionLog(tmp_path / "log", model, Contents(), Files(1, 60, days=30), lambda _: None).close()
    assert not old.exists()


def test_rows_of_two_days_go_to_two_folders_and_images_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = SimpleNamespace(name="m", version="1", signature=Signature({"photo": "image"}, [], None))
    log = PredictionLog(tmp_path / "log", model, Contents(), Files(10, 60), lambda _: None)
    moments = iter([1_767_225_599.5, 1_767_225_600.5])
    monkeypatch.setattr("flowparts.serving.prediction_log.time.time", lambda: next(moments))
    for text in ("aGVsbG8=", None):
        log.add([(text,)], Answer({"prediction": [5.0]}, 0, 1), Asked("predict"))
    log.close()
    assert sorted(folder.name for folder in (tmp_path / "log").iterdir()) == [
        "date=2025-12-31",
        "date=2026-01-01",
    ]
    assert read(tmp_path / "log").sort("time")["photo"].to_list() == [b"hello", None]
