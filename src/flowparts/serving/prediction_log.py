"""A sample of requests with their predictions, as a table that monitoring reads: whole Parquet files only."""

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowparts.serving.batching import Answer, Row
from flowparts.serving.logs import say
from flowparts.serving.served_model import ServedModel

_TYPES = {"boolean": "Boolean", "integer": "Float64", "number": "Float64"}
# Kept if files can't be written as fast as requests come; what is beyond is dropped, and the log says so.
_MOST_FILES_WAITING = 10


class PredictionLog:
    """Collects answers in memory and writes them as a file of the table every so many rows or seconds.

    The table's columns: time (timestamp, UTC), protocol, model, version, the features with the types of the
    signature (numbers as doubles), and those of the prediction. Where a feature has one of the other names,
    that column is request_<name>, or served_<name> of the prediction.

    Args:
        directory: The table; several servers may write to it.
        model: The model whose predictions these are.
        share: Share of the requests to keep.
        rows: Rows after which a file is written.
        seconds: Seconds after which one is written that has any.
        lost: Told how many rows were dropped or couldn't be written, by the log's own thread.

    Raises:
        ValueError: The directory can't be made.
    """

    def __init__(
        self,
        directory: Path,
        model: ServedModel,
        share: float,
        rows: int,
        seconds: float,
        lost: Callable[[int], None],
    ) -> None:
        self._directory = directory
        self._model = model
        self._share = share
        self._rows = rows
        self._seconds = seconds
        self._lost = lost
        self._kept: list[tuple[float, str, Sequence[Row], Answer]] = []
        self._kept_rows = 0
        self._dropped_rows = 0
        self._changed = threading.Condition()
        self._closed = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the prediction log can't be at {directory}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def add(self, rows: Sequence[Row], answer: Answer, protocol: str) -> None:
        """Keep a request and its answer, if chance picks it."""
        if self._share < 1 and random.random() >= self._share:  # noqa: S311 - a sample, not a secret
            return
        with self._changed:
            if self._kept_rows > self._rows * _MOST_FILES_WAITING:
                self._dropped_rows += len(rows)
                return
            self._kept.append((time.time(), protocol, rows, answer))
            self._kept_rows += len(rows)
            if self._kept_rows >= self._rows:
                self._changed.notify()

    def close(self) -> None:
        """Write what is kept, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        closed = False
        while not closed:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._kept_rows >= self._rows, timeout=self._seconds
                )
                kept, self._kept, self._kept_rows = self._kept, [], 0
                dropped, self._dropped_rows = self._dropped_rows, 0
                closed = self._closed
            if dropped:
                self._lost(dropped)
                say(
                    "the prediction log lacks rows, which came faster than files can be written; "
                    "a smaller --prediction-log-share keeps up",
                    30,
                    rows=dropped,
                )
            if not kept:
                continue
            try:
                self._write(kept)
            except Exception as error:
                # Predictions matter more than their log: the server goes on.
                self._lost(sum(len(rows) for _, _, rows, _ in kept))
                say(
                    "the prediction log can't be written",
                    40,
                    directory=str(self._directory),
                    reason=str(error),
                )

    def _write(self, kept: Sequence[tuple[float, str, Sequence[Row], Answer]]) -> None:
        from flowparts.util import outputs

        table = self._table(kept)
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        with outputs.whole(self._directory / f"part-{moment}-{uuid.uuid4().hex[:12]}.parquet") as partial:
            table.write_parquet(partial, compression="zstd")

    def _table(self, kept: Sequence[tuple[float, str, Sequence[Row], Answer]]) -> Any:
        import polars as pl

        from flowparts.tables import casts

        signature = self._model.signature
        rows = [row for _, _, part, _ in kept for row in part]
        features = []
        moments = {name: kind for name, kind in signature.features.items() if kind in ("timestamp", "date")}
        for (name, kind), values in zip(signature.features.items(), zip(*rows, strict=True), strict=True):
            dtype = getattr(pl, _TYPES.get(kind, "String"))()
            features.append(pl.Series(name, values, dtype=dtype, strict=False))
        frame = pl.DataFrame(features)
        if moments:
            parsed = casts.conform(frame, moments)
            frame = frame.with_columns(
                parsed[name].cast(pl.Date) if kind == "date" else parsed[name]
                for name, kind in moments.items()
            )
        counts = [len(part) for _, _, part, _ in kept]

        def spread(values: Sequence[Any]) -> list[Any]:
            return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]

        first = pl.DataFrame(
            {
                "time": pl.Series(spread([int(moment * 1e6) for moment, *_ in kept])).cast(pl.Datetime("us")),
                "protocol": spread([protocol for _, protocol, _, _ in kept]),
                "model": [self._model.name] * len(rows),
                "version": [self._model.version] * len(rows),
            }
        )
        last = pl.DataFrame(
            {
                name: [value for _, _, _, answer in kept for value in answer.column(name)]
                for name in signature.outputs
            }
        )
        taken = set(frame.columns)

        def free(name: str, prefix: str) -> str:
            # A feature keeps its name whatever it is.
            while name in taken:
                name = prefix + name
            return name

        first = first.rename(lambda name: free(name, "request_"))
        return first.hstack(frame).hstack(last.rename(lambda name: free(name, "served_")))
