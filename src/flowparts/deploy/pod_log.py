"""The prediction log of servers in pods: a folder of a PersistentVolumeClaim to which all of them write.

As one option `prediction_log`, in the names of `flowparts.deploy.log_options`:

    {"directory": "pvc://logs/churn", "keys": "order_id", "mask": ["email"], "secret": "log-key", "days": 30}

A pod's own disk ends with the pod, and a bucket would take keys, which the server doesn't have. The claim is
the namespace's: it must be there, and outlives the endpoint. Each server writes files of names of its own.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowparts.deploy import log_options
from flowparts.deploy.cluster import Cluster
from flowparts.deploy.log_options import OPTION, SECRET
from flowparts.deploy.model_pod import check_object
from flowparts.deploy.options import InCluster
from flowparts.util import trees

_FOLDER = "/mnt/log"
_VOLUME = "prediction-log"
_PLACE = re.compile(r"pvc://([^/]+)/(.+)")
_MANY, _ONE_NODE = "ReadWriteMany", "ReadWriteOnce"

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class PodLog:
    """Where and how pods write their prediction log.

    Attributes:
        claim: The PersistentVolumeClaim.
        folder: The folder in it, which is made if it isn't there; pods see nothing else of the volume.
        settings: Variables of the server, without the hashes' key.
        secret: The Secret with that key; empty if nothing is masked.
    """

    claim: str
    folder: str
    settings: Mapping[str, str]
    secret: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "PodLog | None":
        """Return what the option asks for; None if it is empty.

        Raises:
            ValueError: A name or value is wrong, or the step's environment doesn't allow it.
        """
        if not given:
            return None
        log_options.check_names(given, "secret")
        place = _PLACE.fullmatch(str(given.get("directory", "")).rstrip("/"))
        if not place:
            raise ValueError(
                f"directory of the option {OPTION!r} must be pvc://CLAIM/FOLDER on a cluster, a folder of a "
                f"PersistentVolumeClaim in the namespace, not {given.get('directory')!r}"
            )
        trees.inside(Path(_FOLDER), place[2])
        secret = str(given.get("secret", ""))
        if given.get("mask") and not secret:
            raise ValueError(
                f"mask of the option {OPTION!r} needs secret: the name of a Secret in the namespace, whose "
                f"key {SECRET} is the key of the hashes"
            )
        check_object(f"claim of {OPTION}", place[1])
        check_object(f"secret of {OPTION}", secret)
        return cls(place[1], place[2], log_options.settings(given, _FOLDER), secret)

    def require_claim(self, cluster: Cluster) -> None:
        """Raise ValueError unless the claim is there and several pods may write to it."""
        found = cluster.get("v1", "PersistentVolumeClaim", self.claim)
        if found is None:
            raise ValueError(
                f"namespace {cluster.namespace} has no PersistentVolumeClaim {self.claim!r} for the "
                f"prediction log; create one that is {_MANY}"
            )
        modes = found.get("status", {}).get("accessModes") or found["spec"]["accessModes"]
        if _MANY in modes:
            return
        if _ONE_NODE not in modes:
            raise ValueError(
                f"PersistentVolumeClaim {self.claim!r} is {', '.join(modes)}, so the pods can't all write "
                f"the prediction log to it; name one that is {_MANY}"
            )
        _log.warning(
            "PersistentVolumeClaim %s is %s: pods that write the prediction log can start on one node only; "
            "a claim that is %s has no such limit",
            self.claim,
            _ONE_NODE,
            _MANY,
        )

    def volume(self) -> dict[str, Any]:
        """Return the pod's volume."""
        return {"name": _VOLUME, "persistentVolumeClaim": {"claimName": self.claim}}

    def mount(self) -> dict[str, Any]:
        """Return where the server finds the folder."""
        return {"name": _VOLUME, "mountPath": _FOLDER, "subPath": self.folder}

    def variables(self) -> list[dict[str, Any]]:
        """Return the server's variables."""
        texts = [{"name": name, "value": text} for name, text in self.settings.items()]
        if not self.secret:
            return texts
        return [*texts, {"name": SECRET, "valueFrom": {"secretKeyRef": {"name": self.secret, "key": SECRET}}}]


@dataclass(frozen=True, kw_only=True)
class Logged(InCluster):
    """Targets on Kubernetes that run this project's model server.

    Attributes:
        prediction_log: The servers' prediction log, as this module says.
    """

    prediction_log: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        PodLog.of(self.prediction_log)
