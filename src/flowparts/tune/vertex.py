"""Trials as custom jobs of Vertex AI, suggested by its tuner: a HyperparameterTuningJob, by Google's client.

The tuner supports conditional parameters, so parameters that don't apply aren't drawn.
https://cloud.google.com/vertex-ai/docs/reference/rest/v1/StudySpec
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flowparts.deploy import common, vertex_api
from flowparts.tune import flat_space
from flowparts.tune.flat_space import Parameter
from flowparts.tune.remote import Attempt, Search, most_failures, patient, require_seconds
from flowparts.tune.space import Space

_MANAGED = {"managed-by": "flowparts"}
# To provision a machine and pull the image, for each trial; and overhead of a search.
_PROVISION_SECONDS, _START_SECONDS = 900.0, 1800.0

_log = logging.getLogger("flowparts")


@dataclass(frozen=True, kw_only=True)
class Vertex:
    """Vertex AI's hyperparameter tuning.

    Attributes:
        trial_seconds: Time limit of a trial in seconds, from when its machine runs.
        machine_type: Type of the trials' machines.
        image: Image of the trials in Artifact Registry; if not given, flowparts-sklearn of this release.
        service_account: Account that the trials run as; if not given, Vertex AI's own.
        project: Google Cloud project; if not given, that of the environment.
        location: Region; if not given, GOOGLE_CLOUD_LOCATION or CLOUD_ML_REGION.

    Raises:
        ValueError: A value can't be used, or isn't allowed by the step's environment.
    """

    schemes: ClassVar[tuple[str, ...]] = ("gs",)

    trial_seconds: int = 900
    machine_type: str = "n1-standard-4"
    image: str = ""
    service_account: str = ""
    project: str = ""
    location: str = ""

    def __post_init__(self) -> None:
        require_seconds(self.trial_seconds)
        common.require_allowed("service_account", self.service_account)
        common.image("sklearn", self.image)

    def search(self, search: Search) -> list[Attempt]:
        """Start the tuning job, or find that of an earlier attempt, and follow it to its end.

        Raises:
            UnreachableError: Vertex AI doesn't answer; the job continues.
            ValueError: Vertex AI refuses the job, or runs none of its trials.
        """
        with vertex_api.refusals():
            parent, jobs = self._place()
            if found := self._job(search):
                _log.info("following %s of an earlier attempt", found.name)
            else:
                job = self.job(search)
                found = vertex_api.call(
                    jobs.create_hyperparameter_tuning_job,
                    writes=True,
                    parent=parent,
                    hyperparameter_tuning_job=job,
                )
            name = found.name

            def look() -> str:
                nonlocal found
                with vertex_api.refusals():
                    found = vertex_api.call(jobs.get_hyperparameter_tuning_job, name=name)
                is_over = found.state.name in _ENDS
                ended = sum(each.state.name in _ENDED for each in found.trials)
                return "" if is_over else f"{ended} of {found.max_trial_count} trials have ended"

            common.wait(f"tuning job {search.name}", patient(look), self._limit(search))
        trials = [each for each in found.trials if each.state.name in _ENDED]
        if not trials:
            said = vertex_api.line(found.error.message) or found.state.name
            raise ValueError(f"Vertex AI ran no trial of {search.name}: {said}")
        return [_attempt(each) for each in sorted(trials, key=lambda each: int(each.id))]

    def remove(self, search: Search) -> None:
        """Delete the tuning job if it has ended, else cancel it."""
        with vertex_api.refusals():
            if found := self._job(search):
                _, jobs = self._place()
                verb = "delete" if found.state.name in _ENDS else "cancel"
                vertex_api.call(getattr(jobs, f"{verb}_hyperparameter_tuning_job"), name=found.name)

    def job(self, search: Search) -> dict[str, Any]:
        """Return the tuning job of a search."""
        budget = search.settings.budget
        container = {
            "image_uri": common.image("sklearn", self.image),
            # Vertex AI adds --NAME=VALUE for each parameter.
            "command": ["python3", "-m", "flowparts.tune.trial"],
            "args": [search.folder],
        }
        machines = {"machine_type": self.machine_type}
        return {
            "display_name": search.name,
            "labels": _MANAGED,
            "study_spec": {
                "metrics": [
                    {"metric_id": search.metric, "goal": "MAXIMIZE" if search.maximizes else "MINIMIZE"}
                ],
                "parameters": parameters(search.settings.spaces),
            },
            "max_trial_count": budget.trials,
            "parallel_trial_count": budget.parallel,
            "max_failed_trial_count": most_failures(budget.trials),
            "trial_job_spec": {
                "worker_pool_specs": [
                    {"machine_spec": machines, "replica_count": 1, "container_spec": container}
                ],
                "scheduling": {"timeout": f"{self.trial_seconds}s"},
                "service_account": self.service_account,
            },
        }

    def _place(self) -> tuple[str, Any]:
        host, project, location = vertex_api.located(self.project, self.location)
        return f"projects/{project}/locations/{location}", vertex_api.clients(host).get("JobServiceClient")

    def _job(self, search: Search) -> Any:
        """Return the job of a search, unless it was cancelled or has failed as a whole."""
        parent, jobs = self._place()
        request = {"parent": parent, "filter": f'display_name="{search.name}"'}
        found = vertex_api.call(jobs.list_hyperparameter_tuning_jobs, request=request)
        return next((each for each in found if each.state.name not in _LOST), None)

    def _limit(self, search: Search) -> float:
        """Return the time limit of a search in seconds."""
        budget = search.settings.budget
        rounds = math.ceil(budget.trials / budget.parallel)
        return _START_SECONDS + rounds * (self.trial_seconds + _PROVISION_SECONDS)


_ENDED = ("SUCCEEDED", "INFEASIBLE")
_LOST = ("JOB_STATE_CANCELLING", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")
_ENDS = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_PARTIALLY_SUCCEEDED", *_LOST)


def parameters(spaces: Sequence[Space]) -> list[dict[str, Any]]:
    """Return spaces in Vertex AI's form: parameters nested under the values that they depend on."""
    flat = flat_space.flat(spaces)
    specs = {each.name: _spec(each) for each in flat}
    by_place = {(each.space, each.dimension.name): each for each in flat if each.dimension}
    roots = []
    for each in flat:
        parent = _parent(each, spaces, flat, by_place)
        if parent is None:
            roots.append(specs[each.name])
            continue
        above, values = parent
        below = {"parameter_spec": specs[each.name], "parent_categorical_values": {"values": values}}
        specs[above].setdefault("conditional_parameter_specs", []).append(below)
    return roots


