"""Trials as Jobs of a Kubernetes cluster, suggested by Katib: one Experiment, by the plain Kubernetes API.

Katib has no time limit: a trial whose pod can't run, or an Experiment that it accepts but can't process,
hangs forever. So every Job has a deadline, and so has the search, and the reasons why pods don't run are
recorded while the pods exist. Katib's algorithm is TPE (hyperopt), seeded.
"""

import logging
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flowparts.deploy import common
from flowparts.deploy.cluster import ChangedError, Cluster, Manifest, condition
from flowparts.deploy.model_pod import LOCKED_DOWN, OUTSIDE_MESH, check_image
from flowparts.deploy.pod_options import PodOptions
from flowparts.tune import flat_space, trial
from flowparts.tune.flat_space import Parameter
from flowparts.tune.remote import Attempt, Search, most_failures, patient, require_seconds

_EXPERIMENT = ("kubeflow.org/v1beta1", "Experiment")
_SUGGESTION = ("kubeflow.org/v1beta1", "Suggestion")
_TRIAL = ("kubeflow.org/v1beta1", "Trial")
_OF_EXPERIMENT, _OF_TRIAL = "katib.kubeflow.org/experiment", "katib.kubeflow.org/trial"
_OF_SUGGESTION = "katib.kubeflow.org/suggestion"
_CONTAINER = "trial"
_ENDS = ("Succeeded", "Failed", "MetricsUnavailable", "Killed", "EarlyStopped")
_STAY_SECONDS = 8
# The first trial takes 15 s on an idle cluster that has the suggestion service's image.
_START_SECONDS = 600.0
# Overhead of Katib and the cluster for each trial.
_BETWEEN_SECONDS = 60.0
# Numbers only: Katib's default filter accepts "nan" as a result, which wins.
_NUMBER = r"([+-]?\d+(?:\.\d+)?(?:[Ee][+-]?\d+)?)"
_LOGGED = re.compile(r"^Error in pod .*?last log line: (?:[IWEF]\d{4} \S+ +\d+ \S+\] )?(.+)$")

_log = logging.getLogger("flowparts")


