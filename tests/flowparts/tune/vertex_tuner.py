"""What Vertex AI does with a hyperparameter tuning job, for its stand-in; trials are run in this process.

Bodies are read into the client library's own messages, as everywhere in the stand-in. A trial's arguments and
variables are those of the service, and its metric is read from the file of cloudml-hypertune.
"""

import contextlib
import io
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from google.cloud.aiplatform_v1 import types

from flowparts.tune import trial as trials
from tests.google_service import GoogleService, read, written
from tests.stand_in import Answer, Request

_JOBS = "/v1/(projects/[^/]+/locations/[^/]+)/hyperparameterTuningJobs"
_OVER = ("SUCCEEDED", "INFEASIBLE")


class VertexTuner(GoogleService):
    """Tuning jobs by their names.

    Attributes:
        jobs: By their paths.
        fares: "ready", "infeasible" (trials end without a result) or "quota" (the job fails).
        ran: The arguments of the trials that were run.
    """

    routes = (
        *GoogleService.routes,
        ("POST", _JOBS, "create_job"),
        ("GET", _JOBS, "list_jobs"),
        ("GET", f"{_JOBS}/([0-9]+)", "get_job"),
        ("DELETE", f"{_JOBS}/([0-9]+)", "delete_job"),
        ("POST", f"{_JOBS}/([0-9]+):cancel", "cancel_job"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Any] = {}
        self.fares = "ready"
        self.ran: list[list[str]] = []

    def create_job(self, request: Request, parent: str) -> Answer:
        job = read(types.HyperparameterTuningJob, request)
        if problem := _wrong(job):
            return self.error(400, problem)
        job.name = f"{parent}/hyperparameterTuningJobs/{len(self.jobs) + 1}"
        job.state = types.JobState.JOB_STATE_PENDING
        self.jobs[job.name] = job
        return written(job)

    def list_jobs(self, request: Request, parent: str) -> Answer:
        wanted = request.query["filter"].removeprefix('display_name="').removesuffix('"')
        found = [job for job in self.jobs.values() if job.display_name == wanted]
        return Answer({"hyperparameterTuningJobs": [json.loads(written(job).body) for job in found]})

    def get_job(self, request: Request, parent: str, number: str) -> Answer:
        job = self.jobs[f"{parent}/hyperparameterTuningJobs/{number}"]
        if job.state.name in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"):
            self._advance(job)
        return written(job)

    def delete_job(self, request: Request, parent: str, number: str) -> Answer:
        path = f"{parent}/hyperparameterTuningJobs/{number}"
        if self.jobs[path].state.name in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"):
            return self.error(400, "the job has not ended")
        del self.jobs[path]
        return Answer({"name": f"{path}/operations/1", "done": True})

    def cancel_job(self, request: Request, parent: str, number: str) -> Answer:
        self.jobs[f"{parent}/hyperparameterTuningJobs/{number}"].state = types.JobState.JOB_STATE_CANCELLED
        return Answer()

    def _advance(self, job: Any) -> None:
        if self.fares == "quota":
            job.state = types.JobState.JOB_STATE_FAILED
            job.error.message = (
                "The following quotas are exceeded: CustomModelTrainingCPUsPerProjectPerRegion"
            )
            return
        job.state = types.JobState.JOB_STATE_RUNNING
        for trial in job.trials:
            if trial.state.name not in _OVER:
                self._run(job, trial)
        failed = sum(trial.state.name == "INFEASIBLE" for trial in job.trials)
        if len(job.trials) == job.max_trial_count or failed >= job.max_failed_trial_count:
            job.state = types.JobState.JOB_STATE_SUCCEEDED
            return
        for _ in range(min(job.parallel_trial_count, job.max_trial_count - len(job.trials))):
            number = len(job.trials) + 1
            values = _drawn(job.study_spec.parameters, random.Random(f"{job.display_name} {number}"))
            parameters = [{"parameter_id": name, "value": value} for name, value in values.items()]
            job.trials.append(types.Trial(id=str(number), parameters=parameters, state="ACTIVE"))

    def _run(self, job: Any, trial: Any) -> None:
        container = job.trial_job_spec.worker_pool_specs[0].container_spec
        assert list(container.command) == ["python3", "-m", "flowparts.tune.trial"]
        values = {each.parameter_id: each.value for each in trial.parameters}
        arguments = [*container.args, *(f"--{name}={value}" for name, value in values.items())]
        self.ran.append(arguments)
        trial.state = "INFEASIBLE"
        if self.fares == "infeasible":
            trial.infeasible_reason = "The replica workerpool0-0 exited with a non-zero status of 137"
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "hypertune" / "output.metrics"
            environment = {"CLOUD_ML_TRIAL_ID": trial.id, "CLOUD_ML_HP_METRIC_FILE": str(file)}
            with contextlib.redirect_stdout(io.StringIO()):
                code = trials.main(arguments, environment)
            if code:
                trial.infeasible_reason = "The replica workerpool0-0 exited with a non-zero status of 1"
                return
            reported = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
        assert reported["trial"] == trial.id
        metric = job.study_spec.metrics[0].metric_id
        measured = [{"metric_id": metric, "value": float(reported[metric])}]
        trial.final_measurement = types.Measurement(step_count=int(reported["global_step"]), metrics=measured)
        trial.state = "SUCCEEDED"


def _wrong(job: Any) -> str:
    """Return what the service has against a job; empty for nothing."""
    if not job.study_spec.parameters or not job.study_spec.metrics:
        return "study_spec must have parameters and metrics"
    if not 1 <= job.parallel_trial_count <= job.max_trial_count:
        return "parallel_trial_count must be from 1 to max_trial_count"
    if not job.trial_job_spec.worker_pool_specs[0].machine_spec.machine_type:
        return "machine_spec must have a machine_type"
    return _wrong_parameters(job.study_spec.parameters)


def _wrong_parameters(parameters: Any) -> str:
    for each in parameters:
        for spec in (each.double_value_spec, each.integer_value_spec):
            if spec and each._pb.WhichOneof("parameter_value_spec") != "categorical_value_spec":
                is_log = each.scale_type.name == "UNIT_LOG_SCALE"
                if spec.max_value and not spec.min_value < spec.max_value:
                    return f"{each.parameter_id}: min_value must be less than max_value"
                if spec.max_value and is_log and spec.min_value <= 0:
                    return f"{each.parameter_id}: min_value must be positive on a log scale"
        for below in each.conditional_parameter_specs:
            known = set(each.categorical_value_spec.values)
            if not set(below.parent_categorical_values.values) <= known:
                return f"{each.parameter_id}: a condition names a value that it hasn't"
        if found := _wrong_parameters([each.parameter_spec for each in each.conditional_parameter_specs]):
            return found
    return ""


def _drawn(parameters: Any, draws: random.Random) -> dict[str, Any]:
    """Draw a value of each parameter that applies, as the service gives it: numbers are fractions."""
    values: dict[str, Any] = {}
    for each in parameters:
        kind = each._pb.WhichOneof("parameter_value_spec")
        if kind == "categorical_value_spec":
            values[each.parameter_id] = draws.choice(list(each.categorical_value_spec.values))
        else:
            spec = getattr(each, kind)
            value = draws.uniform(spec.min_value, spec.max_value)
            if each.scale_type.name == "UNIT_LOG_SCALE":
                value = spec.min_value * (spec.max_value / spec.min_value) ** draws.random()
            values[each.parameter_id] = float(round(value)) if kind == "integer_value_spec" else value
        below = [
            under.parameter_spec
            for under in each.conditional_parameter_specs
            if values[each.parameter_id] in under.parent_categorical_values.values
        ]
        values |= _drawn(below, draws)
    return values
