"""A log of sampled requests and predictions, as a table of Parquet files for monitoring."""

import hmac
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowparts.serving import request_keys
from flowparts.serving.batching import Answer, Row
from flowparts.serving.logs import say
from flowparts.serving.served_model import ServedModel
from flowparts.util import images
from flowparts.util.names import free, listed

if TYPE_CHECKING:
    import polars as pl

_TYPES = {"boolean": "Boolean", "integer": "Float64", "number": "Float64", "image": "Binary"}
# Files' worth of rows to hold in memory if writing is slower than requests; more are dropped and reported.
_MAX_FILES_WAITING = 10
_DAY = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
# Unfinished files of killed servers too.
_FILE = re.compile(r"part-.*\.parquet|\.part-.*\.parquet\.partial")
# Hexadecimal digits of the HMAC-SHA256; for a billion values, the chance of a collision is 1e-20.
_HASH_CHARACTERS = 32


@dataclass(frozen=True)
class Contents:
    """What the log holds of a request.

    Attributes:
        fraction: Fraction of the requests to log.
        keys: Fields of the rows that aren't features, such as an order number.
        masked: Features and keys that are logged only as a keyed hash.
        secret: The hash's key.
    """

    fraction: float = 1.0
    keys: Sequence[str] = ()
    masked: Sequence[str] = ()
    secret: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Files:
    """When files are written and deleted.

    Attributes:
        rows: Rows after which a file is written.
        seconds: Seconds after which a file is written, if there are rows.
        days: Days after which a file is deleted; 0 to keep all.
    """

    rows: int
    seconds: float
    days: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """Facts of a request besides its rows.

    Attributes:
        protocol: Its protocol.
        request_id: The client's ID for it; empty if there is none.
        body: Its JSON, which holds the keys; empty for other formats.
    """

    protocol: str
    request_id: str = ""
    body: bytes = b""


Kept = tuple[float, Asked, Sequence[Row], Answer]


