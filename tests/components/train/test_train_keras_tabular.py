import datetime
import json
import multiprocessing
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from flowparts import models, tables
from flowparts.components.train.train_keras_tabular import train_keras_tabular
from tests.contract.steps import Step, Stop

SMALL: dict[str, Any] = {"units": 16, "layers": 1, "epochs": 12, "batch_size": 32, "learning_rate": 0.02}


def mixed(rows: int = 500) -> pl.DataFrame:
    """Columns of every type, some values missing; what is bought follows from size, town and the hour."""
    rng = np.random.default_rng(7)
    size, town = rng.normal(50, 12, rows), rng.choice(["Köln", "Paris", "Roma"], rows)
    hours = rng.integers(0, 24 * 300, rows)
    start = datetime.datetime(2024, 1, 1)
    worth = (size - 50) / 12 + 2 * (town == "Paris") + np.where(hours % 24 < 12, 1.5, -1.5)
    frame = pl.DataFrame(
        {
            "size/cm": size,
            "visits": rng.integers(0, 9, rows),
            "member": rng.integers(0, 2, rows).astype(bool),
            "town": town,
            "at": [start + datetime.timedelta(hours=int(hour)) for hour in hours],
            "born": [start.date() - datetime.timedelta(days=int(d)) for d in rng.integers(0, 9999, rows)],
            "id": np.arange(rows),
        }
    ).with_columns(
        pl.when(pl.int_range(rows) % 17 == place).then(None).otherwise(pl.col(name)).alias(name)
        for place, name in enumerate(["size/cm", "visits", "member", "town", "at", "born"])
    )
    return frame.with_columns(bought=pl.Series(np.where(worth > 0.6, "yes", "no")), worth=worth, weight=1.0)


TABLE = mixed()
TRAIN, VALIDATION = TABLE.head(380), TABLE.tail(120)
LABELS = {
    "classification": {"label": "bought", "exclude_columns": ["id", "worth", "weight"]},
    "regression": {"label": "worth", "exclude_columns": ["id", "bought", "weight"], "task": "regression"},
}
# Of several workers none gets what doesn't fill a batch; Adam makes more of rounding the longer its steps.
SHARED = {
    **LABELS["classification"],
    "dropout": 0.0,
    "epochs": 3,
    "batch_size": 38,
    "learning_rate": 0.001,
}


class Trained:
    """One training and what came out of it."""

    def __init__(
        self, folder: Path, train: pl.DataFrame = TRAIN, validation: pl.DataFrame = VALIDATION, **options: Any
    ):
        for name, frame in {"train": train, "validation": validation}.items():
            if not (folder / name).exists():
                tables.write(frame, folder / name)
        self.folder = folder
        self.model = dsl.Model(name="model", uri=str(folder / "model"))
        self.metrics = dsl.Metrics(name="metrics", uri=str(folder / "metrics"))
        self.report = folder / "report"
        train_keras_tabular.python_func(
            train=dsl.Dataset(uri=str(folder / "train")),
            validation=dsl.Dataset(uri=str(folder / "validation")),
            model=self.model,
            validation_metrics=self.metrics,
            training_report=dsl.HTML(name="report", uri=str(self.report)),
            **{**SMALL, **options},
        )

    @property
    def scores(self) -> dict[str, float]:
        found: dict[str, float] = json.loads(Path(self.metrics.path).read_text())
        return found


@pytest.fixture(scope="module", params=LABELS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp(request.param), **LABELS[request.param])


@pytest.fixture(scope="module")
def bought(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("bought"), **LABELS["classification"])


