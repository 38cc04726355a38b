"""Compute an estimator's features from plain Python values, as a fitted preprocessor does from tables.

A server has a few rows from JSON. For these, scikit-learn, pandas and Polars cost a thousand times the
arithmetic; this is the same arithmetic without overhead, and bit-identical.
"""

import base64
import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowparts.prepare import clock, words
from flowparts.util import images, times

if TYPE_CHECKING:
    import polars as pl

    from flowparts.prepare.preprocess import Preprocessor

Columns = Mapping[str, Sequence[Any]]
# The features of each hour of the day.
Hours = Sequence[tuple[float, ...]]
Floats = npt.NDArray[np.float64]

_NUMBER_TYPES = frozenset[type]({float, int, bool, type(None)})
_TEXT_TYPES = frozenset[type]({str, type(None)})
_MOMENT_TYPES = frozenset[type]({datetime.datetime, type(None)})
_EPOCH = datetime.datetime(1970, 1, 1)
_TOO_LARGE = "the request holds a whole number that is too large for a 64-bit float"
_LIMIT = float(np.finfo(np.float32).max)


def conform(columns: Columns, types: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    """Convert plain values to the types that a model was trained on.

    Args:
        columns: Feature column to its values in JSON form; times as ISO 8601 text, images as base64 or bytes,
            None for missing values. Other columns are ignored.
        types: Column name to type, as in `schema.type_of`.

    Returns:
        Numbers and booleans as numbers, text as text, times as datetimes (UTC, without a zone), or None.

    Raises:
        ValueError: A column is missing or longer than another, or a value has another type; with the message
            of `casts.conform`.
    """
    missing = [name for name in types if name not in columns]
    if missing:
        raise ValueError(
            f"feature column {missing[0]!r} is not in the request; columns are: {', '.join(columns)}"
        )
    lengths = {len(columns[name]) for name in types}
    if len(lengths) > 1:
        raise ValueError(f"the columns have different numbers of rows: {sorted(lengths)}")
    return {name: _CONFORM.get(kind, _numbers)(name, kind, columns[name]) for name, kind in types.items()}


def table(columns: Columns, types: Mapping[str, str]) -> "pl.DataFrame":
    """Return plain values as a table for `models.Model.predict`.

    Raises:
        ValueError: As `conform`.
    """
    import polars as pl

    dtypes = {
        "image": pl.Binary(),
        "string": pl.String(),
        "timestamp": pl.Datetime("us"),
        "date": pl.Datetime("us"),
    }
    values = conform(columns, types)
    try:
        return pl.DataFrame(
            [
                pl.Series(name, values[name], dtype=dtypes.get(kind, pl.Float64()), strict=False)
                for name, kind in types.items()
            ]
        )
    except OverflowError:
        raise ValueError(_TOO_LARGE) from None


def _numbers(name: str, kind: str, values: Sequence[Any]) -> Sequence[Any]:
    if _NUMBER_TYPES.issuperset(map(type, values)):
        return values
    return _conform_odd(name, kind, values, _NUMBER_TYPES)


def _texts(name: str, kind: str, values: Sequence[Any]) -> Sequence[Any]:
    if _TEXT_TYPES.issuperset(map(type, values)):
        return values
    return _conform_odd(name, kind, values, _TEXT_TYPES)


def _moments(name: str, kind: str, values: Sequence[Any]) -> Sequence[Any]:
    moments = [_moment(value) for value in values]
    if _MOMENT_TYPES.issuperset(map(type, moments)):
        return moments
    return _conform_odd(name, kind, moments, _MOMENT_TYPES)


def _images(name: str, _: str, values: Sequence[Any]) -> Sequence[Any]:
    try:
        return [images.from_text(value) if isinstance(value, str) else value for value in values]
    except ValueError as error:
        raise ValueError(f"feature column {name!r}: {error}") from None


_CONFORM: dict[str, Callable[[str, str, Sequence[Any]], Sequence[Any]]] = {
    "string": _texts,
    "timestamp": _moments,
    "date": _moments,
    "image": _images,
}


def _moment(value: Any) -> Any:
    """Parse a time from text; return anything else unchanged."""
    return (times.parse(value) or value) if type(value) is str else value


def _conform_odd(name: str, kind: str, values: Sequence[Any], plain: frozenset[type]) -> list[Any]:
    """Convert values of other than the plain types by `casts.conform`.

    Values of one type are converted together, so that none depends on the rest of a request.
    """
    import polars as pl

    from flowparts.tables import casts

    result = list(values)
    odd = [index for index, value in enumerate(values) if type(value) not in plain]
    for sort in dict.fromkeys(type(values[index]) for index in odd):
        at = [index for index in odd if type(values[index]) is sort]
        try:
            column = pl.Series(name, [values[index] for index in at])
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            raise ValueError(
                f"feature column {name!r} must hold {kind} values, as in training, not {values[at[0]]!r}"
            ) from None
        cast = casts.conform(column.to_frame(), {name: kind})[name]
        for index, value in zip(at, cast.to_list(), strict=True):
            result[index] = value
    return result


def describe(preprocessor: "Preprocessor") -> dict[str, Any]:
    """Return the description of a fitted preprocessor for `RawFeatures`, as JSON.

    Returns:
        types: pairs of raw column name and type; numbers, timestamps and dates: column names; waves:
        whether timestamps have waves of the hour; yearly: columns with waves of the year; fill, mean and
        scale: one number per feature made from these; categories: pairs of name and values; targets: name,
        values, encoding of each value, and encoding of unseen ones; texts: name, vocabulary, weights (float32
        in base64) and their number per term, mean and scale; missing: numbers with a feature for missing
        values.
    """
    found: dict[str, Any] = {
        "types": [[name, kind] for name, kind in preprocessor.features.items()],
        **{"numbers": [], "timestamps": [], "dates": [], "categories": [], "targets": [], "texts": []},
        **{"fill": [], "mean": [], "scale": [], "waves": False, "yearly": [], "missing": []},
    }
    for step, fitted, names in preprocessor.transformer.transformers_:
        if step in ("number", "timestamp", "date"):
            found[f"{step}s"] = list(names)
            found["waves"] = found["waves"] or (step == "timestamp" and fitted[0].waves)
            if step != "number":
                found["yearly"] += [
                    name for name, yearly in zip(names, fitted[0].yearly, strict=True) if yearly
                ]
            found["fill"] += fitted[-2].statistics_.tolist()
            found["mean"] += fitted[-1].mean_.tolist()
            found["scale"] += fitted[-1].scale_.tolist()
        elif step == "category":
            found["categories"] = [
                [name, values.tolist()] for name, values in zip(names, fitted.categories_, strict=True)
            ]
        elif step == "target":
            found["targets"] = _describe_targets(fitted[0], fitted[1], names)
        elif step == "text":
            found["texts"] = _describe_texts(fitted[0], fitted[1], names)
        elif step == "missing":
            found["missing"] = list(names)
        elif step != "remainder":
            raise ValueError(f"the preprocessing step {step!r} is not known")
    return found


def _describe_targets(encoder: Any, scaler: Any, names: Sequence[str]) -> list[list[Any]]:
    """Return the scaled encodings of each value; a classifier of several classes has one per class."""
    means = np.atleast_1d(encoder.target_mean_)
    targets = []
    for index, (name, values) in enumerate(zip(names, encoder.categories_, strict=True)):
        part = slice(index * len(means), (index + 1) * len(means))
        encoded = np.column_stack(encoder.encodings_[part])
        mean, scale = scaler.mean_[part], scaler.scale_[part]
        unseen = ((means - mean) / scale).tolist()
        targets.append([name, values.tolist(), ((encoded - mean) / scale).tolist(), unseen])
    return targets


def _describe_texts(features: Any, scaler: Any, names: Sequence[str]) -> list[list[Any]]:
    texts, at = [], 0
    for name, vocabulary, weights in zip(names, features.vocabularies_, features.weights_, strict=True):
        part = slice(at, at := at + weights.shape[1] - 1)
        content = base64.b64encode(weights.astype("<f4").tobytes()).decode()
        scales = scaler.mean_[part].tolist(), scaler.scale_[part].tolist()
        texts.append([name, vocabulary, content, weights.shape[1], *scales])
    return texts


class RawFeatures:
    """The preprocessing that `preprocess.fit` learns, applied to plain values.

    Args:
        learned: Result of `describe`.

    Attributes:
        types: Raw column name to type, in order.
    """

    def __init__(self, learned: Mapping[str, Any]) -> None:
        self.types: dict[str, str] = dict(learned["types"])
        self._numbers: list[str] = learned["numbers"]
        # Models saved by versions without waves don't mention them.
        waves = clock.TABLE if learned.get("waves") else [()] * 24
        yearly = set(learned.get("yearly", []))
        self._moments: list[tuple[str, Hours | None, bool]] = [
            (name, waves, name in yearly) for name in learned["timestamps"]
        ]
        self._moments += [(name, None, name in yearly) for name in learned["dates"]]
        self._fill, self._mean, self._scale = (
            np.asarray(learned[name], dtype=float)[:, None] for name in ("fill", "mean", "scale")
        )
        self._categories: list[tuple[str, dict[str | None, int]]] = []
        at = len(self._fill)
        for name, values in learned["categories"]:
            self._categories.append((name, {value: at + index for index, value in enumerate(values)}))
            at += len(values)
        self._targets: list[tuple[str, slice, dict[str | None, list[float]], list[float]]] = []
        for name, values, encoded, unseen in learned["targets"]:
            part = slice(at, at + len(unseen))
            self._targets.append((name, part, dict(zip(values, encoded, strict=True)), unseen))
            at = part.stop
        self._texts: list[tuple[str, slice, words.Encoder, Floats, Floats]] = []
        # Models saved by versions without free text have none.
        for name, vocabulary, content, columns, mean, scale in learned.get("texts", []):
            weights = np.frombuffer(base64.b64decode(content, validate=True), dtype="<f4")
            encoder = words.Encoder(vocabulary, weights.reshape(-1, columns))
            part = slice(at, at + encoder.width)
            scales = (np.reshape(np.array(each, dtype=float), encoder.width) for each in (mean, scale))
            self._texts.append((name, part, encoder, *scales))
            at = part.stop
        self._missing = [*enumerate(learned.get("missing", []), start=at)]
        self.width = at + len(self._missing)

    def matrix(self, columns: Columns) -> npt.NDArray[np.float32]:
        """Return the float32 features, rows by columns, of values in the form of `conform`.

        Raises:
            ValueError: As `conform`.
        """
        columns = conform(columns, self.types)
        rows = len(columns[next(iter(self.types))])
        matrix = np.zeros((rows, self.width), dtype=np.float32)
        if len(self._fill):
            matrix[:, : len(self._fill)] = self._scaled(columns).T
        ones = [
            row * self.width + positions[value]
            for name, positions in self._categories
            for row, value in enumerate(columns[name])
            if value in positions
        ]
        if ones:
            matrix.reshape(-1)[ones] = 1
        for name, part, encoded, unseen in self._targets:
            matrix[:, part] = _clipped(np.array([encoded.get(value, unseen) for value in columns[name]]))
        for name, part, encoder, mean, scale in self._texts:
            matrix[:, part] = _clipped((encoder.encode(columns[name]) - mean) / scale)
        for place, name in self._missing:
            matrix[:, place] = [value is None or not math.isfinite(value) for value in columns[name]]
        return matrix

    def _scaled(self, columns: Columns) -> Floats:
        lines = [columns[name] for name in self._numbers]
        for name, waves, yearly in self._moments:
            lines += _moment_features(columns[name], waves, yearly)
        try:
            raw = np.array(lines, dtype=float)
        except OverflowError:
            raise ValueError(_TOO_LARGE) from None
        # As in `casts.conform`, infinity counts as missing.
        filled = np.where(np.isfinite(raw), raw, self._fill)
        with np.errstate(over="ignore"):
            return _clipped((filled - self._mean) / self._scale)


def _clipped(values: Floats) -> Floats:
    # Bare ufuncs: np.clip spends more time on its options than on a row.
    clipped: Floats = np.minimum(np.maximum(values, -_LIMIT), _LIMIT)
    return clipped


def _moment_features(moments: Sequence[Any], waves: Hours | None, yearly: bool) -> list[list[float | None]]:
    """Return year, month, day of week, hour, days since 1970 and waves, each for all rows.

    Dates have neither waves of the hour nor the hour.
    """
    width = (4 if waves is None else 5 + len(waves[0])) + len(clock.YEAR_WAVES) * yearly
    rows: list[tuple[float | None, ...]] = []
    for moment in moments:
        if moment is None:
            rows.append((None,) * width)
            continue
        since = moment - _EPOCH
        microseconds = since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds
        days = microseconds / 86_400e6
        season = clock.YEAR_TABLE[moment.timetuple().tm_yday - 1] if yearly else ()
        if waves is None:
            rows.append((moment.year, moment.month, moment.weekday(), days, *season))
        else:
            hour = moment.hour
            rows.append((moment.year, moment.month, moment.weekday(), hour, days, *waves[hour], *season))
    return [list(line) for line in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
