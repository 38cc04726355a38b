"""F1 of change points on the annotated series that river ships: ours, a simple rule and river's detectors.

    .venv/bin/python benchmarks/monitoring/change_points.py     (make bench-change-points)

The score is that of the Turing change point data set (van den Burg & Williams 2020,
https://arxiv.org/abs/2003.06222): a change counts within 5 points, precision is against the changes of all
annotators together, recall is the mean over annotators, and the first point counts as a change that everybody
found. Of series with several columns it is the mean over the columns.
"""

import json
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import fmean
from unittest import mock

import numpy as np

from flowparts.monitor import changes

MARGIN = 5
# Half of an interval of 97.5 %, in standard errors.
HALF_WIDTH = 2.24
PENALTIES = (3.0, 2.0, 4.0, 6.0, 10.0, 30.0)
Find = Callable[[Sequence[float]], list[int]]
PEER = Path(".venv-bench/river/bin/python")


def main() -> None:
    command = [str(PEER), str(Path(__file__).with_name("river_detectors.py"))]
    series = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ours: dict[str, dict[str, Find]] = {
        "no change": {"": lambda _: []},
        "each point alone": {"": alone},
        "changes.find": {f"penalty {factor:g} log n": penalised(factor) for factor in PENALTIES},
    }
    scores: dict[str, dict[str, list[float]]] = {
        method: {
            setting: [
                mean_f1(one["annotations"], {name: find(values) for name, values in one["columns"].items()})
                for one in series.values()
            ]
            for setting, find in settings.items()
        }
        for method, settings in ours.items()
    }
    for method, settings in next(iter(series.values()))["found"].items():
        scores[method] = {
            setting: [mean_f1(one["annotations"], one["found"][method][setting]) for one in series.values()]
            for setting in settings
        }
    print("| method | setting | " + " | ".join(series) + " | mean |")
    print("|---" * (len(series) + 3) + "|")
    for method, settings in scores.items():
        default, *_ = settings
        best = max(settings, key=lambda setting: fmean(settings[setting]))
        for setting in dict.fromkeys([default, best]):
            values = settings[setting]
            cells = [f"{value:.2f}" for value in [*values, fmean(values)]]
            print(f"| {method} | {setting} | {' | '.join(cells)} |", flush=True)


def penalised(factor: float) -> Find:
    def find(values: Sequence[float]) -> list[int]:
        with mock.patch.object(changes, "_PENALTY", factor):
            return changes.find(values)

    return find


def alone(values: Sequence[float]) -> list[int]:
    """Return the points that differ from the mean since the last change by more than the noise allows."""
    noise = float(changes._step_noise(np.asarray(values), np.ones(len(values))))
    places, start = [], 0
    for place in range(1, len(values)):
        if abs(values[place] - fmean(values[start:place])) > HALF_WIDTH * noise:
            places.append(place)
            start = place
    return places


def mean_f1(annotations: dict[str, list[int]], found: dict[str, list[int]]) -> float:
    return fmean(f1(list(annotations.values()), places) for places in found.values())


def f1(annotations: Sequence[Collection[int]], found: Collection[int]) -> float:
    annotators, reported = [{0, *each} for each in annotations], {0, *found}
    precision = _hits(set().union(*annotators), reported) / len(reported)
    recall = fmean(_hits(each, reported) / len(each) for each in annotators)
    return 2 * precision * recall / (precision + recall)


def _hits(true: Collection[int], reported: Collection[int]) -> int:
    """Return how many true changes have a reported one nearby that is no other one's."""
    left, hits = set(reported), 0
    for place in sorted(true):
        near = min(left, key=lambda each: (abs(each - place), each), default=None)
        if near is not None and abs(near - place) <= MARGIN:
            left.remove(near)
            hits += 1
    return hits


if __name__ == "__main__":
    main()
