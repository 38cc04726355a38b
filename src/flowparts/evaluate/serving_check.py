"""Check that a model can be served: start the real server with it and send it rows as JSON."""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypedDict, cast

import polars as pl

from flowparts import models, tables
from flowparts.models import agreement

_SINGLE_REQUESTS = 50


class Measures(TypedDict, total=False):
    """The measurements of a serving check; register_champion reads them from the check's metrics.

    Attributes:
        servable: 1 or 0.
        rows: Rows sent.
        load_seconds: Seconds until the server was ready.
        latency_ms_median: Median latency of a one-row request, in milliseconds.
        latency_ms_p95: 95th percentile.
    """

    servable: int
    rows: float
    load_seconds: float
    latency_ms_median: float
    latency_ms_p95: float


@dataclass(frozen=True)
class Verdict:
    """The result of a serving check.

    Attributes:
        servable: Whether the model loaded, answered in time and returned the offline predictions.
        reason: Reason for the verdict, in one sentence.
        measures: The measurements; empty without an answer.
        predictions: The rows with the offline predictions; empty if the model can't score them.
    """

    servable: bool
    reason: str
    measures: Measures = field(default_factory=Measures)
    predictions: pl.DataFrame = field(default_factory=pl.DataFrame, compare=False)

    def metrics(self) -> dict[str, float]:
        """Return the measurements and whether the model is servable."""
        return {"servable": int(self.servable), **cast(dict[str, float], self.measures)}

    @property
    def latency_ms(self) -> float:
        """Median latency of a one-row request, in milliseconds; 0 without an answer."""
        return self.measures.get("latency_ms_median", 0.0)


def check_options(sample_rows: int, timeout_seconds: float) -> None:
    """Raise ValueError unless the number of rows and the time are positive."""
    if sample_rows < 1:
        raise ValueError(f"sample_rows must be at least 1, not {sample_rows}")
    if not timeout_seconds > 0:
        raise ValueError(f"timeout_seconds must be more than 0, not {timeout_seconds:g}")


def check(model_path: str | Path, rows: pl.DataFrame, timeout_seconds: float) -> Verdict:
    """Serve a model with the real server, and compare its answers with the offline predictions.

    The server runs in a separate process and gets the rows as JSON over HTTP, first all at once, then some
    one by one. Classes must be equal (see `classes_may_differ`), probabilities and numbers equal within
    `TOLERANCE`.

    Args:
        model_path: The model directory.
        rows: Raw rows.
        timeout_seconds: Maximum time for loading and all requests together.

    Returns:
        The verdict; a failure of the model is a verdict, not an error.
    """
    try:
        model = models.load(model_path)
        offline = model.predict(rows)
        records = agreement.to_records(tables.select(rows, model.features))
    except ValueError as error:
        reason = f"the model can't score the test table offline: {error}"
        return Verdict(servable=False, reason=reason, predictions=rows.clear())
    verdict = _served(model_path, model, offline, records, timeout_seconds)
    # A column of the rows may have the name of a prediction column.
    return replace(verdict, predictions=rows.drop(offline.columns, strict=False).hstack(offline))


def _served(
    model_path: str | Path,
    model: models.Model,
    offline: pl.DataFrame,
    records: list[dict[str, Any]],
    timeout_seconds: float,
) -> Verdict:
    deadline = time.monotonic() + timeout_seconds
    try:
        with _server(model_path, len(records), deadline) as (port, load_seconds):
            batch, _ = _predict(port, records, deadline)
            answers = [_predict(port, [record], deadline) for record in records[:_SINGLE_REQUESTS]]
    except TimeoutError:
        return Verdict(servable=False, reason=f"the model did not answer within {timeout_seconds:g} s")
    except _Failed as failure:
        return Verdict(servable=False, reason=f"the model failed in the server's process: {failure}")
    served = {
        "load_seconds": load_seconds,
        "batch": batch,
        "singles": [row for found, _ in answers for row in found],
        "seconds": [seconds for _, seconds in answers],
    }
    return _judge(model, offline, served)


class _Failed(Exception):  # noqa: N818 - a finding, not an error of this module
    """The server ended or refused a request."""


@contextmanager
def _server(model_path: str | Path, rows: int, deadline: float) -> Iterator[tuple[int, float]]:
    """Start the server and wait until it is ready; yield its port and the seconds that it took."""
    command = [
        sys.executable,
        "-m",
        "flowparts.serving",
        f"--model={model_path}",
        "--host=127.0.0.1",
        "--port=0",
    ]
    command += ["--grpc-port=0", "--drain-seconds=0", f"--max-rows={rows}", "--max-body-mb=1000"]
    started = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as log,
        subprocess.Popen(command, stderr=log, text=True) as server,  # noqa: S603 - our own module
    ):
        try:
            while not (port := _port(log)):
                if server.poll() is not None:
                    raise _Failed(_last_message(log) or f"exit code {server.returncode}")
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(0.02)
            yield port, time.monotonic() - started
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError):
                raise
            raise _Failed(_last_message(log) or str(error)) from None
        finally:
            server.kill()


def _messages(log: IO[str]) -> list[dict[str, Any]]:
    log.seek(0)
    lines = log.read().splitlines()
    return [
        json.loads(line) if line.startswith("{") and line.endswith("}") else {"message": line}
        for line in lines
    ]


def _port(log: IO[str]) -> int:
    return next((line["http_port"] for line in _messages(log) if "http_port" in line), 0)


def _last_message(log: IO[str]) -> str:
    return next((line["message"] for line in reversed(_messages(log)) if line["message"].strip()), "")


def _predict(port: int, records: list[dict[str, Any]], deadline: float) -> tuple[list[dict[str, Any]], float]:
    """Return the predictions for rows and the seconds that they took."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=left)
    try:
        body = json.dumps({"instances": records}, allow_nan=False)
        started = time.perf_counter()
        connection.request("POST", "/predict", body, {"content-type": "application/json"})
        response = connection.getresponse()
        content = json.loads(response.read())
        seconds = time.perf_counter() - started
    finally:
        connection.close()
    if response.status != 200:
        raise _Failed(content["error"])
    return content["predictions"], seconds


def _judge(model: models.Model, offline: pl.DataFrame, served: dict[str, Any]) -> Verdict:
    seconds = pl.Series(served["seconds"])
    median, p95 = (1000 * float(seconds.quantile(q, "linear") or 0) for q in (0.5, 0.95))
    measures: Measures = {
        "rows": float(offline.height),
        "load_seconds": served["load_seconds"],
        "latency_ms_median": median,
        "latency_ms_p95": p95,
    }
    unit = agreement.scale(offline, model.task)
    for name, records in (("at once", served["batch"]), ("one by one", served["singles"])):
        online = pl.DataFrame(records, schema=offline.schema)
        expected = offline.head(online.height)
        wrong = agreement.differences(expected, online, model.task, unit, model.metadata)
        if wrong.any() or (name == "at once" and online.height != offline.height):
            row = wrong.arg_max() or 0
            return Verdict(
                servable=False,
                reason=f"{wrong.sum()} of {online.height} rows sent {name} differ from the offline "
                f"predictions, such as row {row + 1}: {online['prediction'][row]!r} for "
                f"{expected['prediction'][row]!r}",
                measures=measures,
            )
    return Verdict(
        servable=True,
        reason=f"{offline.height} rows match the offline predictions; loads in "
        f"{served['load_seconds']:.1f} s, a row takes {median:.1f} ms",
        measures=measures,
    )
