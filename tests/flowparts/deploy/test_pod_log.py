"""The prediction log of servers in pods, on every target that runs this project's server on a cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tritonclient.grpc import InferenceServerClient

from flowparts import deploy, tables
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.deploy import operations
from flowparts.deploy.pod_log import PodLog
from tests.flowparts.deploy.kubernetes_api import KubernetesApi, Object
from tests.flowparts.serving.conftest import start, wait
from tests.flowparts.serving.test_repository import place

MODEL = "s3://models/churn/1"
OPTIONS: dict[str, Any] = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 30.0}
LOG = {"directory": "pvc://logs/models/churn", "keys": ["order_id"], "seconds": 0.2}
SECRET = "FLOWPARTS_SERVING_PREDICTION_LOG_SECRET"
TARGETS = {
    "kubernetes": "kubernetes",
    "KServe with Knative": "kserve",
    "KServe in Standard mode": "kserve",
    "Seldon": "seldon",
}


def claim(*modes: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "logs", "namespace": "team"},
        "spec": {
            "accessModes": list(modes or ["ReadWriteMany"]),
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


@pytest.fixture
def api(api: KubernetesApi) -> KubernetesApi:
    api.put("persistentvolumeclaims", claim())
    return api


@pytest.fixture(params=TARGETS)
def deployed(request: pytest.FixtureRequest, api: KubernetesApi) -> Callable[..., Object]:
    """Deploy with options, and give the pod's specification."""
    if request.param == "KServe in Standard mode":
        api.unknown.add("serving.knative.dev/v1")
    target = TARGETS[request.param]

    def bring(**options: Any) -> Object:
        made = deploy.target(target).deploy(MODEL, "churn", **{**OPTIONS, **options})
        if target == "seldon":
            found: Object = api.get("servers", f"churn-{made.revision}")["spec"]["podSpec"]
        elif target == "kserve":
            found = api.get("inferenceservices", "churn")["spec"]["predictor"]
        else:
            found = api.get("deployments", f"churn-{made.revision}")["spec"]["template"]["spec"]
        return found

    return bring


def test_the_server_alone_writes_to_a_folder_of_the_claim(deployed: Callable[..., Object]) -> None:
    pod = deployed(prediction_log=LOG)
    volume = {"name": "prediction-log", "persistentVolumeClaim": {"claimName": "logs"}}
    assert volume in pod["volumes"]
    mount = {"name": "prediction-log", "mountPath": "/mnt/log", "subPath": "models/churn"}
    server, *beside = pod["containers"]
    assert mount in server["volumeMounts"]
    assert not [
        one for one in [*beside, *pod.get("initContainers", [])] if mount in one.get("volumeMounts", [])
    ]
    environment = {entry["name"]: entry.get("value") for entry in server["env"]}
    assert environment["FLOWPARTS_SERVING_PREDICTION_LOG"] == "/mnt/log"
    assert environment["FLOWPARTS_SERVING_PREDICTION_LOG_KEYS"] == "order_id"
    assert environment["FLOWPARTS_SERVING_PREDICTION_LOG_SECONDS"] == "0.2"
    # Without it nothing of it is there.
    assert "prediction-log" not in str(deployed())


def test_its_user_can_write_to_the_volume_without_a_recursive_chown(
    deployed: Callable[..., Object], request: pytest.FixtureRequest
) -> None:
    security = deployed(prediction_log=LOG).get("securityContext", {})
    if "Seldon" in request.node.name:  # whose ServerConfig has a group of its own
        assert "fsGroup" not in security
    elif "Knative" in request.node.name:  # which takes no more
        assert security == {"fsGroup": 65532}
    else:
        assert (security["fsGroup"], security["fsGroupChangePolicy"]) == (65532, "OnRootMismatch")


def test_the_key_of_the_hashes_comes_from_the_secret_that_is_named(deployed: Callable[..., Object]) -> None:
    pod = deployed(prediction_log={**LOG, "mask": ["email"], "secret": "log-key"})
    entry = {"name": SECRET, "valueFrom": {"secretKeyRef": {"name": "log-key", "key": SECRET}}}
    assert entry in pod["containers"][0]["env"]
    assert "FLOWPARTS_SERVING_PREDICTION_LOG_SECRET" not in str(deployed(prediction_log=LOG))