class PredictionLog:
    """Collects answers in memory and writes them to files of the table after a number of rows or seconds.

    The table is partitioned by day (UTC), such as date=2026-03-01. Its columns: time (timestamp, UTC),
    request_id, row (index in the request, from 0), protocol, model, version, the keys as text, the features
    with the types of the signature (numbers as doubles, images as bytes), and those of the prediction. If a
    feature has one of the other names, that column is request_<name>, or served_<name> for the prediction. A
    masked column is named masked_<name> and holds a hash; equal values have equal hashes.

    Args:
        directory: The table; several servers may write to it.
        model: The model whose predictions these are.
        contents: What to log of a request.
        files: When files are written and deleted.
        lost: Called by the log's thread with the number of rows that were dropped or couldn't be written.

    Raises:
        ValueError: The directory can't be created, or a masked column doesn't exist.
    """

    def __init__(
        self,
        directory: Path,
        model: ServedModel,
        contents: Contents,
        files: Files,
        lost: Callable[[int], None],
    ) -> None:
        self._directory = directory
        self._model = model
        self._contents = contents
        self._files = files
        self._lost = lost
        self._kept: list[Kept] = []
        self._kept_rows = 0
        self._dropped_rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._swept: date | None = None
        if contents.masked:
            _require_known(contents.masked, [*model.signature.features, *contents.keys])
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the prediction log can't be at {directory}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def add(self, rows: Sequence[Row], answer: Answer, asked: Asked) -> None:
        """Log a request and its answer, if it is sampled."""
        if self._contents.fraction < 1 and random.random() >= self._contents.fraction:  # noqa: S311 - no secret
            return
        if not self._contents.keys:
            asked = replace(asked, body=b"")
        with self._changed:
            if self._kept_rows > self._files.rows * _MAX_FILES_WAITING:
                self._dropped_rows += len(rows)
                return
            self._kept.append((time.time(), asked, rows, answer))
            self._kept_rows += len(rows)
            if self._kept_rows >= self._files.rows:
                self._changed.notify()

    def close(self) -> None:
        """Write the remaining rows and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        closed = False
        while not closed:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._kept_rows >= self._files.rows, timeout=self._files.seconds
                )
                kept, self._kept, self._kept_rows = self._kept, [], 0
                dropped, self._dropped_rows = self._dropped_rows, 0
                closed = self._closed
            if dropped:
                self._lost(dropped)
                say(
                    "the prediction log dropped rows because they arrive faster than files can be written; "
                    "lower --prediction-log-fraction",
                    30,
                    rows=dropped,
                )
            try:
                self._sweep()
            except OSError as error:
                say(
                    "old days of the prediction log can't be deleted",
                    40,
                    directory=str(self._directory),
                    reason=str(error),
                )
            try:
                if kept:
                    self._write(kept)
            except Exception as error:
                # Predictions matter more than their log: keep serving.
                self._lost(sum(len(rows) for _, _, rows, _ in kept))
                say(
                    "the prediction log can't be written",
                    40,
                    directory=str(self._directory),
                    reason=str(error),
                )

    def _sweep(self) -> None:
        """Delete days beyond the retention, once a day."""
        today = datetime.now(UTC).date()
        if not self._files.days or self._swept == today:
            return
        self._swept = today
        oldest = today - timedelta(days=self._files.days)
        for folder in self._directory.iterdir():
            day = _DAY.fullmatch(folder.name)
            if day and day[1] < oldest.isoformat() and folder.is_dir() and not folder.is_symlink():
                _delete_day(folder)

    def _write(self, kept: Sequence[Kept]) -> None:
        from flowparts.util import outputs

        days: dict[str, list[Kept]] = {}
        for each in kept:
            days.setdefault(time.strftime("%Y-%m-%d", time.gmtime(each[0])), []).append(each)
        for day, part in days.items():
            table = self._table(part)
            moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            name = f"part-{moment}-{uuid.uuid4().hex[:12]}.parquet"
            with outputs.atomic(self._directory / f"date={day}" / name) as partial:
                table.write_parquet(partial, compression="zstd")

    def _table(self, kept: Sequence[Kept]) -> "pl.DataFrame":
        import polars as pl

        signature = self._model.signature
        frame = self._features([row for _, _, part, _ in kept for row in part])
        counts = [len(part) for _, _, part, _ in kept]

        def spread(values: Sequence[Any]) -> list[Any]:
            return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]

        times = [int(moment * 1e6) for moment, *_ in kept]
        first = pl.DataFrame(
            {
                "time": pl.Series(spread(times)).cast(pl.Datetime("us")),
                "request_id": spread([asked.request_id or uuid.uuid4().hex for _, asked, _, _ in kept]),
                "row": pl.Series([place for count in counts for place in range(count)], dtype=pl.Int64),
                "protocol": spread([asked.protocol for _, asked, _, _ in kept]),
                "model": [self._model.name] * frame.height,
                "version": [self._model.version] * frame.height,
            }
        )
        keys = [name for name in self._contents.keys if name not in signature.features]
        found = [request_keys.of_body(asked.body, keys, len(rows)) for _, asked, rows, _ in kept]
        of_keys = pl.DataFrame(
            {name: [value for each in found for value in each[name]] for name in keys},
            dict.fromkeys(keys, pl.String()),
        )
        last = pl.DataFrame(
            {
                name: [value for _, _, _, answer in kept for value in answer.column(name)]
                for name in signature.outputs
            }
        )
        taken = {*frame.columns, *keys}
        first = first.rename(lambda name: free(name, "request_", taken))
        last = last.rename(lambda name: free(name, "served_", taken))
        parts = [frame.hstack(of_keys) if keys else frame, last]
        return first.hstack(self._masked(parts[0])).hstack(parts[1])

    def _features(self, rows: Sequence[Row]) -> "pl.DataFrame":
        import polars as pl

        from flowparts.tables import casts

        features = []
        kinds = self._model.signature.features
        moments = {name: kind for name, kind in kinds.items() if kind in ("timestamp", "date")}
        for (name, kind), given in zip(kinds.items(), zip(*rows, strict=True), strict=True):
            values: Sequence[Any] = given
            if kind == "image":
                values = [images.from_text(value) if isinstance(value, str) else value for value in given]
            dtype = getattr(pl, _TYPES.get(kind, "String"))()
            features.append(pl.Series(name, values, dtype=dtype, strict=False))
        frame = pl.DataFrame(features)
        if moments:
            parsed = casts.conform(frame, moments)
            frame = frame.with_columns(
                parsed[name].cast(pl.Date) if kind == "date" else parsed[name]
                for name, kind in moments.items()
            )
        return frame

    def _masked(self, frame: "pl.DataFrame") -> "pl.DataFrame":
        import polars as pl

        for name in self._contents.masked:
            place = frame.columns.index(name)
            hashes = [None if value is None else self._hash(value) for value in frame[name]]
            frame = frame.drop(name).insert_column(
                place, pl.Series(f"masked_{name}", hashes, dtype=pl.String)
            )
        return frame

    def _hash(self, value: Any) -> str:
        content = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
        return hmac.digest(self._contents.secret, content, "sha256").hex()[:_HASH_CHARACTERS]


def _delete_day(folder: Path) -> None:
    """Delete what servers have written on a day; others delete here too, and may have files of their own."""
    with suppress(FileNotFoundError):
        for file in folder.iterdir():
            if _FILE.fullmatch(file.name):
                file.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _require_known(masked: Sequence[str], known: Sequence[str]) -> None:
    for name in masked:
        if name not in known:
            raise ValueError(
                f"--prediction-log-mask names {name!r}, which is neither a feature of the model nor one of "
                f"--prediction-log-keys; features are: {listed(known, 20)}"
            )
