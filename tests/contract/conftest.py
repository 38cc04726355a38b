"""One small run of every pipeline, whose steps the tests of this folder run again."""

import fcntl
import itertools
import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from targets import catalogue, package
from tests.contract.steps import Step, from_command

QUICK = [
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "XGB", "parameters": {"n_estimators": 20}},
]
# What the pipelines' parameters are here; one that isn't named runs after these, with its defaults.
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("tabular_training", {"candidates": QUICK}),
    (
        "tabular_training",
        {
            "source": "sample://diabetes",
            "task": "regression",
            "candidates": QUICK[:1],
            "model_name": "diabetes",
        },
    ),
    ("batch_prediction", {"destination": "{outside}/predictions.csv"}),
]


@dataclass(frozen=True)
class Recorded:
    """The steps of the runs, one for each component, and the folder outside of the run that they write to."""

    steps: dict[str, Step]
    outside: Path


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Run every pipeline once, however many test processes there are."""
    base = tmp_path_factory.getbasetemp()
    # The workers of pytest-xdist have folders beside each other.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "recorded"
    folder.mkdir(exist_ok=True)
    file, outside = folder / "steps.json", folder / "outside"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            with pytest.MonkeyPatch.context() as patch:
                steps = _run_pipelines(folder, outside, patch)
            file.write_text(json.dumps([asdict(step) for step in steps]))
    steps = [Step(**step) for step in json.loads(file.read_text())]
    return Recorded({step.component: step for step in steps}, outside)


def _run_pipelines(folder: Path, outside: Path, patch: pytest.MonkeyPatch) -> list[Step]:
    from kfp import components, local
    from kfp.local import config, subprocess_task_handler

    steps: list[Step] = []
    numbers = itertools.count()

    def run_here(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        step = from_command(full_command)
        steps.append(step)
        log = folder / f"{next(numbers):03}-{step.component}.log"
        log.touch()
        ended = step.run(log)
        assert ended.exit_code == 0, f"{step.component} failed: {ended.log}"
        return ended.exit_code

    patch.setattr(subprocess_task_handler, "run_local_subprocess", run_here)
    patch.setattr(config.LocalExecutionConfig, "instance", None)
    pipelines = catalogue.pipelines()
    others: list[tuple[str, dict[str, Any]]] = [
        (name, {}) for name in pipelines if name not in {name for name, _ in RUNS}
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runner's remarks about the names of images
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder), raise_on_error=True)
        for name, parameters in [*RUNS, *others]:
            given = {
                key: value.format(outside=outside) if isinstance(value, str) else value
                for key, value in parameters.items()
            }
            if "tracking_uri" in pipelines[name].component_spec.inputs:
                given["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
            text = package.compiled(pipelines[name], lambda image: f"{image}:here")
            components.load_component_from_text(text)(**given)
    return steps
