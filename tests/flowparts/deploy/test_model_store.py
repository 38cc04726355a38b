"""Models of this machine reach a cluster by a store that both can read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from flowparts import models
from flowparts.components.deploy.roll_out import roll_out
from flowparts.deploy import model_store, probe, rollout
from flowparts.deploy.targets import kubernetes
from flowparts.register import registry
from flowparts.util import sources
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.serving.conftest import Server, rows

IMAGE = "registry.example/flowparts-serving:0.1.0"


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(model_store.STORE, "s3://champions/team/")
    files = sources.filesystem("s3")
    files.mkdirs("champions", exist_ok=True)
    yield files
    files.rm("champions", recursive=True)


def written(bucket: Any) -> dict[str, Any]:
    return {name: entry["LastModified"] for name, entry in bucket.find("champions", detail=True).items()}


def test_a_model_is_copied_once_under_its_digest(bucket: Any, model: Path, tmp_path: Path) -> None:
    address = model_store.stored(str(model))
    assert address == f"s3://champions/team/{registry.fingerprint(model)}"
    sources.fetch_tree(address, tmp_path)
    assert registry.fingerprint(tmp_path) == registry.fingerprint(model)
    before = written(bucket)
    assert model_store.stored(model.as_uri()) == address
    assert written(bucket) == before


def test_an_interrupted_copy_is_completed(bucket: Any, model: Path) -> None:
    address = model_store.stored(str(model))
    digest = address.rpartition("/")[2]
    bucket.rm(f"champions/team/{digest}/MLmodel")
    assert model_store.stored(str(model)) == address
    assert bucket.exists(f"champions/team/{digest}/MLmodel")


def test_files_of_another_model_are_reported(bucket: Any, model: Path) -> None:
    address = model_store.stored(str(model))
    bucket.pipe_file(f"{address}/further", b"x")
    with pytest.raises(ValueError, match=f"{address} holds other files than the model of that digest"):
        model_store.stored(str(model))


def test_a_volume_that_is_mounted_here_is_a_store(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(model_store.STORE, "pvc://claim/champions")
    with pytest.raises(
        ValueError, match="FLOWPARTS_MODEL_STORE_PATH must be the path at which it is mounted"
    ):
        model_store.stored(str(model))
    monkeypatch.setenv(model_store.MOUNT, str(tmp_path))
    digest = registry.fingerprint(model)
    for _ in range(2):
        assert model_store.stored(str(model)) == f"pvc://claim/champions/{digest}"
        assert [entry.name for entry in tmp_path.iterdir()] == [digest]
    assert registry.fingerprint(tmp_path / digest) == digest


def test_models_reachable_by_the_cluster_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(model_store.STORE, "s3://champions")
    assert model_store.stored("gs://models/churn/1") == "gs://models/churn/1"
    monkeypatch.delenv(model_store.STORE)
    assert model_store.stored("/models/churn/1") == "/models/churn/1"


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("/mnt/models", "FLOWPARTS_MODEL_STORE must start with s3://, gs:// or pvc://, not '/mnt/models'"),
        ("oci://registry.example/models", "can't be a registry of images .*: pods fetch models from buckets"),
        ("s3://no-such-bucket", "can't be copied to s3://no-such-bucket/.*; may this step write there"),
    ],
)
def test_a_store_that_cannot_be_written_is_reported(
    store: str, words: str, s3_server: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(model_store.STORE, store)
    with pytest.raises(ValueError, match=words):
        model_store.stored(str(model))


@pytest.mark.parametrize("target", ["kubernetes", "kserve"])
def test_a_model_of_this_machine_is_rolled_out_on_a_cluster(
    target: str, api: KubernetesApi, bucket: Any, server: Server, model: Path, roll: Callable[[str], Any]
) -> None:
    api.unknown.add("serving.knative.dev/v1")
    api.backend = lambda service: server.url
    result = roll(target)
    assert result.promoted, result.reason
    (deployment,) = api.names("deployments")
    address = f"s3://champions/team/{registry.fingerprint(model)}"
    assert address in str(api.get("deployments", deployment))


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        ("deployment", r"revision r\w+ of endpoint 'churn' is not deployed"),
        ("shift", "the rollout of revision"),
    ],
)
def test_a_failed_rollout_of_a_registered_model_says_how_to_deploy_it(
    failing: str,
    reason: str,
    bucket: Any,
    api: KubernetesApi,
    server: Server,
    model: Path,
    artifact: Callable[..., Any],
    table: Callable[..., dsl.Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: Any) -> None:
        raise ValueError("no node has room for another pod")

    api.backend = lambda service: server.url
    options = {"image": IMAGE, "replicas": 1, "timeout_seconds": 5.0}
    if failing == "shift":
        kubernetes.deploy("s3://models/churn/1", "churn", **options)
        monkeypatch.setattr(kubernetes, "shift", refused)
    else:
        api.scenario, options["timeout_seconds"] = "crash", 0.3
    answered = pl.concat([rows().head(20), models.load(model).predict(rows().head(20))], how="horizontal")
    page = artifact("rollout_report", dsl.HTML)
    way_out = "ersion 12 is registered but not deployed; once this is fixed, run deploy-with-canary: "
    with pytest.raises(ValueError, match=f"^v{way_out}{reason}"):
        roll_out.python_func(
            model=dsl.Model(uri=str(model)),
            predictions=table(answered, "predictions"),
            endpoint=artifact("endpoint"),
            rollout_metrics=artifact("rollout_metrics", dsl.Metrics),
            rollout_report=page,
            deploy_target="kubernetes",
            endpoint_name="churn",
            deploy_options=options,
            requests=10,
            seconds=0.5,
            max_slowdown=100.0,
            model_version="12",
        )
    assert Path(page.path).exists() == (failing == "shift")
    assert failing == "deployment" or way_out in Path(page.path).read_text()


@pytest.fixture
def roll(model: Path) -> Callable[[str], Any]:
    offline = pl.concat([rows().head(20), models.load(model).predict(rows().head(20))], how="horizontal")
    watch = rollout.Watch(requests=10, seconds=0.5, rules=probe.Rules(max_slowdown=100.0))

    def run(target: str) -> rollout.Rollout:
        options = {"image": IMAGE, "replicas": 1, "timeout_seconds": 30.0}
        return rollout.roll_out(
            str(model),
            models.metadata(model),
            offline.lazy(),
            target=target,
            name="churn",
            traffic_fraction=0.1,
            options=options,
            watch=watch,
            warm_seconds=0.0,
        )

    return run