def _parent(
    each: Parameter,
    spaces: Sequence[Space],
    flat: Sequence[Parameter],
    by_place: dict[tuple[int, str], Parameter],
) -> tuple[str, list[str]] | None:
    """Return the parameter that one depends on, and its values; only the first of several conditions."""
    if each.dimension is None:
        return None
    for name, values in each.dimension.when.items():
        above = by_place.get((each.space, name))
        if above and above.dimension:
            places = [above.dimension.choices.index(value) for value in values]
            return above.name, [above.values[place] for place in places]
    return (flat_space.ESTIMATOR, [flat[0].values[each.space]]) if len(spaces) > 1 else None


def _spec(parameter: Parameter) -> dict[str, Any]:
    dimension = parameter.dimension
    if dimension is None or parameter.values:
        return {
            "parameter_id": parameter.name,
            "categorical_value_spec": {"values": list(parameter.values)},
        }
    kind = "integer_value_spec" if dimension.kind == "int" else "double_value_spec"
    return {
        "parameter_id": parameter.name,
        kind: {"min_value": dimension.low, "max_value": dimension.high},
        "scale_type": "UNIT_LOG_SCALE" if dimension.log else "UNIT_LINEAR_SCALE",
    }


def _attempt(trial: Any) -> Attempt:
    assigned = {each.parameter_id: str(each.value) for each in trial.parameters}
    problem = "" if trial.state.name == "SUCCEEDED" else vertex_api.line(trial.infeasible_reason)
    return Attempt(f"trial-{trial.id}", assigned, problem)
