"""The server's Prometheus metrics: one array of counters per worker, added up on a scrape.

All label values are known when the server starts (protocols, codes, reasons, classes), so a counter has a
fixed offset in a file that workers map into memory. Counting is one addition without a lock, since only a
worker's event loop writes to its array; a worker that replaces a killed one continues its counts.
"""

import mmap
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flowparts.serving.refusals import REASONS

PROTOCOLS = ("predict", "v1", "v2", "grpc", "vertex", "sagemaker", "other")
CODES = ("200", *sorted({str(int(status)) for status, _ in REASONS.values()}))
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Metrics:
    """The counters of one worker, and the sum over all.

    Args:
        folder: Folder of the workers' arrays.
        worker: Number of this worker.
        classes: Classes of a classifier; None for a regressor or a model repository.

    Attributes:
        models: Labels of each model: name, version, engine.
    """

    def __init__(self, folder: Path, worker: int, classes: Sequence[Any] | None) -> None:
        self._folder = folder
        self._classes = ["" if classes is None else str(value) for value in classes or [None]]
        self.models: list[dict[str, str]] = []
        self._places: dict[tuple[str, ...], int] = {}
        length = 0
        for key, size in self._layout():
            self._places[key] = length
            length += size
        file = folder / f"worker-{worker}"
        with file.open("a+b") as opened:
            opened.truncate(8 * length)
            self._map = mmap.mmap(opened.fileno(), 8 * length)
        self._cells: Any = memoryview(self._map).cast("d")
        self._in_flight = self._places["in_flight",]
        self._cells[self._in_flight] = 0
        # Looked up for each request.
        self._of_request = {
            (protocol, int(code)): (
                self._places["requests", protocol, code],
                self._places["latency", protocol],
            )
            for protocol in PROTOCOLS
            for code in CODES
        }
        self._of_batch = self._places["batch_rows",], self._places["batch_seconds",]
        self._class_places = {value: self._places["predictions", str(value)] for value in classes or ()}

    def _layout(self) -> Iterator[tuple[tuple[str, ...], int]]:
        yield ("in_flight",), 1
        for protocol in PROTOCOLS:
            yield ("latency", protocol), len(SECONDS) + 2
            for code in CODES:
                yield ("requests", protocol, code), 1
        for reason in REASONS:
            yield ("rejected", reason), 1
        yield ("unlogged",), 1
        yield ("batch_rows",), len(ROWS) + 2
        yield ("batch_seconds",), len(SECONDS) + 2
        for name in self._classes:
            yield ("predictions", name), 1

    def started(self) -> None:
        """Count a request that has started."""
        self._cells[self._in_flight] += 1

    def finished(self, protocol: str, code: int, seconds: float) -> None:
        """Count a finished request, with its status and duration."""
        cells = self._cells
        requests, latency = self._of_request[protocol, code]
        cells[self._in_flight] -= 1
        cells[requests] += 1
        self._spread(latency, SECONDS, seconds)

    def rejected(self, reason: str) -> None:
        """Count a refused request."""
        self._cells[self._places["rejected", reason]] += 1

    def unlogged(self, rows: int) -> None:
        """Count rows missing from the prediction log; only its thread calls this."""
        self._cells[self._places["unlogged",]] += rows

    def scored(self, rows: int, seconds: float, predictions: Sequence[Any]) -> None:
        """Count a batch of the engine."""
        of_rows, of_seconds = self._of_batch
        self._spread(of_rows, ROWS, rows)
        self._spread(of_seconds, SECONDS, seconds)
        if not self._class_places:
            self._cells[self._places["predictions", ""]] += rows
        elif rows == 1:
            self._cells[self._class_places[predictions[0]]] += 1
        else:
            for value, place in self._class_places.items():
                self._cells[place] += predictions.count(value)

    def _spread(self, place: int, bounds: Sequence[float], value: float) -> None:
        self._cells[place + bisect_left(bounds, value)] += 1
        self._cells[place + len(bounds) + 1] += value

    def render(self) -> bytes:
        """Return the sum over all workers in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable[Any]:
        """Yield the metric families; called by prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        total = self._sum()

        def number(*key: str) -> float:
            return total[self._places[key]]

        def histogram(family: Any, labels: list[str], key: tuple[str, ...], bounds: Sequence[float]) -> None:
            place, count, buckets = self._places[key], 0.0, []
            for index, bound in enumerate([*map(str, bounds), "+Inf"]):
                count += total[place + index]
                buckets.append((bound, count))
            if count:
                family.add_metric(labels, buckets, total[place + len(bounds) + 1])

        labels = ["name", "version", "engine"]
        info = GaugeMetricFamily("flowparts_model_info", "The model that is served.", labels=labels)
        for model in self.models:
            info.add_metric([model[label] for label in labels], 1)
        yield info
        yield GaugeMetricFamily(
            "flowparts_requests_in_flight", "Requests being answered.", value=number("in_flight")
        )
        requests = CounterMetricFamily(
            "flowparts_requests", "Requests answered.", labels=["protocol", "code"]
        )
        latency = HistogramMetricFamily(
            "flowparts_request_seconds", "Time from a request's head to its answer.", labels=["protocol"]
        )
        for protocol in PROTOCOLS:
            for code in CODES:
                if count := number("requests", protocol, code):
                    requests.add_metric([protocol, code], count)
            histogram(latency, [protocol], ("latency", protocol), SECONDS)
        yield requests
        yield latency
        rejected = CounterMetricFamily(
            "flowparts_rejected", "Requests that got no prediction, by reason.", labels=["reason"]
        )
        for reason in REASONS:
            rejected.add_metric([reason], number("rejected", reason))
        yield rejected
        yield CounterMetricFamily(
            "flowparts_prediction_log_lost_rows",
            "Predicted rows missing from the prediction log: writing was too slow or failed.",
            value=number("unlogged"),
        )
        rows = HistogramMetricFamily("flowparts_batch_rows", "Rows scored together.", labels=[])
        histogram(rows, [], ("batch_rows",), ROWS)
        yield rows
        seconds = HistogramMetricFamily(
            "flowparts_batch_seconds", "Time that the engine took for a batch.", labels=[]
        )
        histogram(seconds, [], ("batch_seconds",), SECONDS)
        yield seconds
        predictions = CounterMetricFamily(
            "flowparts_predictions", "Rows predicted, by class.", labels=["class"]
        )
        for name in self._classes:
            predictions.add_metric([name], number("predictions", name))
        yield predictions

    def _sum(self) -> list[float]:
        size = len(self._cells)
        arrays = [self._cells]
        for file in self._folder.glob("worker-*"):
            content = file.read_bytes()
            if len(content) == 8 * size:
                arrays.append(memoryview(content).cast("d"))
        # This worker's own file is among them.
        return [sum(column) for column in zip(*arrays[1:], strict=True)]