def test_the_output_is_a_model_of_raw_rows(trained: Trained) -> None:
    loaded = models.load(trained.model.path)
    predicted = loaded.predict(VALIDATION)
    if loaded.task == "classification":
        expected = roc_auc_score(VALIDATION["bought"] == "yes", predicted["probability_yes"])
        assert expected > 0.9
        assert trained.scores["roc_auc"] == pytest.approx(expected)
    else:
        expected = r2_score(VALIDATION["worth"], predicted["prediction"])
        assert expected > 0.7
        assert trained.scores["r2"] == pytest.approx(expected, abs=1e-5)
    assert trained.metrics.metadata == trained.scores == loaded.metadata["validation"]
    assert loaded.metadata["framework"] == "tensorflow"
    assert list(loaded.features) == ["size/cm", "visits", "member", "town", "at", "born"]


def test_archive_and_saved_model_answer_as_the_graph_that_is_scored(trained: Trained) -> None:
    from flowparts.train.networks import (
        archive,
        encoding,
        finishing,
        graph_export,
        saved_model,
        tabular_model,
    )

    rows = VALIDATION.with_columns(
        town=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("☃")).otherwise("town"),
        visits=pl.when(pl.int_range(pl.len()) == 4).then(None).otherwise("visits"),
    )
    loaded = models.load(trained.model.path)
    scored = loaded.predict(rows)
    known = encoding.Encoding(loaded.types, [], {}, {}, {})
    columns = encoding.columns(rows, known)
    network = archive.load(Path(trained.model.path) / "model.keras")
    answers = finishing.predictions(tabular_model.answer(network, columns), loaded.classes)
    served = pl.DataFrame(saved_model.predict(Path(trained.model.path) / "saved_model", columns))
    assert graph_export.difference(scored, answers) < 1e-5
    assert graph_export.difference(scored, served) < 1e-5
    assert set(served.columns) == set(scored.columns)


def test_preprocessing_is_learned_from_the_training_rows_only(bought: Trained, tmp_path: Path) -> None:
    from flowparts.train.networks import archive

    network = archive.load(Path(bought.model.path) / "model.keras")
    layers = {layer.name: layer for layer in network.get_layer("trunk").layers}
    numbers = TRAIN.select("size/cm", "visits", pl.col("member").cast(float)).to_numpy().astype(float)
    scaling = layers["number_scaling"]
    np.testing.assert_allclose(np.ravel(scaling.mean), np.nanmean(numbers, axis=0))
    np.testing.assert_allclose(np.ravel(scaling.variance), np.nanvar(numbers, axis=0))
    known = network.get_layer("lookup_0").get_vocabulary()
    assert (
        known[2:]
        == TRAIN["town"].drop_nulls().value_counts().sort("count", descending=True)["town"].to_list()
    )


def test_is_scored_where_there_is_no_tensorflow(bought: Trained) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_score_without_tensorflow, args=(bought.model.path, bought.folder / "scored.parquet")
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0
    expected = models.load(bought.model.path).predict(VALIDATION)
    assert pl.read_parquet(bought.folder / "scored.parquet").equals(expected)


def _score_without_tensorflow(model: str, out: Path) -> None:
    import sys

    for name in ("tensorflow", "keras", "tf2onnx", "onnx", "sklearn"):
        sys.modules[name] = None  # type: ignore[assignment]
    models.load(model).predict(VALIDATION).write_parquet(out)


def test_a_seed_decides_what_is_learned(bought: Trained, tmp_path: Path) -> None:
    def predicted(found: Trained) -> pl.Series:
        return models.load(found.model.path).predict(VALIDATION)["probability_yes"]

    again = Trained(tmp_path / "again", **LABELS["classification"])
    assert predicted(again).equals(predicted(bought))
    assert again.report.read_bytes() == bought.report.read_bytes()
    other = Trained(tmp_path / "other", seed=1, **LABELS["classification"])
    assert not predicted(other).equals(predicted(bought))


