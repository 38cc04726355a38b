"""A loaded model with its request queue and prediction log."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from flowparts.serving.batching import Answer, Batcher, Job, Outcome, Row
from flowparts.serving.prediction_log import Asked, Contents, Files, PredictionLog
from flowparts.serving.refusals import RequestError
from flowparts.serving.served_model import ServedModel
from flowparts.serving.server_metrics import Metrics
from flowparts.serving.server_settings import PREFIX, Settings

# A batch may start just before its requests time out, and take that long again.
_STUCK_SECONDS = 30.0
_CLOSE_SECONDS = 5.0
_SECRET = f"{PREFIX}PREDICTION_LOG_SECRET"


class Scorer:
    """Scores the rows of requests for one model.

    Args:
        model: The model.
        settings: The server's options.
        metrics: Where batches are counted.

    Attributes:
        model: The model.
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
            uneven=bool(model.signature.images),
        )
        self._prediction_log = None
        if settings.prediction_log:
            self._prediction_log = PredictionLog(
                Path(settings.prediction_log), model, _contents(settings), _files(settings), metrics.unlogged
            )

    def predict(
        self, rows: list[Row], seconds: float, asked: Asked | None, done: Callable[[Outcome], None]
    ) -> Job:
        """Score the rows of a request; see `Batcher.submit`.

        Raises:
            RequestError: There are too many rows, or too many are waiting.
        """
        if len(rows) > self._max_rows:
            raise RequestError(
                "too_many_rows",
                f"the request has {len(rows)} rows; send at most {self._max_rows} per request",
            )
        if not self._prediction_log or not asked:
            return self._batcher.submit(rows, seconds, done)
        kept = self._prediction_log

        def answered(outcome: Outcome) -> None:
            if isinstance(outcome, Answer):
                kept.add(rows, outcome, asked)
            done(outcome)

        return self._batcher.submit(rows, seconds, answered)

    @property
    def is_logged(self) -> bool:
        """Whether requests must provide the facts for the prediction log."""
        return self._prediction_log is not None

    @property
    def stuck(self) -> bool:
        """Whether the engine has been working on one batch for longer than any request waits."""
        return self._batcher.seconds_on_batch > self._stuck_seconds

    async def drain(self) -> None:
        """Wait until no requests are pending."""
        while self._batcher.busy:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Stop, and write the remaining rows of the prediction log."""
        self._batcher.close(_CLOSE_SECONDS)
        if self._prediction_log:
            self._prediction_log.close()


def _contents(settings: Settings) -> Contents:
    """Return what to log of a request.

    Raises:
        ValueError: Columns are to be masked, and there is no secret.
    """
    keys, masked = (
        [name for part in text.split(",") if (name := part.strip())]
        for text in (settings.prediction_log_keys, settings.prediction_log_mask)
    )
    secret = os.environ.get(_SECRET, "")
    if masked and not secret:
        raise ValueError(
            f"--prediction-log-mask needs the secret of its hashes in the environment: {_SECRET}"
        )
    return Contents(settings.prediction_log_fraction, keys, masked, secret.encode())


def _files(settings: Settings) -> Files:
    return Files(settings.prediction_log_rows, settings.prediction_log_seconds, settings.prediction_log_days)
