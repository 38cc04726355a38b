"""Adaptive micro-batching: what waits when the engine becomes free is scored together, and nothing waits longer.

A lone request starts at once. While the engine works, further requests gather, so batches grow with the load and
only with it; there is no delay to tune.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from queue import SimpleQueue
from time import perf_counter
from typing import Any

from flowparts.serving.refusals import Refusal

Row = Sequence[Any]
Columns = dict[str, list[Any]]


@dataclass(slots=True)
class Answer:
    """The predictions of one request: a slice of the columns of the batch that it was scored in."""

    columns: Columns
    start: int
    stop: int

    def column(self, name: str) -> list[Any]:
        """Return the values of one column."""
        values = self.columns[name]
        return values if self.stop - self.start == len(values) else values[self.start : self.stop]


@dataclass(slots=True, eq=False)
class _Job:
    rows: Sequence[Row]
    future: "asyncio.Future[Answer]"
    timer: asyncio.TimerHandle


class Batcher:
    """Stands between the event loop and the one thread in which the engine runs.

    Args:
        predict: Scores rows and returns columns of as many values; a ValueError is the fault of a row.
        max_batch_rows: Most rows of several requests to score together; a larger request is scored alone.
        max_waiting_rows: Rows that may wait before further requests are refused.
        observe: Called on the event loop after each batch with its rows, seconds and columns.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[Row]], Columns],
        max_batch_rows: int,
        max_waiting_rows: int,
        observe: Callable[[int, float, Columns], None],
    ) -> None:
        self._predict = predict
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Job] = deque()
        self._waiting_rows = 0
        self._busy = False
        self._batches: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row], seconds: float) -> "asyncio.Future[Answer]":
        """Queue the rows of a request and return the future of its answer.

        Args:
            rows: Values in the order of the features.
            seconds: Time until the request is given up.

        Raises:
            Refusal: Too many rows are waiting already. The future holds one when time runs out ("deadline") or
                a value doesn't fit ("signature"), and any other exception of the engine.
        """
        if self._waiting and self._waiting_rows + len(rows) > self._max_waiting_rows:
            raise Refusal("busy", f"{self._waiting_rows} rows are waiting already; send the request again later")
        future: asyncio.Future[Answer] = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._expire, future, seconds)
        self._waiting.append(_Job(rows, future, timer))
        self._waiting_rows += len(rows)
        if not self._busy:
            self._busy = True
            # Requests that have arrived by now are read first, and so share the batch.
            self._loop.call_soon(self._dispatch)
        return future

    def close(self) -> None:
        """End the thread when it has answered what it has."""
        self._batches.put(None)
        self._thread.join()

    @staticmethod
    def _expire(future: "asyncio.Future[Answer]", seconds: float) -> None:
        if not future.done():
            future.set_exception(Refusal("deadline", f"there was no prediction within {seconds:g} s"))

    def _dispatch(self) -> None:
        batch: list[_Job] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].rows) <= self._max_batch_rows):
            job = self._waiting.popleft()
            self._waiting_rows -= len(job.rows)
            # Nobody waits any more for one whose time has run out or whose client has gone.
            if not job.future.done():
                batch.append(job)
                rows += len(job.rows)
        self._busy = bool(batch)
        if batch:
            self._batches.put(batch)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            started = perf_counter()
            outcomes = self._score(batch)
            seconds = perf_counter() - started
            try:
                self._loop.call_soon_threadsafe(self._finish, batch, outcomes, seconds)
            except RuntimeError:
                # The loop was closed without waiting for the answer.
                return

    def _score(self, batch: list[_Job]) -> list[Answer | Exception]:
        rows = batch[0].rows if len(batch) == 1 else list(chain.from_iterable(job.rows for job in batch))
        try:
            columns = self._predict(rows)
        except Exception as error:
            if len(batch) == 1:
                return [Refusal("signature", str(error)) if isinstance(error, ValueError) else error]
            # One request's bad value is no reason to refuse those that shared its batch.
            return [outcome for job in batch for outcome in self._score([job])]
        answers: list[Answer | Exception] = []
        start = 0
        for job in batch:
            answers.append(Answer(columns, start, start + len(job.rows)))
            start += len(job.rows)
        return answers

    def _finish(self, batch: list[_Job], outcomes: list[Answer | Exception], seconds: float) -> None:
        self._dispatch()
        for job, outcome in zip(batch, outcomes, strict=True):
            job.timer.cancel()
            if job.future.done():
                continue
            if isinstance(outcome, Answer):
                job.future.set_result(outcome)
            else:
                job.future.set_exception(outcome)
        scored = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
        for columns in {id(outcome.columns): outcome.columns for outcome in scored}.values():
            self._observe(len(columns["prediction"]), seconds, columns)
