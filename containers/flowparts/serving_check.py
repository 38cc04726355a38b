"""Find out whether a model serves: load it in a process of its own and send it rows as JSON.

`python -m flowparts.serving_check MODEL REQUEST ANSWER` is that process.
"""

import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import models, outputs, tables

# Probabilities may differ by so much, and regression values by so much relative to the value: float32
# arithmetic in batches of other sizes.
TOLERANCE = 1e-5

_SINGLE_REQUESTS = 50


@dataclass(frozen=True)
class Verdict:
    """Whether a model serves.

    Attributes:
        servable: Whether it loaded, answered in time and predicted what it predicts offline.
        reason: Why, in one sentence.
        measures: rows, load_seconds, latency_ms_median and latency_ms_p95 of requests of one row; empty if it
            did not answer.
    """

    servable: bool
    reason: str
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def latency_ms(self) -> float:
        """Median milliseconds for a request of one row; 0 if there was no answer."""
        return self.measures.get("latency_ms_median", 0.0)


def check_options(sample_rows: int, timeout_seconds: float) -> None:
    """Raise ValueError unless rows and time are more than none."""
    if sample_rows < 1:
        raise ValueError(f"sample_rows must be at least 1, not {sample_rows}")
    if not timeout_seconds > 0:
        raise ValueError(f"timeout_seconds must be more than 0, not {timeout_seconds:g}")


def sample(table: pl.LazyFrame, rows: int) -> pl.DataFrame:
    """Return so many rows spread evenly over a table, or all if it has fewer.

    Raises:
        ValueError: The table has no rows.
    """
    step = max(1, tables.require_rows(table, "the test table") // rows)
    return table.gather_every(step).head(rows).pipe(tables.collect)


def check(model_path: str | Path, rows: pl.DataFrame, timeout_seconds: float) -> Verdict:
    """Load a model the way a server would, and compare its answers with the offline ones.

    A fresh Python process loads the model and gets the rows as JSON records, first all at once, then some one
    by one. Classes must be equal unless they are tied, probabilities and numbers equal within `TOLERANCE`.

    Args:
        model_path: The model directory.
        rows: Raw rows.
        timeout_seconds: For loading and all answers together.

    Returns:
        The verdict; whatever goes wrong with the model is a verdict, not an error.
    """
    try:
        model = models.load(model_path)
        offline = model.predict(rows)
        records = to_records(rows.select(model.features))
    except ValueError as error:
        return Verdict(servable=False, reason=f"the model can't score the test table offline: {error}")
    with tempfile.TemporaryDirectory() as scratch:
        request, answer = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        request.write_text(json.dumps(records, allow_nan=False), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "flowparts.serving_check",
            str(model_path),
            str(request),
            str(answer),
        ]
        try:
            server = subprocess.run(  # noqa: S603 - this very module, in the same Python
                command, capture_output=True, text=True, timeout=timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict(servable=False, reason=f"the model did not answer within {timeout_seconds:g} s")
        if server.returncode or not answer.is_file():
            lines = [line for line in server.stderr.splitlines() if line.strip()]
            why = lines[-1] if lines else f"exit code {server.returncode}"
            return Verdict(servable=False, reason=f"the model failed in the server's process: {why}")
        served = outputs.read_json(answer, "the server's answer")
    return _judge(model, offline, served)


def to_records(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return rows as the JSON records a client sends: ISO 8601 for times, null for missing and infinity."""
    finite = rows.with_columns(pl.when(column.is_finite()).then(column) for column in [pl.selectors.float()])
    return [{name: _plain(value) for name, value in row.items()} for row in finite.to_dicts()]


def from_records(records: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Return the table that a server makes of JSON records."""
    return pl.DataFrame(records, infer_schema_length=None)


def serve(model_path: str, request: Path, answer: Path) -> None:
    """Load a model, answer the records of a request and write predictions and times; the server's side."""
    started = time.perf_counter()
    model = models.load(model_path)
    load_seconds = time.perf_counter() - started
    text = request.read_text(encoding="utf-8")
    batch = model.predict(from_records(json.loads(text)))
    singles, seconds = [], []
    for record in json.loads(text)[:_SINGLE_REQUESTS]:
        body = json.dumps([record])
        started = time.perf_counter()
        predicted = to_records(model.predict(from_records(json.loads(body))))
        json.dumps(predicted)
        seconds.append(time.perf_counter() - started)
        singles += predicted
    outputs.write_json(
        answer,
        {"load_seconds": load_seconds, "batch": to_records(batch), "singles": singles, "seconds": seconds},
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else float(value)


def _judge(model: models.Model, offline: pl.DataFrame, served: dict[str, Any]) -> Verdict:
    seconds = pl.Series(served["seconds"])
    median, p95 = (1000 * float(seconds.quantile(q, "linear") or 0) for q in (0.5, 0.95))
    measures = {
        "rows": float(offline.height),
        "load_seconds": served["load_seconds"],
        "latency_ms_median": median,
        "latency_ms_p95": p95,
    }
    for name, records in (("at once", served["batch"]), ("one by one", served["singles"])):
        online = pl.DataFrame(records, schema=offline.schema)
        expected = offline.head(online.height)
        wrong = differences(expected, online, model.task)
        if wrong.any() or (name == "at once" and online.height != offline.height):
            row = wrong.arg_max() or 0
            return Verdict(
                servable=False,
                reason=f"{wrong.sum()} of {online.height} rows sent {name} are predicted otherwise than "
                f"offline, such as row {row + 1}: {online['prediction'][row]!r} for "
                f"{expected['prediction'][row]!r}",
                measures=measures,
            )
    return Verdict(
        servable=True,
        reason=f"{offline.height} rows are predicted as offline; loads in {served['load_seconds']:.1f} s, "
        f"a row takes {median:.1f} ms",
        measures=measures,
    )


def differences(expected: pl.DataFrame, online: pl.DataFrame, task: str) -> pl.Series:
    """Say of each row whether the two predictions differ."""
    columns = pl.DataFrame({"expected": expected["prediction"], "online": online["prediction"]})
    if task == "regression":
        allowed = TOLERANCE * pl.max_horizontal(1.0, pl.col("expected").abs())
        beyond = (pl.col("online") - pl.col("expected")).abs() > allowed
        return columns.select(beyond.fill_null(value=True)).to_series()
    names = [name for name in expected.columns if name.startswith("probability_")]
    apart = [((online[name] - expected[name]).abs() > TOLERANCE).fill_null(value=True) for name in names]
    ranked = expected.select(pl.concat_list(names).list.sort(descending=True).alias("p"))["p"]
    tied = ranked.list.get(0) - ranked.list.get(1) <= 2 * TOLERANCE
    other = (online["prediction"] != expected["prediction"]).fill_null(value=True) & ~tied
    for difference in apart:
        other = other | difference
    return other


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