@dataclass(frozen=True, kw_only=True)
class Katib:
    """Katib on a cluster.

    Attributes:
        trial_seconds: Time limit of a trial in seconds, including the wait for a node and its image.
        cpu: Processors of a trial, such as "2" or "500m".
        memory: Memory of a trial, such as "2Gi".
        namespace: Where trials run; if not given, the step's own namespace.
        image: Image of the trials; if not given, flowparts-sklearn of this release.
        environment_from: A Secret whose keys become the environment of the trials, such as AWS_ACCESS_KEY_ID
            and AWS_SECRET_ACCESS_KEY of the store.
        service_account: Account that the trials run as, for clouds that tie access rights to it.
        pods: Additions to the pods, as for `flowparts.deploy.pod_options`.

    Raises:
        ValueError: A value is invalid, or not allowed by the step's environment.
    """

    schemes: ClassVar[tuple[str, ...]] = ("s3", "gs")

    trial_seconds: int = 900
    cpu: str = "1"
    memory: str = "2Gi"
    namespace: str = ""
    image: str = ""
    environment_from: str = ""
    service_account: str = ""
    pods: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_seconds(self.trial_seconds)
        common.cpus(self.cpu)
        common.memory_bytes(self.memory)
        for option in ("environment_from", "service_account"):
            common.require_allowed(option, getattr(self, option))
        PodOptions.of(self.pods)
        check_image(common.image("sklearn", self.image))

    def search(self, search: Search) -> list[Attempt]:
        """Create the Experiment, or find that of an earlier attempt, and follow it to its end.

        Raises:
            UnreachableError: The API doesn't answer; the Experiment continues.
            ValueError: The cluster has no Katib, refuses the Experiment, or runs none of its trials.
        """
        cluster = Cluster(self.namespace)
        if not cluster.serves(*_EXPERIMENT):
            raise ValueError(
                f"the cluster has no Katib ({' '.join(reversed(_EXPERIMENT))}); install it, or search in the "
                "step itself with tune_model"
            )
        try:
            cluster.create(self.experiment(search, cluster))
        except ChangedError:
            _log.info("following Experiment %s of an earlier attempt", search.name)
        return _Following(cluster, search, self._limit(search)).to_the_end()

    def remove(self, search: Search) -> None:
        """Delete the Experiment, and with it its trials."""
        cluster = Cluster(self.namespace)
        if cluster.serves(*_EXPERIMENT):
            cluster.delete(*_EXPERIMENT, search.name)

    def experiment(self, search: Search, cluster: Cluster) -> Manifest:
        """Return the Experiment of a search."""
        budget = search.settings.budget
        parameters = flat_space.flat(search.settings.spaces)
        return {
            "apiVersion": _EXPERIMENT[0],
            "kind": _EXPERIMENT[1],
            "metadata": {
                "name": search.name,
                "namespace": cluster.namespace,
                "labels": Cluster.labels(search.name),
                **_owner(cluster),
            },
            "spec": {
                "objective": {
                    "type": "maximize" if search.maximizes else "minimize",
                    "objectiveMetricName": search.metric,
                },
                "algorithm": {
                    "algorithmName": "tpe",
                    "algorithmSettings": [
                        {"name": "random_state", "value": str(search.settings.options.seed)}
                    ],
                },
                "metricsCollectorSpec": {
                    "collector": {"kind": "StdOut"},
                    "source": {"filter": {"metricsFormat": [rf"\b({search.metric})={_NUMBER}\b"]}},
                },
                "maxTrialCount": budget.trials,
                "parallelTrialCount": budget.parallel,
                "maxFailedTrialCount": most_failures(budget.trials),
                "resumePolicy": "Never",
                "parameters": [_parameter(each) for each in parameters],
                "trialTemplate": self._template(search, parameters),
            },
        }

    def _template(self, search: Search, parameters: list[Parameter]) -> dict[str, Any]:
        return {
            # Otherwise pods and their logs are deleted before anyone can read them.
            "retain": True,
            "primaryContainerName": _CONTAINER,
            "trialParameters": [{"name": each.name, "reference": each.name} for each in parameters],
            "trialSpec": {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "spec": {
                    "backoffLimit": 0,
                    "activeDeadlineSeconds": self.trial_seconds,
                    "template": self._pod(search, parameters),
                },
            },
        }

    def _pod(self, search: Search, parameters: list[Parameter]) -> dict[str, Any]:
        options = PodOptions.of(self.pods)
        metadata = options.metadata()
        annotations = {**metadata.get("annotations", {}), **OUTSIDE_MESH}
        amounts = {"cpu": self.cpu, "memory": self.memory}
        values = " ".join(f"--{each.name}=${{trialParameters.{each.name}}}" for each in parameters)
        environment = {
            "STUDY": search.folder,
            "PARAMETERS": values,
            trial.STAY_SECONDS: str(_STAY_SECONDS),
        }
        container = {
            "name": _CONTAINER,
            "image": common.image("sklearn", self.image),
            # Katib joins this into a shell command without quoting; values have no blanks.
            "command": ["sh", "-c", 'python3 -m flowparts.tune.trial "$STUDY" $PARAMETERS'],
            "env": [{"name": name, "value": value} for name, value in environment.items()],
            "resources": {"requests": amounts, "limits": amounts},
            # Not for the whole pod: the container that Katib adds may run as root.
            "securityContext": LOCKED_DOWN,
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 in the pod
        }
        if self.environment_from:
            container["envFrom"] = [{"secretRef": {"name": self.environment_from}}]
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [container],
            **options.spec(),
        }
        if self.service_account:
            spec["serviceAccountName"] = self.service_account
        return {"metadata": {**metadata, "annotations": annotations}, "spec": spec}

    def _limit(self, search: Search) -> float:
        """Return the time limit of a search in seconds."""
        budget = search.settings.budget
        return _START_SECONDS + math.ceil(budget.trials / budget.parallel) * (
            self.trial_seconds + _BETWEEN_SECONDS
        )