def test_another_log_is_another_revision(api: KubernetesApi) -> None:
    target = deploy.target("kubernetes")
    first = target.deploy(MODEL, "churn", **OPTIONS)
    assert target.deploy(MODEL, "churn", **OPTIONS, prediction_log={}).revision == first.revision
    logged = target.deploy(MODEL, "churn", **OPTIONS, prediction_log=LOG)
    assert logged.revision != first.revision
    assert target.deploy(MODEL, "churn", **OPTIONS, prediction_log=LOG | {"days": 3}).revision not in (
        first.revision,
        logged.revision,
    )


@pytest.mark.parametrize(("stable", "canary"), [(LOG, {}), ({}, LOG)], ids=["without", "with"])
def test_a_canary_writes_its_own_log_or_none(
    stable: dict[str, Any], canary: dict[str, Any], api: KubernetesApi
) -> None:
    api.unknown.add("serving.knative.dev/v1")  # only without Knative does KServe merge the two
    target = deploy.target("kserve")
    first = target.deploy(MODEL, "churn", **OPTIONS, prediction_log=stable)
    made = target.deploy(MODEL, "churn", **OPTIONS, percent=10, prediction_log=canary)
    for revision, wanted in ((first.revision, stable), (made.revision, canary)):
        pod = api.get("deployments", f"churn-{revision[:9]}-predictor")["spec"]["template"]["spec"]
        names = [volume["name"] for volume in pod["volumes"]]
        (server,) = pod["containers"]
        assert names == ["tmp", *(["prediction-log"] if wanted else [])]
        assert ("PREDICTION_LOG" in str(server)) == bool(wanted)


def test_removing_the_endpoint_leaves_the_claim(api: KubernetesApi) -> None:
    deploy.target("kubernetes").deploy(MODEL, "churn", **OPTIONS, prediction_log=LOG)
    operations.remove("kubernetes", "churn", {}, even_if_serving=True)
    assert {key for key in api.objects if key[0] not in ("events", "leases")} == {
        ("persistentvolumeclaims", "logs")
    }


def test_all_replicas_write_one_table_which_is_read_as_a_table(
    api: KubernetesApi,
    model: Path,
    records: list[dict[str, Any]],
    expected: list[Any],
    tmp_path: Path,
    artifact: Callable[..., Any],
) -> None:
    made = deploy.target("kubernetes").deploy(MODEL, "churn", **OPTIONS, prediction_log=LOG)
    (server,) = api.get("deployments", f"churn-{made.revision}")["spec"]["template"]["spec"]["containers"]
    asked = {entry["name"]: entry["value"] for entry in server["env"] if "PREDICTION_LOG" in entry["name"]}
    log = tmp_path / "log"
    environment = {**asked, "FLOWPARTS_SERVING_PREDICTION_LOG": str(log)}
    # The pods of two replicas, started as the manifest starts them but for the folder's path.
    replicas = [start(model, environment=environment) for _ in range(2)]
    try:
        for number, replica in enumerate(replicas):
            rows = [{**row, "order_id": f"{number}-{place}"} for place, row in enumerate(records)]
            assert wait(replica).call("/predict", {"instances": rows})[0] == 200
    finally:
        assert [replica.stop() for replica in replicas] == [0, 0]
    table = artifact("table")
    ingest_table.python_func(table=table, rejected=artifact("rejected"), source=str(log))
    found = tables.scan(table.path).collect()
    assert sorted(found["order_id"]) == sorted(
        f"{n}-{place}" for n in range(2) for place in range(len(records))
    )
    assert found.sort("order_id")["prediction"].to_list() == expected * 2
    assert found["version"].n_unique() == 1
    assert isinstance(found.schema["time"], pl.Datetime)


