"""Prometheus watches the endpoints of all cluster targets in the same way: one set of tests for each of them.

What the Prometheus operator would make of a monitor is worked out here from the objects that it selects.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowparts import deploy
from flowparts.deploy import operations
from flowparts.deploy.cluster import Cluster
from flowparts.deploy.endpoint import Endpoint
from tests.flowparts.deploy.kubernetes_api import KubernetesApi, Object

FIRST, SECOND = "s3://models/churn/1", "s3://models/churn/2"
OPTIONS = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 5.0}
RELEASE = {"monitor_labels": {"release": "kube-prometheus-stack"}}
# Target, plural and name of the monitor of an endpoint called churn, its port.
TARGETS = {
    "kubernetes": ("kubernetes", "servicemonitors", "churn", "http"),
    "TensorFlow Serving": ("tf_serving", "servicemonitors", "churn", "http"),
    "KServe with Knative": ("kserve", "podmonitors", "churn-kserve", "user-port"),
    "KServe in Standard mode": ("kserve", "podmonitors", "churn-kserve", "http"),
    "Seldon": ("seldon", "podmonitors", "churn-seldon", "server-http"),
}

KINDS = {"servicemonitors": "ServiceMonitor", "podmonitors": "PodMonitor"}


@dataclass
class Watched:
    """An endpoint's target, and its monitor."""

    api: KubernetesApi
    target: str
    plural: str
    name: str
    port: str

    def bring(self, model: str, **options: Any) -> Endpoint:
        return deploy.target(self.target).deploy(model, "churn", **{**OPTIONS, **options})

    def remove(self) -> list[str]:
        return operations.remove(self.target, "churn", {}, even_if_serving=True)

    def monitor(self) -> Object | None:
        return self.api.objects.get((self.plural, self.name))

    def written(self) -> dict[tuple[str, str], tuple[Any, Any]]:
        """Return what the objects of the cluster are asked to be."""
        return {
            key: (thing.get("spec"), thing["metadata"].get("labels"))
            for key, thing in self.api.objects.items()
            if key[0] not in ("pods", "events", "leases")
        }


@pytest.fixture(params=TARGETS)
def watched(request: pytest.FixtureRequest, api: KubernetesApi) -> Watched:
    if request.param == "KServe in Standard mode":
        api.unknown.add("serving.knative.dev/v1")
    return Watched(api, *TARGETS[request.param])


def selected(thing: Object, selector: Object) -> bool:
    labels = thing["metadata"].get("labels", {})
    asked = [(label, "In", [value]) for label, value in selector.get("matchLabels", {}).items()]
    asked += [
        (one["key"], one["operator"], one.get("values")) for one in selector.get("matchExpressions", [])
    ]
    return all(
        label in labels and (kind == "Exists" or labels[label] in values) for label, kind, values in asked
    )


def series(api: KubernetesApi, monitor: Object) -> Iterator[tuple[str, str]]:
    """Give the job and the revision that the metrics of what a monitor selects would bear."""
    spec = monitor["spec"]
    if monitor["kind"] == "ServiceMonitor":
        assert spec["targetLabels"] == ["flowparts/revision"]
        for (plural, _), thing in api.objects.items():
            if plural == "services" and selected(thing, spec["selector"]):
                labels = thing["metadata"]["labels"]
                yield labels[spec["jobLabel"]], labels["flowparts/revision"]
        return
    (endpoint,) = spec["podMetricsEndpoints"]
    for (plural, _), thing in api.objects.items():
        if plural == "pods" and selected(thing, spec["selector"]):
            labels = {
                f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}": value
                for name, value in thing["metadata"]["labels"].items()
            }
            for rule in endpoint["relabelings"]:
                value = ";".join(labels.get(source, "") for source in rule.get("sourceLabels", []))
                if found := re.fullmatch(rule.get("regex", "(.*)"), value):
                    labels[rule["targetLabel"]] = rule.get("replacement", found[1])
            yield labels["job"], labels["flowparts_revision"]


def test_metrics_have_endpoint_and_revision_labels(watched: Watched) -> None:
    first = watched.bring(FIRST)
    canary = watched.bring(SECOND, percent=50)
    # Of another endpoint, whose name begins alike.
    deploy.target(watched.target).deploy(FIRST, "churn-too", **OPTIONS)
    for _ in range(3):
        watched.api.step()
    monitor = watched.monitor()
    assert monitor
    assert set(series(watched.api, monitor)) == {("churn", first.revision), ("churn", canary.revision)}
    (endpoint,) = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == watched.port
    path = "/monitoring/prometheus/metrics" if watched.target == "tf_serving" else "/metrics"
    assert endpoint["path"] == path


