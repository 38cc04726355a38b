"""On stand-ins for the platforms; the trials that they start are real."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
from kfp import dsl
from sklearn.metrics import roc_auc_score

from flowparts import models, tables
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.prepare.split_table import split_table
from flowparts.components.tune.tune_on_platform import tune_on_platform
from flowparts.tune import platforms
from flowparts.tune.remote import Attempt, Search
from flowparts.util import sources
from tests import clouds
from tests.components.train.test_train_keras_tabular import LABELS, TRAIN, VALIDATION
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.deploy.vertex_service import VertexService

SPACE: dict[str, Any] = {
    "Linear": {"C": {"type": "float", "low": 0.01, "high": 10.0, "log": True}},
    "LGBM": {
        "n_estimators": 20,
        "num_leaves": {"type": "int", "low": 2.0, "high": 16.0, "log": True},  # as kfp hands them on
        "boosting_type": {"type": "categorical", "choices": ["gbdt", "dart"]},
        "drop_rate": {"type": "float", "low": 0.0, "high": 0.5, "when": {"boosting_type": "dart"}},
    },
}
BUCKET = "studies"


@dsl.pipeline(name="example-of-tuning-on-a-platform")
def example(storage: str) -> None:
    table = ingest_table(source="sample://breast_cancer").outputs["table"]
    parts = split_table(table=table, stratify_by="target").outputs
    tune_on_platform(
        train=parts["train"],
        validation=parts["validation"],
        label="target",
        platform="katib",
        store=storage,
        space={"Linear": {"C": {"type": "float", "low": 0.01, "high": 10.0, "log": True}}},
        trials=3,
        parallel_trials=1,
    )


class Tuning:
    """The artifacts around one step."""

    def __init__(self, artifact: Callable[..., Any]):
        self.artifact = artifact
        self.train, self.validation = artifact("train", dsl.Dataset), artifact("validation", dsl.Dataset)
        tables.write(TRAIN, self.train.path)
        tables.write(VALIDATION, self.validation.path)

    def run(self, name: str = "run", validated: bool = True, **options: Any) -> dict[str, Any]:
        made = {
            "model": self.artifact(f"{name} model", dsl.Model),
            "validation_metrics": self.artifact(f"{name} metrics", dsl.Metrics),
            "tuning_report": self.artifact(f"{name} report", dsl.HTML),
            "trial_table": self.artifact(f"{name} trials", dsl.Dataset),
        }
        options = {**LABELS["classification"], "space": SPACE, "trials": 5, **options}
        options = {"platform": "katib", "store": f"s3://{BUCKET}/of/team", **options}
        validation = self.validation if validated else None
        made["returned"] = tune_on_platform.python_func(
            train=self.train, validation=validation, **made, **options
        )
        return made


@pytest.fixture
def tuning(artifact: Callable[..., Any], s3_server: str) -> Iterator[Tuning]:
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield Tuning(artifact)
    assert sources.filesystem("s3").find(BUCKET) == [], "something of the study is left in the store"


def rows(made: dict[str, Any]) -> list[dict[str, Any]]:
    return tables.scan(made["trial_table"].path).collect().to_dicts()


def test_the_best_of_the_trials_on_katib_becomes_the_model(
    tuning: Tuning, cluster: KubernetesApi, open_page: Callable[[Path], Any]
) -> None:
    made = tuning.run(trials=4, parallel_trials=2)
    loaded = models.load(made["model"].path)
    estimator, parameters, metric, score = made["returned"]
    expected = roc_auc_score(VALIDATION["bought"] == "yes", loaded.predict(VALIDATION)["probability_yes"])
    assert (metric, score) == ("roc_auc", pytest.approx(expected))
    assert estimator == loaded.metadata["estimator"]
    assert parameters == loaded.metadata["parameters"]
    trials = rows(made)
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    # What the trials reported to Katib, by the same objective, is what the model scores here.
    assert score == max(trial["score"] for trial in trials)
    assert {trial["estimator"] for trial in trials} == {"Linear", "LGBM"}
    assert len(cluster.katib.ran) == 4
    assert cluster.names("katib_experiments") == cluster.names("katib_trials") == []
    page = open_page(Path(made["tuning_report"].path)).page_source
    assert "Hyperparameter search" in page
    assert "default parameters" not in page


class Recorder:
    """A platform that notes what it is asked for, and runs nothing."""

    schemes = ("s3",)
    trial_seconds = 60

    def __init__(self) -> None:
        self.searches: list[Search] = []

    def search(self, search: Search) -> list[Attempt]:
        self.searches.append(search)
        raise ValueError("it runs nothing")

    def remove(self, search: Search) -> None:
        pass


def test_tables_split_by_time_are_cross_validated_by_time(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(platforms, "platform", lambda *_: recorder)
    shutil.rmtree(tuning.train.path)
    rows = TRAIN.with_columns(when=pl.int_range(TRAIN.height))
    tables.write(rows, tuning.train.path, facts={"time_column": "when"})
    with pytest.raises(ValueError, match="it runs nothing"):
        tuning.run(validated=False)
    assert [each.settings.time_column for each in recorder.searches] == ["when"]


@pytest.mark.filterwarnings("ignore")  # Google's client libraries warn about their own future
def test_the_best_of_the_trials_on_vertex_becomes_the_model(
    artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowparts.deploy.common._LOOK_EVERY_SECONDS", 0.02)
    service = VertexService()
    with clouds.cloud_storage(BUCKET) as address:
        for name, value in {**service.environment(tmp_path), "STORAGE_EMULATOR_HOST": address}.items():
            monkeypatch.setenv(name, value)
        made = Tuning(artifact).run(
            platform="vertex", store=f"gs://{BUCKET}/of/team", trials=4, metric="log_loss"
        )
        assert sources.filesystem("gs").find(BUCKET) == []
    service.close()
    trials = rows(made)
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    loaded = models.load(made["model"].path)
    assert made["returned"][2:] == ("log_loss", min(trial["score"] for trial in trials))
    assert loaded.metadata["validation"]["log_loss"] == made["returned"][3]
    assert service.jobs == {}
    # Only what applies is drawn.
    assert all(("--linear-c" in str(ran)) == ("--estimator=Linear" in ran) for ran in service.ran)


def test_a_trial_is_a_process_in_a_pod_and_learns_its_folds_like_the_step(
    tuning: Tuning, cluster: KubernetesApi
) -> None:
    cluster.katib.in_processes = True
    space = {"LGBM": {**SPACE["LGBM"], "n_estimators": 200}}
    made = tuning.run(
        validated=False, folds=3, space=space, trials=2, parallel_trials=1, early_stopping_rounds=5
    )
    stored = models.metadata(made["model"].path)
    assert stored["training_rows"] == TRAIN.height
    assert stored["validation_folds"] == 3
    # The rounds that each fold kept come back with the trial, and their mean is the model's.
    assert 1 <= stored["parameters"]["n_estimators"] < 200
    assert [trial["stages"] for trial in rows(made)] == [3, 3]
    assert (
        stored["validation"]["roc_auc"] == made["returned"][3] == max(trial["score"] for trial in rows(made))
    )


def test_the_same_seed_gives_the_same_trials(tuning: Tuning, cluster: KubernetesApi) -> None:
    first, again = (tuning.run(name, trials=2, parallel_trials=1, seed=3) for name in "ab")
    assert rows(first) == rows(again)


def test_trials_that_fail_are_reported_by_cause_and_the_best_of_the_others_wins(
    tuning: Tuning, cluster: KubernetesApi
) -> None:
    space = {
        "Linear": SPACE["Linear"],
        "KNeighbors": {"n_neighbors": 900, "p": {"type": "float", "low": 1, "high": 2}},
    }
    made = tuning.run(space=space, trials=4, seed=1)
    failed = [trial for trial in rows(made) if trial["state"] == "failed"]
    assert 0 < len(failed) < 4
    assert {trial["estimator"] for trial in failed} == {"KNeighbors"}
    assert all("n_neighbors" in trial["reason"] for trial in failed)
    assert made["returned"][0] == "LogisticRegression"


@pytest.mark.parametrize(
    ("scenario", "sentence"),
    [
        ("ready", r"all . trials failed: KNeighbors.*: Expected n_neighbors <= n_samples_fit"),
        (
            "oom",
            r"all . trials failed: KNeighbors.*: OOMKilled: exit code 137 \(OOMKilled\), it needs more",
        ),
        ("crash", r"all . trials failed: KNeighbors.*: ValueError: the folder can't be used"),
        (
            "image",
            r"the trials of Experiment flowparts-\w+ can't run: ImagePullBackOff: Back-off pulling image",
        ),
    ],
)
def test_if_all_trials_fail_the_error_groups_the_causes_and_nothing_is_left(
    scenario: str, sentence: str, tuning: Tuning, cluster: KubernetesApi
) -> None:
    cluster.katib.scenario = scenario
    space = {"KNeighbors": {"n_neighbors": 900, "p": {"type": "float", "low": 1, "high": 2}}}
    with pytest.raises(ValueError, match=sentence) as raised:
        tuning.run(space=space)
    assert "\n" not in str(raised.value)
    assert cluster.names("katib_experiments") == []
    assert sorted(path.name for path in Path(tuning.train.path).parent.iterdir()) == ["train", "validation"]


def test_a_terminated_step_removes_its_trials(tuning: Tuning, cluster: KubernetesApi) -> None:
    cluster.katib.scenario = "waiting"

    def end() -> None:
        while not cluster.names("katib_trials"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(ValueError, match=r"the step was terminated \(SIGTERM\)"):
        tuning.run(trials=2)
    thread.join()
    assert cluster.names("katib_experiments") == cluster.names("katib_trials") == []


def test_a_result_counts_though_katib_found_no_number_in_the_log(
    tuning: Tuning, cluster: KubernetesApi
) -> None:
    cluster.katib.scenario = "silent"
    made = tuning.run(trials=1)  # fewer than run at a time
    assert [trial["state"] for trial in rows(made)] == ["complete"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"platform": "ray"}, r"unknown platform 'ray'"),
        (
            {"store": "/data/studies"},
            r"store must be a folder that trials can reach, s3:// or gs://, not '/data/st",
        ),
        ({"trials": 0}, r"the budget is empty"),
        (
            {"space": {"LGBM": {"num_leavs": {"type": "int", "low": 1, "high": 2}}}},
            "did you mean 'num_leaves'",
        ),
        ({"space": {"Linear": {"C": 1.0}}}, "the space of 'Linear' leaves nothing to choose"),
        ({"platform_options": {"cpus": 2}}, "did you mean 'cpu'"),
        ({"metric": "rmse"}, "metric 'rmse' does not fit classification"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused_before_a_row_is_read(
    options: dict[str, Any], sentence: str, artifact: Callable[..., Any], cluster: KubernetesApi
) -> None:
    tuning = Tuning.__new__(Tuning)
    tuning.artifact = artifact
    tuning.train, tuning.validation = artifact("none", dsl.Dataset), artifact("nothing", dsl.Dataset)
    with pytest.raises(ValueError, match=sentence):
        tuning.run(**options)
    assert cluster.requests == []


def test_a_missing_store_is_refused(tuning: Tuning, cluster: KubernetesApi) -> None:
    with pytest.raises(
        ValueError, match=r"the folder s3://nowhere/flowparts-\w+ of the study can't be used; may"
    ):
        tuning.run(store="s3://nowhere")
    assert cluster.names("katib_experiments") == []
