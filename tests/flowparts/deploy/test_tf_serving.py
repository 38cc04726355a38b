"""The target against stand-ins for the Kubernetes API and for TensorFlow Serving, with real trained networks.

See tests/flowparts/deploy/kubernetes_api.py and tf_serving_server.py for what these hold to.
"""

import datetime
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, message_factory, text_format
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts import models, tables
from flowparts.components.train.train_keras_images import train_keras_images
from flowparts.deploy import probe
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import kubernetes, tf_serving
from flowparts.models import agreement
from flowparts.serving import saved_model_files
from tests.components.train.test_train_keras_images import HELD_OUT, QUICK, TRAIN
from tests.components.train.test_train_keras_tabular import LABELS, VALIDATION, Trained
from tests.flowparts.deploy import tf_serving_server
from tests.flowparts.deploy.kubernetes_api import KubernetesApi, digest_of
from tests.flowparts.deploy.tf_serving_server import TfServingServer
from tests.flowparts.deploy.typed import check_typed

IMAGE = "registry.example/tensorflow/serving:2.21.0"
FIRST, SECOND = "s3://models/churn/1", "gs://models/churn/2"


def deploy(model: str, **options: Any) -> Endpoint:
    return tf_serving.deploy(model, "churn", **{"image": IMAGE, "timeout_seconds": 5.0} | options)


def pod_of(api: KubernetesApi, endpoint: Endpoint) -> dict[str, Any]:
    spec: dict[str, Any] = api.get("deployments", f"churn-{endpoint.revision}")["spec"]["template"]["spec"]
    return spec


def files_of(api: KubernetesApi, endpoint: Endpoint) -> dict[str, str]:
    data: dict[str, str] = api.get("configmaps", f"churn-{endpoint.revision}")["data"]
    return data


