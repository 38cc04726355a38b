"""Print river's annotated series and what its detectors find in them, as JSON (in river's environment)."""

import json
import statistics
from collections.abc import Callable

from river import drift
from river.drift import datasets

BEFORE_2000 = sum(day["day"].year < 2000 for day, _ in datasets.BrentSpotPrice())
# The annotators saw these parts of three series: https://github.com/alan-turing-institute/TCPD
PARTS: dict[str, tuple[list[str], Callable[[list[float]], list[float]]]] = {
    "Apple": (["Close", "Volume"], lambda values: values[::3]),
    "Bitcoin": ([], lambda values: values[:774]),
    # Every tenth day from 2000.
    "BrentSpotPrice": ([], lambda values: values[BEFORE_2000::10]),
}
DETECTORS: dict[str, dict[str, Callable[[], drift.ADWIN | drift.PageHinkley | drift.KSWIN]]] = {
    "ADWIN": {
        f"delta={delta:g}": lambda delta=delta: drift.ADWIN(delta=delta)
        for delta in (0.002, 0.0002, 0.02, 0.2)
    },
    "Page-Hinkley": {
        f"threshold={threshold:g}": lambda threshold=threshold: drift.PageHinkley(threshold=threshold)
        for threshold in (50, 2, 5, 10, 20)
    },
    "KSWIN": {
        f"alpha={alpha:g}, window_size={size}": lambda alpha=alpha, size=size: drift.KSWIN(
            alpha=alpha, window_size=size, stat_size=min(30, size // 3), seed=0
        )
        for alpha, size in ((0.005, 100), (0.0001, 100), (0.005, 50), (0.0001, 50), (0.0001, 30))
    },
}


def main() -> None:
    found = {}
    for name in datasets.__all__:
        series = getattr(datasets, name)()
        chosen, part = PARTS.get(name, ([], list))
        answers = [answer if isinstance(answer, dict) else {"value": answer} for _, answer in series]
        columns = {
            column: part([float(answer[column]) for answer in answers]) for column in chosen or answers[0]
        }
        found[name] = {
            "annotations": series.annotations,
            "columns": columns,
            "found": {
                detector: {
                    setting: {column: detect(make(), values) for column, values in columns.items()}
                    for setting, make in settings.items()
                }
                for detector, settings in DETECTORS.items()
            },
        }
    print(json.dumps(found))


def detect(detector: drift.ADWIN | drift.PageHinkley | drift.KSWIN, values: list[float]) -> list[int]:
    """Return the positions at which a detector reports a change of a standardised series.

    Standardising uses the whole series, which favours the detectors: some of their thresholds have its unit.
    """
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    places = []
    for place, value in enumerate(values):
        detector.update((value - mean) / deviation)
        if detector.drift_detected:
            places.append(place)
    return places


if __name__ == "__main__":
    main()
