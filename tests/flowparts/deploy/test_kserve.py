"""The target against a stand-in for the Kubernetes API with a controller that does as KServe and Knative do.

The manifest is checked by KServe's own Python client.
"""

import copy
import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

from flowparts.deploy import common
from flowparts.deploy.cluster import Cluster
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import kserve
from flowparts.deploy.targets._kserve_knative import KnativeService
from tests.flowparts.deploy import typed
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.serving.conftest import Server

IMAGE = "registry.example/flowparts-serving:0.1.0"
FIRST, SECOND, THIRD = ("s3://models/churn/1", "s3://models/churn/2", "gs://models/churn/3")


def deploy(model: str, **options: Any) -> Endpoint:
    return kserve.deploy(model, "churn", **{"image": IMAGE, "timeout_seconds": 5.0} | options)


def predictor(api: KubernetesApi) -> dict[str, Any]:
    found: dict[str, Any] = api.get("inferenceservices", "churn")["spec"]["predictor"]
    return found


def served(api: KubernetesApi) -> dict[str, int]:
    """Return which model gets how many percent, as KServe's status tells."""
    for _ in range(2):
        api.step()
    traffic = api.get("inferenceservices", "churn")["status"]["components"]["predictor"]["traffic"]
    shares = {}
    for target in traffic:
        environment = api.get("revisions", target["revisionName"])["spec"]["containers"][0]["env"]
        (stored,) = (entry["value"] for entry in environment if entry["name"] == "STORAGE_URI")
        if target["percent"]:
            shares[stored] = target["percent"]
    return shares


def test_the_first_revision_gets_everything(api: KubernetesApi) -> None:
    made = deploy(FIRST, percent=10)
    assert made.traffic == {made.revision: 100}
    assert made.url == "http://churn.team.example.com"
    assert "canaryTrafficPercent" not in predictor(api)
    assert served(api) == {FIRST: 100}


def test_the_server_has_no_credentials_and_knative_needs_no_feature_flags(api: KubernetesApi) -> None:
    deploy("pvc://claim/churn/1", environment_from="keys", service_account="models")
    (server,) = predictor(api)["containers"]
    environment = {entry["name"]: entry for entry in server["env"]}
    # KServe adds the container that fetches to the pods, with the keys of the account.
    assert environment["STORAGE_URI"]["value"] == "pvc://claim/churn/1"
    assert environment["FLOWPARTS_SERVING_MODEL"]["value"] == "/mnt/models"
    assert "envFrom" not in server
    token = {"name": "keys", "key": "FLOWPARTS_SERVING_TOKEN", "optional": True}
    assert [entry["valueFrom"] for entry in environment.values() if "valueFrom" in entry] == [
        {"secretKeyRef": token}
    ]
    assert [volume["name"] for volume in predictor(api)["volumes"]] == ["tmp"]
    assert predictor(api)["serviceAccountName"] == "models"


def test_a_canary_gets_its_traffic_and_is_promoted(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND, percent=10)
    assert made.traffic == {made.revision: 10, first.revision: 90}
    assert served(api) == {SECOND: 10, FIRST: 90}
    assert served(api) == {SECOND: 10, FIRST: 90}
    kserve.shift(made, 40)
    assert served(api) == {SECOND: 40, FIRST: 60}
    promoted = kserve.shift(made, 100)
    assert promoted.percent == 100
    assert served(api) == {SECOND: 100}


@pytest.mark.parametrize("percent", [0, 10, 100])
def test_a_rollback_never_sends_more_to_the_bad_revision(percent: int, api: KubernetesApi) -> None:
    first = deploy(FIRST)
    made = kserve.shift(deploy(SECOND, percent=10), percent)
    bad = api.get("inferenceservices", "churn")["status"]["components"]["predictor"]["latestReadyRevision"]
    api.scenario = "slow"
    del api.shared[:-1]
    before = api.names("revisions")
    back = kserve.rollback(made)
    assert back.traffic == {first.revision: 100}
    assert served(api) == {FIRST: 100}
    assert max(shares.get(bad, 0) for shares in api.shared) <= percent
    assert all(sum(shares.values()) == 100 for shares in api.shared)
    # No copy of a revision that is there.
    assert api.names("revisions") == before
    assert kserve.rollback(made) == deploy(FIRST) == back
    assert api.names("revisions") == before


