"""Kubeflow Pipelines' API v2beta1 as far as it is used here; a real server needs a cluster.

Every request is read into the client's own models and every answer is written from them, so neither can have
a field that the API hasn't.
"""

import itertools
import json
import re
import ssl
import uuid
from datetime import UTC, datetime
from typing import Any

import kfp_server_api
import yaml
from kfp_server_api import models

from tests.stand_in import Answer, Request, StandIn

_CODEC = kfp_server_api.ApiClient()


class _Body:
    def __init__(self, data: str) -> None:
        self.data = data


def read(body: bytes, model: str) -> Any:
    """Read JSON into a model; a field that it doesn't have is refused, as by the server."""
    given = json.loads(body)
    unknown = set(given) - set(getattr(models, model).attribute_map.values())
    assert not unknown, f"{model} has no {unknown}"
    return _CODEC.deserialize(_Body(body.decode()), model)


def predicates(text: str) -> list[Any]:
    """Read a filter; Protocol Buffers' JSON may spell names either way, and the client uses stringValue."""
    given = json.loads(text)["predicates"]
    return [
        read(
            json.dumps(
                {re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", key): value for key, value in each.items()}
            ).encode(),
            "V2beta1Predicate",
        )
        for each in given
    ]


def written(model: Any) -> Any:
    return _CODEC.sanitize_for_serialization(model)


class KubeflowServer(StandIn):
    routes = (
        ("GET", "/apis/v2beta1/pipelines", "list_pipelines"),
        ("POST", "/apis/v2beta1/pipelines", "create_pipeline"),
        ("POST", "/apis/v2beta1/pipelines/upload_version", "upload_version"),
        ("GET", "/apis/v2beta1/pipelines/([^/]+)/versions", "list_versions"),
        ("GET", "/apis/v2beta1/pipelines/([^/]+)/versions/([^/]+)", "get_version"),
        ("GET", "/apis/v2beta1/experiments", "list_experiments"),
        ("POST", "/apis/v2beta1/experiments", "create_experiment"),
        ("GET", "/apis/v2beta1/runs", "list_runs"),
        ("POST", "/apis/v2beta1/runs", "create_run"),
        ("GET", "/apis/v2beta1/runs/([^/:]+)", "get_run"),
        ("POST", "/apis/v2beta1/runs/([^/:]+):terminate", "terminate_run"),
        ("GET", "/apis/v1alpha1/runs/[^/]+/nodes/([^/]+)/log", "read_log"),
        ("GET", "/apis/v2beta1/recurringruns", "list_recurring_runs"),
        ("POST", "/apis/v2beta1/recurringruns", "create_recurring_run"),
        ("POST", "/apis/v2beta1/recurringruns/([^/:]+):(enable|disable)", "set_mode"),
        ("DELETE", "/apis/v2beta1/recurringruns/([^/]+)", "delete_recurring_run"),
    )

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.pipelines: list[Any] = []
        self.versions: list[Any] = []
        self.experiments: list[Any] = []
        self.runs: list[Any] = []
        self.recurring: list[Any] = []
        self.logs: dict[str, str] = {}
        # What a run is when it is looked at for the first time, the second and so on; the last one stays.
        self.story: list[tuple[str, list[tuple[str, str, list[str]]]]] = [("SUCCEEDED", [])]
        self._looks: dict[str, Any] = {}

    def list_pipelines(self, request: Request) -> Answer:
        found = [
            each for each in self.pipelines if (each.namespace or "") == request.query.get("namespace", "")
        ]
        return self._listed("V2beta1ListPipelinesResponse", "pipelines", found, request)

    def create_pipeline(self, request: Request) -> Answer:
        pipeline = read(request.body, "V2beta1Pipeline")
        if any(each.name == pipeline.name for each in self.pipelines):
            return self.error(409, f"The name {pipeline.name} already exist. Please specify a new name")
        pipeline.pipeline_id, pipeline.created_at = str(uuid.uuid4()), datetime.now(UTC)
        self.pipelines.append(pipeline)
        return Answer(written(pipeline))

    def upload_version(self, request: Request) -> Answer:
        if any(each.name == request.query["name"] for each in self.versions):
            return self.error(409, f"The name {request.query['name']} already exist")
        documents = list(yaml.safe_load_all(request.parts["uploadfile"]))
        spec = (
            documents[0]
            if len(documents) == 1
            else dict(zip(("pipeline_spec", "platform_spec"), documents, strict=True))
        )
        version = models.V2beta1PipelineVersion(
            pipeline_id=request.query["pipelineid"],
            pipeline_version_id=str(uuid.uuid4()),
            name=request.query["name"],
            display_name=request.query["name"],
            description=request.query.get("description"),
            created_at=datetime.now(UTC),
            pipeline_spec=spec,
        )
        self.versions.append(version)
        return Answer(written(version))

    def list_versions(self, request: Request, pipeline: str) -> Answer:
        found = [each for each in self.versions if each.pipeline_id == pipeline]
        return self._listed("V2beta1ListPipelineVersionsResponse", "pipeline_versions", found, request)

    def get_version(self, request: Request, pipeline: str, version: str) -> Answer:
        return self._one([each for each in self.versions if each.pipeline_version_id == version])

    def list_experiments(self, request: Request) -> Answer:
        return self._listed("V2beta1ListExperimentsResponse", "experiments", self.experiments, request)

    def create_experiment(self, request: Request) -> Answer:
        experiment = read(request.body, "V2beta1Experiment")
        experiment.experiment_id = str(uuid.uuid4())
        self.experiments.append(experiment)
        return Answer(written(experiment))

    def list_runs(self, request: Request) -> Answer:
        return self._listed("V2beta1ListRunsResponse", "runs", self.runs, request)

    def create_run(self, request: Request) -> Answer:
        run = read(request.body, "V2beta1Run")
        run.run_id, run.state, run.created_at = str(uuid.uuid4()), "PENDING", datetime.now(UTC)
        self.runs.append(run)
        self._looks[run.run_id] = itertools.chain(self.story, itertools.repeat(self.story[-1]))
        return Answer(written(run))

    def get_run(self, request: Request, key: str) -> Answer:
        found = [each for each in self.runs if each.run_id == key]
        if found and found[0].state != "CANCELED":
            state, tasks = next(self._looks[key])
            found[0].state = state
            found[0].run_details = models.V2beta1RunDetails(
                task_details=[
                    models.V2beta1PipelineTaskDetail(
                        run_id=key,
                        task_id=str(number),
                        display_name=name,
                        state=of_task,
                        start_time=datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC),
                        end_time=datetime(2026, 1, 1, 0, 1, number, tzinfo=UTC),
                        child_tasks=[models.PipelineTaskDetailChildTask(pod_name=pod) for pod in pods],
                    )
                    for number, (name, of_task, pods) in enumerate(tasks)
                ]
            )
        return self._one(found)

    def terminate_run(self, request: Request, key: str) -> Answer:
        for run in self.runs:
            if run.run_id == key:
                run.state = "CANCELED"
        return Answer({})

    def read_log(self, request: Request, pod: str) -> Answer:
        if pod not in self.logs:
            return self.error(404, "pod not found")
        return Answer(self.logs[pod], content_type="text/plain; charset=utf-8")

    def list_recurring_runs(self, request: Request) -> Answer:
        return self._listed("V2beta1ListRecurringRunsResponse", "recurring_runs", self.recurring, request)

    def create_recurring_run(self, request: Request) -> Answer:
        recurring = read(request.body, "V2beta1RecurringRun")
        recurring.recurring_run_id = str(uuid.uuid4())
        recurring.status = "ENABLED" if recurring.mode == "ENABLE" else "DISABLED"
        self.recurring.append(recurring)
        return Answer(written(recurring))

    def set_mode(self, request: Request, key: str, mode: str) -> Answer:
        for recurring in self.recurring:
            if recurring.recurring_run_id == key:
                recurring.status = "ENABLED" if mode == "enable" else "DISABLED"
        return Answer({})

    def delete_recurring_run(self, request: Request, key: str) -> Answer:
        self.recurring = [each for each in self.recurring if each.recurring_run_id != key]
        return Answer({})

    def _listed(self, model: str, field: str, items: list[Any], request: Request) -> Answer:
        if request.query.get("filter"):
            for predicate in predicates(request.query["filter"]):
                assert predicate.operation in (
                    models.V2beta1PredicateOperation.EQUALS,
                    models.V2beta1PredicateOperation.IS_SUBSTRING,
                    1,  # the client's own number for EQUALS
                )
                contains = predicate.operation == models.V2beta1PredicateOperation.IS_SUBSTRING
                items = [
                    each
                    for each in items
                    for value in [getattr(each, predicate.key)]
                    if (predicate.string_value in value if contains else predicate.string_value == value)
                ]
        return Answer(written(getattr(models, model)(**{field: items or None, "total_size": len(items)})))

    def _one(self, found: list[Any]) -> Answer:
        return Answer(written(found[0])) if found else self.error(404, "not found")
