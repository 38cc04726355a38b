"""The target where KServe has no Knative, against a stand-in that does what its controller was seen to do."""

from typing import Any

import pytest

from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import kserve
from flowparts.deploy.targets._kserve_standard import StandardService
from tests.flowparts.deploy.custom_resources import canary_problem
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.serving.conftest import Server

IMAGE = "registry.example/flowparts-serving:0.1.0"
FIRST, SECOND, THIRD = ("s3://models/churn/1", "s3://models/churn/2", "gs://models/churn/3")


@pytest.fixture
def api(api: KubernetesApi) -> KubernetesApi:
    api.unknown.add("serving.knative.dev/v1")
    return api


def deploy(model: str, name: str = "churn", **options: Any) -> Endpoint:
    return kserve.deploy(model, name, **{"image": IMAGE, "timeout_seconds": 30.0} | options)


def spec(api: KubernetesApi) -> dict[str, Any]:
    found: dict[str, Any] = api.get("inferenceservices", "churn")["spec"]
    return found


def served(api: KubernetesApi) -> dict[str, int]:
    """Return which model gets how many percent of the requests through the Gateway."""
    for _ in range(3):
        api.step()
    backends = api.get("httproutes", "churn")["spec"]["rules"][0]["backendRefs"]
    return {
        model(api, backend["name"]): weight for backend in backends if (weight := backend.get("weight", 100))
    }


def model(api: KubernetesApi, deployment: str) -> str:
    (container,) = api.get("deployments", deployment)["spec"]["template"]["spec"]["containers"]
    return str(next(entry["value"] for entry in container["env"] if entry["name"] == "STORAGE_URI"))


def inside(api: KubernetesApi) -> str:
    """Return the model that clients inside of the cluster get."""
    wanted = api.get("services", "churn-endpoint")["spec"]["selector"].items()
    (found,) = {
        model(api, pod["owner"])
        for (kind, _), pod in api.objects.items()
        if kind == "pods" and wanted <= pod["metadata"]["labels"].items()
    }
    return found


def test_the_first_revision_gets_everything(api: KubernetesApi) -> None:
    made = deploy(FIRST, percent=10)
    assert made.traffic == {made.revision: 100}
    assert made.url == "http://churn.team.example.com"
    assert made.settings == {"namespace": "team", "mode": "Standard"}
    assert served(api) == {FIRST: 100}
    assert inside(api) == FIRST
    annotations = api.get("inferenceservices", "churn")["metadata"]["annotations"]
    assert annotations == {"serving.kserve.io/deploymentMode": "Standard"}