@pytest.fixture(scope="module")
def read_as(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    """Read the text form of a message, as in `read_as("BatchingParameters", text)`; unknown fields fail."""
    described = tmp_path_factory.mktemp("messages") / "described"
    # In a process of its own, because its protobuf and TensorFlow's don't go together.
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{Path(__file__).parent}", "--include_imports"]
    subprocess.run([*command, f"--descriptor_set_out={described}", "tf_serving_config.proto"], check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file
    messages = message_factory.GetMessages(files)
    return lambda name, text: text_format.Parse(text, messages[f"configuration.{name}"]())


# What is applied.


def test_every_object_fits_the_typed_client(api: KubernetesApi) -> None:
    deploy(FIRST, max_replicas=5, environment_from="s3", service_account="models")
    checked = [
        check_typed(thing, thing["kind"])
        for (plural, _), thing in api.objects.items()
        if plural not in ("pods", "servicemonitors", "events")
    ]
    assert sorted(checked) == [
        "V1ConfigMap",
        "V1Deployment",
        "V1NetworkPolicy",
        "V1PodDisruptionBudget",
        "V1Service",
        "V1Service",
        "V2HorizontalPodAutoscaler",
    ]


def test_the_server_finds_the_model_where_the_init_container_puts_it(api: KubernetesApi) -> None:
    pod = pod_of(api, deploy(FIRST, environment_from="s3", memory="1Gi"))
    (lay_out,), (server,) = pod["initContainers"], pod["containers"]
    module = lay_out["command"][-1]
    assert Path(saved_model_files.__file__).stem == module.rpartition(".")[2]
    assert lay_out["args"] == [FIRST, "/models/churn/1", digest_of(FIRST)]
    assert lay_out["image"].rpartition(":")[0].endswith("flowparts-base")
    assert {"--model_name=churn", "--model_base_path=/models/churn"} <= set(server["args"])
    assert {"--port=8500", "--rest_api_port=8501"} <= set(server["args"])
    assert server["image"] == IMAGE
    shared = {"name": "saved-model", "mountPath": "/models"}
    assert shared in lay_out["volumeMounts"]
    assert {**shared, "readOnly": True} in server["volumeMounts"]
    # Only what fetches the model gets the keys to it.
    assert lay_out["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert "envFrom" not in server


def test_pods_are_locked_down_watched_and_end_in_order(api: KubernetesApi) -> None:
    pod = pod_of(api, deploy(FIRST, cpu="500m"))
    (server,) = pod["containers"]
    for container in (server, *pod["initContainers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        limits = {"cpu": "500m", "memory": "2Gi", "ephemeral-storage": "9216Mi"}
        assert container["resources"]["limits"] == limits
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for check in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[check]["httpGet"] == {"path": "/v1/models/churn/versions/1", "port": 8501}
    _, seconds = server["lifecycle"]["preStop"]["exec"]["command"]
    assert int(seconds) < pod["terminationGracePeriodSeconds"]


def test_the_ports_and_metrics_are_the_servers_own(
    api: KubernetesApi, read_as: Callable[[str, str], Any]
) -> None:
    made = deploy(FIRST)
    for service in ("churn", f"churn-{made.revision}"):
        ports = {
            port["name"]: (port["port"], port["targetPort"])
            for port in api.get("services", service)["spec"]["ports"]
        }
        assert ports == {"http": (80, 8501), "grpc": (8500, 8500)}
    (rule,) = api.get("networkpolicies", "churn")["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8501, 8500]
    (watched,) = api.get("servicemonitors", "churn")["spec"]["endpoints"]
    monitoring = read_as("MonitoringConfig", files_of(api, made)["monitoring.txt"])
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == watched["path"]
    (server,) = pod_of(api, made)["containers"]
    assert "--monitoring_config_file=/etc/tf-serving/monitoring.txt" in server["args"]


def test_requests_are_batched_by_the_options(api: KubernetesApi, read_as: Callable[[str, str], Any]) -> None:
    made = deploy(FIRST, cpu="1500m", max_batch_size=64, batch_timeout_micros=500, max_enqueued_batches=7)
    batching = read_as("BatchingParameters", files_of(api, made)["batching.txt"])
    assert batching.max_batch_size.value == 64
    assert batching.batch_timeout_micros.value == 500
    assert batching.num_batch_threads.value == 2
    assert batching.max_enqueued_batches.value == 7
    pod = pod_of(api, made)
    (server,) = pod["containers"]
    assert "--enable_batching=true" in server["args"]
    file = "--batching_parameters_file=/etc/tf-serving/batching.txt"
    assert file in server["args"]
    mounted = {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"] if mount.get("readOnly")}
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mounted["/etc/tf-serving"])
    assert volume["configMap"] == {"name": f"churn-{made.revision}"}


def test_without_batching_the_server_gets_no_batching_options(api: KubernetesApi) -> None:
    made = deploy(FIRST, max_batch_size=0)
    assert list(files_of(api, made)) == ["monitoring.txt"]
    (server,) = pod_of(api, made)["containers"]
    assert not [argument for argument in server["args"] if "batching" in argument]


def test_a_model_on_a_volume_is_prepared_without_network_access(api: KubernetesApi) -> None:
    pod = pod_of(api, deploy("pvc://models/churn/1"))
    (lay_out,), (server,) = pod["initContainers"], pod["containers"]
    assert lay_out["args"][0] == "/mnt/models/churn/1"
    assert {"name": "models", "mountPath": "/mnt/models", "readOnly": True} in lay_out["volumeMounts"]
    assert "models" not in {mount["name"] for mount in server["volumeMounts"]}
    policy = api.get("networkpolicies", "churn")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy


def test_the_image_is_pinned_by_option_environment_or_tensorflows_release(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWPARTS_TF_SERVING_IMAGE", raising=False)
    release = tf.__version__.rpartition(".")[0]

    def image(**options: Any) -> str:
        return str(pod_of(api, deploy(FIRST, **options))["containers"][0]["image"])

    assert re.fullmatch(rf"tensorflow/serving:{re.escape(release)}\.\d+", image(image=""))
    digest = f"mirror.example/serving@sha256:{'0' * 64}"
    monkeypatch.setenv("FLOWPARTS_TF_SERVING_IMAGE", digest)
    assert image(image="") == digest
    assert image() == IMAGE


# Revisions.


def test_a_canary_is_tried_promoted_and_rolled_back(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND, percent=50)
    assert made.target == "tf_serving"
    assert made.traffic == {made.revision: 50, first.revision: 50}
    promoted = tf_serving.shift(made, 100)
    assert api.get("services", "churn")["spec"]["selector"]["flowparts/revision"] == made.revision
    assert api.names("configmaps") == sorted(f"churn-{revision}" for revision in promoted.traffic)
    back = tf_serving.rollback(promoted)
    assert back.traffic == {first.revision: 100}
    for plural in ("deployments", "configmaps"):
        assert api.names(plural) == [f"churn-{first.revision}"]


def test_running_it_again_changes_nothing_and_another_batching_is_another_revision(
    api: KubernetesApi,
) -> None:
    deploy(FIRST)
    made = deploy(SECOND, percent=50)
    before = api.versions()
    assert deploy(SECOND, percent=50) == made
    assert api.versions() == before
    assert deploy(SECOND, percent=50, max_batch_size=8).revision != made.revision


def test_a_revision_that_does_not_come_up_is_removed_with_its_files(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    api.scenario = "crash"
    with pytest.raises(ValueError, match="last log line: model is damaged") as raised:
        deploy(SECOND)
    assert f"{first.revision} serves as before" in str(raised.value)
    assert api.names("configmaps") == api.names("deployments") == [f"churn-{first.revision}"]


def test_an_endpoint_of_another_target_is_left_alone(api: KubernetesApi) -> None:
    kubernetes.deploy(FIRST, "churn", image="registry.example/flowparts-serving:0.1.0", timeout_seconds=5.0)
    before = api.versions()
    with pytest.raises(
        ValueError, match="endpoint 'churn' in namespace team is of the target kubernetes; give the one of tf"
    ):
        deploy(FIRST)
    assert api.versions() == before


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a folder of this machine": ({"model": "/models/churn"}, "can't fetch the model from '/models/churn'"),
    "the newest image": ({"image": "tensorflow/serving:latest"}, "fixed tag or a digest"),
    "no batches": ({"max_batch_size": -1}, "max_batch_size must be 0 or more, not -1"),
    "no queue": ({"max_enqueued_batches": 0}, "max_enqueued_batches must be 1 or more, not 0"),
    "no threads": ({"num_batch_threads": -2}, "threads must be 1 or more, not -2"),
    "too small a maximum": ({"max_replicas": 1}, "max_replicas must be 0 or at least the 2 replicas"),
    "too much": ({"percent": 101}, "percent must be from 0 to 100, not 101"),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_reported_before_anything_is_done(
    options: dict[str, Any], words: str, api: KubernetesApi
) -> None:
    with pytest.raises(ValueError, match=words):
        deploy(options.pop("model", FIRST), **options)
    assert api.requests == []


# Models.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    return Path(Trained(folder, **LABELS["classification"], epochs=2).model.path)


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regression")
    return Path(Trained(folder, **LABELS["regression"], epochs=2).model.path)


@pytest.fixture(scope="module")
def of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    parts = {}
    for name, frame in (("train", TRAIN), ("validation", HELD_OUT)):
        tables.write(frame, folder / name)
        parts[name] = dsl.Dataset(name=name, uri=str(folder / name))
    for name, kind in (
        ("model", dsl.Model),
        ("validation_metrics", dsl.Metrics),
        ("training_report", dsl.HTML),
    ):
        parts[name] = kind(name=name, uri=str(folder / name))
    train_keras_images.python_func(**parts, **{**QUICK, "epochs": 1})
    return folder / "model"


@pytest.fixture(scope="module")
def sklearn_model(
    tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., dict[str, Any]]
) -> Path:
    path = tmp_path_factory.mktemp("sklearn") / "model"
    wine = pl.read_parquet("src/flowparts/samples/wine.parquet")
    save_model(path, wine, "target", LogisticRegression(max_iter=1000))
    return path


@pytest.fixture
def uploaded(s3_server: str) -> Callable[[Path], str]:
    def upload(model: Path) -> str:
        client = boto3.client("s3", endpoint_url=s3_server)
        client.create_bucket(Bucket="networks")
        for file in filter(Path.is_file, model.rglob("*")):
            client.upload_file(str(file), "networks", f"{model.parent.name}/model/{file.relative_to(model)}")
        client.close()
        return f"s3://networks/{model.parent.name}/model"

    return upload


def lay_out(model: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run what the pod's first container runs."""
    command = [sys.executable, "-m", "flowparts.serving.saved_model_files", model, str(directory)]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)


def test_a_model_in_object_storage_is_laid_out_as_the_server_wants_it(
    uploaded: Callable[[Path], str], trained: Path, tmp_path: Path
) -> None:
    version = tmp_path / "models" / "churn" / "1"
    ended = lay_out(uploaded(trained), version)
    assert ended.returncode == 0, ended.stderr
    stored = {file.relative_to(version): file.read_bytes() for file in version.rglob("*") if file.is_file()}
    folder = trained / "saved_model"
    assert stored == {
        file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    # In Python, a signature's names are identifiers: inputs and outputs are numbered in the model's order.
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    model, rows = models.load(trained), VALIDATION.head(20)
    given = {}
    for place, name in enumerate(model.features):
        spec = signature.structured_input_signature[1][f"input_{place}"]
        values = rows[name].dt.epoch("us") if rows[name].dtype.is_temporal() else rows[name]
        text = values.dtype == pl.String
        known = values.fill_null("") if text else values.cast(pl.Float64).fill_null(float("nan"))
        given[f"input_{place}"] = tf.constant(known.to_list(), spec.dtype)
    answers = signature(**given)
    offline = model.predict(rows)
    assert [text.decode() for text in answers["output_0"].numpy()] == offline["prediction"].to_list()
    for place, name in enumerate(offline.columns[1:], 1):
        assert answers[f"output_{place}"].numpy() == pytest.approx(offline[name].to_numpy(), abs=1e-6)


def test_a_model_without_a_saved_model_is_refused_where_it_is_seen(
    api: KubernetesApi, sklearn_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowparts.deploy.common._MOUNTS", {"s3": sklearn_model.parent})
    with pytest.raises(
        ValueError,
        match=r"has no SavedModel, which is all that TensorFlow Serving takes \(its framework is "
        r"scikit-learn\); train with train_keras_tabular",
    ):
        deploy("s3://model")
    assert api.requests == []


def test_a_model_without_a_saved_model_is_refused_in_the_pod(
    uploaded: Callable[[Path], str], sklearn_model: Path, tmp_path: Path
) -> None:
    address = uploaded(sklearn_model)
    ended = lay_out(address, tmp_path / "models" / "churn" / "1")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"the model at {address} has no SavedModel")
    assert not list((tmp_path / "models").rglob("saved_model.pb"))
    assert lay_out(f"{address}/elsewhere", tmp_path / "1").stderr.startswith("there is nothing at s3://")


# Requests.


@pytest.fixture
def behind(api: KubernetesApi, tmp_path: Path) -> Iterator[Callable[[Path], TfServingServer]]:
    """Serve a trained model behind every service of the cluster."""
    tf_serving._inputs.cache_clear()
    running: list[Any] = []

    def start(model: Path) -> TfServingServer:
        base = tmp_path / "models" / "churn"
        saved_model_files.lay_out(str(model), base / "1")
        running.append(tf_serving_server.serving("churn", base))
        server: TfServingServer = running[-1].__enter__()
        api.backend = lambda service: server.url
        return server

    yield start
    for server in running:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("task", ["trained", "regression"])
def test_answers_are_rows_of_what_the_model_predicts_offline(
    task: str,
    api: KubernetesApi,
    behind: Callable[[Path], TfServingServer],
    request: pytest.FixtureRequest,
) -> None:
    path: Path = request.getfixturevalue(task)
    server, model = behind(path), models.load(path)
    first = deploy(FIRST)
    made = deploy(SECOND, percent=50)
    rows = VALIDATION.head(40)
    # As the probe sends them: with nulls, times as text, and columns that the model doesn't know.
    records = agreement.to_records(rows)
    assert any(value is None for record in records for value in record.values())
    offline = model.predict(rows)
    for revision in ("", made.revision, first.revision):
        answers = tf_serving.predict(made, records, revision)
        online = pl.DataFrame(answers, schema=offline.schema)
        assert [set(answer) for answer in answers] == [set(offline.columns)] * rows.height
        assert not agreement.differences(offline, online, model.task).any()
    (asked, *_) = server.requests
    assert set(asked.inputs) == set(model.features)
    assert tf.make_ndarray(asked.inputs["size/cm"]).dtype == float


def test_a_probe_finds_a_network_healthy_and_another_model_behind_its_address_not(
    api: KubernetesApi, behind: Callable[[Path], TfServingServer], trained: Path, tmp_path: Path
) -> None:
    behind(trained)
    made = deploy(FIRST)
    model, rows = models.load(trained), VALIDATION.head(30)
    told = {"requests": 30, "seconds": 5.0, "sample_rows": 30, "rules": probe.Rules()}
    offline = pl.concat([rows, model.predict(rows)], how="horizontal").lazy()
    found = probe.probe(made, model.metadata, offline, **told)
    assert found.healthy, found.reason
    assert found.current.requests == 30
    turned = offline.with_columns(probability_no="probability_yes", probability_yes="probability_no")
    found = probe.probe(made, model.metadata, turned, **told)
    assert not found.healthy
    assert "differ from the offline ones" in found.reason


def test_a_refusal_of_the_server_is_reported(
    api: KubernetesApi, behind: Callable[[Path], TfServingServer], trained: Path
) -> None:
    behind(trained)
    made = deploy(FIRST)
    (record,) = agreement.to_records(VALIDATION.head(1))
    with pytest.raises(ValueError, match="5 is not of expected type: string"):
        tf_serving.predict(made, [{**record, "town": 5}])
    with pytest.raises(ValueError, match="column 'at' takes numbers or times as ISO 8601, not 'yesterday'"):
        tf_serving.predict(made, [{**record, "at": "yesterday"}])


def test_a_time_with_an_offset_is_the_same_moment(
    api: KubernetesApi, behind: Callable[[Path], TfServingServer], trained: Path
) -> None:
    server = behind(trained)
    made = deploy(FIRST)
    (record,) = agreement.to_records(VALIDATION.head(1))
    moment = datetime.datetime(2024, 3, 1, 12, tzinfo=datetime.UTC)
    for text in ("2024-03-01T12:00:00", "2024-03-01T14:00:00+02:00"):
        tf_serving.predict(made, [{**record, "at": text}])
        (sent,) = tf.make_ndarray(server.requests[-1].inputs["at"])
        assert sent == moment.timestamp() * 1e6


def test_images_are_sent_as_their_files(
    api: KubernetesApi, behind: Callable[[Path], TfServingServer], of_images: Path
) -> None:
    server, model = behind(of_images), models.load(of_images)
    made = deploy(FIRST)
    rows = HELD_OUT.head(10)
    offline = model.predict(rows)
    records = agreement.to_records(rows.select(model.features))
    online = pl.DataFrame(tf_serving.predict(made, records), schema=offline.schema)
    assert not agreement.differences(offline, online, model.task).any()
    assert tf.make_ndarray(server.requests[-1].inputs["image"]).tolist() == rows["image"].to_list()
    with pytest.raises(ValueError, match="column 'image' takes images as base64 text, not None"):
        tf_serving.predict(made, [{"image": None}])
