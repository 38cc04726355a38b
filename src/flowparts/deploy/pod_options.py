"""Additions of a platform team to a model's pods: scheduling, labels, pull secrets.

They form the option `pods` of the cluster targets:

    {
      "image_pull_secrets": ["registry"], "node_selector": {"pool": "models"}, "tolerations": [{"key":
      "models", "operator": "Exists", "effect": "NoSchedule"}], "priority_class": "serving", "labels":
      {"team": "growth"}, "annotations": {"example.com/owner": "growth"}
    }
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from flowparts.util.names import unknown


@dataclass(frozen=True)
class PodOptions:
    """Fields of pods that don't change the served model.

    Attributes:
        image_pull_secrets: Names of Secrets for pulling images.
        node_selector: Required labels of nodes.
        tolerations: Tolerations in Kubernetes' form.
        priority_class: Name of the PriorityClass.
        labels: Extra labels; the endpoint's labels take precedence.
        annotations: Extra annotations.

    Raises:
        ValueError: A value has another type.
    """

    image_pull_secrets: list[str] = field(default_factory=list)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    priority_class: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in {
            "image_pull_secrets": "a list of names",
            "node_selector": "texts by name",
            "tolerations": "a list of objects",
            "priority_class": "a name",
            "labels": "texts by name",
            "annotations": "texts by name",
        }.items():
            value = getattr(self, name)
            if not _fits(value, kind):
                raise ValueError(f"{name} of the option 'pods' must be {kind}, not {value!r}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "PodOptions":
        """Return the options of a mapping.

        Raises:
            ValueError: A name is unknown, or a value has another type.
        """
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(unknown("field of the option 'pods'", name, known))
        return cls(**given)

    def spec(self) -> dict[str, Any]:
        """Return the fields for a pod's specification."""
        parts = {
            "imagePullSecrets": [{"name": name} for name in self.image_pull_secrets],
            "nodeSelector": self.node_selector,
            "tolerations": self.tolerations,
            "priorityClassName": self.priority_class,
        }
        return {name: value for name, value in parts.items() if value}

    def metadata(self) -> dict[str, dict[str, str]]:
        """Return the fields for a pod's metadata."""
        parts = {"labels": self.labels, "annotations": self.annotations}
        return {name: value for name, value in parts.items() if value}


def _fits(value: Any, kind: str) -> bool:
    if kind == "a name":
        return isinstance(value, str)
    if kind == "texts by name":
        return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    entry = dict if kind == "a list of objects" else str
    return isinstance(value, list) and all(isinstance(each, entry) for each in value)