def test_kserve_fetches_the_model_under_restricted_rules(api: KubernetesApi) -> None:
    deploy("pvc://claim/churn/1", service_account="models", environment_from="token")
    predictor = spec(api)["predictor"]
    assert predictor["securityContext"] == {
        "runAsNonRoot": True,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert predictor["serviceAccountName"] == "models"
    assert [volume["name"] for volume in predictor["volumes"]] == ["tmp"]
    (server,) = predictor["containers"]
    environment = {entry["name"]: entry.get("value") for entry in server["env"]}
    assert environment["STORAGE_URI"] == "pvc://claim/churn/1"
    assert environment["FLOWPARTS_SERVING_MODEL"] == "/mnt/models"
    # Of the Secret only what clients must know; KServe's initializer has keys of its own.
    assert "envFrom" not in server
    assert "FLOWPARTS_SERVING_TOKEN" in environment
    assert server["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("replicas", [1, 4])
def test_a_canary_is_promoted_in_steps_and_no_request_is_lost(replicas: int, api: KubernetesApi) -> None:
    first = deploy(FIRST, replicas=replicas)
    made = deploy(SECOND, percent=10, replicas=replicas)
    assert made.traffic == {made.revision: 10, first.revision: 90}
    assert served(api) == {SECOND: 10, FIRST: 90}
    assert inside(api) == FIRST
    assert kserve.shift(made, 50).percent == 50
    assert served(api) == {SECOND: 50, FIRST: 50}
    full = kserve.shift(made, 100)
    assert served(api) == {SECOND: 100}
    assert inside(api) == SECOND
    # It keeps its pods until it is released, and has had all of them all the time.
    stable = f"churn-{first.revision[:9]}-predictor"
    assert api.get("deployments", stable)["spec"]["replicas"] == replicas
    pods = {name: thing["metadata"]["uid"] for (kind, name), thing in api.objects.items() if kind == "pods"}
    kserve.release(full)
    assert served(api) == {SECOND: 100}
    assert inside(api) == SECOND
    canary = f"churn-{made.revision[:9]}-predictor"
    assert api.names("deployments") == [canary]
    assert {name for kind, name in api.objects if kind == "pods"} <= set(pods)
    assert api.get("deployments", canary)["spec"]["replicas"] == replicas
    assert "canary" not in spec(api)
    assert api.lost == 0


def test_fields_that_a_canary_inherits_from_the_stable_revision_are_logged(
    api: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    pool = {"node_selector": {"pool": "models"}, "labels": {"team": "growth"}}
    taint = {"tolerations": [{"key": "models", "operator": "Exists"}]}
    first = deploy(FIRST, pods=pool | taint)
    made = deploy(SECOND, percent=10, pods={"labels": {"owner": "risk"}})
    (said,) = [record.getMessage() for record in caplog.records if "KServe merges" in record.getMessage()]
    assert f"until revision {made.revision} becomes the stable one" in said
    assert f"they have labels.team, nodeSelector, tolerations of revision {first.revision}" in said
    template = api.get("deployments", f"churn-{made.revision[:9]}-predictor")["spec"]["template"]
    assert template["spec"]["tolerations"] == taint["tolerations"]
    assert {"team": "growth", "owner": "risk"}.items() <= template["metadata"]["labels"].items()
    kserve.release(kserve.shift(made, 100))
    template = api.get("deployments", f"churn-{made.revision[:9]}-predictor")["spec"]["template"]
    assert not {"tolerations", "nodeSelector"} & set(template["spec"])
    caplog.clear()
    deploy(THIRD, percent=10, pods={"labels": {"owner": "risk"}})
    assert "KServe merges" not in caplog.text


def test_a_rollout_straight_to_100_percent_also_uses_a_canary(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    api.scenario = "slow"
    made = deploy(SECOND)
    assert made.traffic == {made.revision: 100, first.revision: 0}
    assert served(api) == {SECOND: 100}
    assert api.lost == 0
    assert api.names("deployments") == [f"churn-{made.revision[:9]}-predictor"]
    before = api.versions()
    assert deploy(SECOND) == made
    assert api.versions() == before


@pytest.mark.parametrize("percent", [0, 10, 100])
def test_a_rollback_drops_the_canary_and_leaves_the_stable_pods(percent: int, api: KubernetesApi) -> None:
    first = deploy(FIRST)
    stable = f"churn-{first.revision[:9]}-predictor"
    version = api.get("deployments", stable)["spec"]["template"]
    made = kserve.shift(deploy(SECOND, percent=10), percent)
    back = kserve.rollback(made)
    assert back.traffic == {first.revision: 100}
    assert served(api) == {FIRST: 100}
    assert inside(api) == FIRST
    assert api.names("deployments") == [stable]
    assert api.get("deployments", stable)["spec"]["template"] == version
    assert api.lost == 0
    assert kserve.rollback(made) == back


def test_a_rollback_after_the_promotion_brings_the_previous_revision_back_first(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND)
    api.scenario = "slow"
    assert kserve.rollback(made).traffic == {first.revision: 100}
    assert served(api) == {FIRST: 100}
    assert inside(api) == FIRST
    assert api.lost == 0


def test_another_canary_takes_the_place_of_the_one_that_was_tried(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    deploy(SECOND, percent=20)
    third = deploy(THIRD, percent=30)
    assert third.traffic == {third.revision: 30, first.revision: 70}
    assert served(api) == {THIRD: 30, FIRST: 70}
    kserve.shift(third, 100)
    # Not released: the canary that serves becomes the predictor before another one is tried beside it.
    second = deploy(SECOND, percent=10)
    assert second.traffic == {second.revision: 10, third.revision: 90}
    assert served(api) == {SECOND: 10, THIRD: 90}
    assert api.lost == 0


@pytest.mark.parametrize("killed_at", range(1, 8))
def test_a_killed_step_resumes_where_it_was(
    killed_at: int, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(FIRST)
    left = [killed_at]
    apply = StandardService._ask

    def killed(service: Any, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        apply(service, *arguments)

    monkeypatch.setattr(StandardService, "_ask", killed)
    for percent in (10, 50, 100):
        for _ in range(2):
            try:
                made = deploy(SECOND, percent=percent)
            except KeyboardInterrupt:
                continue
            break
    assert made.traffic in ({made.revision: 100, first.revision: 0}, {made.revision: 100})
    assert served(api) == {SECOND: 100}
    assert inside(api) == SECOND
    assert api.lost == 0


def test_a_first_revision_of_a_killed_step_does_not_count_as_deployed(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.scenario = "crash"
    with monkeypatch.context() as patch:
        patch.setattr(StandardService, "_wait", lambda *_: exit("killed"))
        with pytest.raises(SystemExit):
            deploy(FIRST)
    api.scenario = "ready"
    made = deploy(SECOND)
    assert made.traffic == {made.revision: 100}
    assert served(api) == {SECOND: 100}


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("crash", "last log line: model is damaged"),
        ("image", "ImagePullBackOff"),
        ("unschedulable", "Insufficient memory"),
        ("quota", "exceeded quota"),
        ("restricted", "violates PodSecurity .*; give KServe's ClusterStorageContainer 'default' a security"),
        ("never", "not ready after 0.3 s"),
    ],
)
def test_a_canary_that_does_not_come_up_gets_nothing_and_its_pods_say_why(
    scenario: str, reason: str, api: KubernetesApi
) -> None:
    first = deploy(FIRST)
    before = spec(api)
    api.scenario = scenario
    with pytest.raises(ValueError, match=reason) as raised:
        deploy(SECOND, percent=20, timeout_seconds=0.3)
    assert f"{first.revision} serves as before" in str(raised.value)
    assert spec(api) == before
    assert served(api) == {FIRST: 100}
    assert api.names("deployments") == [f"churn-{first.revision[:9]}-predictor"]
    assert all(set(shares.values()) == {100} for shares in api.shared)


def test_a_first_revision_that_does_not_come_up_leaves_nothing(api: KubernetesApi) -> None:
    api.scenario = "image"
    with pytest.raises(ValueError, match="ImagePullBackOff"):
        deploy(FIRST)
    for plural in ("inferenceservices", "deployments", "services", "configmaps"):
        assert api.names(plural) == []


def test_the_loser_of_two_concurrent_deployments_keeps_the_winners_service(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, winner = StandardService._ask, []

    def overtaken(service: Any, *arguments: Any) -> None:
        ask(service, *arguments)
        if not winner:
            winner.append(None)
            winner[0] = deploy(SECOND)

    monkeypatch.setattr(StandardService, "_ask", overtaken)
    with pytest.raises(ValueError, match=r"another step has deployed revision (\w+) meanwhile; .*\1 since"):
        deploy(FIRST)
    assert served(api) == {SECOND: 100}


def test_without_a_gateway_a_revision_gets_nothing_or_all(api: KubernetesApi) -> None:
    api.has_gateway = False
    first = deploy(FIRST)
    assert first.url == "http://churn-endpoint.team.svc"
    for percent in (10, 50):
        with pytest.raises(
            ValueError, match=r"KServe has made no HTTPRoute of it; give traffic_fraction 0 or 1"
        ):
            deploy(SECOND, percent=percent)
    made = deploy(SECOND, percent=0)
    assert made.traffic == {made.revision: 0, first.revision: 100}
    assert inside(api) == FIRST
    with pytest.raises(ValueError, match="nothing shares requests"):
        kserve.shift(made, 50)
    full = kserve.shift(made, 100)
    assert inside(api) == SECOND
    assert full.url == first.url
    kserve.release(full)
    assert inside(api) == SECOND
    assert kserve.rollback(full).traffic == {first.revision: 100}
    assert inside(api) == FIRST


@pytest.mark.parametrize(
    ("mode", "problem"),
    [("Serverless", "but the cluster has no Knative"), ("RawDeployment", "which has no canaries")],
)
def test_a_service_in_a_mode_that_cannot_be_is_refused_at_once(
    mode: str, problem: str, api: KubernetesApi
) -> None:
    metadata = {
        "name": "churn",
        "namespace": "team",
        "annotations": {"serving.kserve.io/deploymentMode": mode},
    }
    server = {"name": "kserve-container", "image": "registry.example/theirs:1", "ports": []}
    theirs = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata}
    api.scenario = "never"
    api.apply(
        "inferenceservices",
        "churn",
        {**theirs, "spec": {"predictor": {"labels": {}, "minReplicas": 1, "containers": [server]}}},
        "helm",
    )
    with pytest.raises(ValueError, match=f"has KServe's mode {mode}, {problem}, and the mode .* be changed"):
        deploy(FIRST)


def test_a_kserve_without_canaries_is_refused_at_once(api: KubernetesApi) -> None:
    api.has_canaries = False
    first = deploy(FIRST)
    with pytest.raises(ValueError, match=r"no spec.canary; upgrade KServe, .*serves as before"):
        deploy(SECOND, percent=10)
    assert served(api) == {FIRST: 100}
    assert kserve.crashes(first, first.revision).values()


def test_the_longest_name_fits_kserves_labels(api: KubernetesApi) -> None:
    name = "a" * 38
    deploy(FIRST, name)
    assert deploy(SECOND, name, percent=10).percent == 10


def test_the_webhook_of_the_stand_in_refuses_what_kserve_does(api: KubernetesApi) -> None:
    deploy(FIRST)
    deploy(SECOND, percent=10)
    asked = spec(api)
    entry = asked["canary"][0]
    bad = {
        "only supported in Standard": (asked, "Serverless"),
        "must not set maxReplicas": (changed(asked, {**entry["predictor"], "maxReplicas": 2}), "Standard"),
        "minReplicas must not exceed": (changed(asked, {**entry["predictor"], "minReplicas": 9}), "Standard"),
        "conflicts with stable": (
            changed(asked, {**entry["predictor"], "name": asked["predictor"]["name"]}),
            "Standard",
        ),
    }
    assert canary_problem(asked, "Standard") == ""
    for problem, (given, mode) in bad.items():
        assert problem in canary_problem(given, mode)


def changed(asked: dict[str, Any], predictor: dict[str, Any]) -> dict[str, Any]:
    return {**asked, "canary": [{**asked["canary"][0], "predictor": predictor}]}


def test_requests_go_to_the_services_of_the_revisions(
    api: KubernetesApi, server: Server, records: list[dict[str, Any]], expected: list[Any]
) -> None:
    api.has_gateway = False
    first = deploy(FIRST)
    made = deploy(SECOND, percent=0)
    asked: list[str] = []
    api.backend = lambda service: asked.append(service) or server.url  # type: ignore[func-returns-value]
    for revision in ("", made.revision, first.revision):
        assert [row["prediction"] for row in kserve.predict(made, records, revision)] == expected
    assert asked == [
        "churn-endpoint",
        f"churn-{made.revision[:9]}-predictor",
        f"churn-{first.revision[:9]}-predictor",
    ]


def test_servers_with_a_wrong_model_are_detected_and_rolled_back(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    api.digest = "e" * 16
    with pytest.raises(ValueError, match=f"have the model {'e' * 16}, not {'f' * 16}; {first.revision} ser"):
        deploy(SECOND, percent=50, digest="f" * 16)
    assert served(api) == {FIRST: 100}
