"""Run the training pipeline on this machine, for the monitoring demonstration and its trigger."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import submission
from backends.local import runner
from tools import dashboards

PIPELINE = "tabular-training"
_SECONDS = 600


class Runs:
    """Runs pipelines on this machine with run.py, for triggers and for the demonstration.

    Args:
        folder: Folder for their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, sent: submission.Package, parameters: Mapping[str, Any], name: str) -> submission.Run:
        """Start a run."""
        self.start(sent.name, parameters, name)
        return self._described(name)

    def find(self, name: str) -> submission.Run | None:
        """Return a started run."""
        return self._described(name) if name in self._processes else None

    def start(self, pipeline: str, parameters: Mapping[str, Any], name: str) -> None:
        """Start a run of a pipeline."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(dict(parameters)), encoding="utf-8")
        command = [sys.executable, "run.py", pipeline, f"--params={file}", f"--runs={self.folder}"]
        with file.with_suffix(".log").open("w") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603
                command, cwd=dashboards.ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def names(self) -> list[str]:
        """Names of all runs, oldest first."""
        return list(self._processes)

    def ended(self, name: str) -> "Outcome":
        """Wait until a run ends, and return its outcome.

        Raises:
            ValueError: It failed, or the gate or the rollout refused its model.
        """
        log = self.folder / f"{name}.log"
        try:
            code = self._processes[name].wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{name} didn't end within {_SECONDS} s; its log: {log}") from None
        found = runner.summaries(self.folder).get(PIPELINE, {})
        if code or not found:
            raise ValueError(f"{name} failed; its log: {log}")
        number, summary = next(iter(found.items()))
        return Outcome.of(self.folder / PIPELINE / number, summary)

    def close(self) -> None:
        """End active runs; a rollout is rolled back first."""
        for process in self._processes.values():
            process.terminate()
            process.wait()

    def _described(self, name: str) -> submission.Run:
        code = self._processes[name].poll()
        state = "running" if code is None else "failed" if code else "succeeded"
        return submission.Run(name, name, state, str(self.folder / f"{name}.log"))


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run of the training pipeline.

    Attributes:
        folder: Its files.
        model: The directory of its model.
        verdict: Reason for the promotion.
        url: The endpoint.
        revision: The serving revision.
    """

    folder: Path
    model: Path
    verdict: str
    url: str
    revision: str

    @classmethod
    def of(cls, folder: Path, summary: Mapping[str, Any]) -> "Outcome":
        """Return the outcome of a run's summary.

        Raises:
            ValueError: The gate or the rollout refused the model.
        """
        given = {key: value for task in summary["tasks"] for key, value in task["outputs"].items()}
        gate = next(task["outputs"] for task in summary["tasks"] if "promote" in task["outputs"])
        if not gate["promote"]:
            raise ValueError(f"the gate refused the model: {gate['reason']}")
        if not given["promoted"]:
            raise ValueError(f"the canary was rolled back: {given['reason']}")
        trained = next(task["outputs"] for task in summary["tasks"] if "model" in task["outputs"])
        model = Path(trained["model"]["uri"])
        return cls(folder, model, gate["reason"], given["url"], given["revision"])