def test_a_server_managed_by_seldon_writes_its_log(
    api: KubernetesApi, model: Path, records: list[Any], tmp_path: Path
) -> None:
    made = deploy.target("seldon").deploy(MODEL, "churn", **OPTIONS, prediction_log=LOG)
    container, *_ = api.get("servers", f"churn-{made.revision}")["spec"]["podSpec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    environment["FLOWPARTS_SERVING_REPOSITORY"] = str(tmp_path / "models")
    environment["FLOWPARTS_SERVING_PREDICTION_LOG"] = str(tmp_path / "log")
    del environment["FLOWPARTS_SERVING_DIGEST"]
    (tmp_path / "models").mkdir()
    place(model, tmp_path / "models", f"churn-{made.revision}")
    name = f"churn-{made.revision}_1"
    server = wait(start("", environment=environment))
    try:
        with InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as agent:
            agent.load_model(name)
        assert server.call(f"/v1/models/{name}:predict", {"instances": records})[0] == 200
    finally:
        assert server.stop() == 0
    found = pl.read_parquet(tmp_path / "log" / "**/part-*.parquet", hive_partitioning=False)
    assert found.height == len(records)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a path": ({"directory": "/var/log"}, r"must be pvc://CLAIM/FOLDER on a cluster, .* not '/var/log'"),
    "a bucket": ({"directory": "s3://logs/churn"}, "must be pvc://CLAIM/FOLDER"),
    "no directory": ({"keys": "order_id"}, "must be pvc://CLAIM/FOLDER .* not None"),
    "no folder": ({"directory": "pvc://logs"}, "must be pvc://CLAIM/FOLDER"),
    "a way out": ({"directory": "pvc://logs/../models"}, "leads out of its directory"),
    "no claim's name": ({"directory": "pvc://Logs_/a"}, "claim of prediction_log must be the name of an obj"),
    "a mask without a key": ({**LOG, "mask": "email"}, "needs secret: the name of a Secret in the namespace"),
    "the key itself": ({**LOG, "secret": "p@ss"}, "secret of prediction_log must be the name of an object"),
    "an unknown name": ({**LOG, "day": 3}, "unknown name in the option 'prediction_log' 'day'; did you mean"),
    "a value out of range": ({**LOG, "fraction": 2}, "must be between 0 and 1, not 2"),
}


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_log_is_refused_before_anything_is_asked(
    given: dict[str, Any], words: str, api: KubernetesApi
) -> None:
    for target in ("kubernetes", "kserve", "seldon"):
        with pytest.raises(ValueError, match=words):
            operations.deployed(target, MODEL, "churn", 1.0, {**OPTIONS, "prediction_log": given})
    assert api.requests == []


@pytest.mark.parametrize(
    ("variable", "allowed"), [("FLOWPARTS_ALLOWED_CLAIMS", "team-*"), ("FLOWPARTS_ALLOWED_SECRETS", "")]
)
def test_the_allow_list_of_the_environment_applies(
    variable: str, allowed: str, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**LOG, "mask": "email", "secret": "log-key"}
    monkeypatch.setenv(variable, allowed)
    with pytest.raises(
        ValueError, match=rf"of prediction_log .* is not allowed here; {variable} .* allows: "
    ):
        deploy.target("kubernetes").deploy(MODEL, "churn", **OPTIONS, prediction_log=given)
    assert api.requests == []
    monkeypatch.setenv(variable, "log*")
    assert PodLog.of(given)


def test_a_missing_claim_is_reported_before_anything_is_created(
    deployed: Callable[..., Object], api: KubernetesApi
) -> None:
    api.delete("persistentvolumeclaims", "logs")
    with pytest.raises(
        ValueError, match="namespace team has no PersistentVolumeClaim 'logs' for the predict"
    ):
        deployed(prediction_log=LOG)
    assert api.versions() == {}


def test_pods_must_be_able_to_write_to_the_claim_together(
    api: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    bring = deploy.target("kubernetes").deploy
    for mode in ("ReadWriteOncePod", "ReadOnlyMany"):
        api.delete("persistentvolumeclaims", "logs")
        api.put("persistentvolumeclaims", claim(mode))
        with pytest.raises(
            ValueError, match=f"'logs' is {mode}, so the pods can't all write .* ReadWriteMany"
        ):
            bring(MODEL, "churn", **OPTIONS, prediction_log=LOG)
    assert not api.names("deployments")
    api.delete("persistentvolumeclaims", "logs")
    api.put("persistentvolumeclaims", claim("ReadWriteOnce"))
    bring(MODEL, "churn", **OPTIONS, prediction_log=LOG)
    assert "can start on one node only; a claim that is ReadWriteMany has no such limit" in caplog.text


@pytest.mark.parametrize("target", deploy.target_names())
def test_a_target_without_the_option_says_so(target: str) -> None:
    given = {"prediction_log": LOG, **({"role": "arn"} if target == "sagemaker" else {})}
    if target in ("docker", "kubernetes", "kserve", "seldon"):
        assert operations.options(target, given)["prediction_log"] == LOG
        return
    with pytest.raises(
        ValueError,
        match=f"target {target} has no prediction log of this project; .* deploy to docker, kubernetes, ks",
    ):
        operations.options(target, given)
