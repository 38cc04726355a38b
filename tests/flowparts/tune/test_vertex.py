"""Against the stand-in for Vertex AI, by Google's own client; no trial is trained here."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.cloud.aiplatform_v1 import types

from flowparts.tune import platforms, space, vertex
from flowparts.tune.remote import Search
from flowparts.tune.vertex import Vertex
from flowparts.util.errors import RefusedError, UnreachableError
from tests.flowparts.deploy.vertex_service import PARENT, VertexService
from tests.flowparts.tune import test_katib
from tests.stand_in import Trouble

# Google's client libraries warn about their own future.
pytestmark = pytest.mark.filterwarnings("ignore")

SPACES = space.check(
    {
        "Ridge": {"alpha": {"type": "float", "low": 0.1, "high": 10.0, "log": True}},
        "LGBM": {
            "num_leaves": {"type": "int", "low": 2, "high": 64},
            "boosting_type": {"type": "categorical", "choices": ["gbdt", "dart"]},
            "drop_rate": {"type": "float", "low": 0, "high": 1, "when": {"boosting_type": "dart"}},
        },
    },
    "regression",
)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexService]:
    running = VertexService()
    monkeypatch.setattr("flowparts.deploy.common._LOOK_EVERY_SECONDS", 0.02)
    for name, value in running.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    yield running
    running.close()


def search(trials: int = 4, parallel: int = 2) -> Search:
    return replace(test_katib.search(trials, parallel), folder="gs://studies/flowparts-1a2b3c4d5e6f")


def test_parameters_stand_below_the_values_that_they_depend_on() -> None:
    (root,) = vertex.parameters(SPACES)
    read = types.StudySpec.ParameterSpec(root)  # refuses an unknown field
    assert read.parameter_id == "estimator"
    below = {each.parameter_spec.parameter_id: each for each in read.conditional_parameter_specs}
    assert below.keys() == {"ridge-alpha", "lgbm-num-leaves", "lgbm-boosting-type"}
    assert list(below["ridge-alpha"].parent_categorical_values.values) == ["Ridge"]
    alpha, leaves = (below[name].parameter_spec for name in ("ridge-alpha", "lgbm-num-leaves"))
    assert (alpha.double_value_spec.min_value, alpha.double_value_spec.max_value) == (0.1, 10.0)
    assert (alpha.scale_type.name, leaves.scale_type.name) == ("UNIT_LOG_SCALE", "UNIT_LINEAR_SCALE")
    assert (leaves.integer_value_spec.min_value, leaves.integer_value_spec.max_value) == (2, 64)
    (rate,) = below["lgbm-boosting-type"].parameter_spec.conditional_parameter_specs
    assert rate.parameter_spec.parameter_id == "lgbm-drop-rate"
    assert list(rate.parent_categorical_values.values) == ["dart"]


def test_a_job_says_what_trials_run_on(service: VertexService) -> None:
    service.fares = "infeasible"
    image = "europe-west4-docker.pkg.dev/shop/images/flowparts-sklearn:1"
    Vertex(
        image=image, machine_type="n2-standard-8", service_account="trials@shop", trial_seconds=600
    ).search(search(7, 3))
    (job,) = service.jobs.values()
    assert (job.max_trial_count, job.parallel_trial_count, job.max_failed_trial_count) == (7, 3, 4)
    assert (job.study_spec.metrics[0].metric_id, job.study_spec.metrics[0].goal.name) == ("rmse", "MINIMIZE")
    (pool,) = job.trial_job_spec.worker_pool_specs
    assert (pool.machine_spec.machine_type, pool.container_spec.image_uri) == ("n2-standard-8", image)
    assert list(pool.container_spec.args) == ["gs://studies/flowparts-1a2b3c4d5e6f"]
    assert job.trial_job_spec.scheduling.timeout.total_seconds() == 600
    assert job.trial_job_spec.service_account == "trials@shop"


def test_why_a_trial_failed_is_reported(service: VertexService) -> None:
    service.fares = "infeasible"
    attempts = Vertex().search(search())
    assert [attempt.name for attempt in attempts] == ["trial-1", "trial-2", "trial-3", "trial-4"]
    for attempt in attempts:
        assert "non-zero status of 137" in attempt.problem
        assert 0.1 <= float(attempt.assigned["alpha"]) <= 10


def test_a_job_that_fails_as_a_whole_is_reported(service: VertexService) -> None:
    service.fares = "quota"
    with pytest.raises(
        ValueError, match=r"Vertex AI ran no trial of \S+: The following quotas are exceeded: Cust"
    ):
        Vertex().search(search())


def test_a_job_of_an_earlier_attempt_is_followed_unless_cancelled(
    service: VertexService,
) -> None:
    service.fares = "infeasible"
    first = Vertex().search(search())
    assert Vertex().search(search()) == first
    assert len(service.sent("POST", "hyperparameterTuningJobs$")) == 1
    Vertex().remove(search())
    assert service.jobs == {}
    running = types.HyperparameterTuningJob(
        name=f"{PARENT}/hyperparameterTuningJobs/9", display_name=search().name, state="JOB_STATE_RUNNING"
    )
    service.jobs[running.name] = running
    Vertex().remove(search())
    assert running.state.name == "JOB_STATE_CANCELLED"
    Vertex().search(search())
    assert len(service.sent("POST", "hyperparameterTuningJobs$")) == 2


def test_a_refusal_says_what_to_do(service: VertexService) -> None:
    service.troubles.append(Trouble(403, "POST", "hyperparameterTuningJobs$", message="Permission denied"))
    with pytest.raises(
        RefusedError, match=r"answered 403: Permission denied; give this step's account the role"
    ):
        Vertex().search(search())


def test_a_service_that_is_not_there_is_unreachable(
    service: VertexService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowparts.deploy.vertex_api.ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("FLOWPARTS_VERTEX_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="Vertex AI gave no answer"):
        Vertex().search(search())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"machine": "n1"}, "did you mean 'machine_type'"),
        ({"trial_seconds": 5}, "trial_seconds must be at least 60, not 5"),
        ({"pods": {}}, "unknown option of the target vertex 'pods'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        platforms.platform("vertex", options)