class _Following:
    """An Experiment that is followed to its end."""

    def __init__(self, cluster: Cluster, search: Search, seconds: float):
        self._cluster, self._search, self._seconds = cluster, search, seconds
        self._began = time.monotonic()
        # Why trials' pods don't run; the pods may be deleted later.
        self._noted: dict[str, str] = {}

    def to_the_end(self) -> list[Attempt]:
        name = self._search.name
        common.wait(f"Experiment {name}", patient(self._look), self._seconds)
        found = self._experiment()
        # Trials that still run after too many failures are ignored.
        trials = [each for each in self._trials() if _has_ended(each)]
        if not trials:
            raise ValueError(f"Katib ran no trial of Experiment {name}: {self._why_none(found)}")
        return [self._attempt(each) for each in trials]

    def _look(self) -> str:
        found, trials = self._experiment(), self._trials()
        if any(_has(found, state) for state in ("Succeeded", "Failed")):
            return ""
        if not trials and time.monotonic() - self._began > _START_SECONDS:
            raise ValueError(
                f"Katib began no trial of Experiment {self._search.name} within {_START_SECONDS:g} s: "
                f"{self._why_none(found)}"
            )
        ended = [each for each in trials if _has_ended(each)]
        waiting = [self._trouble(each) for each in trials if each not in ended]
        if waiting and all(is_hopeless for _, is_hopeless in waiting) and not ended:
            raise ValueError(f"the trials of Experiment {self._search.name} can't run: {waiting[0][0]}")
        troubles = sorted({said for said, _ in waiting if said})
        return f"{len(ended)} of {self._search.settings.budget.trials} trials have ended" + "".join(
            f"; {said}" for said in troubles
        )

    def _experiment(self) -> Manifest:
        found = self._cluster.get(*_EXPERIMENT, self._search.name)
        if found is None:
            raise ValueError(f"Experiment {self._search.name} was deleted while its trials ran")
        return found

    def _trials(self) -> list[Manifest]:
        found = self._cluster.find(*_TRIAL, {_OF_EXPERIMENT: self._search.name})
        return sorted(
            found, key=lambda each: (each["metadata"]["creationTimestamp"], each["metadata"]["name"])
        )

    def _trouble(self, found: Manifest) -> tuple[str, bool]:
        """Return why a trial's pod doesn't run, without its name, and whether waiting can't help."""
        name = found["metadata"]["name"]
        said, is_hopeless = self._cluster.diagnose({_OF_TRIAL: name}, name)
        if logged := _LOGGED.match(said):
            said = logged[1]
        # Without names, so that equal causes are counted together.
        said = re.sub(rf"(,| in)? pod {name}[a-z0-9-]*", "", said)
        if said:
            self._noted[name] = said
        return said, is_hopeless

    def _attempt(self, found: Manifest) -> Attempt:
        assigned = {each["name"]: each["value"] for each in found["spec"]["parameterAssignments"]}
        name, problem = found["metadata"]["name"], ""
        if not _has(found, "Succeeded"):
            said, _ = self._trouble(found)
            state = condition(found, "Failed") or condition(found, "MetricsUnavailable")
            problem = said or self._noted.get(name, "") or state.get("message", "")
            if "DeadlineExceeded" in state.get("reason", ""):
                problem = f"it took longer than trial_seconds ({problem})"
        return Attempt(name, assigned, problem)

    def _why_none(self, experiment: Manifest) -> str:
        """Return why there is no trial, from the Suggestion, its pod or the events."""
        name = self._search.name
        suggestion = self._cluster.get(*_SUGGESTION, name) or {}
        said = condition(suggestion, "Failed").get("message")
        algorithm = experiment["spec"]["algorithm"]["algorithmName"]
        trouble, _ = self._cluster.diagnose({_OF_SUGGESTION: name}, name, f"{name}-{algorithm}")
        state = condition(experiment, "Failed").get("message")
        return said or trouble or state or "is its controller running?"


def _has(thing: Manifest, state: str) -> bool:
    return condition(thing, state).get("status") == "True"


def _has_ended(trial: Manifest) -> bool:
    return any(_has(trial, state) for state in _ENDS)


def _parameter(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter in Katib's form, with bounds as text."""
    dimension = parameter.dimension
    if dimension is None or parameter.values:
        return {
            "name": parameter.name,
            "parameterType": "categorical",
            "feasibleSpace": {"list": list(parameter.values)},
        }
    return {
        "name": parameter.name,
        "parameterType": "int" if dimension.kind == "int" else "double",
        "feasibleSpace": {
            "min": repr(dimension.low),
            "max": repr(dimension.high),
            "distribution": "logUniform" if dimension.log else "uniform",
        },
    }


def _owner(cluster: Cluster) -> Mapping[str, Any]:
    """Return the owner reference by which an Experiment is deleted with the step's pod, if it can be."""
    name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
    if not (name and uid and cluster.namespace == cluster.pod_namespace):
        return {}
    return {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]}