def test_the_port_is_one_of_the_pods(watched: Watched) -> None:
    made = watched.bring(FIRST)
    named = {
        port["name"]: port["containerPort"]
        for (plural, _), thing in watched.api.objects.items()
        if plural == "deployments"
        for container in thing["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
    }
    if watched.target == "seldon":  # the ServerConfig's port of the same number
        (server, *_) = watched.api.get("servers", f"churn-{made.revision}")["spec"]["podSpec"]["containers"]
        assert (server["name"], server["readinessProbe"]["httpGet"]["port"]) == ("mlserver", 9000)
    elif watched.port == "user-port":  # Knative's own name of the only port, which may have none other
        (server,) = watched.api.get("inferenceservices", "churn")["spec"]["predictor"]["containers"]
        assert server["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    else:
        assert named[watched.port] == (8501 if watched.target == "tf_serving" else 8080)


def test_without_the_option_there_is_only_a_monitor(watched: Watched) -> None:
    watched.bring(FIRST, **RELEASE)
    monitor = watched.monitor()
    assert monitor
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert monitor["metadata"]["labels"]["app.kubernetes.io/name"] == "churn"
    assert watched.api.names("prometheusrules") == []


def test_the_option_installs_the_rules_with_the_labels_that_prometheus_selects_by(watched: Watched) -> None:
    watched.bring(FIRST, monitoring=True, **RELEASE)
    rule, monitor = watched.api.get("prometheusrules", "flowparts"), watched.monitor()
    assert rule["spec"]["groups"] == yaml.safe_load(Path("monitoring/rules.yml").read_text())["groups"]
    assert monitor
    assert rule["metadata"]["labels"]["release"] == monitor["metadata"]["labels"]["release"]
    # Another endpoint's deployment doesn't take the labels by which Prometheus has found them.
    deploy.target(watched.target).deploy(FIRST, "other", **OPTIONS, monitoring=True)
    rule = watched.api.get("prometheusrules", "flowparts")
    assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_the_rules_are_removed_with_the_last_endpoint_that_uses_them(watched: Watched) -> None:
    other = deploy.target("kubernetes")
    watched.bring(FIRST, monitoring=True)
    other.deploy(FIRST, "other", **OPTIONS, monitoring=True)
    other.deploy(FIRST, "unasked", **OPTIONS)
    watched.remove()
    assert watched.monitor() is None
    assert watched.api.names("prometheusrules") == ["flowparts"]
    watched.bring(FIRST, monitoring=True)
    operations.remove("kubernetes", "other", {}, even_if_serving=True)
    assert watched.api.names("prometheusrules") == ["flowparts"]
    watched.bring(FIRST)
    assert watched.api.names("prometheusrules") == []
    assert watched.monitor()


@pytest.mark.parametrize("listed", ["servicemonitors", "podmonitors"])
def test_an_endpoint_deployed_while_another_is_removed_keeps_the_rules(
    listed: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.bring(FIRST, monitoring=True)
    find = Cluster.find

    def find_too_early(cluster: Cluster, version: str, kind: str, labels: Any) -> list[Object]:
        found = find(cluster, version, kind, labels)
        if f"{kind.lower()}s" == listed and not cluster.is_dry_run:
            monkeypatch.setattr(Cluster, "find", find)
            deploy.target("kubernetes").deploy(FIRST, "other", **OPTIONS, monitoring=True)
        return found

    monkeypatch.setattr(Cluster, "find", find_too_early)
    assert "PrometheusRule flowparts" not in watched.remove()
    assert watched.monitor() is None
    assert watched.api.get("servicemonitors", "other")
    assert watched.api.names("prometheusrules") == ["flowparts"]
    # They go with the other one; a repeated deployment changes nothing.
    before = watched.api.versions()
    deploy.target("kubernetes").deploy(FIRST, "other", **OPTIONS, monitoring=True)
    assert watched.api.versions() == before
    operations.remove("kubernetes", "other", {}, even_if_serving=True)
    assert watched.api.names("prometheusrules") == []


def test_an_endpoint_deployed_by_an_earlier_version_keeps_the_rules(watched: Watched) -> None:
    deploy.target("kubernetes").deploy(FIRST, "older", **OPTIONS, monitoring=True)
    # Earlier versions didn't note at a monitor whether its endpoint has the rules.
    key, label = ("servicemonitors", "older"), "flowparts/rules"
    del watched.api.objects[key]["metadata"]["labels"][label]
    del watched.api.owners[key]["flowparts"]["metadata", "labels", label]
    watched.bring(FIRST, monitoring=True)
    watched.remove()
    assert watched.api.names("prometheusrules") == ["flowparts"]
    operations.remove("kubernetes", "older", {}, even_if_serving=True)
    assert watched.api.names("prometheusrules") == []


@pytest.mark.parametrize(
    ("verb", "denied", "left"),
    [
        ("get", "monitors", "{kind} {name}"),
        ("delete", "monitors", "{kind} {name}"),
        ("get", "prometheusrules", "PrometheusRule flowparts"),
        ("list", "servicemonitors", "PrometheusRule flowparts"),
        ("list", "podmonitors", "PrometheusRule flowparts"),
        ("delete", "prometheusrules", "PrometheusRule flowparts"),
    ],
)
def test_without_monitoring_permissions_a_removal_warns_what_may_be_left(
    verb: str, denied: str, left: str, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.bring(FIRST, monitoring=True)
    watched.api.denied.add((verb, watched.plural if denied == "monitors" else denied))
    watched.remove()
    named = left.format(kind=KINDS[watched.plural], name=watched.name)
    (said,) = [record.getMessage() for record in caplog.records if "may be left" in record.getMessage()]
    assert said.startswith(
        f"{named} may be left in namespace team; delete it if no endpoint needs it: no perm"
    )
    monitoring = {"servicemonitors", "podmonitors", "prometheusrules"}
    assert {key[0] for key in watched.written()} <= monitoring | {"revisions"}


def test_a_removal_without_rules_lists_no_monitors(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.bring(FIRST)
    for plural in ("servicemonitors", "podmonitors"):
        watched.api.denied.add(("list", plural))
    watched.remove()
    assert watched.monitor() is None
    assert "may be left" not in caplog.text


def test_a_removal_tells_what_it_will_remove_and_leaves_nothing(watched: Watched) -> None:
    watched.bring(FIRST, monitoring=True)
    before = watched.written()
    told = operations.remove(watched.target, "churn", {}, dry_run=True)
    assert watched.written() == before
    assert {"PrometheusRule flowparts"} < set(told)
    watched.remove()
    assert not [key for key in watched.written() if key[0] != "revisions"]


def test_a_cluster_without_the_operator_is_refused_the_rules_and_gets_no_monitor(watched: Watched) -> None:
    watched.api.unknown.add("monitoring.coreos.com/v1")
    with pytest.raises(ValueError, match=r"knows no \w+Monitor of monitoring\.coreos\.com/v1; install the"):
        watched.bring(FIRST, monitoring=True)
    assert watched.written() == {}
    watched.bring(FIRST)
    assert watched.monitor() is None
    watched.remove()


@pytest.mark.parametrize("denied", ["prometheusrules", "monitors"])
def test_a_missing_permission_for_the_rules_changes_nothing(denied: str, watched: Watched) -> None:
    watched.bring(FIRST)
    before = watched.written()
    watched.api.denied.add(("patch", watched.plural if denied == "monitors" else denied))
    with pytest.raises(ValueError, match="no permission to PATCH"):
        watched.bring(SECOND, monitoring=True)
    assert watched.written() == before


def test_a_missing_permission_to_watch_does_not_keep_a_model_from_serving(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.api.denied.add(("patch", watched.plural))
    assert watched.bring(FIRST).percent == 100
    assert "Prometheus won't read the metrics of endpoint churn: no permission to PATCH" in caplog.text


def test_a_deployment_that_fails_leaves_monitor_and_rules_as_they_were(watched: Watched) -> None:
    watched.api.scenario = "crash"
    with pytest.raises(ValueError, match="last log line: model is damaged"):
        watched.bring(FIRST, monitoring=True, timeout_seconds=0.3)
    assert watched.monitor() is None
    assert watched.api.names("prometheusrules") == []
    watched.api.scenario = "ready"
    watched.bring(FIRST)
    before = watched.monitor()
    assert before
    kept = (before["spec"], before["metadata"]["labels"])
    watched.api.scenario = "crash"
    with pytest.raises(ValueError, match="is not deployed: "):
        watched.bring(SECOND, monitoring=True, timeout_seconds=0.3, **RELEASE)
    after = watched.monitor()
    assert after
    assert (after["spec"], after["metadata"]["labels"]) == kept
    assert watched.api.names("prometheusrules") == []


def test_a_foreign_monitor_is_left_unchanged(watched: Watched) -> None:
    kind = KINDS[watched.plural]
    endpoints = "endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"
    theirs = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": kind,
        "metadata": {"name": watched.name, "namespace": "team", "labels": {"team": "platform"}},
        "spec": {"selector": {"matchLabels": {"app": "theirs"}}, endpoints: [{"port": "metrics"}]},
    }
    watched.api.put(watched.plural, theirs, "helm")
    before = watched.written()
    with pytest.raises(ValueError, match="from another manager"):
        watched.bring(FIRST, monitoring=True)
    assert watched.written() == before