def test_a_killed_training_resumes_from_its_checkpoint_with_the_same_result(
    bought: Trained, tmp_path: Path
) -> None:
    step, log = as_step(bought.folder, checkpoint_seconds=0.0), tmp_path / "log"
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert step.inside(undisturbed, tmp_path).run(log).exit_code == 0

    again = step.inside(disturbed, tmp_path)
    # Counted are removals: of what may be left of an interrupted write, and of the state before.
    assert again.run(log, Stop("flowparts.train.networks.checkpoints.shutil.rmtree", 10)).exit_code == -9
    ended = again.run(log)
    assert ended.exit_code == 0, ended.log
    states = [Path(path).name for path in ended.moved if "epoch-" in Path(path).name]
    assert states[0] == "epoch-000006"
    weights = "model/saved_model/variables/variables.data-00000-of-00001"
    for name in ("validation_metrics", "training_report", weights):
        assert (disturbed / "made" / name).read_bytes() == (undisturbed / "made" / name).read_bytes()
    predicted = [
        models.load(each / "made" / "model").predict(VALIDATION) for each in (disturbed, undisturbed)
    ]
    assert predicted[0].equals(predicted[1])


def as_step(tables_: Path, **options: Any) -> Step:
    """Return a training as a step for a process of its own."""

    def artifact(name: str, kind: str) -> dict[str, Any]:
        schema = {"schemaTitle": f"system.{kind}", "schemaVersion": "0.0.1"}
        return {"artifacts": [{"name": name, "uri": str(tables_ / name), "type": schema}]}

    inputs = {name: artifact(name, "Dataset") for name in ("train", "validation")}
    outputs = {"model": "Model", "validation_metrics": "Metrics", "training_report": "HTML"}
    values = {**SMALL, **LABELS["classification"], **options}
    return Step(
        "train_keras_tabular",
        {
            "inputs": {"artifacts": inputs, "parameterValues": values},
            "outputs": {"artifacts": {name: artifact(name, kind) for name, kind in outputs.items()}},
        },
    )


def test_stops_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    found = Trained(
        tmp_path, **LABELS["classification"], epochs=60, patience=2, learning_rate=0.1, schedule="constant"
    )
    facts = models.metadata(found.model.path)
    assert facts["epochs_done"] == facts["best_epoch"] + 2 < 60
    report = found.report.read_text()
    assert f"The weights of epoch {facts['best_epoch']} were kept." in report


def test_rows_without_weight_teach_nothing(tmp_path: Path) -> None:
    wrong = TRAIN.with_columns(
        weight=pl.lit(0.0), bought=pl.col("bought").replace({"yes": "no", "no": "yes"})
    )
    weighed = pl.concat([TRAIN, wrong, wrong])
    options = {**LABELS["classification"], "exclude_columns": ["id", "worth"]}
    found = Trained(tmp_path, weighed, weight_column="weight", **options)
    assert found.scores["roc_auc"] > 0.9


