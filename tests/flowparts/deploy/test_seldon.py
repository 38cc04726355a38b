"""The target against a stand-in for the Kubernetes API with a controller that does as Seldon Core 2 does.

Seldon Core 2 has no typed client on PyPI: its resources are checked by the fields of its API reference.
"""

from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient

from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import seldon
from flowparts.util import trees
from tests.flowparts.deploy.kubernetes_api import KubernetesApi, digest_of
from tests.flowparts.serving.conftest import start, wait
from tests.flowparts.serving.test_repository import place

IMAGE = "registry.example/flowparts-serving:0.1.0"
FIRST, SECOND, THIRD = "s3://models/churn/1", "gs://models/churn/2", "s3://models/churn/3"


def deploy(model: str, **options: Any) -> Endpoint:
    return seldon.deploy(model, "churn", **{"image": IMAGE, "timeout_seconds": 5.0} | options)


def weights(api: KubernetesApi) -> dict[str, int]:
    candidates = api.get("experiments", "churn")["spec"]["candidates"]
    return {candidate["name"]: candidate["weight"] for candidate in candidates}


def test_a_revision_has_a_server_that_takes_no_other_model(api: KubernetesApi) -> None:
    made = deploy(FIRST, replicas=2, environment_from="options", storage_access="s3")
    own = f"churn-{made.revision}"
    server, model = api.get("servers", own)["spec"], api.get("models", own)["spec"]
    assert server["capabilities"] == model["requirements"] == [own]
    assert model["server"] == own
    assert model["storageUri"] == FIRST
    assert server["replicas"] == model["replicas"] == 2
    container, *beside = server["podSpec"]["containers"]
    # With what Seldon merges in, every container is what Pod Security's "restricted" wants.
    assert [(one["name"], one["securityContext"]["capabilities"]) for one in beside] == [
        ("rclone", {"drop": ["ALL"]}),
        ("agent", {"drop": ["ALL"]}),
    ]
    assert server["podSpec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (container["name"], container["image"]) == ("mlserver", IMAGE)
    assert {entry["name"]: entry["value"] for entry in container["env"]} == {
        "FLOWPARTS_SERVING_REPOSITORY": "/mnt/agent/models",
        "FLOWPARTS_SERVING_DIGEST": digest_of(FIRST),
        "FLOWPARTS_SERVING_PORT": "9000",
        "FLOWPARTS_SERVING_GRPC_PORT": "9500",
        "FLOWPARTS_SERVING_DRAIN_SECONDS": "5",
    }
    probed = {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")}
    assert probed == {9000}
    # The agent in the same pod reads Secrets as the pod's account.
    assert "automountServiceAccountToken" not in server["podSpec"]
    assert container["envFrom"] == [{"secretRef": {"name": "options"}}]
    assert model["secretName"] == "s3"
    assert weights(api) == {own: 100}


def test_a_canary_is_tried_promoted_and_rolled_back(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND, percent=10)
    assert made.traffic == {made.revision: 10, first.revision: 90}
    assert weights(api) == {f"churn-{made.revision}": 10, f"churn-{first.revision}": 90}
    promoted = seldon.shift(made, 100)
    assert weights(api) == {f"churn-{made.revision}": 100}
    back = seldon.rollback(promoted)
    assert back.traffic == {first.revision: 100}
    assert weights(api) == {f"churn-{first.revision}": 100}
    assert api.names("models") == api.names("servers") == [f"churn-{first.revision}"]


def test_servers_stay_until_the_mesh_sends_them_nothing(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(FIRST)
    made = seldon.shift(deploy(SECOND, percent=10), 50)
    seen: list[tuple[int, dict[str, int]]] = []
    monkeypatch.setattr(
        "flowparts.deploy.targets.seldon.time.sleep",
        lambda _: seen.append((len(api.names("models")), weights(api))),
    )
    back = seldon.rollback(made)
    assert seen == [(2, {f"churn-{back.revision}": 100})]
    assert api.names("models") == [f"churn-{back.revision}"]


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("crash", "last log line: model is damaged"),
        ("image", "ImagePullBackOff"),
        ("unschedulable", "Insufficient memory"),
        ("mount", r"FailedMount: MountVolume.SetUp failed for volume"),
        ("refused", r"FailedCreate: admission webhook \S+ denied the pods"),
        ("never", "ScheduleFailed"),
    ],
)
def test_a_revision_that_does_not_come_up_is_removed(scenario: str, reason: str, api: KubernetesApi) -> None:
    first = deploy(FIRST)
    api.scenario = scenario
    with pytest.raises(ValueError, match=reason) as raised:
        deploy(SECOND, timeout_seconds=0.3)
    assert f"{first.revision} serves as before" in str(raised.value)
    assert weights(api) == {f"churn-{first.revision}": 100}
    assert api.names("models") == api.names("servers") == [f"churn-{first.revision}"]


def test_an_experiment_that_does_not_get_ready_is_as_before(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unready(api: KubernetesApi, key: tuple[str, str], thing: Any) -> None:
        api.set_status(key, {"conditions": [{"type": "Ready", "status": "False", "message": "no route"}]})

    first = deploy(FIRST)
    monkeypatch.setattr(KubernetesApi, "_experiments", unready)
    with pytest.raises(ValueError, match=f"no route; {first.revision} serves as before"):
        deploy(SECOND, timeout_seconds=0.3)
    assert weights(api) == {f"churn-{first.revision}": 100}
    assert api.names("models") == api.names("servers") == [f"churn-{first.revision}"]


def test_a_first_experiment_that_does_not_get_ready_leaves_nothing(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KubernetesApi, "_experiments", lambda *_: None)
    with pytest.raises(ValueError, match="the experiment of endpoint 'churn' is not ready after"):
        deploy(FIRST, timeout_seconds=0.3)
    assert api.names("models") == api.names("servers") == api.names("experiments") == []


def test_foreign_objects_are_left_alone(api: KubernetesApi) -> None:
    metadata = {"name": "churn", "namespace": "team"}
    theirs = {"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Experiment", "metadata": metadata}
    api.put("experiments", {**theirs, "spec": {"candidates": [{"name": "theirs", "weight": 100}]}}, "helm")
    with pytest.raises(ValueError, match=r'from another manager; .* conflict with "helm"'):
        deploy(FIRST)
    assert api.get("experiments", "churn")["spec"] == {"candidates": [{"name": "theirs", "weight": 100}]}


def test_a_model_on_a_volume_is_refused(api: KubernetesApi) -> None:
    with pytest.raises(ValueError, match="can't take a model from a volume"):
        deploy("pvc://models/churn")


def test_a_cluster_without_seldon_is_reported(api: KubernetesApi) -> None:
    api.unknown.add("mlops.seldon.io/v1alpha1")
    with pytest.raises(ValueError, match=r"the cluster knows no Experiment of mlops.seldon.io/v1alpha1"):
        deploy(FIRST)


def test_requests_for_the_experiment_or_a_revision_reach_what_the_agent_had_loaded(
    api: KubernetesApi, tmp_path: Path, model: Path, records: list[dict[str, Any]], expected: list[Any]
) -> None:
    # Also with the name that the agent writes into them, the files are those of the model.
    first = deploy(FIRST, digest=trees.digest(model))
    made = deploy(SECOND, percent=20, digest=trees.digest(model))
    # The server as the manifest starts it, but for the addresses.
    container, *_ = api.get("servers", f"churn-{made.revision}")["spec"]["podSpec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    environment["FLOWPARTS_SERVING_REPOSITORY"] = str(tmp_path)
    server = wait(start("", environment=environment))
    asked: list[str] = []
    api.backend = lambda model: asked.append(model) or server.url  # type: ignore[func-returns-value]
    try:
        with InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as agent:
            for revision in (first.revision, made.revision):
                place(model, tmp_path, f"churn-{revision}")
                agent.load_model(f"churn-{revision}_1")
        for revision in ("", made.revision, first.revision):
            assert [row["prediction"] for row in seldon.predict(made, records, revision)] == expected
    finally:
        server.stop()
    assert asked == [f"churn-{revision}" for revision in (first.revision, made.revision, first.revision)]


def test_a_changed_model_at_the_same_address_is_a_new_revision(api: KubernetesApi) -> None:
    first = deploy(FIRST, digest="0" * 16)
    second = deploy(FIRST, digest="f" * 16)
    assert second.previous_revision == first.revision != second.revision


def test_servers_with_another_model_get_no_requests(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    api.digest = "e" * 16
    with pytest.raises(ValueError, match=f"have the model {'e' * 16}, not {'f' * 16}; {first.revision} ser"):
        deploy(SECOND, digest="f" * 16)
    assert weights(api) == {f"churn-{first.revision}": 100}


def test_an_unreachable_mesh_is_reported_without_failing_the_deployment(
    api: KubernetesApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise ValueError("nothing is there")

    monkeypatch.setattr("flowparts.deploy.cluster.Cluster.ask_service", lost)
    assert deploy(FIRST).percent == 100
    assert "can't check which model the servers of" in caplog.text
