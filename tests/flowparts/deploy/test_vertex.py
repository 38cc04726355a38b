"""The Vertex AI target: Google's real clients over REST, against a stand-in for the service on this machine.

The models lie in an emulation of Cloud Storage. Predictions come from real model servers behind the stand-in.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from flowparts import models
from flowparts.deploy import common, operations, vertex_api
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import vertex
from flowparts.models import agreement
from tests.clouds import Served
from tests.flowparts.deploy.vertex_service import PARENT, VertexService
from tests.flowparts.serving.conftest import rows, same
from tests.stand_in import Trouble

IMAGE = "europe-west4-docker.pkg.dev/shop/flowparts/flowparts-serving:1.0"
RECORDS = agreement.to_records(rows().drop("plan", "amount").head(5))

pytestmark = [
    # Google's client libraries warn about their own future.
    pytest.mark.filterwarnings("ignore"),
]


def bring(model: Served, **options: Any) -> Endpoint:
    return vertex.deploy(model.gs, "churn", **{"image": IMAGE, "timeout_seconds": 20.0, **options})


@pytest.fixture
def first(served: tuple[Served, Served]) -> Served:
    return served[0]


@pytest.fixture
def second(served: tuple[Served, Served]) -> Served:
    return served[1]


def test_a_model_is_registered_and_deployed_with_what_it_needs(
    vertex_ai: VertexService, first: Served
) -> None:
    made = bring(
        first,
        percent=10,
        machine_type="n1-standard-4",
        accelerator="NVIDIA_TESLA_T4",
        replicas=2,
        max_replicas=5,
        service_account="server@shop.iam.gserviceaccount.com",
    )
    assert vertex_ai.writes() == [
        "POST /endpoints",
        "POST /models:upload",
        "POST /endpoints/churn:deployModel",
        "PATCH /endpoints/churn",
    ]
    (uploaded,) = vertex_ai.sent("POST", "models:upload$")
    assert uploaded.json["modelId"] == "churn"
    assert uploaded.json["model"] == {
        "displayName": "churn",
        "artifactUri": first.gs,
        "versionAliases": [made.revision],
        "labels": {"managed-by": "flowparts"},
        "containerSpec": {
            "imageUri": IMAGE,
            "predictRoute": "/predict",
            "healthRoute": "/v2/health/ready",
            "ports": [{"containerPort": 8080}],
            "env": [{"name": "FLOWPARTS_SERVING_NAME", "value": "churn"}],
        },
    }
    (deployed,) = vertex_ai.endpoints[f"{PARENT}/endpoints/churn"].deployed_models
    assert deployed.model == f"{PARENT}/models/churn@{made.revision}"
    assert deployed.service_account == "server@shop.iam.gserviceaccount.com"
    resources = deployed.dedicated_resources
    assert (resources.min_replica_count, resources.max_replica_count) == (2, 5)
    machine = resources.machine_spec
    assert (machine.machine_type, machine.accelerator_type.name, machine.accelerator_count) == (
        "n1-standard-4", "NVIDIA_TESLA_T4", 1,
    )  # fmt: skip
    assert made.traffic == vertex_ai.split("churn") == {made.revision: 100}
    assert made.url == f"{vertex_ai.url}/v1/{PARENT}/endpoints/churn:predict"
    assert made.settings == {
        "project": "shop",
        "location": "europe-west4",
        "deployed_models": {made.revision: deployed.id},
    }
    assert all(
        request.headers["authorization"] == "Bearer from-the-server" for request in vertex_ai.sent("GET", "")
    )


def test_redeploying_changes_nothing_and_other_settings_are_a_new_revision(
    vertex_ai: VertexService, first: Served
) -> None:
    made = bring(first)
    before = vertex_ai.writes()
    assert bring(first) == made
    assert vertex_ai.writes() == before
    other = bring(first, machine_type="n1-standard-8", percent=20)
    assert vertex_ai.split("churn") == other.traffic == {other.revision: 20, made.revision: 80}


def test_a_second_model_is_another_version_and_gets_its_traffic(
    vertex_ai: VertexService, first: Served, second: Served
) -> None:
    made = bring(first)
    canary = bring(second, percent=10)
    uploads = [request.json for request in vertex_ai.sent("POST", "models:upload$")]
    assert uploads[1]["parentModel"] == f"{PARENT}/models/churn"
    assert vertex_ai.split("churn") == canary.traffic == {canary.revision: 10, made.revision: 90}
    before = vertex_ai.writes()
    assert bring(second, percent=10) == canary
    assert vertex_ai.writes() == before
    with pytest.raises(ValueError, match=f"has been changed since: its revision is {canary.revision}"):
        vertex.shift(made, 50)


def test_a_promoted_revision_leaves_the_previous_one_ready_for_a_rollback(
    vertex_ai: VertexService, first: Served, second: Served
) -> None:
    made = bring(first)
    canary = vertex.shift(bring(second, percent=10), 60)
    assert vertex_ai.split("churn") == canary.traffic == {canary.revision: 60, made.revision: 40}
    promoted = vertex.shift(canary, 100)
    assert vertex_ai.split("churn") == promoted.traffic == {promoted.revision: 100, made.revision: 0}
    for _ in range(2):
        restored = vertex.rollback(promoted)
        assert vertex_ai.split("churn") == restored.traffic == {made.revision: 100}
        assert restored.settings == made.settings
    with pytest.raises(ValueError, match="no previous revision to roll back to"):
        vertex.rollback(restored)


def test_a_third_revision_takes_the_place_of_the_one_that_was_tried(
    vertex_ai: VertexService, first: Served, second: Served
) -> None:
    made = bring(first)
    bring(second, percent=20)
    third = bring(second, percent=30, machine_type="n1-standard-8")
    assert vertex_ai.split("churn") == third.traffic == {third.revision: 30, made.revision: 70}


FAILURES = {
    "a server that ends": (
        9,
        "Model server exited unexpectedly: no model.skops",
        "exited unexpectedly: no mod",
    ),
    "no machines": (
        8,
        "quota custom_model_serving_cpus is 0",
        "is 0; have the quota raised, or take another",
    ),
}


@pytest.mark.parametrize(("code", "said", "words"), FAILURES.values(), ids=FAILURES)
def test_a_deployment_that_fails_gives_the_cause_and_leaves_what_served(
    code: int, said: str, words: str, vertex_ai: VertexService, first: Served, second: Served
) -> None:
    made = bring(first)
    vertex_ai.failure = (code, said)
    with pytest.raises(ValueError, match=f"is not deployed: Vertex AI says: .*{words}") as raised:
        bring(second, percent=10)
    assert str(raised.value).endswith(f"; {made.revision} serves as before")
    assert vertex_ai.split("churn") == made.traffic
    vertex_ai.failure = None
    assert bring(second, percent=10).traffic[made.revision] == 90


def test_a_first_deployment_that_fails_can_be_retried(vertex_ai: VertexService, first: Served) -> None:
    vertex_ai.failure = (9, "Model server exited unexpectedly")
    with pytest.raises(ValueError, match=r"exited unexpectedly$"):
        bring(first)
    vertex_ai.failure = None
    assert vertex_ai.split("churn") == {}
    made = bring(first)
    assert vertex_ai.split("churn") == made.traffic
    assert len(vertex_ai.sent("POST", "models:upload$")) == 1


@pytest.mark.parametrize("begun", ["/endpoints$", "models:upload$", ":deployModel$", ":undeployModel$"])
@pytest.mark.parametrize("kind", ["cut", "lost"])
def test_a_request_whose_connection_is_cut_is_acted_on_once(
    kind: str, begun: str, vertex_ai: VertexService, first: Served, second: Served
) -> None:
    vertex_ai.troubles.append(Trouble(kind, "POST", begun))
    bring(first)
    canary = bring(second, percent=10)
    assert vertex_ai.split("churn") == canary.traffic
    vertex.rollback(canary)
    made = [operation for operation in vertex_ai.operations.values() if operation.done]
    # An endpoint, two versions, two deployments and an end.
    assert len(made) == len(vertex_ai.operations) == 6


@pytest.mark.parametrize("stage", ["/endpoints$", "models:upload$", ":deployModel$"])
def test_a_retry_waits_for_the_operation_of_the_first_attempt(
    stage: str, vertex_ai: VertexService, first: Served
) -> None:
    begin = vertex_ai.begin

    def slow(resource: str, *rest: Any) -> Any:
        # The first try gives up while this operation is under way.
        vertex_ai.looks = 10**6 if vertex_ai.sent("POST", stage) else 2
        return begin(resource, *rest)

    vertex_ai.begin = slow  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"not ready after 0\.3 s: operation \d is under way"):
        bring(first, timeout_seconds=0.3)
    with pytest.raises(ValueError, match=r"not ready after 0\.3 s: operation \d is under way already"):
        bring(first, timeout_seconds=0.3)
    assert len(vertex_ai.sent("POST", stage)) == 1
    vertex_ai.finish()
    vertex_ai.begin = begin  # type: ignore[method-assign]
    vertex_ai.looks = 2
    made = bring(first)
    assert vertex_ai.split("churn") == made.traffic
    assert len(vertex_ai.sent("POST", stage)) == 1


def test_long_operations_report_progress(
    vertex_ai: VertexService, first: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "_SAY_EVERY_SECONDS", 0.05)
    vertex_ai.looks = 10
    with caplog.at_level(logging.INFO, "flowparts"):
        made = bring(first)
    said = [line for line in caplog.messages if line.startswith(f"revision {made.revision}: ")]
    assert re.search(r"operation 3 is under way, \d+ of at most 20 s", "\n".join(said))


@pytest.mark.parametrize("status", [429, 503])
def test_transient_errors_are_retried(status: int, vertex_ai: VertexService, first: Served) -> None:
    vertex_ai.troubles += [
        Trouble(status, "GET", "/endpoints/churn$"),
        Trouble(status, "POST", ":deployModel$"),
    ]
    made = bring(first)
    assert vertex_ai.split("churn") == made.traffic


REFUSALS: dict[str, tuple[Trouble, str]] = {
    "no permission": (
        Trouble(403, "POST", "models:upload$", 1, "Permission 'aiplatform.models.upload' denied on resource"),
        "Vertex AI answered 403: .*upload' denied .*; give this step's account the role Vertex AI User",
    ),
    "nobody": (
        Trouble(401, "POST", ":deployModel$", 9, "invalid credentials"),
        "answered 401: .*invalid cred",
    ),
    "a bad machine": (
        Trouble(400, "POST", ":deployModel$", 1, 'Machine type "n1-standard-3" is not supported'),
        "Vertex AI answered 400: .*n1-standard-3",
    ),
    "a quota": (
        Trouble(429, "POST", ":deployModel$", 99, "custom_model_serving_t4_gpus exceeds quota limits"),
        "Vertex AI answered 429: .*t4_gpus exceeds .*; have the quota raised, or take another machine_type",
    ),
    "a change at the same time": (Trouble(409, "PATCH", "", 1, "etag mismatch"), "answered 409: .*etag mis"),
}


@pytest.mark.parametrize(("trouble", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_reported_and_leaves_what_served(
    trouble: Trouble,
    words: str,
    vertex_ai: VertexService,
    first: Served,
    second: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vertex_api, "ANSWER_SECONDS", 1.0)
    made = bring(first)
    vertex_ai.troubles.append(trouble)
    with pytest.raises(ValueError, match=words) as raised:
        bring(second, percent=10)
    assert str(raised.value).endswith(f"; {made.revision} serves as before")
    assert {name: share for name, share in vertex_ai.split("churn").items() if share} == made.traffic


def test_a_removed_or_foreign_endpoint_is_reported(vertex_ai: VertexService, first: Served) -> None:
    made = bring(first)
    endpoint = vertex_ai.endpoints[made_path := f"{PARENT}/endpoints/churn"]
    endpoint.labels = {}
    with pytest.raises(
        ValueError, match=r"endpoint 'churn' in .* was made by something else; deploy to another"
    ):
        bring(first)
    vertex_ai.endpoints.pop(made_path)
    for change in (lambda: vertex.shift(made, 100), lambda: vertex.rollback(canary(made))):
        with pytest.raises(
            ValueError, match=f"there is no endpoint 'churn' in {PARENT}; deploy a model first"
        ):
            change()
    with pytest.raises(ValueError, match="Vertex AI answered 404"):
        vertex.predict(made, RECORDS)


def canary(endpoint: Endpoint) -> Endpoint:
    return endpoint.deploying("rcafecafecafe", 10)


def test_a_manual_deployment_is_left_alone(vertex_ai: VertexService, first: Served) -> None:
    made = bring(first)
    endpoint = vertex_ai.endpoints[f"{PARENT}/endpoints/churn"]
    endpoint.deployed_models.append({"id": "7", "display_name": "by-hand"})
    endpoint.traffic_split = {made.settings["deployed_models"][made.revision]: 50, "7": 50}
    with pytest.raises(ValueError, match="sends requests to what was deployed by hand; undeploy that"):
        bring(first)
    assert vertex_ai.split("churn") == {made.revision: 50, "by-hand": 50}


def test_predictions_are_those_of_the_server_behind_the_endpoint(
    vertex_ai: VertexService, first: Served, second: Served
) -> None:
    made = bring(first)
    expected = models.load(first.path).predict(rows().head(5)).to_dicts()
    same(vertex.predict(made, RECORDS), expected)
    same(vertex.predict(made, RECORDS, made.revision), expected)
    with pytest.raises(ValueError, match=r"Vertex AI answered 400: .*visits must be a number"):
        vertex.predict(made, [{**RECORDS[0], "visits": "many"}])


def test_only_the_revision_that_is_asked_may_answer(
    vertex_ai: VertexService, first: Served, second: Served
) -> None:
    made = bring(first)
    tried = bring(second, percent=10)
    answered, others = 0, 0
    for _ in range(100):
        try:
            (answer,) = vertex.predict(tried, RECORDS[:1], tried.revision)
        except common.AnotherRevisionError:
            others += 1
        else:
            answered += 1
            assert isinstance(answer["prediction"], float)
    assert (answered, others) == (10, 90)
    with pytest.raises(
        common.AnotherRevisionError, match="gets no requests, and Vertex AI lets clients choose"
    ):
        vertex.predict(vertex.shift(tried, 100), RECORDS, made.revision)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a model elsewhere": (
        {"model": "s3://models/first"},
        "reads models from gs:// only, not 's3://models/first'",
    ),
    "a name": ({"name": "Churn!"}, "endpoint name 'Churn!' must start"),
    "a share": ({"percent": 101}, "from 0 to 100, not 101"),
    "replicas": ({"replicas": 0}, "replicas must be from 1 to 100"),
    "fewer at most": ({"replicas": 3, "max_replicas": 2}, "max_replicas must be 0 or at least the 3"),
    "no accelerators": ({"accelerator_count": 0}, "accelerator_count must be at least 1"),
    "an accelerator": (
        {"accelerator": "NVIDIA_TESLA_T5"},
        "'NVIDIA_TESLA_T5'; did you mean 'NVIDIA_TESLA_T4'",
    ),
    "no time": ({"timeout_seconds": 0.0}, "timeout_seconds must be more than 0"),
    "no model there": ({"model": "gs://models/nothing"}, "there is nothing at gs://models/nothing"),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_a_bad_option_is_refused_before_anything_is_sent(
    options: dict[str, Any], words: str, vertex_ai: VertexService, first: Served
) -> None:
    with pytest.raises(ValueError, match=words):
        vertex.deploy(**{"model": first.gs, "name": "churn", **options})
    assert vertex_ai.writes() == []


def without_project(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("GOOGLE_CLOUD_PROJECT")


def without_location(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("GOOGLE_CLOUD_LOCATION")
    environment.delenv("CLOUD_ML_REGION", raising=False)


def without_credentials(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")


def without_service(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("FLOWPARTS_VERTEX_ENDPOINT", "http://127.0.0.1:9")
    environment.setattr(vertex_api, "ANSWER_SECONDS", 1.0)


MISSING: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "project": (
        without_project,
        "project and location must be known; give them as options, or set GOOGLE_CLOUD",
    ),
    "location": (without_location, "project and location must be known"),
    "credentials": (
        without_credentials,
        "gives this step no access .*nowhere.json.*; set GOOGLE_APPLICATION_CR",
    ),
    "service": (without_service, "gave no answer .*; is the location right and the service within reach"),
}


@pytest.mark.parametrize(("without", "words"), MISSING.values(), ids=MISSING)
def test_missing_settings_and_credentials_are_reported(
    without: Callable[[pytest.MonkeyPatch], None],
    words: str,
    vertex_ai: VertexService,
    first: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vertex_api.clients.cache_clear()
    without(monkeypatch)
    with pytest.raises(ValueError, match=words) as raised:
        bring(first)
    assert "\n" not in str(raised.value)
    vertex_api.clients.cache_clear()


def test_an_endpoint_is_removed_with_its_models_and_not_by_accident(
    vertex_ai: VertexService, first: Served, second: Served
) -> None:
    made = bring(first)
    canary = bring(second, percent=10)
    full = vertex_ai.writes()
    with pytest.raises(ValueError, match=r"endpoint 'churn' serves \(.* 10 %.*\); set even_if_serving"):
        operations.remove("vertex", "churn", {})
    said = operations.remove("vertex", "churn", {}, dry_run=True)
    assert vertex_ai.writes() == full
    assert operations.remove("vertex", "churn", {}, even_if_serving=True) == said
    assert said == [
        *(f"revision {each.revision}" for each in (made, canary)),
        "endpoint churn",
        "model churn",
    ]
    assert vertex_ai.endpoints == vertex_ai.versions == {}
    with pytest.raises(operations.NoEndpointError, match="there is no endpoint 'churn' on vertex"):
        operations.remove("vertex", "churn", {})


def test_a_killed_removal_is_completed_by_the_next_one(
    vertex_ai: VertexService, first: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(first)
    looks = iter([False, False])
    wait = common.wait

    def killed(*arguments: Any, **options: Any) -> None:
        if next(looks, True):
            raise KeyboardInterrupt
        wait(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(common, "wait", killed)
        with pytest.raises(KeyboardInterrupt):
            operations.remove("vertex", "churn", {}, even_if_serving=True)
    assert vertex_ai.endpoints == {}
    assert operations.remove("vertex", "churn", {}) == ["model churn"]
    assert vertex_ai.versions == {}


def test_foreign_objects_are_kept(vertex_ai: VertexService, first: Served) -> None:
    bring(first)
    for thing in (*vertex_ai.endpoints.values(), *vertex_ai.versions.values()):
        thing.labels = {"managed-by": "somebody"}
    assert vertex.endpoints() == []
    with pytest.raises(operations.NoEndpointError):
        operations.remove("vertex", "churn", {}, even_if_serving=True)
    assert vertex_ai.endpoints
    assert vertex_ai.versions


def test_an_endpoint_keeps_the_options_that_it_was_deployed_with(
    vertex_ai: VertexService, first: Served, second: Served
) -> None:
    given = {"image": IMAGE, "machine_type": "n1-standard-4", "timeout_seconds": 20.0}
    made = operations.deployed("vertex", first.gs, "churn", 1.0, given)
    kept = {"image": IMAGE, "machine_type": "n1-standard-4"}
    assert made.settings["options"] == kept
    canary = operations.deployed("vertex", second.gs, "churn", 0.5, {"replicas": 2, "timeout_seconds": 20.0})
    assert canary.settings["options"] == {**kept, "replicas": 2}
    (*_, deployed) = vertex_ai.endpoints[f"{PARENT}/endpoints/churn"].deployed_models
    assert deployed.dedicated_resources.machine_spec.machine_type == "n1-standard-4"
    assert vertex.endpoints() == [canary]
    # A rollback brings back those of the revision before.
    assert vertex.rollback(canary).settings["options"] == kept
    only = {"image": IMAGE, "reset": True, "timeout_seconds": 20.0}
    assert operations.deployed("vertex", second.gs, "churn", 0.5, only).settings["options"] == {
        "image": IMAGE
    }
