"""The SageMaker target: boto3 against moto's server, and a stand-in before it for what moto lacks.

AWS_ENDPOINT_URL is moto's (buckets, models, configurations, logs); the stand-in of sagemaker_service.py has
the endpoints. Predictions come from real model servers.
"""

import io
import json
import logging
import re
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest

from flowparts import models
from flowparts.deploy import common, operations, probe
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import sagemaker
from flowparts.models import agreement
from tests.clouds import ARCHIVES, BUCKET, Served
from tests.flowparts.deploy.sagemaker_service import REGION, ROLE, Refused, SageMakerService
from tests.flowparts.serving.conftest import CODE, free_ports, rows, same
from tests.stand_in import Answer, Request, StandIn

IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/flowparts-serving:1.0"
RECORDS = agreement.to_records(rows().drop("plan", "amount").head(5))


def bring(model: Served, **options: Any) -> Endpoint:
    given = {"role": ROLE, "image": IMAGE, "timeout_seconds": 20.0, **options}
    return sagemaker.deploy(model.s3, "churn", **given)


@pytest.fixture
def first(served: tuple[Served, Served]) -> Served:
    return served[0]


@pytest.fixture
def second(served: tuple[Served, Served]) -> Served:
    return served[1]


class Other(StandIn):
    """A server that is none of models."""

    routes = (("POST", "/invocations", "answer"),)
    said: Any = None

    def answer(self, _: Request) -> Answer:
        return Answer(self.said)


def objects(bucket: str) -> list[str]:
    return [each.key for each in boto3.resource("s3").Bucket(bucket).objects.all()]


def log(revision: str, *lines: str) -> None:
    """Write into the log that SageMaker keeps of a revision's servers."""
    logs = boto3.client("logs", region_name=REGION)
    stream = {
        "logGroupName": "/aws/sagemaker/Endpoints/churn",
        "logStreamName": f"{revision}/i-{time.time_ns()}",
    }
    with suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=stream["logGroupName"])
    logs.create_log_stream(**stream)
    now = int(time.time() * 1000)
    logs.put_log_events(**stream, logEvents=[{"timestamp": now, "message": line} for line in lines])


def test_a_model_becomes_an_archive_a_model_a_configuration_and_an_endpoint(
    sagemaker_ai: SageMakerService, first: Served
) -> None:
    made = bring(first, percent=10, replicas=2, instance_type="ml.c5.xlarge")
    assert sagemaker_ai.writes() == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    (model,) = sagemaker_ai.asked("CreateModel")
    assert model == {
        "ModelName": f"churn-{made.revision}",
        "PrimaryContainer": {
            "Image": IMAGE,
            "ModelDataUrl": f"s3://{BUCKET}/sagemaker/churn/{made.revision}/model.tar.gz",
            "Environment": {"FLOWPARTS_SERVING_NAME": "churn"},
        },
        "ExecutionRoleArn": ROLE,
    }
    (configuration,) = sagemaker_ai.asked("CreateEndpointConfig")
    assert configuration["ProductionVariants"] == [
        {
            "VariantName": made.revision,
            "ModelName": model["ModelName"],
            "InstanceType": "ml.c5.xlarge",
            "InitialInstanceCount": 2,
            "InitialVariantWeight": 100.0,
        }
    ]
    assert made.traffic == sagemaker_ai.weights("churn") == {made.revision: 100}
    assert made.url == f"{sagemaker_ai.url}/endpoints/churn/invocations"
    assert made.settings == {"region": "eu-west-1"}


def test_the_longest_name_is_within_the_services_limits(
    sagemaker_ai: SageMakerService, first: Served
) -> None:
    name = "c" + "h" * 37
    made = sagemaker.deploy(first.s3, name, role=ROLE, image=IMAGE, timeout_seconds=20.0)
    assert sagemaker_ai.weights(name) == made.traffic
    assert max(len(each) for names in sagemaker_ai.held() for each in names) <= 63


def test_the_address_is_amazons_where_no_other_is_given(
    sagemaker_ai: SageMakerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SAGEMAKER", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"):
        monkeypatch.delenv(name)
    place = sagemaker._Place("eu-central-1", "churn")
    assert place.url == "https://runtime.sagemaker.eu-central-1.amazonaws.com/endpoints/churn/invocations"


