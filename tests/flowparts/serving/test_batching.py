"""What gathers while the engine works, what is refused, and what is never scored."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flowparts.serving import batching
from flowparts.serving.batching import Answer, Batcher, Outcome
from flowparts.serving.refusals import RequestError


class Engine:
    """Doubles the only value of each row, once it may; a text is the row's fault, null breaks the engine."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.batches: list[list[Any]] = []
        self.started = threading.Event()

    def predict(self, rows: Sequence[Any], _: Callable[[], None]) -> dict[str, list[Any]]:
        self.batches.append([value for (value,) in rows])
        self.started.set()
        assert self.free.wait(30)
        if any(isinstance(value, str) for (value,) in rows):
            raise ValueError("a text is no number")
        if any(value is None for (value,) in rows):
            raise MemoryError("no room for so many trees")
        return {"prediction": [2 * value for (value,) in rows]}


def batched(script: Callable[[Batcher, Engine, list[Any]], Any], rows: int, waiting: int) -> list[Any]:
    """Run a script while a batcher is busy with the row 0; return its batches, and outcomes sorted."""

    async def main() -> list[Any]:
        engine, outcomes = Engine(), list[Any]()
        batcher = Batcher(engine.predict, rows, waiting, lambda *_: None)
        try:
            batcher.submit([[0]], 30, outcomes.append)
            await asyncio.to_thread(engine.started.wait, 30)
            script(batcher, engine, outcomes)
            engine.free.set()
            while batcher.busy:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
        finally:
            engine.free.set()
            batcher.close(30)
        # A batch that is scored at once may be answered before the one whose end it waited for.
        return [engine.batches, sorted((answered(outcome) for outcome in outcomes), key=_first)]

    return asyncio.run(main())


def _first(answer: Any) -> tuple[bool, Any]:
    return isinstance(answer, str), answer if isinstance(answer, str) else answer[0]


def answered(outcome: Outcome) -> Any:
    if isinstance(outcome, Answer):
        return outcome.column("prediction")
    return f"{outcome.reason if isinstance(outcome, RequestError) else type(outcome).__name__}: {outcome}"


def test_requests_that_come_while_the_engine_works_share_a_batch_up_to_its_size() -> None:
    def script(batcher: Batcher, _: Engine, outcomes: list[Any]) -> None:
        for rows in ([[1]], [[2], [3]], [[4]], [[5], [6], [7], [8], [9]]):
            batcher.submit(rows, 30, outcomes.append)

    batches, outcomes = batched(script, rows=4, waiting=100)
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8, 9]], "a larger request is scored alone"
    assert outcomes == [[0], [2], [4, 6], [8], [10, 12, 14, 16, 18]]


def test_rows_that_come_count_among_those_that_may_wait() -> None:
    def script(batcher: Batcher, _: Engine, outcomes: list[Any]) -> None:
        batcher.submit([[1], [2]], 30, outcomes.append)
        with pytest.raises(RequestError, match="2 rows are waiting already; try again later"):
            batcher.submit([[3], [4]], 30, outcomes.append)
        batcher.submit([[5]], 30, outcomes.append)

    batches, outcomes = batched(script, rows=10, waiting=3)
    assert batches == [[0], [1, 2, 5]]
    assert outcomes == [[0], [2, 4], [10]]


def test_a_request_of_any_size_is_taken_when_none_waits() -> None:
    def script(batcher: Batcher, _: Engine, outcomes: list[Any]) -> None:
        batcher.submit([[1], [2], [3], [4], [5]], 30, outcomes.append)

    assert batched(script, rows=2, waiting=3)[1] == [[0], [2, 4, 6, 8, 10]]


def test_rows_that_were_scored_wait_no_more() -> None:
    def script(batcher: Batcher, engine: Engine, outcomes: list[Any]) -> None:
        batcher.submit([[1], [2], [3]], 30, lambda outcome: again(batcher, outcome, outcomes))

    def again(batcher: Batcher, outcome: Outcome, outcomes: list[Any]) -> None:
        outcomes.append(outcome)
        batcher.submit([[4]], 30, outcomes.append)
        batcher.submit([[5], [6]], 30, outcomes.append)

    assert batched(script, rows=10, waiting=3)[1] == [[0], [2, 4, 6], [8], [10, 12]]


def test_reports_how_long_the_current_batch_has_taken() -> None:
    seen = []

    def script(batcher: Batcher, _: Engine, outcomes: list[Any]) -> None:
        seen.append((batcher.busy, batcher.seconds_on_batch))
        batcher.submit([[1]], 30, lambda outcome: after(batcher, outcome, outcomes))

    def after(batcher: Batcher, outcome: Outcome, outcomes: list[Any]) -> None:
        outcomes.append(outcome)
        seen.append((batcher.busy, batcher.seconds_on_batch))  # busy until it has looked for more

    batched(script, rows=10, waiting=10)
    (busy, seconds), (_, ended) = seen
    assert busy
    assert 0 < seconds < 600
    assert ended == 0.0


def test_a_cancelled_request_is_never_scored() -> None:
    def script(batcher: Batcher, _: Engine, outcomes: list[Any]) -> None:
        batcher.submit([[1]], 30, outcomes.append).cancel()
        batcher.submit([[2]], 30, outcomes.append)

    batches, outcomes = batched(script, rows=10, waiting=10)
    assert batches == [[0], [2]]
    assert outcomes == [[0], [4]]


