"""Adaptive micro-batching: requests that wait when the engine becomes free are scored together.

A lone request starts at once. While the engine works, further requests queue, so batches grow with the load
and only with it; there is no delay to tune.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from queue import SimpleQueue
from time import monotonic, perf_counter, sleep
from typing import Any

from flowparts.serving.refusals import RequestError

_TICK_SECONDS = 0.01
# Shorter batches are scored on the event loop: handing them to a thread and back, against a loop that holds
# the interpreter's lock, cost a fifth of all requests when measured.
_WORTH_A_THREAD_SECONDS = 0.001
# If the event loop's clock last ticked longer ago than this, the engine waits for it, up to the maximum.
_LATE_SECONDS, _MAX_GIVE_WAY_SECONDS = 0.02, 0.05

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


Outcome = Answer | Exception


@dataclass(slots=True, eq=False)
class Job:
    """The rows of a request that wait or are being scored."""

    rows: Sequence[Row]
    seconds: float
    deadline: float
    done: Callable[[Outcome], None] | None

    def finish(self, outcome: Outcome) -> None:
        """Report the outcome to the caller, once."""
        done, self.done = self.done, None
        if done:
            done(outcome)

    def cancel(self) -> None:
        """Drop the request; rows that aren't scored yet never will be."""
        self.done = None


class Batcher:
    """Queues rows between the event loop and the engine, which runs in a thread if that pays off.

    Args:
        predict: Scores rows and returns columns of the same length; a ValueError means that a row is invalid.
            It may call its second argument between parts of long work, and passes on what that raises; only
            with `uneven`, since this may wait for the event loop.
        max_batch_rows: Maximum rows per batch of several requests; a larger request is scored alone.
        max_waiting_rows: Maximum rows in the queue; beyond that, requests are refused.
        observe: Called on the event loop after each batch with its rows, seconds and columns.
        uneven: Whether one row may take far longer than another, as images do: then no batch is scored on the
            event loop, since the batch before says nothing about the next one.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[Row], Callable[[], None]], Columns],
        max_batch_rows: int,
        max_waiting_rows: int,
        observe: Callable[[int, float, Columns], None],
        uneven: bool = False,
    ) -> None:
        self._predict = predict
        self._uneven = uneven
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Job] = deque()
        self._waiting_rows = 0
        self._busy = False
        # Of the latest batch; 0 before the first.
        self._seconds_per_row = math.inf
        self._running: list[Job] = []
        self._since = self._ticked = 0.0
        self._batches: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._tick()

    def submit(self, rows: Sequence[Row], seconds: float, done: Callable[[Outcome], None]) -> Job:
        """Queue the rows of a request.

        Args:
            rows: Values in the order of the features; at least one row.
            seconds: Time until the request fails.
            done: Called on the event loop with the answer; or with a RequestError when time runs out
                ("deadline") or a value doesn't fit ("signature"), or with the engine's exception.

        Returns:
            The job, which can be cancelled until `done` is called.

        Raises:
            RequestError: Too many rows are waiting already.
        """
        if self._waiting and self._waiting_rows + len(rows) > self._max_waiting_rows:
            raise RequestError("busy", f"{self._waiting_rows} rows are waiting already; try again later")
        job = Job(rows, seconds, monotonic() + seconds, done)
        self._waiting.append(job)
        self._waiting_rows += len(rows)
        if not self._busy:
            self._busy = True
            # Requests that have already arrived are read first, so that they share the batch.
            self._loop.call_soon(self._dispatch)
        return job

    @property
    def busy(self) -> bool:
        """Whether requests wait or are being scored."""
        return self._busy

    @property
    def seconds_on_batch(self) -> float:
        """How long the engine's thread has been working on its batch; 0 if it is idle."""
        return monotonic() - self._since if self._running else 0.0

    def close(self, seconds: float) -> None:
        """Stop the thread after its batch; if that takes longer, it ends with the process."""
        self._ticker.cancel()
        # Nobody waits for a clock that has stopped.
        self._ticked = math.inf
        self._batches.put(None)
        self._thread.join(seconds)

    def _tick(self) -> None:
        # One clock for all: a timer for each request would cost more than its batch.
        now = self._ticked = monotonic()
        for job in (*self._waiting, *self._running):
            if job.deadline < now and job.done:
                job.finish(RequestError("deadline", f"there was no prediction within {job.seconds:g} s"))
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)

    def _dispatch(self) -> None:
        batch: list[Job] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].rows) <= self._max_batch_rows):
            job = self._waiting.popleft()
            self._waiting_rows -= len(job.rows)
            if job.done:
                batch.append(job)
                rows += len(job.rows)
        self._busy = bool(batch)
        if not batch:
            return
        if not self._uneven and rows * self._seconds_per_row < _WORTH_A_THREAD_SECONDS:
            started = perf_counter()
            outcomes = self._score(batch)
            self._deliver(batch, outcomes, perf_counter() - started)
            self._loop.call_soon(self._dispatch)
        else:
            self._running = batch
            self._since = monotonic()
            self._batches.put(batch)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            started = perf_counter()
            outcomes = self._score(batch)
            seconds = perf_counter() - started
            try:
                self._loop.call_soon_threadsafe(self._return, batch, outcomes, seconds)
            except RuntimeError:
                # The loop was closed without waiting for the answer.
                return

    def _return(self, batch: list[Job], outcomes: list[Outcome], seconds: float) -> None:
        self._running = []
        # Start the next batch before the answers are written.
        self._dispatch()
        self._deliver(batch, outcomes, seconds)

    def _score(self, batch: list[Job]) -> list[Outcome]:
        rows = batch[0].rows if len(batch) == 1 else list(chain.from_iterable([job.rows for job in batch]))
        try:
            columns = self._predict(rows, partial(self._pause, batch))
        except Exception as error:
            if len(batch) == 1:
                return [RequestError("signature", str(error)) if isinstance(error, ValueError) else error]
            # A bad value in one request must not fail the others in its batch.
            return [outcome for job in batch for outcome in self._score([job])]
        answers: list[Outcome] = []
        start = 0
        for job in batch:
            answers.append(Answer(columns, start, start + len(job.rows)))
            start += len(job.rows)
        return answers

    def _pause(self, batch: list[Job]) -> None:
        """Give way to the event loop if it is late.

        Decoding small images releases and retakes the interpreter's lock thousands of times a second. Each
        release wakes the loop's thread too late to take the lock, and restarts its switch interval, so it
        never asks for the lock.

        Raises:
            RequestError: Nobody waits for the batch any more.
        """
        if not any(job.done for job in batch):
            raise RequestError("cancelled", "the client is gone")
        begun = monotonic()
        while self._ticked + _LATE_SECONDS < monotonic() < begun + _MAX_GIVE_WAY_SECONDS:
            sleep(0.001)

    def _deliver(self, batch: list[Job], outcomes: list[Outcome], seconds: float) -> None:
        self._seconds_per_row = seconds / sum(len(job.rows) for job in batch)
        for job, outcome in zip(batch, outcomes, strict=True):
            job.finish(outcome)
        scored = [outcome.columns for outcome in outcomes if isinstance(outcome, Answer)]
        for columns in {id(columns): columns for columns in scored}.values():
            self._observe(len(columns["prediction"]), seconds, columns)
