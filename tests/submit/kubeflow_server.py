"""Kubeflow Pipelines' API as far as it is used here; a real server needs a cluster.

Every request is read into the client's own models and every answer is written from them, so neither can have
a field that the API hasn't. Runs that a real server had are in recorded/, and `replay` serves them.
"""

import base64
import itertools
import json
import re
import ssl
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp_server_api
import yaml
from kfp_server_api import models

from tests.stand_in import Answer, Request, StandIn

RECORDED = Path(__file__).parent / "recorded"
ANSWERS = json.loads((RECORDED / "answers.json").read_text())
_CODEC = kfp_server_api.ApiClient()
_TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")


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
        ("GET", "/apis/v1beta1/runs/([^/:]+)", "get_workflow"),
        ("GET", "/apis/v2beta1/runs/[^/]+/nodes/([^/]+)/artifacts/main-logs:read", "read_archived_log"),
        ("GET", "/apis/v1alpha1/runs/[^/]+/nodes/([^/]+)/log", "read_log"),
        ("GET", "/k8s/pod/logs", "read_log_by_ui"),
        ("GET", "/artifacts/get", "read_artifact_by_ui"),
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
        self.logs: dict[str, str] = {}  # by node
        self.pod_logs: dict[str, str] = {}  # by pod, as Kubernetes has them
        self.artifacts: dict[str, str] = {}  # by key
        self.workflows: dict[str, str] = {}  # by run
        self.serves_workflows = True
        self.is_the_ui = True  # the documented address; else the API's own
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
        documents = list(yaml.load_all(request.parts["uploadfile"], yaml.CSafeLoader))
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
        if found and key in self._looks and found[0].state != "CANCELED":
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

    def replay(self, name: str, spec: Any = None) -> str:
        """Serve a recorded run, as if it had been recorded now; return its ID."""
        text = (RECORDED / "runs" / f"{name}.json").read_text()
        later = datetime.now(UTC) - datetime.fromisoformat(json.loads(text)["at"])
        moved = _TIME.sub(lambda time: f"{datetime.fromisoformat(time[0]) + later:%Y-%m-%dT%H:%M:%SZ}", text)
        recorded = json.loads(moved)
        run = read(
            json.dumps(
                {
                    **recorded["run"],
                    "run_details": {"task_details": recorded["task_details"]},
                    "pipeline_spec": spec,
                }
            ).encode(),
            "V2beta1Run",
        )
        self.runs.append(run)
        if workflow := recorded.get("workflow"):
            if "nodes" in recorded:
                workflow["status"]["nodes"] = {node["id"]: node for node in recorded["nodes"]}
            self.workflows[run.run_id] = json.dumps(workflow)
        return run.run_id

    def get_workflow(self, request: Request, key: str) -> Answer:
        if not self.serves_workflows or key not in self.workflows:
            return self.error(404, "Not Found")
        return Answer({"run": {"id": key}, "pipeline_runtime": {"workflow_manifest": self.workflows[key]}})

    def terminate_run(self, request: Request, key: str) -> Answer:
        for run in self.runs:
            if run.run_id == key:
                run.state = "CANCELED"
        return Answer({})

    def recorded(self, name: str) -> Answer:
        """Return an answer that a real server gave."""
        answer = ANSWERS[name]
        kind = "text/html" if str(answer["body"]).startswith("<") else "application/json"
        return Answer(answer["body"], answer["status"], kind)

    def read_archived_log(self, request: Request, node: str) -> Answer:
        if node not in self.logs:
            return self.recorded("main-logs-of-compressed")
        return Answer({"data": base64.b64encode(self.logs[node].encode()).decode()})

    def read_log(self, request: Request, node: str) -> Answer:
        if self.is_the_ui:
            return self.recorded("log-path-through-the-ui")
        if node not in self.logs:
            return self.recorded("log-of-unknown-node")
        return Answer(self.logs[node], content_type="text/plain; charset=utf-8")

    def read_log_by_ui(self, request: Request) -> Answer:
        log = self.pod_logs.get(request.query["podname"])
        if not self.is_the_ui or log is None or not request.query["podnamespace"]:
            return Answer("Could not get main container logs", 500 if self.is_the_ui else 404, "text/plain")
        return Answer(log, content_type="text/plain")

    def read_artifact_by_ui(self, request: Request) -> Answer:
        text = self.artifacts.get(f"{request.query['bucket']}/{request.query['key']}")
        if not self.is_the_ui or text is None or request.query["source"] != "minio":
            return self.recorded("artifact-not-there")
        return Answer(text, content_type="text/plain")

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
