"""A loaded model and what stands between it and the requests."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from flowparts.serving.batching import Answer, Batcher, Job, Outcome, Row
from flowparts.serving.prediction_log import PredictionLog
from flowparts.serving.refusals import Refusal
from flowparts.serving.served_model import ServedModel
from flowparts.serving.server_metrics import Metrics
from flowparts.serving.server_settings import Settings

# A batch may begin just before its requests give up, and take that long once more.
_STUCK_SECONDS = 30.0
_CLOSE_SECONDS = 5.0


class Scorer:
    """Scores the rows of requests for one model.

    Args:
        model: What predicts.
        settings: The server's options.
        metrics: Where batches are counted.

    Attributes:
        model: What predicts.
    """

    def __init__(self, model: ServedModel, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self._max_rows = settings.max_rows
        self._stuck_seconds = settings.timeout_seconds + _STUCK_SECONDS
        self._batcher = Batcher(
            model.predict,
            settings.max_batch_rows,
            settings.max_waiting_rows,
            lambda rows, seconds, columns: metrics.scored(rows, seconds, columns["prediction"]),
        )
        self._prediction_log = None
        if settings.prediction_log:
            self._prediction_log = PredictionLog(
                Path(settings.prediction_log), model, settings.prediction_log_share,
                settings.prediction_log_rows, settings.prediction_log_seconds, metrics.unlogged,
            )  # fmt: skip

    def predict(self, rows: list[Row], seconds: float, protocol: str, done: Callable[[Outcome], None]) -> Job:
        """Score the rows of a request; see `Batcher.submit`.

        Raises:
            Refusal: There are too many rows, or too many are waiting.
        """
        if len(rows) > self._max_rows:
            raise Refusal(
                "too_many_rows",
                f"the request has {len(rows)} rows; at most {self._max_rows} are taken at once",
            )
        if not self._prediction_log:
            return self._batcher.submit(rows, seconds, done)
        kept = self._prediction_log

        def answered(outcome: Outcome) -> None:
            if isinstance(outcome, Answer):
                kept.add(rows, outcome, protocol)
            done(outcome)

        return self._batcher.submit(rows, seconds, answered)

    @property
    def stuck(self) -> bool:
        """Whether the engine has been working on one batch for longer than any request waits."""
        return self._batcher.seconds_on_batch > self._stuck_seconds

    async def drain(self) -> None:
        """Wait until no request does."""
        while self._batcher.busy:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """End, with what is kept written down."""
        self._batcher.close(_CLOSE_SECONDS)
        if self._prediction_log:
            self._prediction_log.close()
