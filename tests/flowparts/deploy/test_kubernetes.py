"""The target against a stand-in for the Kubernetes API, which checks every manifest by Kubernetes' strict
schemas.

There is no kube-apiserver in any package of Debian or PyPI; see tests/flowparts/deploy/kubernetes_api.py.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from flowparts.deploy import cluster
from flowparts.deploy.cluster import Cluster
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import kubernetes
from tests.flowparts.deploy.kubernetes_api import KubernetesApi, digest_of
from tests.flowparts.deploy.typed import check_typed
from tests.flowparts.serving.conftest import Server

IMAGE = "registry.example/flowparts-serving:0.1.0"
FIRST, SECOND, THIRD = ("s3://models/churn/1", "s3://models/churn/2", "s3://models/churn/3")


def deploy(model: str, **options: Any) -> Endpoint:
    return kubernetes.deploy(model, "churn", **{"image": IMAGE, "timeout_seconds": 5.0} | options)


def pods(api: KubernetesApi, endpoint: Endpoint) -> dict[str, int]:
    return {
        revision: api.get("deployments", f"churn-{revision}")["spec"]["replicas"]
        for revision in endpoint.traffic
    }


def selected(api: KubernetesApi) -> str:
    """Return the revision that the Service is pinned to; "" for all."""
    return str(api.get("services", "churn")["spec"]["selector"].get("flowparts/revision", ""))


def test_the_first_revision_gets_everything(api: KubernetesApi) -> None:
    made = deploy(FIRST, percent=10)
    assert made.url == "http://churn.team.svc"
    assert made.traffic == {made.revision: 100}
    assert pods(api, made) == {made.revision: 2}
    assert selected(api) == made.revision
    assert api.names("services") == ["churn", f"churn-{made.revision}"]
    assert api.names("poddisruptionbudgets") == [f"churn-{made.revision}"]
    assert api.names("networkpolicies") == ["churn"]
    assert api.names("servicemonitors") == ["churn"]
    assert api.names("horizontalpodautoscalers") == []


def test_every_object_fits_the_typed_client(api: KubernetesApi) -> None:
    deploy(FIRST, max_replicas=5, environment_from="s3", service_account="models")
    checked = [
        check_typed(thing, thing["kind"])
        for (plural, _), thing in api.objects.items()
        if plural not in ("pods", "servicemonitors", "events")
    ]
    assert sorted(checked) == [
        "V1Deployment",
        "V1NetworkPolicy",
        "V1PodDisruptionBudget",
        "V1Service",
        "V1Service",
        "V2HorizontalPodAutoscaler",
    ]


def test_pods_are_locked_down_and_end_in_order(api: KubernetesApi) -> None:
    made = deploy(FIRST, cpu="500m", memory="1Gi", environment_from="s3", service_account="models")
    pod = api.get("deployments", f"churn-{made.revision}")["spec"]["template"]["spec"]
    (fetch,), (server,) = pod["initContainers"], pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "models"
    assert (
        fetch["securityContext"]
        == server["securityContext"]
        == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    )
    amounts = {"cpu": "500m", "memory": "1Gi"}
    assert server["resources"] == {
        "requests": {**amounts, "ephemeral-storage": "100Mi"},
        "limits": {**amounts, "ephemeral-storage": "5120Mi"},
    }
    assert all(volume["emptyDir"]["sizeLimit"] == "5120Mi" for volume in pod["volumes"])
    assert server["image"] == fetch["image"] == IMAGE
    assert server["startupProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080}
    assert server["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": 8080}
    (leaving,) = (entry for entry in server["env"] if entry["name"] == "FLOWPARTS_SERVING_DRAIN_SECONDS")
    assert int(leaving["value"]) < pod["terminationGracePeriodSeconds"]
    assert {entry["topologyKey"] for entry in pod["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }


def test_only_what_fetches_the_model_has_the_keys_to_the_store(api: KubernetesApi) -> None:
    made = deploy(FIRST, environment_from="s3")
    pod = api.get("deployments", f"churn-{made.revision}")["spec"]["template"]["spec"]
    (fetch,), (server,) = pod["initContainers"], pod["containers"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert "envFrom" not in server
    # The server has the token alone that its clients must have, and reads the model where it was put.
    (token,) = (entry for entry in server["env"] if "valueFrom" in entry)
    assert token["name"] == "FLOWPARTS_SERVING_TOKEN"
    assert token["valueFrom"]["secretKeyRef"] == {
        "name": "s3",
        "key": "FLOWPARTS_SERVING_TOKEN",
        "optional": True,
    }
    assert fetch["args"] == [FIRST, "/mnt/models/model", digest_of(FIRST)]
    assert {"name": "FLOWPARTS_SERVING_MODEL", "value": "/mnt/models/model"} in server["env"]
    shared = {"name": "models", "mountPath": "/mnt/models"}
    assert shared in fetch["volumeMounts"]
    assert {**shared, "readOnly": True} in server["volumeMounts"]


def admitted(api: KubernetesApi) -> list[str] | None:
    """Return the namespaces that the policy admits besides the endpoint's own; None if it admits everyone."""
    (rule,) = api.get("networkpolicies", "churn")["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8080, 8081]
    if "from" not in rule:
        return None
    own, *others = rule["from"]
    assert own == {"podSelector": {}}
    named = [entry for other in others for entry in other["namespaceSelector"]["matchExpressions"]]
    assert {entry["key"] for entry in named} <= {"kubernetes.io/metadata.name"}
    return [value for entry in named for value in entry["values"]]


def test_the_policy_admits_the_endpoints_own_namespace_and_those_that_are_named(api: KubernetesApi) -> None:
    deploy(FIRST)
    assert admitted(api) == []
    deploy(FIRST, clients=["monitoring", "gateways"])
    assert admitted(api) == ["gateways", "monitoring"]
    deploy(FIRST, clients=["*"])
    assert admitted(api) is None


def test_the_policy_admits_the_gateway_and_the_step_that_probes(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put("gateways", {**GATEWAY, "metadata": {"name": "public", "namespace": "gateways"}})
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    deploy(FIRST, gateway="gateways/public", clients=["monitoring"])
    assert admitted(api) == ["gateways", "monitoring"]
    made, start = [], Cluster.__init__

    def in_a_pod(self: Cluster, *given: Any) -> None:
        start(self, *given)
        self.pod_namespace = "pipelines"
        made.append(self)

    monkeypatch.setattr(Cluster, "__init__", in_a_pod)
    deploy(FIRST)
    assert made
    assert admitted(api) == ["pipelines"]


def test_a_network_policy_that_blocks_the_api_server_is_reported(api: KubernetesApi) -> None:
    said = "error trying to reach service: dial tcp 10.244.1.7:8080: i/o timeout"
    error = ApiException(status=503, reason="Service Unavailable")
    error.body = json.dumps({"kind": "Status", "message": said})
    told = cluster._sentence(error, "GET", "/api/v1/namespaces/team/services/churn:http/proxy/predict")
    assert "doesn't reach the pods of service churn" in str(told)
    assert "with clients ['*']" in str(told)


LIMITED = {
    "another image": ("FLOWPARTS_ALLOWED_IMAGES", "registry.example/team/*", {}),
    "another namespace": ("FLOWPARTS_ALLOWED_NAMESPACES", "team-*", {"namespace": "kube-system"}),
    "another secret": ("FLOWPARTS_ALLOWED_SECRETS", "s3 gs", {"environment_from": "root"}),
    "another account": ("FLOWPARTS_ALLOWED_SERVICE_ACCOUNTS", "", {"service_account": "admin"}),
}


@pytest.mark.parametrize(("variable", "allowed", "options"), LIMITED.values(), ids=LIMITED)
def test_options_keep_to_what_the_environment_of_the_step_allows(
    variable: str,
    allowed: str,
    options: dict[str, Any],
    api: KubernetesApi,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, allowed)
    with pytest.raises(ValueError, match=rf"is not allowed here; {variable} .* allows: "):
        deploy(FIRST, **options)
    assert not api.names("deployments")


def test_allowed_values_and_defaults_are_deployed(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {
        "IMAGES": "registry.example/*",
        "NAMESPACES": "",
        "SECRETS": "s3",
        "SERVICE_ACCOUNTS": "models",
    }.items():
        monkeypatch.setenv(f"FLOWPARTS_ALLOWED_{variable}", value)
    deploy(FIRST, namespace="team", environment_from="s3")
    assert api.names("deployments")


def test_a_model_on_a_volume_is_mounted_and_its_server_has_no_network_access(api: KubernetesApi) -> None:
    made = deploy("pvc://models/churn/1")
    pod = api.get("deployments", f"churn-{made.revision}")["spec"]["template"]["spec"]
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in pod[
        "volumes"
    ]
    assert {"name": "FLOWPARTS_SERVING_MODEL", "value": "/mnt/models/churn/1"} in pod["containers"][0]["env"]
    policy = api.get("networkpolicies", "churn")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy


def test_running_it_again_changes_nothing(api: KubernetesApi) -> None:
    options: dict[str, Any] = {"percent": 25, "replicas": 3, "max_replicas": 6}
    deploy(FIRST, **options)
    made = deploy(SECOND, **options)
    before = api.versions()
    assert deploy(SECOND, **options) == made
    assert api.versions() == before


def test_other_files_at_the_same_address_are_another_revision(api: KubernetesApi) -> None:
    first = deploy(FIRST, digest="0" * 16)
    second = deploy(FIRST, digest="f" * 16)
    assert second.previous_revision == first.revision != second.revision
    pod = api.get("deployments", f"churn-{second.revision}")["spec"]["template"]["spec"]
    # What fetches the files refuses others, and so does the server.
    assert pod["initContainers"][0]["args"][0::2] == [FIRST, "f" * 16]
    assert {"name": "FLOWPARTS_SERVING_DIGEST", "value": "f" * 16} in pod["containers"][0]["env"]


def test_a_server_of_another_model_than_was_asked_for_gets_no_requests(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    api.digest = "e" * 16
    with pytest.raises(ValueError, match=r"servers of revision r\w+ have the model e{16}, not f{16}; r"):
        deploy(SECOND, digest="f" * 16)
    assert selected(api) == first.revision
    assert api.names("deployments") == [f"churn-{first.revision}"]
    api.digest = ""
    with pytest.raises(ValueError, match="don't report the digest of their model; use an image of this rel"):
        deploy(SECOND)


def test_a_revision_and_its_traffic_can_be_read_with_kubectl(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND, percent=10)
    assert api.names("poddisruptionbudgets") == sorted(f"churn-{revision}" for revision in made.traffic)
    budget = api.get("poddisruptionbudgets", f"churn-{made.revision}")["spec"]["selector"]["matchLabels"]
    assert budget["flowparts/revision"] == made.revision
    deployment = api.get("deployments", f"churn-{made.revision}")["metadata"]
    assert (
        deployment["labels"].items()
        >= {
            "app.kubernetes.io/version": made.revision,
            "app.kubernetes.io/component": "model-server",
            "flowparts/model-digest": digest_of(SECOND),
            "flowparts/share": "33",
        }.items()
    )
    assert deployment["annotations"]["flowparts/model"] == SECOND
    said = {
        (event["involvedObject"]["name"], event["message"])
        for (kind, _), event in api.objects.items()
        if kind == "events" and event["reason"] == "Share"
    }
    assert said == {
        (f"churn-{first.revision}", f"{first.revision} gets 100 % of the requests"),
        (f"churn-{first.revision}", f"{first.revision} gets 67 % of the requests, for 90 % asked for"),
        (f"churn-{made.revision}", f"{made.revision} gets 33 % of the requests, for 10 % asked for"),
    }
    back = kubernetes.rollback(made)
    assert api.names("poddisruptionbudgets") == [f"churn-{back.revision}"]


def test_the_record_and_the_step_report_the_same_traffic(api: KubernetesApi) -> None:
    deploy(FIRST)
    made = deploy(SECOND, percent=10)
    record = json.loads(api.get("services", "churn")["metadata"]["annotations"]["flowparts/endpoint"])
    assert record["traffic"] == made.traffic
    assert made.percent == 33
    assert kubernetes.shift(made, 100).percent == 100


def test_a_revision_that_crashes_is_not_said_to_serve(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    api.born_as[f"churn-{first.revision}"] = "crash"
    api.scenario = "image"
    with pytest.raises(ValueError, match="ImagePullBackOff") as raised:
        deploy(SECOND)
    assert "serves as before" not in str(raised.value)
    assert api.names("deployments") == [f"churn-{first.revision}"]


SHARES = {
    10: {"current": 1, "previous": 4},
    40: {"current": 3, "previous": 4},
    80: {"current": 4, "previous": 1},
}


@pytest.mark.parametrize(("percent", "expected"), SHARES.items(), ids=str)
def test_without_a_gateway_traffic_follows_the_ratio_of_pods(
    percent: int, expected: dict[str, int], api: KubernetesApi
) -> None:
    first = deploy(FIRST, replicas=4)
    made = deploy(SECOND, replicas=4, percent=percent)
    assert pods(api, made) == {made.revision: expected["current"], first.revision: expected["previous"]}
    real = round(100 * expected["current"] / sum(expected.values()))
    assert made.traffic == {made.revision: real, first.revision: 100 - real}
    assert selected(api) == ""


def test_a_revision_without_traffic_is_up_but_not_selected(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND, percent=0)
    assert pods(api, made) == {made.revision: 1, first.revision: 2}
    assert selected(api) == first.revision
    assert made.percent == 0


def test_promoting_and_rolling_back(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    tried = deploy(SECOND, percent=30)
    promoted = kubernetes.shift(tried, 100)
    # The previous one stays warm until the rollout has been judged.
    assert pods(api, promoted) == {tried.revision: 2, first.revision: 2}
    assert selected(api) == tried.revision
    kubernetes.release(promoted)
    assert pods(api, promoted) == {tried.revision: 2, first.revision: 0}
    back = kubernetes.rollback(promoted)
    assert back.traffic == {first.revision: 100}
    assert back.previous_revision is None
    assert pods(api, back) == {first.revision: 2}
    assert selected(api) == first.revision
    assert api.names("deployments") == [f"churn-{first.revision}"]
    assert api.names("services") == ["churn", f"churn-{first.revision}"]


def test_a_third_revision_takes_the_place_of_the_one_that_was_tried(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    deploy(SECOND, percent=30)
    third = deploy(THIRD, percent=30)
    assert third.previous_revision == first.revision
    assert api.names("deployments") == sorted(f"churn-{revision}" for revision in third.traffic)


def test_the_autoscaler_has_the_say_over_pods(api: KubernetesApi) -> None:
    first = deploy(FIRST, max_replicas=8)
    # Stands for the autoscaler, which writes the same field.
    busy = json.loads(json.dumps(api.get("deployments", f"churn-{first.revision}")))
    busy["spec"]["replicas"] = 7
    api.store(("deployments", f"churn-{first.revision}"), busy)
    made = deploy(SECOND, percent=50, max_replicas=8)
    # The new one can carry the half that it gets; from then on the autoscaler decides.
    assert pods(api, made) == {made.revision: 7, first.revision: 7}
    scaler = api.get("horizontalpodautoscalers", f"churn-{made.revision}")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 8)


GATEWAY = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "public", "namespace": "team"},
    "spec": {
        "gatewayClassName": "any",
        "listeners": [{"name": "web", "port": 8000, "protocol": "HTTP"}],
    },
}


def test_startup_warnings_of_a_ready_pod_are_ignored(api: KubernetesApi) -> None:
    made = deploy(FIRST)
    for name in api.names("pods"):
        api.warn(name, "Unhealthy", "Startup probe failed: connection refused")
    assert kubernetes.diagnose(made, made.revision) == ""
    api.born_as[f"churn-{made.revision}"] = "starting"
    api.step()
    assert "Startup probe failed" in kubernetes.diagnose(made, made.revision)


def test_a_gateway_splits_traffic_exactly(api: KubernetesApi) -> None:
    api.put("gateways", GATEWAY)
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    first = deploy(FIRST, gateway="public")
    made = deploy(SECOND, percent=7, gateway="public")
    assert made.url == "http://192.0.2.7:8000/team/churn"
    assert made.traffic == {made.revision: 7, first.revision: 93}
    assert pods(api, made) == {made.revision: 2, first.revision: 2}
    (rule,) = api.get("httproutes", "churn")["spec"]["rules"]
    weights = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
    assert weights == {f"churn-{made.revision}": 7, f"churn-{first.revision}": 93}


@pytest.mark.parametrize("percent", [0, 7, 50])
def test_beside_a_gateway_the_plain_service_selects_the_stable_revision_only(
    percent: int, api: KubernetesApi
) -> None:
    def selected() -> str:
        return str(api.get("services", "churn")["spec"]["selector"].get("flowparts/revision"))

    api.put("gateways", GATEWAY)
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    first = deploy(FIRST, gateway="public")
    made = deploy(SECOND, percent=percent, gateway="public")
    assert selected() == first.revision
    assert (kubernetes.shift(made, 100).percent, selected()) == (100, made.revision)


@pytest.mark.parametrize(
    ("hostname", "url"),
    [
        ("models.example.com", "https://models.example.com:443/team/churn"),
        ("*.models.example.com", "https://churn.models.example.com:443/team/churn"),
    ],
)
def test_requests_send_the_host_name_of_the_gateway(hostname: str, url: str, api: KubernetesApi) -> None:
    listener = {"name": "web", "port": 443, "protocol": "HTTPS", "hostname": hostname}
    api.put("gateways", {**GATEWAY, "spec": {**GATEWAY["spec"], "listeners": [listener]}})
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    assert deploy(FIRST, gateway="public").url == url


def test_pods_stay_until_the_gateway_has_taken_the_route(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put("gateways", GATEWAY)
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    first = deploy(FIRST, gateway="public")
    made = deploy(SECOND, percent=50, gateway="public")
    taken = []
    delete = Cluster.delete

    def watched(there: Cluster, api_version: str, kind: str, name: str) -> None:
        route = api.get("httproutes", "churn")
        (condition,) = route["status"]["parents"][0]["conditions"]
        taken.append(condition["observedGeneration"] == route["metadata"]["generation"])
        delete(there, api_version, kind, name)

    monkeypatch.setattr(Cluster, "delete", watched)
    assert kubernetes.rollback(made).traffic == {first.revision: 100}
    assert api.names("deployments") == [f"churn-{first.revision}"]
    assert taken
    assert all(taken)


def test_a_missing_gateway_is_reported(api: KubernetesApi) -> None:
    with pytest.raises(ValueError, match="the gateway elsewhere/public is not there or has no address"):
        deploy(FIRST, gateway="elsewhere/public")


FAILURES = {
    "image": r'ImagePullBackOff in pod churn-r\w+-0: Back-off pulling image "registry.example/flow',
    "crash": (
        r"CrashLoopBackOff in pod churn-\S+ exit code 1 \(Error, 3 restarts\), last log line: model is dam"
    ),
    "quota": r"its pods are refused: pods \S+ is forbidden: exceeded quota: compute",
    "unschedulable": r"not ready after 0.3 s: 0 of 2 pods of \w+ are ready \(Unschedulable, pod \S+ 0/3 nod",
    "mount": r"not ready after 0.3 s: 0 of 2 pods of \w+ are ready \(FailedMount: MountVolume.SetUp failed",
    "refused": r"not ready after 0.3 s: 0 of 2 pods of \w+ are ready \(FailedCreate: admission webhook",
    "never": r"not ready after 0.3 s: 0 of 2 pods of r\w+ are ready",
}


@pytest.mark.parametrize(("scenario", "reason"), FAILURES.items(), ids=FAILURES)
def test_a_revision_that_does_not_come_up_is_removed_and_the_other_still_serves(
    scenario: str, reason: str, api: KubernetesApi
) -> None:
    first = deploy(FIRST)
    before = {
        key: version
        for key, version in api.versions().items()
        if first.revision in key[1] or key[1] == "churn"
    }
    api.scenario = scenario
    with pytest.raises(
        ValueError, match=rf"revision r\w+ of endpoint 'churn' is not deployed: .*{reason}"
    ) as raised:
        deploy(SECOND, timeout_seconds=0.3)
    assert f"{first.revision} serves as before" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert api.versions() == before
    assert selected(api) == first.revision


def test_a_first_revision_that_does_not_come_up_leaves_nothing(api: KubernetesApi) -> None:
    api.scenario = "crash"
    with pytest.raises(ValueError, match="CrashLoopBackOff"):
        deploy(FIRST, max_replicas=4)
    assert api.versions() == {}


def test_traffic_stays_as_it_was_if_it_cannot_be_split(api: KubernetesApi) -> None:
    def around() -> dict[tuple[str, str], Any]:
        return {key: thing["spec"] for key, thing in api.objects.items() if key[1] in ("churn", "public")}

    api.put("gateways", GATEWAY)
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    first = deploy(FIRST)
    before = around()
    api.denied.add(("patch", "httproutes"))
    with pytest.raises(
        ValueError, match=f"no permission to PATCH .*httproutes/churn.*; {first.revision} serves as"
    ):
        deploy(SECOND, gateway="public")
    assert around() == before
    assert api.names("deployments") == [f"churn-{first.revision}"]
    api.denied.clear()
    assert kubernetes.shift(first, 100).traffic == first.traffic


def test_a_route_that_the_gateway_refuses_is_reported_and_taken_back(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put("gateways", GATEWAY)
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    first = deploy(FIRST)
    monkeypatch.setattr("flowparts.deploy.targets._fleet._ROUTE_SECONDS", 0.1)
    monkeypatch.setattr(KubernetesApi, "_httproutes", lambda *_: None)
    with pytest.raises(ValueError, match=f"public has not taken it yet; {first.revision} serves as before"):
        deploy(SECOND, gateway="public")
    assert api.names("httproutes") == []
    assert selected(api) == first.revision


def test_slow_pods_are_waited_for_with_progress(api: KubernetesApi, caplog: pytest.LogCaptureFixture) -> None:
    api.scenario = "slow"
    with caplog.at_level("INFO", "flowparts"):
        made = deploy(FIRST)
    assert pods(api, made) == {made.revision: 2}
    assert f"0 of 2 pods of {made.revision} are ready" in caplog.text


def test_a_retry_joins_the_rollout_that_is_under_way(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flowparts.deploy.common.wait", killed)
        with pytest.raises(KeyboardInterrupt):
            deploy(FIRST)
    (deployment,) = api.names("deployments")
    generation = api.get("deployments", deployment)["metadata"]["generation"]
    made = deploy(FIRST)
    assert api.names("deployments") == [deployment] == [f"churn-{made.revision}"]
    assert api.get("deployments", deployment)["metadata"]["generation"] == generation


def test_missing_permission_is_reported(api: KubernetesApi) -> None:
    api.denied.add(("patch", "deployments"))
    with pytest.raises(
        ValueError, match=r"no permission to PATCH .*/deployments/churn-.* give this step's service acc"
    ):
        deploy(FIRST)


def test_fields_of_another_manager_are_left_alone_and_reported(api: KubernetesApi) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "churn", "namespace": "team"},
        "spec": {
            "selector": {"app.kubernetes.io/name": "another"},
            "ports": [{"port": 80, "protocol": "TCP"}],
        },
    }
    api.put("services", theirs, "helm")
    with pytest.raises(
        ValueError, match=r'from another manager; .* conflict with "helm" using v1: \.spec\.selector'
    ):
        deploy(FIRST)
    assert api.get("services", "churn")["spec"] == theirs["spec"]


def test_a_cluster_without_the_kind_is_reported(api: KubernetesApi) -> None:
    api.unknown.add("autoscaling/v2")
    with pytest.raises(ValueError, match="the cluster knows no HorizontalPodAutoscaler of autoscaling/v2"):
        deploy(FIRST, max_replicas=4)


def test_missing_permissions_for_diagnostics_never_fail_a_deployment(
    api: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.denied.add(("list", "events"))
    api.scenario = "slow"
    made = deploy(FIRST)
    assert selected(api) == made.revision
    assert caplog.text.count("events can't be read: no permission to GET") == 1


def test_crashes_of_a_revisions_pods_are_counted(api: KubernetesApi) -> None:
    made = deploy(FIRST)
    assert sorted(kubernetes.crashes(made, made.revision).values()) == [0, 0]
    api.born_as[f"churn-{made.revision}"] = "crash"
    api.step()
    # Restarted three times, and down now.
    assert sorted(kubernetes.crashes(made, made.revision).values()) == [4, 4]


def test_an_unreachable_api_is_reported(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    file = tmp_path / "elsewhere"
    file.write_text((tmp_path / "kubeconfig").read_text().replace(api.url, "http://127.0.0.1:9"))
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(ValueError, match=r"the Kubernetes API at http://127.0.0.1:9 can't be reached"):
        deploy(FIRST)


def test_a_missing_configuration_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no Kubernetes cluster is configured"):
        deploy(FIRST)


def test_expired_credentials_are_reported(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(file.read_text().replace("token-of", "old-token-of"))
    with pytest.raises(ValueError, match="doesn't accept this step's credentials"):
        deploy(FIRST)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a folder of this machine": ({"model": "/models/churn"}, "can't fetch the model from '/models/churn'"),
    "an image without a version": ({"image": "flowparts-serving"}, "fixed tag or a digest"),
    "the newest image": ({"image": "flowparts-serving:latest"}, "fixed tag or a digest"),
    "too small a maximum": ({"max_replicas": 1}, "max_replicas must be 0 or at least the 2 replicas"),
    "too much": ({"percent": 101}, "percent"),
    "a secret itself": (
        {"environment_from": "AWS_SECRET=x"},
        "environment_from must be the name of an object",
    ),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_reported_before_anything_is_done(
    options: dict[str, Any], words: str, api: KubernetesApi
) -> None:
    with pytest.raises(ValueError, match=words):
        deploy(options.pop("model", FIRST), **options)
    assert api.requests == []


def test_a_removed_endpoint_is_reported(api: KubernetesApi) -> None:
    made = deploy(FIRST)
    api.delete("deployments", f"churn-{made.revision}")
    with pytest.raises(
        ValueError, match=f"revision {made.revision} of endpoint 'churn' is gone from namespace team"
    ):
        kubernetes.shift(replace(made), 100)


def test_requests_reach_the_server_through_its_service(
    api: KubernetesApi, server: Server, records: list[dict[str, Any]], expected: list[Any]
) -> None:
    first = deploy(FIRST)
    made = deploy(SECOND, percent=50)
    asked: list[str] = []
    api.backend = lambda service: asked.append(service) or server.url  # type: ignore[func-returns-value]
    for revision in ("", made.revision, first.revision):
        assert [row["prediction"] for row in kubernetes.predict(made, records, revision)] == expected
    assert asked == ["churn", f"churn-{made.revision}", f"churn-{first.revision}"]


def answering(api: KubernetesApi) -> set[str]:
    """Return the revisions whose pods the Service sends requests to."""
    wanted = api.get("services", "churn")["spec"]["selector"].items()
    labels = [
        thing["metadata"]["labels"]
        for (kind, _), thing in api.objects.items()
        if kind == "pods" and wanted <= thing["metadata"]["labels"].items()
    ]
    return {each["flowparts/revision"] for each in labels}


def test_a_third_revision_gets_no_request_before_it_is_found_good(api: KubernetesApi) -> None:
    first = deploy(FIRST)
    second = deploy(SECOND, percent=50)
    assert answering(api) == {first.revision, second.revision}
    api.digest = "e" * 16
    seen: list[set[str]] = []
    look_up = cluster.Cluster.ask_service

    def asked(*arguments: Any) -> Any:
        api.step()
        seen.append(answering(api))
        return look_up(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster.Cluster, "ask_service", asked)
        with pytest.raises(ValueError, match=r"have the model e{16}, not f{16}"):
            deploy(THIRD, percent=50, digest="f" * 16)
    assert seen == [{first.revision}]
    # As before, and without what was tried.
    api.step()
    assert answering(api) == {first.revision, second.revision}


def test_leftovers_of_a_killed_step_get_no_requests(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    first = deploy(FIRST)
    second = deploy(SECOND, percent=50)
    with monkeypatch.context() as patch:
        patch.setattr("flowparts.deploy.cluster.Cluster.ask_service", killed)
        with pytest.raises(KeyboardInterrupt):
            deploy(THIRD, percent=50)
    api.step()
    assert answering(api) == {first.revision}
    (live,) = kubernetes.endpoints()
    assert live.traffic == {second.revision: 0, first.revision: 100}
    kubernetes.shift(live, 50)
    api.step()
    assert answering(api) == {first.revision, second.revision}


def test_a_service_is_asked_directly_from_within_the_cluster(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, asked = cluster.Cluster("team"), []

    def fetched(url: str, body: Any, headers: Any) -> Any:
        asked.append((url, body, headers))
        return {"predictions": [{"prediction": 1.0}]}

    monkeypatch.setattr(cluster, "in_cluster", lambda: True)
    monkeypatch.setattr(cluster, "fetch", fetched)
    assert there.predict("churn", "predict", [{"age": 40}]) == [{"prediction": 1.0}]
    assert asked == [("http://churn.team.svc/predict", {"instances": [{"age": 40}]}, None)]