def test_a_bad_row_is_refused_alone_and_a_broken_engine_is_not_taken_for_one() -> None:
    def script(batcher: Batcher, _: Engine, outcomes: list[Any]) -> None:
        for value in (1, "x", None, 3):
            batcher.submit([[value]], 30, outcomes.append)

    batches, outcomes = batched(script, rows=10, waiting=10)
    assert batches == [[0], [1, "x", None, 3], [1], ["x"], [None], [3]]
    assert outcomes == [
        [0],
        [2],
        [6],
        "MemoryError: no room for so many trees",
        "signature: a text is no number",
    ]


def test_a_timed_out_request_is_answered_once_and_removed_from_the_queue() -> None:
    async def main() -> None:
        engine, outcomes = Engine(), list[Any]()
        batcher = Batcher(engine.predict, 10, 10, lambda *_: None)
        try:
            batcher.submit([[0]], 0.01, outcomes.append)
            await asyncio.to_thread(engine.started.wait, 30)
            batcher.submit([[1]], 0.01, outcomes.append)
            batcher.submit([[2]], 30, outcomes.append)
            while len(outcomes) < 2:
                await asyncio.sleep(0.01)
            engine.free.set()
            while batcher.busy:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
        finally:
            engine.free.set()
            batcher.close(30)
        assert engine.batches == [[0], [2]]
        assert [answered(outcome) for outcome in outcomes] == [
            *["deadline: there was no prediction within 0.01 s"] * 2,
            [4],
        ]

    asyncio.run(main())


def test_a_batch_goes_on_while_one_of_its_requests_waits() -> None:
    async def main() -> list[Any]:
        started, free, outcomes = threading.Event(), threading.Event(), list[Any]()

        def predict(rows: Sequence[Any], pause: Callable[[], None]) -> dict[str, list[Any]]:
            started.set()
            assert free.wait(30)
            pause()
            return {"prediction": [value for (value,) in rows]}

        batcher = Batcher(predict, 10, 10, lambda *_: None, uneven=True)
        try:
            jobs = [batcher.submit([[value]], 30, outcomes.append) for value in (1, 2, 3)]
            await asyncio.to_thread(started.wait, 30)
            jobs[0].cancel()
            jobs[2].cancel()
            free.set()
            while batcher.busy:
                await asyncio.sleep(0.001)
        finally:
            batcher.close(30)
        return [answered(outcome) for outcome in outcomes]

    assert asyncio.run(main()) == [[2]]


@pytest.mark.parametrize(("uneven", "threads"), [(False, {"engine", "MainThread"}), (True, {"engine"})])
def test_rows_that_take_unlike_times_are_never_scored_on_the_event_loop(
    uneven: bool, threads: set[str]
) -> None:
    async def main() -> set[str]:
        found: list[str] = []

        def predict(rows: Sequence[Any], _: Callable[[], None]) -> dict[str, list[Any]]:
            found.append(threading.current_thread().name)
            return {"prediction": [1.0 for _ in rows]}

        batcher = Batcher(predict, 10, 10, lambda *_: None, uneven)
        try:
            for _ in range(20):
                outcome = asyncio.get_running_loop().create_future()
                batcher.submit([[1]], 30, outcome.set_result)
                await outcome
        finally:
            batcher.close(30)
        return set(found)

    assert asyncio.run(main()) == threads


def test_a_batch_that_nobody_waits_for_any_more_is_given_up() -> None:
    async def main() -> list[Any]:
        started, outcomes, pauses = threading.Event(), list[Any](), list[str]()

        def predict(rows: Sequence[Any], pause: Callable[[], None]) -> dict[str, list[Any]]:
            started.set()
            try:
                for _ in range(30_000):
                    time.sleep(0.001)
                    pause()
            except RequestError as error:
                pauses.append(error.reason)
                raise
            return {"prediction": [0.0 for _ in rows]}

        batcher = Batcher(predict, 10, 10, lambda *_: None)
        try:
            left = batcher.submit([[0]], 30, outcomes.append)
            batcher.submit([[1]], 0.05, outcomes.append)
            await asyncio.to_thread(started.wait, 30)
            left.cancel()
            while batcher.busy:
                await asyncio.sleep(0.001)
        finally:
            batcher.close(30)
        return [pauses, [answered(outcome) for outcome in outcomes]]

    pauses, outcomes = asyncio.run(main())
    assert set(pauses) == {"cancelled"}
    assert outcomes == ["deadline: there was no prediction within 0.05 s"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(30.0, ["loop", "engine"]), (0.01, ["engine", "loop"])],
    ids=["until-the-loop-has-caught-up", "but-not-for-ever"],
)
def test_the_engine_waits_for_a_late_event_loop_between_parts_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[str]
) -> None:
    monkeypatch.setattr(batching, "_MAX_GIVE_WAY_SECONDS", seconds)

    async def main() -> list[str]:
        order: list[str] = []
        busy, scored, over = threading.Event(), threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def predict(rows: Sequence[Any], pause: Callable[[], None]) -> dict[str, list[Any]]:
            assert busy.wait(30)
            # Now the loop's clock is late.
            time.sleep(5 * batching._LATE_SECONDS)
            pause()
            order.append("engine")
            scored.set()
            loop.call_soon_threadsafe(over.set)
            return {"prediction": [0.0 for _ in rows]}

        batcher = Batcher(predict, 10, 10, lambda *_: None, uneven=True)
        try:
            batcher.submit([[0]], 30, lambda _: None)
            await asyncio.sleep(0.01)
            busy.set()
            # Hold the loop, for ever if the engine were to wait for ever.
            scored.wait(0.5 if seconds > 1 else 30)
            order.append("loop")
            await over.wait()
        finally:
            batcher.close(30)
        return order

    assert asyncio.run(main()) == expected
