"""Run one trial of a study on a separate machine: `python -m flowparts.tune.trial FOLDER --NAME=VALUE...`.

It trains and scores the configuration chosen by the platform's tuner, writes the result into the study's
folder, and reports the metric in the platform's form: a line NAME=VALUE of the output for Katib, a file of
JSON lines as written by its library cloudml-hypertune for Vertex AI.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowparts.tune import flat_space
from flowparts.tune.objective import Trial
from flowparts.tune.remote import Folder
from flowparts.util import errors

# Environment variables with the name of the trial.
_KATIB, _VERTEX = "KATIB_TRIAL_NAME", "CLOUD_ML_TRIAL_ID"
# For Katib, a trial has failed if it ends before the container that collects its metrics runs.
STAY_SECONDS = "FLOWPARTS_TRIAL_STAY_SECONDS"


def run(folder: Folder, assigned: Mapping[str, str]) -> tuple[Trial, str]:
    """Train and score the configuration that a tuner has chosen; return the trial and the metric's name.

    Raises:
        ValueError: The study can't be read.
    """
    with folder.judged() as (judged, settings, seconds):
        trial = flat_space.attempted(
            settings.spaces, assigned, 0, lambda chosen: judged.evaluate(0, chosen, [], seconds)
        )
    return trial, judged.metric


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run a trial and report its result; return 0 if it is complete, else 1."""
    started = time.monotonic()
    address, *given = arguments
    assigned = dict(each.removeprefix("--").split("=", 1) for each in given)
    name = environment.get(_KATIB) or f"trial-{environment.get(_VERTEX, '0')}"
    try:
        folder = Folder(address)
        trial, metric = run(folder, assigned)
        folder.keep(name, trial)
    except ValueError as error:
        print(f"ValueError: {errors.first_line(error)}", flush=True)  # noqa: T201 its log
        return 1
    if trial.score is None:
        print(f"ValueError: {trial.reason}", flush=True)  # noqa: T201 its log
        return 1
    print(f"{metric}={trial.score!r}", flush=True)  # noqa: T201 what Katib reads
    if _VERTEX in environment:
        _report(metric, trial.score, environment)
    time.sleep(max(0.0, float(environment.get(STAY_SECONDS, 0)) - (time.monotonic() - started)))
    return 0


def _report(metric: str, score: float, environment: Mapping[str, str]) -> None:
    file = Path(environment.get("CLOUD_ML_HP_METRIC_FILE", "/tmp/hypertune/output.metrics"))  # noqa: S108 Google's
    file.parent.mkdir(parents=True, exist_ok=True)
    line = {
        "timestamp": time.time(),
        "trial": environment[_VERTEX],
        metric: str(score),
        "global_step": "0",
    }
    file.write_text(json.dumps(line, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