def test_after_a_rollback_a_new_canary_splits_traffic_with_the_serving_revision(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    kserve.rollback(deploy(SECOND, percent=10))
    api.shared.clear()
    third = deploy(THIRD, percent=30)
    assert third.traffic == {third.revision: 30, first.revision: 70}
    assert served(api) == {THIRD: 30, FIRST: 70}
    assert {name for shares in api.shared for name, share in shares.items() if share} == {
        "churn-predictor-00001",
        "churn-predictor-00003",
    }
    assert kserve.rollback(third).traffic == {first.revision: 100}
    assert deploy(SECOND, percent=10).traffic[first.revision] == 90


def test_a_rollback_from_all_requests_needs_no_room_for_another_pod(api: KubernetesApi) -> None:
    deploy(FIRST)
    made = deploy(SECOND)
    api.scenario = "unschedulable"
    kserve.rollback(made)
    assert served(api) == {FIRST: 100}


def test_a_revision_removed_by_knative_is_deployed_again(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND)
    del api.objects["revisions", "churn-predictor-00001"]
    assert kserve.rollback(made).traffic == {first.revision: 100}
    assert served(api) == {FIRST: 100}


def test_a_node_that_is_full_for_a_moment_does_not_end_the_wait(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(FIRST)
    api.scenario = "unschedulable"
    look, seen = KnativeService._look, []

    def later(service: Any, revision: str, traffic: Any) -> str:
        seen.append(look(service, revision, traffic))
        if len(seen) == 3:
            api.born_as["churn-predictor-00002"] = "ready"
        return seen[-1]

    monkeypatch.setattr(KnativeService, "_look", later)
    deploy(SECOND)
    assert "Insufficient memory" in seen[2]
    assert served(api) == {SECOND: 100}


def test_the_loser_of_two_concurrent_deployments_keeps_the_winners_service(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, winner = KnativeService._apply, []

    def overtaken(service: Any, *arguments: Any) -> None:
        apply(service, *arguments)
        if not winner:
            winner.append(None)
            winner[0] = deploy(SECOND)

    monkeypatch.setattr(KnativeService, "_apply", overtaken)
    with pytest.raises(ValueError, match=r"another step has deployed revision (\w+) meanwhile; .*\1 since"):
        deploy(FIRST)
    assert served(api) == {SECOND: 100}
    assert kserve.rollback(deploy(THIRD, percent=10)).revision == winner[0].revision


def test_a_canary_that_crashes_while_it_serves_is_rolled_back(api: KubernetesApi) -> None:
    deploy(FIRST)
    made = deploy(SECOND, percent=10)
    (bad,) = [name for name, share in api.shared[-1].items() if share == 10]
    assert list(kserve.crashes(made, made.revision).values()) == [0]
    api.born_as[bad] = "crash"
    served(api)
    assert list(kserve.crashes(made, made.revision).values()) == [4]
    api.shared.clear()
    kserve.rollback(made)
    assert served(api) == {FIRST: 100}
    assert max(shares.get(bad, 0) for shares in api.shared) <= 10


def test_a_new_canary_does_not_give_its_traffic_to_the_previous_one(api: KubernetesApi) -> None:
    deploy(FIRST)
    deploy(SECOND, percent=10)
    (before,) = [name for name, share in api.shared[-1].items() if share == 10]
    api.shared.clear()
    api.scenario = "slow"
    deploy(THIRD, percent=60)
    assert served(api) == {THIRD: 60, FIRST: 40}
    assert max(shares.get(before, 0) for shares in api.shared) <= 10


def test_a_deployment_that_fails_after_its_revision_is_ready_gives_it_nothing(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(FIRST)
    look = KnativeService._look

    def late(service: Any, revision: str, traffic: Any) -> str:
        found = look(service, revision, traffic)
        # What is brought back takes its time to come up.
        api.scenario = "slow"
        return found if found or revision == first.revision else "its address is not known yet"

    monkeypatch.setattr(KnativeService, "_look", late)
    with pytest.raises(ValueError, match=f"its address is not known yet; {first.revision} serves as before"):
        deploy(SECOND, percent=10, timeout_seconds=0.5)
    assert served(api) == {FIRST: 100}
    bad = "churn-predictor-00002"
    assert max(shares.get(bad, 0) for shares in api.shared) == 10


def test_a_revision_that_comes_up_after_its_time_gets_nothing(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(FIRST)
    api.scenario = "never"
    apply = KnativeService._apply

    def in_the_meantime(service: Any, revision: str, *arguments: Any) -> None:
        if revision == first.revision:
            api.born_as["churn-predictor-00002"] = "ready"
            api.scenario = "ready"
        apply(service, revision, *arguments)

    monkeypatch.setattr(KnativeService, "_apply", in_the_meantime)
    with pytest.raises(ValueError, match=f"pods are starting; {first.revision} serves as before"):
        deploy(SECOND, percent=10, timeout_seconds=0.3)
    assert served(api) == {FIRST: 100}
    assert {share for shares in api.shared for name, share in shares.items() if name.endswith("2")} <= {0, 10}


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_killed_and_retried_step_gives_the_result_of_an_undisturbed_one(
    killed_at: int, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(FIRST)
    canary = deploy(SECOND, percent=10)
    (bad,) = [name for name, share in api.shared[-1].items() if share == 10]
    api.shared.clear()
    api.scenario = "slow"
    left = [killed_at]
    apply = Cluster.apply

    def killed(there: Cluster, manifest: dict[str, Any]) -> dict[str, Any]:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return apply(there, manifest)

    monkeypatch.setattr(Cluster, "apply", killed)
    with suppress(KeyboardInterrupt):
        kserve.rollback(canary)
    assert left == [0]
    back = kserve.rollback(canary)
    assert back.traffic == {first.revision: 100}
    assert served(api) == {FIRST: 100}
    assert max(shares.get(bad, 0) for shares in api.shared) <= 10


def test_a_killed_deployment_of_a_crashing_model_does_not_count_as_deployed(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(FIRST)
    api.scenario = "crash"
    with monkeypatch.context() as patch:
        patch.setattr(KnativeService, "_wait", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            deploy(SECOND)
    served(api)
    api.scenario = "ready"
    third = deploy(THIRD, percent=10)
    assert third.traffic == {third.revision: 10, first.revision: 90}
    assert served(api) == {THIRD: 10, FIRST: 90}


def test_a_revision_that_becomes_ready_after_its_step_was_killed_serves(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(FIRST)
    with monkeypatch.context() as patch:
        patch.setattr(KnativeService, "_wait", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            deploy(SECOND)
    assert served(api) == {SECOND: 100}
    third = deploy(THIRD, percent=10)
    assert served(api) == {THIRD: 10, SECOND: 90}
    with monkeypatch.context() as patch:
        patch.setattr(KnativeService, "_wait", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            kserve.shift(third, 100)
    assert served(api) == {THIRD: 100}
    deploy(FIRST, percent=30)
    assert served(api) == {FIRST: 30, THIRD: 70}


def test_changing_the_traffic_split_reloads_no_model(api: KubernetesApi) -> None:
    deploy(FIRST)
    made = deploy(SECOND, percent=10)
    back = kserve.shift(kserve.shift(made, 100), 50)
    assert api.names("revisions") == ["churn-predictor-00001", "churn-predictor-00002"]
    assert served(api) == {SECOND: 50, FIRST: 50}
    assert back.percent == 50


def test_a_third_revision_takes_the_place_of_the_one_that_was_tried(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    deploy(SECOND, percent=20)
    third = deploy(THIRD, percent=30)
    assert third.traffic == {third.revision: 30, first.revision: 70}
    assert served(api) == {THIRD: 30, FIRST: 70}


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("crash", "last log line: model is damaged"),
        ("image", "ImagePullBackOff"),
        ("unschedulable", "Insufficient memory"),
        ("mount", r"not ready after 0.3 s: FailedMount: MountVolume.SetUp failed for volume"),
        ("refused", r"not ready after 0.3 s: FailedCreate: admission webhook \S+ denied the pods"),
        ("never", "not ready after 0.3 s: its pods are starting"),
    ],
)
def test_a_revision_that_does_not_come_up_leaves_the_service_as_it_was(
    scenario: str, reason: str, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(FIRST)
    before = copy.deepcopy(predictor(api))
    apply = KnativeService._apply

    def of_revision(service: Any, revision: str, *arguments: Any) -> None:
        api.scenario = "ready" if revision == first.revision else scenario
        apply(service, revision, *arguments)

    monkeypatch.setattr(KnativeService, "_apply", of_revision)
    with pytest.raises(ValueError, match=reason) as raised:
        deploy(SECOND, percent=20, timeout_seconds=0.3)
    assert f"{first.revision} serves as before" in str(raised.value)
    assert predictor(api) == before
    assert served(api) == {FIRST: 100}


def test_a_first_revision_that_does_not_come_up_leaves_nothing(api: KubernetesApi) -> None:
    api.scenario = "image"
    with pytest.raises(ValueError, match="ImagePullBackOff"):
        deploy(FIRST)
    assert api.names("inferenceservices") == []


def test_kserves_reason_for_a_missing_revision_is_reported(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        api,
        "_inferenceservices",
        lambda key, thing: api.warn(key[1], "InternalError", "fails to reconcile predictor"),
    )
    with pytest.raises(ValueError, match=r"not ready after 0.3 s: InternalError: fails to reconcile pred"):
        deploy(FIRST, timeout_seconds=0.3)


def test_the_server_is_probed_and_has_time_to_end(api: KubernetesApi) -> None:
    deploy(FIRST)
    (container,) = predictor(api)["containers"]
    probed = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
    }
    assert probed == {
        "startup": "/v2/health/ready",
        "liveness": "/v2/health/live",
        "readiness": "/v2/health/ready",
    }
    assert predictor(api)["timeout"] == 60


def test_a_cluster_without_kserve_is_reported(api: KubernetesApi) -> None:
    api.unknown.add("serving.kserve.io/v1beta1")
    with pytest.raises(
        ValueError, match=r"the cluster knows no InferenceService of serving.kserve.io/v1beta1"
    ):
        deploy(FIRST)


def test_foreign_objects_are_left_alone(api: KubernetesApi) -> None:
    server = {
        "name": "kserve-container",
        "image": "registry.example/theirs:1",
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
    }
    spec = {"predictor": {"minReplicas": 3, "labels": {}, "containers": [server]}}
    theirs = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": spec}
    api.put("inferenceservices", {**theirs, "metadata": {"name": "churn", "namespace": "team"}}, "helm")
    with pytest.raises(ValueError, match=r'from another manager; .* conflict.* "helm"'):
        deploy(FIRST)
    assert api.get("inferenceservices", "churn")["spec"] == spec


def test_missing_permission_is_reported(api: KubernetesApi) -> None:
    api.denied.add(("patch", "inferenceservices"))
    with pytest.raises(ValueError, match="no permission to PATCH"):
        deploy(FIRST)


def test_requests_go_to_the_service_or_to_a_revisions_tag(
    api: KubernetesApi,
    server: Server,
    records: list[dict[str, Any]],
    expected: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND, percent=20)
    asked: list[str] = []
    ask = common.ask

    def through(url: str, *arguments: Any) -> Any:
        # Stands for the cluster's name service.
        host, _, path = url.removeprefix("http://").partition("/")
        asked.append(host)
        return ask(f"{server.url}/{path}", *arguments)

    monkeypatch.setattr("flowparts.deploy.common.ask", through)
    for revision in ("", made.revision, first.revision):
        assert [row["prediction"] for row in kserve.predict(made, records, revision)] == expected
    predicting = "churn-predictor.team.example.com"
    assert asked == ["churn.team.example.com", f"latest-{predicting}", f"prev-{predicting}"]


def test_kserves_own_client_knows_every_field(api: KubernetesApi, kserve_python: str) -> None:
    deploy("pvc://models/churn/0", environment_from="s3", service_account="models", max_replicas=4)
    deploy(SECOND, percent=20, environment_from="s3", service_account="models", max_replicas=4)
    found = api.get("inferenceservices", "churn")
    manifest = {part: found[part] for part in ("apiVersion", "kind", "metadata", "spec")}

    def check(manifest: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        command = [kserve_python, typed.__file__, "InferenceService", "kserve.models", "kubernetes.client"]
        return subprocess.run(
            command, input=json.dumps(manifest), capture_output=True, text=True, check=False
        )

    checked = check(manifest)
    assert (checked.returncode, checked.stdout.strip()) == (0, "V1beta1InferenceService"), checked.stderr
    manifest["spec"]["predictor"]["canaryPercent"] = 20
    assert "V1beta1PredictorSpec has no field canaryPercent" in check(manifest).stderr


def test_servers_with_a_wrong_model_are_detected_and_rolled_back(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(url: str, *_: Any) -> Any:
        asked.append(url)
        return {"name": "churn", "ready": True, "version": "1", "digest": "e" * 16}

    first = deploy(FIRST, digest="0" * 16)
    monkeypatch.setattr("flowparts.deploy.common.fetch", fetch)
    with pytest.raises(ValueError, match=f"have the model {'e' * 16}, not {'f' * 16}; {first.revision} ser"):
        deploy(SECOND, percent=50, digest="f" * 16)
    assert served(api) == {FIRST: 100}
    # Not the service's address, where any revision may answer.
    assert all(url.startswith("http://latest-churn") for url in asked), asked
