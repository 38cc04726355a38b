"""Monitoring of endpoints by the Prometheus operator: a monitor with the scrape targets, and alerting rules.

See https://prometheus-operator.dev/docs/api-reference/api/ for the fields.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flowparts.deploy.cluster import Cluster, ForbiddenError, Manifest
from flowparts.deploy.common import dry_run
from flowparts.deploy.options import InCluster

SERVICES, PODS, RULE = "ServiceMonitor", "PodMonitor", "PrometheusRule"
# One for all endpoints of a namespace: its rules distinguish them by the label job.
RULE_NAME = "flowparts"
_API = "monitoring.coreos.com/v1"
# Label of a monitor: whether its endpoint has the rules, which are removed with the last one that has them.
# Monitors of earlier versions lack the label, whether or not their endpoints have the rules.
_HAS_RULES = "flowparts/rules"
# Annotation of the rules: the endpoint that began to use them last.
_LAST_USER = "flowparts/last-user"
_GROUPS = Path(__file__).parent / "rules.yml"

_log = logging.getLogger("flowparts")


def rule(labels: dict[str, str], namespace: str = "") -> Manifest:
    """Return the recording and alerting rules as a PrometheusRule."""
    metadata: dict[str, Any] = {"name": RULE_NAME, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": _API,
        "kind": RULE,
        "metadata": {**metadata, "labels": labels},
        "spec": {"groups": yaml.safe_load(_GROUPS.read_text(encoding="utf-8"))["groups"]},
    }


def by_services(selector: dict[str, Any], path: str, name_label: str, labels: list[str]) -> Manifest:
    """Return the specification of a ServiceMonitor.

    Args:
        selector: Selector of the Services.
        path: Path of the metrics at their port `http`.
        name_label: Label of the Services that becomes the label `job`, as in publish_metrics.
        labels: Labels of the Services to copy to all metrics.
    """
    return {
        "selector": selector,
        "endpoints": [{"port": "http", "path": path}],
        "jobLabel": name_label,
        "targetLabels": labels,
    }


def by_pods(
    endpoint: str, selector: dict[str, Any], port: str, revision_label: str, revision: str = "(.+)"
) -> Manifest:
    """Return the specification of a PodMonitor for this project's model server.

    Args:
        endpoint: The endpoint, which becomes the label `job`, as in publish_metrics.
        selector: Selector of the pods.
        port: Name of the server's port.
        revision_label: Label of the pods with the revision, which becomes the label `flowparts_revision`, as
            with a ServiceMonitor.
        revision: Regular expression for the whole of that label, whose group is the revision.
    """
    source = f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', revision_label)}"
    relabelings = [
        {"targetLabel": "job", "replacement": endpoint},
        {"sourceLabels": [source], "regex": revision, "targetLabel": "flowparts_revision"},
    ]
    return {
        "selector": selector,
        "podMetricsEndpoints": [{"port": port, "path": "/metrics", "relabelings": relabelings}],
    }


@dataclass
class Monitor:
    """The monitor of one endpoint, and its use of the namespace's rules.

    Attributes:
        cluster: The namespace.
        endpoint: The endpoint.
        kind: SERVICES or PODS.
        name: The monitor's name.
    """

    cluster: Cluster
    endpoint: str
    kind: str
    name: str
    _installed: bool = field(default=False, init=False)
    _before: Manifest | None = field(default=None, init=False)

    @property
    def is_possible(self) -> bool:
        """Whether the cluster has the Prometheus operator."""
        return self.cluster.serves(_API, self.kind)

    def install(self, chosen: InCluster, spec: Manifest) -> None:
        """Install monitor and rules before a deployment with the option monitoring.

        Raises:
            ValueError: The cluster has no Prometheus operator, or a permission is missing; nothing has
                changed then.
        """
        if not chosen.monitoring:
            return
        for kind in (self.kind, RULE):
            if not self.cluster.serves(_API, kind):
                raise ValueError(
                    f"the cluster knows no {kind} of {_API}; install the Prometheus operator, or leave out "
                    "the option monitoring"
                )
        self._before = self._found()
        monitor = self._apply(spec, chosen.monitor_labels, with_rules=True)
        self._installed = True
        try:
            self._apply_rules(chosen.monitor_labels, monitor)
        except ValueError:
            with suppress(ValueError):  # the first error names the cause
                self._restore()
            raise

    def finish(self, chosen: InCluster, spec: Manifest) -> None:
        """Install only the monitor after a deployment without the option monitoring.

        A cluster without the operator gets none. The model serves, so a missing permission is only a warning.
        """
        if chosen.monitoring:
            return
        try:
            if self.is_possible:
                before = self._found()
                self._apply(spec, chosen.monitor_labels, with_rules=False)
                if before and _has_rules(before) != "false":
                    self._remove_rules()
        except ValueError as error:
            _log.warning("Prometheus won't read the metrics of endpoint %s: %s", self.endpoint, error)

    def undo(self) -> None:
        """Undo `install`."""
        if not self._installed:
            return
        self._restore()
        if self._before is None or _has_rules(self._before) == "false":
            self._remove_rules()

    def remove(self) -> None:
        """Remove the monitor, and the rules if no other endpoint of the namespace uses them.

        The endpoint itself is gone by then, so a missing permission is only a warning, which names what may
        be left.
        """
        with self._tolerating_missing_permissions(self.kind, self.name):
            found = self._found() if self.is_possible else None
            if found:
                self.cluster.delete(_API, self.kind, self.name)
                if _has_rules(found) != "false":
                    self._remove_rules()

    def _restore(self) -> None:
        """Give the monitor its specification and labels of before `install`."""
        if self._before:
            metadata = self._before["metadata"]
            self._apply(self._before["spec"], metadata.get("labels", {}))
        else:
            self.cluster.delete(_API, self.kind, self.name)

    def _found(self) -> Manifest | None:
        return self.cluster.get(_API, self.kind, self.name)

    def _apply(self, spec: Manifest, labels: dict[str, str], *, with_rules: bool | None = None) -> Manifest:
        marked = {} if with_rules is None else {_HAS_RULES: str(with_rules).lower()}
        metadata = {
            "name": self.name,
            "namespace": self.cluster.namespace,
            "labels": {**labels, **marked, **self.cluster.labels(self.endpoint)},
        }
        return self.cluster.apply({"apiVersion": _API, "kind": self.kind, "metadata": metadata, "spec": spec})

    def _apply_rules(self, labels: dict[str, str], monitor: Manifest) -> None:
        # Existing labels, by which Prometheus found them so far, stay.
        found = self.cluster.get(_API, RULE, RULE_NAME) or {"metadata": {}}
        kept = found["metadata"].get("labels", {})
        manifest = rule({**kept, **labels, **self.cluster.managed()}, self.cluster.namespace)
        if dry_run() is None:
            # Another value for each new user gives the rules another resourceVersion, so an endpoint that
            # leaves doesn't delete them if it listed the monitors before this one was there.
            user = found["metadata"].get("annotations", {}).get(_LAST_USER)
            if not user or _has_rules(self._before) != "true":
                user = f"{self.name} {monitor['metadata']['resourceVersion']}"
            manifest["metadata"]["annotations"] = {_LAST_USER: user}
        self.cluster.apply(manifest)

    def _remove_rules(self) -> None:
        """Remove the rules unless the monitor of another endpoint has them, or may have them."""
        with self._tolerating_missing_permissions(RULE, RULE_NAME):
            found = self.cluster.get(_API, RULE, RULE_NAME)  # before the monitors are listed
            if not found:
                return
            for kind in (SERVICES, PODS):
                if not self.cluster.serves(_API, kind):
                    continue
                for monitor in self.cluster.find(_API, kind, self.cluster.managed()):
                    is_other = (kind, monitor["metadata"]["name"]) != (self.kind, self.name)
                    if is_other and _has_rules(monitor) != "false":
                        return
            self.cluster.delete(_API, RULE, RULE_NAME, found["metadata"]["resourceVersion"])

    @contextmanager
    def _tolerating_missing_permissions(self, kind: str, name: str) -> Iterator[None]:
        """Turn a missing permission into a warning about an object that may be left."""
        try:
            yield
        except ForbiddenError as error:
            if not self.cluster.is_dry_run:  # then the removal follows, and says it
                _log.warning(
                    "%s %s may be left in namespace %s; delete it if no endpoint needs it: %s",
                    *(kind, name, self.cluster.namespace, error),
                )


def _has_rules(monitor: Manifest | None) -> str:
    """Return what a monitor's label says; empty without one."""
    return str((monitor or {}).get("metadata", {}).get("labels", {}).get(_HAS_RULES, ""))