def test_balanced_classes_are_found_more_often(tmp_path: Path) -> None:
    rare = pl.concat([TRAIN.filter(bought="no"), TRAIN.filter(bought="yes").head(12)])
    plain = Trained(tmp_path / "plain", rare, epochs=4, **LABELS["classification"])
    balanced = Trained(
        tmp_path / "balanced", rare, epochs=4, class_weight="balanced", **LABELS["classification"]
    )
    assert balanced.scores["balanced_accuracy"] > plain.scores["balanced_accuracy"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": -1}, "layers must be 0 or more, not -1"),
        ({"units": 0}, "units must be at least 1, not 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, not 1"),
        ({"learning_rate": 0.0}, "learning_rate must be more than 0, not 0"),
        ({"schedule": "steps"}, "schedule must be one of cosine, constant, not 'steps'"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"patience": -1}, "patience must be 0 or more epochs, not -1"),
        ({"class_weight": "heavy"}, "class_weight must be 'balanced' or left out, not 'heavy'"),
        ({"label": "Bought"}, "label column 'Bought' is not in the table"),
        ({"learning_rate": 1e30}, "lower the learning rate"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refuses_what_makes_no_sense(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        Trained(tmp_path, **{**LABELS["classification"], **options})
    assert not (tmp_path / "model").exists()


def test_learning_curves_are_drawn(bought: Trained, open_page: Callable[[Path], Any]) -> None:
    page = open_page(bought.report)
    assert page.find_element("tag name", "h1").text == "Learning curves"
    assert len(page.find_elements("css selector", "svg")) >= 2


def test_two_workers_agree_with_one(bought: Trained, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        tables.write(tables.scan(bought.folder / name), tmp_path / "0" / name)
        tables.write(tables.scan(bought.folder / name), tmp_path / "1" / name)
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
    processes = [
        multiprocessing.get_context("spawn").Process(
            target=_work, args=(workers, index, tmp_path / str(index), SHARED)
        )
        for index in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    assert not (tmp_path / "1" / "model").exists(), "only the first worker writes"

    alone = Trained(tmp_path / "alone", **SHARED)
    expected = models.load(alone.model.path).predict(VALIDATION)
    found = models.load(tmp_path / "0" / "model").predict(VALIDATION)
    difference = (found["probability_yes"] - expected["probability_yes"]).abs().max()
    assert difference < 2e-3


def _work(workers: list[str], index: int, folder: Path, options: dict[str, Any]) -> None:
    import os

    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
    )
    Trained(folder, **options)


def test_two_devices_agree_with_one(bought: Trained, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        tables.write(tables.scan(bought.folder / name), tmp_path / "mirrored" / name)
    process = multiprocessing.get_context("spawn").Process(
        target=_mirror, args=(tmp_path / "mirrored", SHARED)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0
    alone = Trained(tmp_path / "alone", **SHARED)
    expected = models.load(alone.model.path).predict(VALIDATION)
    found = models.load(tmp_path / "mirrored" / "model").predict(VALIDATION)
    assert (found["probability_yes"] - expected["probability_yes"]).abs().max() < 2e-3


def _mirror(folder: Path, options: dict[str, Any]) -> None:
    import tensorflow as tf

    from flowparts.train.networks import training

    # A processor stands for two devices, as several GPUs are one each.
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    training.devices = lambda: ["CPU:0", "CPU:1"]
    Trained(folder, **options)


def test_learns_with_half_the_bits_where_a_gpu_does_and_answers_in_full(
    bought: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowparts.train.networks import archive, training

    monkeypatch.setattr(training, "precision", lambda: "mixed_float16")
    found = Trained(tmp_path, **LABELS["classification"])
    assert found.scores["roc_auc"] > 0.9
    assert found.scores != bought.scores, "it learned with the same numbers"
    network = archive.load(Path(found.model.path) / "model.keras")
    assert {layer.compute_dtype for layer in network.get_layer("trunk").layers} <= {"float32", "float64"}


def test_the_archive_names_no_date(bought: Trained) -> None:
    with zipfile.ZipFile(Path(bought.model.path) / "model.keras") as opened:
        assert json.loads(opened.read("metadata.json")).keys() == {"keras_version"}


def test_rare_positives_are_judged_by_average_precision(tmp_path: Path) -> None:
    def rare(rows: pl.DataFrame) -> pl.DataFrame:
        seldom = pl.int_range(pl.len()) % 30 == 0
        return rows.with_columns(bought=pl.when(seldom).then(pl.lit("fraud")).otherwise(pl.lit("ok")))

    trained = Trained(tmp_path, rare(TRAIN), rare(VALIDATION), **LABELS["classification"], epochs=1)
    stored = models.metadata(trained.model.path)
    assert (stored["metric"], stored["positive_class"]) == ("average_precision", "fraud")
    assert "(class 'fraud'), less than 5%" in stored["metric_reason"]
    predicted = models.load(trained.model.path).predict(rare(VALIDATION))["probability_fraud"].to_numpy()
    truth = (rare(VALIDATION)["bought"] == "fraud").to_numpy()
    expected = average_precision_score(truth, predicted)
    assert stored["validation"]["average_precision"] == pytest.approx(expected, abs=1e-4)