def test_redeploying_changes_nothing_and_other_settings_are_a_new_revision(
    sagemaker_ai: SageMakerService, first: Served
) -> None:
    made = bring(first)
    before = sagemaker_ai.writes()
    assert bring(first) == made
    assert sagemaker_ai.writes() == before
    other = bring(first, instance_type="ml.c5.large", percent=20)
    assert sagemaker_ai.weights("churn") == other.traffic == {other.revision: 20, made.revision: 80}
    before = sagemaker_ai.writes()
    assert bring(first, instance_type="ml.c5.large", percent=20) == other
    assert sagemaker_ai.writes() == before


def test_a_second_model_is_a_variant_beside_the_first_and_what_is_unused_goes(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    (old,), _ = sagemaker_ai.held()
    canary = bring(second, percent=10)
    assert sagemaker_ai.weights("churn") == canary.traffic == {canary.revision: 10, made.revision: 90}
    assert sagemaker_ai.writes()[3:] == [
        "CreateModel", "CreateEndpointConfig", "UpdateEndpoint", "DeleteEndpointConfig",
    ]  # fmt: skip
    configurations, held = sagemaker_ai.held()
    assert configurations == [sagemaker_ai.endpoints["churn"].configuration] != [old]
    assert held == sorted([f"churn-{made.revision}", f"churn-{canary.revision}"])
    with pytest.raises(ValueError, match=f"has been changed since: its revision is {canary.revision}"):
        sagemaker.shift(made, 50)


def test_traffic_changes_in_place_and_a_rollback_moves_requests_before_instances(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    canary = bring(second, percent=10)
    before = sagemaker_ai.writes()
    shifted = sagemaker.shift(canary, 60)
    assert sagemaker_ai.weights("churn") == shifted.traffic == {canary.revision: 60, made.revision: 40}
    promoted = sagemaker.shift(shifted, 100)
    assert sagemaker_ai.weights("churn") == promoted.traffic == {canary.revision: 100, made.revision: 0}
    assert sagemaker.shift(shifted, 100) == promoted
    assert sagemaker_ai.writes()[len(before) :] == 2 * ["UpdateEndpointWeightsAndCapacities"]
    before = sagemaker_ai.writes()
    for _ in range(2):
        restored = sagemaker.rollback(promoted)
        assert sagemaker_ai.weights("churn") == restored.traffic == {made.revision: 100}
        assert sagemaker_ai.writes()[len(before) :] == [
            "UpdateEndpointWeightsAndCapacities",
            "CreateEndpointConfig",
            "UpdateEndpoint",
            "DeleteEndpointConfig",
            "DeleteModel",
        ]
    assert sagemaker_ai.held()[1] == [f"churn-{made.revision}"]
    with pytest.raises(ValueError, match="no previous revision to roll back to"):
        sagemaker.rollback(restored)


def test_a_third_revision_takes_the_place_of_the_one_that_was_tried(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    bring(second, percent=20)
    third = bring(second, percent=30, instance_type="ml.c5.large")
    assert sagemaker_ai.weights("churn") == third.traffic == {third.revision: 30, made.revision: 70}
    assert sagemaker_ai.held()[1] == sorted([f"churn-{made.revision}", f"churn-{third.revision}"])


def test_a_revision_keeps_the_instances_that_it_was_given_since(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    sagemaker_ai.endpoints["churn"].counts[made.revision] = 5
    canary = bring(second, percent=10)
    assert sagemaker_ai.endpoints["churn"].counts == {made.revision: 5, canary.revision: 1}


def test_manually_changed_weights_are_read_as_percentages(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    canary = bring(second, percent=10)
    sagemaker_ai.endpoints["churn"].weights = {canary.revision: 1.0, made.revision: 2.0}
    assert sagemaker._Place("", "churn").current() == canary.with_percent(33)
    assert bring(second, percent=10) == canary
    assert sagemaker_ai.weights("churn") == canary.traffic


PING = "The primary container for production variant X did not pass the ping health check."
FAILURES = {
    "a server that ends": (PING, "SageMaker says: .*did not pass the ping health check"),
    "no instances": (
        "Request to service failed. Insufficient capacity.",
        "SageMaker says: .*Insufficient capacity",
    ),
}


@pytest.mark.parametrize(("said", "words"), FAILURES.values(), ids=FAILURES)
def test_a_deployment_that_fails_gives_the_cause_and_leaves_what_served(
    said: str, words: str, sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    sagemaker_ai.failure = said
    held = sagemaker_ai.held()
    with pytest.raises(ValueError, match=f"is not deployed: {words}") as raised:
        bring(second, percent=10)
    assert str(raised.value).endswith(f"; {made.revision} serves as before")
    assert sagemaker_ai.weights("churn") == made.traffic
    assert sagemaker_ai.held() == held
    same(sagemaker.predict(made, RECORDS), models.load(first.path).predict(rows().head(5)).to_dicts())
    sagemaker_ai.failure = ""
    assert bring(second, percent=10).traffic[made.revision] == 90


def test_the_last_log_line_of_the_servers_is_part_of_the_failure(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    canary = bring(second, percent=10)
    sagemaker.rollback(canary)
    log(canary.revision, "an earlier try")
    log(
        canary.revision,
        '{"message": "starting"}',
        '{"message": "worker ended", "error": "no model.skops"}',
        " ",
    )
    log(made.revision, "of another revision")
    sagemaker_ai.failure = PING
    with pytest.raises(ValueError, match="health check") as raised:
        bring(second, percent=10)
    assert (
        f"health check.; revision {canary.revision} has logged: no model.skops; {made.revision} serves"
        in str(raised.value)
    )


def test_a_first_deployment_that_fails_leaves_nothing_and_can_be_retried(
    sagemaker_ai: SageMakerService, first: Served
) -> None:
    sagemaker_ai.failure = PING
    with pytest.raises(ValueError, match=r"is not deployed: SageMaker says: .*health check\.$"):
        bring(first)
    assert sagemaker_ai.held() == ([], [])
    sagemaker_ai.finish()
    assert sagemaker_ai.endpoints == {}
    sagemaker_ai.failure = ""
    assert bring(first).traffic == sagemaker_ai.weights("churn")
    assert len(objects(BUCKET)) == len(set(objects(BUCKET)))


def test_an_endpoint_that_has_failed_is_reported_and_deployed_anew(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    bring(first)
    sagemaker_ai.failure, sagemaker_ai.goes_down = "Instances were lost.", True
    with pytest.raises(ValueError, match=r"SageMaker says: Instances were lost\.$"):
        bring(second, percent=10)
    canary = Endpoint(
        "sagemaker", "churn", "http://x", "ra", {"ra": 1, "rb": 99}, "rb", {"region": "eu-west-1"}
    )
    for change in (lambda: sagemaker.shift(canary, 50), lambda: sagemaker.rollback(canary)):
        with pytest.raises(
            ValueError, match=r"endpoint 'churn' has failed \(Instances were lost\.\); deploy"
        ):
            change()
    sagemaker_ai.failure, sagemaker_ai.goes_down = "", False
    made = bring(second, percent=10)
    assert sagemaker_ai.weights("churn") == made.traffic == {made.revision: 100}
    assert sagemaker_ai.held()[1] == [f"churn-{made.revision}"]


def test_a_traffic_split_that_cannot_be_changed_is_reported(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    bring(first)
    canary = bring(second, percent=10)
    sagemaker_ai.failure = "The variant is being scaled."
    with pytest.raises(ValueError, match="SageMaker says: The variant is being scaled"):
        sagemaker.shift(canary, 50)
    assert sagemaker_ai.weights("churn") == canary.traffic


@pytest.mark.parametrize("state", ["OutOfService", "UpdateRollbackFailed"])
def test_an_endpoint_in_an_unusable_state_is_reported(
    state: str, sagemaker_ai: SageMakerService, first: Served
) -> None:
    made = bring(first)
    sagemaker_ai.endpoints["churn"].status = state
    with pytest.raises(ValueError, match=f"endpoint 'churn' is {state} .*; delete it and deploy again"):
        sagemaker.shift(made, 100)


BEGUN = ["CreateModel", "CreateEndpointConfig", "CreateEndpoint$", "UpdateEndpoint$", "UpdateEndpointWeights"]


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("kind", ["cut", "lost", 503])
def test_a_request_whose_connection_is_cut_is_acted_on_once(
    kind: str | int, begun: str, sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    sagemaker_ai.looks = 10  # a change takes longer than the pause before a request is sent again
    sagemaker_ai.troubles.append(Refused(kind, path=begun, message="ServiceUnavailable: try again"))
    made = bring(first)
    canary = sagemaker.shift(bring(second, percent=10), 40)
    assert sagemaker_ai.troubles[0].times == 0
    assert sagemaker_ai.weights("churn") == canary.traffic == {canary.revision: 40, made.revision: 60}
    configurations, held = sagemaker_ai.held()
    assert (len(configurations), len(held)) == (1, 2)


@pytest.mark.parametrize("begun", ["CreateEndpoint", "UpdateEndpoint"])
def test_a_retry_waits_for_the_operation_of_the_first_attempt(
    begun: str, sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    model = first
    if begun == "UpdateEndpoint":
        bring(first)
        model = second
    sagemaker_ai.looks = 10**6
    for status in 2 * [begun.removesuffix("eEndpoint") + "ing"]:
        with pytest.raises(ValueError, match=rf"not ready after 0\.3 s: SageMaker says {status}"):
            bring(model, percent=10, timeout_seconds=0.3)
    assert len(sagemaker_ai.asked(begun)) == 1
    sagemaker_ai.finish()
    sagemaker_ai.looks = 2
    before = [each for each in sagemaker_ai.writes() if not each.startswith("Delete")]
    made = bring(model, percent=10)
    assert sagemaker_ai.weights("churn") == made.traffic
    assert [each for each in sagemaker_ai.writes() if not each.startswith("Delete")] == before


def test_a_retry_removes_the_unused_objects_of_the_first_attempt(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    bring(first)
    sagemaker_ai.troubles.append(
        Refused(400, path="UpdateEndpoint$", message="ResourceLimitExceeded: 0 instances")
    )
    with pytest.raises(ValueError, match="ResourceLimitExceeded"):
        bring(second, percent=10)
    assert len(sagemaker_ai.held()[1]) == 2
    bring(first)
    assert [len(held) for held in sagemaker_ai.held()] == [1, 1]


def test_long_operations_report_progress(
    sagemaker_ai: SageMakerService,
    first: Served,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(common, "_SAY_EVERY_SECONDS", 0.05)
    sagemaker_ai.looks = 10
    with caplog.at_level(logging.INFO, "flowparts"):
        bring(first)
    assert re.search(r"endpoint 'churn': SageMaker says Creating, \d+ of at most 20 s", caplog.text)
    assert re.search(rf"uploading \d\.\d MB to s3://{BUCKET}/sagemaker/churn/r\w+/model.tar.gz", caplog.text)


ALLOW = "give this step's account the right to"
REFUSALS: dict[str, tuple[str, str, str]] = {
    "no permission": (
        "CreateModel",
        "AccessDeniedException: User: x is not authorized to perform: sagemaker:CreateModel",
        f"AWS refuses CreateModel: AccessDeniedException, .*not authorized .*; {ALLOW}",
    ),
    "a role that isn't one": (
        "CreateModel",
        "ValidationException: Could not assume role. Please ensure that the role exists",
        "AWS refuses CreateModel: ValidationException, Could not assume role",
    ),
    "a quota": (
        "CreateEndpointConfig",
        "ResourceLimitExceeded: The account-level service limit 'ml.m5.large' is 0 Instances",
        "is 0 Instances; have the quota raised, or take another instance_type",
    ),
    "old credentials": (
        "UpdateEndpoint$",
        "ExpiredTokenException: expired",
        "expired; renew this step's credentials",
    ),
    "a change at the same time": (
        "UpdateEndpoint$",
        "ValidationException: Cannot update in-progress endpoint",
        "AWS refuses UpdateEndpoint: ValidationException, Cannot update in-progress",
    ),
}


@pytest.mark.parametrize(("where", "said", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_reported_and_leaves_what_served(
    where: str, said: str, words: str, sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    sagemaker_ai.troubles.append(Refused(400, path=where, message=said))
    with pytest.raises(ValueError, match=f"is not deployed: .*{words}") as raised:
        bring(second, percent=10)
    assert str(raised.value).endswith(f"; {made.revision} serves as before")
    assert sagemaker_ai.weights("churn") == made.traffic


def test_a_step_without_permission_to_clean_up_still_deploys(
    sagemaker_ai: SageMakerService, first: Served, second: Served, caplog: pytest.LogCaptureFixture
) -> None:
    bring(first)
    denied = "AccessDeniedException: User: x is not authorized to perform: sagemaker:ListEndpointConfigs"
    sagemaker_ai.troubles.append(Refused(400, path="List", message=denied))
    assert bring(second, percent=10).traffic == sagemaker_ai.weights("churn")
    assert "unused objects of endpoint churn stay: " in caplog.text


def test_a_removed_or_foreign_endpoint_is_reported(sagemaker_ai: SageMakerService, first: Served) -> None:
    made = bring(first)
    sagemaker_ai.endpoints["churn"].configuration = "by-hand"
    with pytest.raises(
        ValueError, match="'churn' in eu-west-1 was made by something else; deploy to another name"
    ):
        bring(first)
    sagemaker_ai.endpoints.clear()
    canary = made.deploying("rcafecafecafe", 10)
    for change in (lambda: sagemaker.shift(made, 100), lambda: sagemaker.rollback(canary)):
        with pytest.raises(
            ValueError, match="there is no endpoint 'churn' in eu-west-1; deploy a model first"
        ):
            change()
    with pytest.raises(
        ValueError, match="AWS refuses InvokeEndpoint: ValidationError, Endpoint churn of account"
    ):
        sagemaker.predict(made, RECORDS)


# Predictions.


def test_predictions_are_those_of_the_server_behind_the_variant_that_is_asked(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    made = bring(first)
    same(sagemaker.predict(made, RECORDS), models.load(first.path).predict(rows().head(5)).to_dicts())
    canary = bring(second, percent=10)
    promoted = sagemaker.shift(canary, 100)
    for revision, model in {made.revision: first, canary.revision: second}.items():
        _, expected, _ = model.server.call("/predict", {"instances": RECORDS})
        for endpoint in (canary, promoted):
            assert sagemaker.predict(endpoint, RECORDS, revision) == expected["predictions"]
    with pytest.raises(ValueError, match=r"the model server refuses: .*visits must be a number"):
        sagemaker.predict(made, [{**RECORDS[0], "visits": "many"}])


def test_clients_without_a_variant_get_the_traffic_split(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    bring(first)
    canary = bring(second, percent=10)
    answers = [sagemaker.predict(canary, RECORDS[:1])[0]["prediction"] for _ in range(100)]
    assert sum(isinstance(answer, float) for answer in answers) == 10


def test_a_probe_compares_both_revisions_with_the_offline_model(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    bring(first)
    canary = bring(second, percent=10)
    model = models.load(second.path)
    offline = pl.concat([rows(), model.predict(rows())], how="horizontal")
    found = probe.probe(
        canary, model.metadata, offline.lazy(), requests=10, seconds=3.0, sample_rows=5, rules=probe.Rules()
    )
    assert found.healthy, found.reason
    assert found.previous
    assert (found.current.requests, found.previous.requests) == (10, 10)


def test_an_answer_that_is_not_a_prediction_is_reported(
    sagemaker_ai: SageMakerService, first: Served
) -> None:
    made = bring(first)
    other = Other()
    sagemaker_ai.servers = dict.fromkeys(sagemaker_ai.servers, other.url)
    for said in ({"predictions": [{"prediction": "pro"}]}, {"scores": [1]}, "<html>"):
        other.said = said
        with pytest.raises(ValueError, match=r"endpoint 'churn' answered .* instead of 5 predictions"):
            sagemaker.predict(made, RECORDS)
    other.close()


# The archive.


def unpacked(directory: Path, folder: Path) -> Path:
    """Make a model what SageMaker makes of it: an archive, and a directory on an instance."""
    with (folder / "model.tar.gz").open("wb") as file:
        sagemaker.archive(directory, file)
    with tarfile.open(folder / "model.tar.gz") as tar:
        tar.extractall(folder / "model", filter="fully_trusted")
    return folder / "model"


def test_the_archive_holds_the_model_and_is_served_by_the_platforms_rules(
    first: Served, tmp_path: Path
) -> None:
    mounted = unpacked(first.path, tmp_path)
    names = [path.relative_to(first.path) for path in sorted(first.path.rglob("*"))]
    assert [path.relative_to(mounted) for path in sorted(mounted.rglob("*"))] == names
    assert all(
        (mounted / name).read_bytes() == (first.path / name).read_bytes()
        for name in names
        if (first.path / name).is_file()
    )
    port, grpc_port = free_ports(2)
    # As in the image, where it lies under /opt/ml/model.
    code = f"from flowparts.serving import server_settings; server_settings.MOUNTS = ({str(mounted)!r},)"
    code += "; from flowparts.serving.__main__ import main; import sys; sys.exit(main(sys.argv[1:]))"
    environment = {
        "PYTHONPATH": str(CODE),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "PATH": "/usr/bin:/bin",
        "FLOWPARTS_SERVING_NAME": "churn",
        "FLOWPARTS_SERVING_GRPC_PORT": str(grpc_port),
    }
    server = subprocess.Popen(
        [sys.executable, "-c", code, "serve"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        common.wait("the server", lambda: answers(f"{address}/ping"), 60.0)
        expected = models.load(first.path).predict(rows().head(5)).to_dicts()
        same(common.ask(f"{address}/invocations", RECORDS), expected)
    finally:
        server.terminate()
        assert server.wait(30) == 0


def answers(url: str) -> str:
    try:
        common.fetch(url)
    except ValueError as error:
        return str(error)
    return ""


def test_the_archive_depends_on_the_content_alone(first: Served, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in sorted(first.path.rglob("*"), reverse=True):
        target = copy / path.relative_to(first.path)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            target.chmod(0o600)
    written = [io.BytesIO(), io.BytesIO()]
    for directory, file in zip((first.path, copy), written, strict=True):
        sagemaker.archive(directory, file)
    assert written[0].getvalue() == written[1].getvalue()
    with tarfile.open(fileobj=io.BytesIO(written[0].getvalue())) as tar:
        assert {(entry.mode, entry.isdir(), entry.uid) for entry in tar} <= {
            (0o644, False, 0),
            (0o755, True, 0),
        }


def test_a_large_model_is_packed_in_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(200 * 2**20)
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    with (tmp_path / "out" / "model.tar.gz").open("wb") as file:
        sagemaker.archive(tmp_path, file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_model_on_this_machine_goes_to_the_storage_once(
    sagemaker_ai: SageMakerService, first: Served
) -> None:
    given = {"role": ROLE, "image": IMAGE, "storage": f"s3://{ARCHIVES}/team/a/", "timeout_seconds": 20.0}
    made = sagemaker.deploy(str(first.path), "churn", **given)
    assert objects(ARCHIVES) == [f"team/a/churn/{made.revision}/model.tar.gz"]
    same(sagemaker.predict(made, RECORDS), models.load(first.path).predict(rows().head(5)).to_dicts())
    stored = boto3.resource("s3").Object(ARCHIVES, objects(ARCHIVES)[0]).last_modified
    sagemaker.deploy(first.s3, "churn-too", **given | {"storage": f"s3://{ARCHIVES}"})
    assert objects(ARCHIVES) == [
        f"churn-too/{made.revision}/model.tar.gz", f"team/a/churn/{made.revision}/model.tar.gz",
    ]  # fmt: skip
    sagemaker_ai.endpoints.clear()
    assert sagemaker.deploy(str(first.path), "churn", **given) == made
    assert boto3.resource("s3").Object(ARCHIVES, made_key(made)).last_modified == stored


def made_key(made: Endpoint) -> str:
    return f"team/a/churn/{made.revision}/model.tar.gz"


# What a step is given.

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a name": ({"name": "Churn!"}, "endpoint name 'Churn!' must start"),
    "a share": ({"percent": 101}, "from 0 to 100, not 101"),
    "replicas": ({"replicas": 0}, "replicas must be from 1 to 100"),
    "no time": ({"timeout_seconds": 0.0}, "timeout_seconds must be more than 0"),
    "a role": (
        {"role": "Model-Server"},
        "role must be the ARN of a role, arn:aws:iam::.*, not 'Model-Server'",
    ),
    "an instance": (
        {"instance_type": "m5.large"},
        "instance_type must be a type such as 'ml.m5.large', not 'm5",
    ),
    "no storage": (
        {"model": "/models/1"},
        "must be s3://BUCKET/PREFIX, .*because the model is not in S3 but at '/mo",
    ),
    "a storage": ({"storage": "gs://models"}, "storage must be s3://BUCKET/PREFIX, .*not 'gs://models'"),
    "no model there": (
        {"model": f"s3://{BUCKET}/nothing"},
        "there is nothing at s3://models/nothing",
    ),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_a_bad_option_is_refused_before_anything_is_sent(
    options: dict[str, Any], words: str, sagemaker_ai: SageMakerService, first: Served
) -> None:
    with pytest.raises(ValueError, match=words):
        sagemaker.deploy(**{"model": first.s3, "name": "churn", "role": ROLE, **options})
    assert sagemaker_ai.requests == []


def without_region(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_REGION")


def without_credentials(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")


def without_service(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9")


MISSING: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "region": (without_region, "region must be known; give it as an option, or set AWS_REGION"),
    "credentials": (
        without_credentials,
        "AWS gives this step no access, because it has no credentials; set AWS_",
    ),
    "service": (without_service, "AWS gave no answer .*; is the region right and the service within reach"),
}


@pytest.mark.parametrize(("without", "words"), MISSING.values(), ids=MISSING)
def test_missing_settings_and_credentials_are_reported(
    without: Callable[[pytest.MonkeyPatch], None],
    words: str,
    sagemaker_ai: SageMakerService,
    first: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    without(monkeypatch)
    options = {"role": ROLE, "image": IMAGE, "storage": f"s3://{ARCHIVES}"}
    with pytest.raises(ValueError, match=words) as raised:
        sagemaker.deploy(str(first.path), "churn", **options)
    assert "\n" not in str(raised.value)


def test_a_missing_bucket_is_reported(sagemaker_ai: SageMakerService, first: Served) -> None:
    with pytest.raises(
        ValueError, match=r"NoSuchBucket, .*; make the bucket, or give another one as storage$"
    ):
        bring(first, storage="s3://nothing-here")
    assert sagemaker_ai.writes() == []


def test_a_bucket_that_may_not_be_written_to_is_reported(
    sagemaker_ai: SageMakerService, first: Served
) -> None:
    policy = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{ARCHIVES}/*",
    }
    bucket = boto3.resource("s3").BucketPolicy(ARCHIVES)
    bucket.put(Policy=json.dumps({"Version": "2012-10-17", "Statement": [policy]}))
    try:
        with pytest.raises(ValueError, match=f"AWS refuses PutObject: .*; {ALLOW}"):
            bring(first, storage=f"s3://{ARCHIVES}")
    finally:
        bucket.delete()
    assert sagemaker_ai.writes() == []


def test_an_endpoint_is_removed_with_all_that_was_made_and_not_by_accident(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    bring(first)
    canary = bring(second, percent=10)
    full = sagemaker_ai.writes()
    with pytest.raises(
        ValueError, match=rf"endpoint 'churn' serves \(.*{canary.revision} 10 %.*\); set even_if_serving"
    ):
        operations.remove("sagemaker", "churn", {})
    said = operations.remove("sagemaker", "churn", {}, dry_run=True)
    assert sagemaker_ai.writes() == full
    assert operations.remove("sagemaker", "churn", {}, even_if_serving=True) == said
    assert "endpoint churn" in said
    assert f"model churn-{canary.revision}" in said
    assert sagemaker_ai.endpoints == {}
    assert not any(sagemaker_ai.held())
    with pytest.raises(operations.NoEndpointError, match="there is no endpoint 'churn' on sagemaker"):
        operations.remove("sagemaker", "churn", {})


def test_an_endpoint_of_something_else_is_not_removed(sagemaker_ai: SageMakerService, first: Served) -> None:
    bring(first)
    sagemaker_ai.endpoints["churn"].configuration = "by-hand"
    with pytest.raises(ValueError, match="was made by something else"):
        operations.remove("sagemaker", "churn", {}, even_if_serving=True)
    assert "churn" in sagemaker_ai.endpoints


def test_an_endpoint_keeps_the_options_that_it_was_deployed_with(
    sagemaker_ai: SageMakerService, first: Served, second: Served
) -> None:
    needed = {"role": ROLE, "timeout_seconds": 20.0}
    given = {**needed, "image": IMAGE, "instance_type": "ml.c5.xlarge", "storage": f"s3://{BUCKET}/models"}
    made = operations.deployed("sagemaker", str(first.path), "churn", 1.0, given)
    kept = {key: value for key, value in given.items() if key != "timeout_seconds"}
    assert made.settings["options"] == kept
    canary = operations.deployed("sagemaker", str(second.path), "churn", 0.5, {**needed, "replicas": 2.0})
    assert canary.settings["options"] == {**kept, "replicas": 2}
    (*_, configuration) = sagemaker_ai.asked("CreateEndpointConfig")
    assert {each["InstanceType"] for each in configuration["ProductionVariants"]} == {"ml.c5.xlarge"}
    assert sagemaker.endpoints() == [canary]
    # A rollback brings back those of the revision before.
    assert sagemaker.rollback(canary).settings["options"] == kept
