"""Transform raw columns into numeric features, fitted on the training table only."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.tables import casts
from flowparts.tables.schema import type_of
from flowparts.util import errors, outputs
from flowparts.util.names import listed

TASKS = ("classification", "regression")

_FOLDS = 5
# A text column is an identifier if it has at least this many rows, and more than this fraction of its values
# are distinct.
_MIN_ROWS_ID = 20
_MAX_DIFFERENT = 0.9
ALL_DIFFERENT = "holds text whose values are nearly all distinct"
# A text column is free text if its values have this many words on average, and there are enough rows for
# words to recur.
_MIN_ROWS_WORDS = 200
_MIN_WORDS = 3.0
# Names of people and places identify rows, and hardly any of their words is in lower case.
_MAX_CAPITALIZED = 0.9
_WORD = r"\S*\p{L}\S*"
_CAPITALIZED = r"\b\p{Lu}(?:\P{Lu}|$)"
_ROWS_READ = 10_000
# With fewer rows, the relation between a missing value and the label is chance.
_MIN_ROWS_MISSING = 10
_MIN_FRACTION_MISSING = 0.01
_EXAMPLE_ROWS = 5

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Preprocessor:
    """The preprocessing fitted on a training table.

    Attributes:
        transformer: The fitted ColumnTransformer; takes `tables.to_pandas` of the raw features.
        features: Raw column name to type, in the order of the table.
        nullable: Raw columns with missing values in the training table.
        label: The label column.
        task: "classification" or "regression".
        classes: The sorted label values of a classification; None for a regression.
        weight_column: The column of sample weights, if any.
        feature_names: Names of the transformed columns.
        dropped: Raw columns that were left out, to the reason why.
        training_fingerprint: Fingerprint of the training table.
        example: A few raw rows of the features.
    """

    transformer: Any
    features: dict[str, str]
    nullable: list[str]
    label: str
    task: str
    classes: list[Any] | None
    weight_column: str | None
    feature_names: list[str]
    dropped: dict[str, str]
    training_fingerprint: str
    example: pl.DataFrame = field(compare=False)

    @property
    def categories(self) -> dict[str, list[str]]:
        """The known values of the one-hot encoded text columns, without the missing one."""
        for name, transformer, columns in self.transformer.transformers_:
            if name == "category":
                known = zip(columns, transformer.categories_, strict=True)
                return {column: [value for value in values if value is not None] for column, values in known}
        return {}

    @property
    def positions(self) -> dict[str, list[int]]:
        """The positions of each raw column's features among the transformed columns."""
        positions: dict[str, list[int]] = {}
        for step, transformer, columns in self.transformer.transformers_:
            part = self.transformer.output_indices_[step]
            widths = [(part.stop - part.start) // max(1, len(columns))] * len(columns)
            if step in ("timestamp", "date"):
                widths = transformer[0].widths
            elif step == "category":
                widths = [len(values) for values in transformer.categories_]
            elif step == "text":
                widths = [weights.shape[1] - 1 for weights in transformer[0].weights_]
            at = part.start
            for column, width in zip(columns, widths, strict=True):
                positions.setdefault(column, []).extend(range(at, at := at + width))
        return positions

    def save(self, path: str | Path, write_more: Callable[[Path], object] | None = None) -> None:
        """Write a directory (skops, JSON and Parquet) that appears whole or not at all.

        Args:
            path: The directory to create.
            write_more: Function that writes further files into the directory before it appears.
        """
        from flowparts.util import weights

        facts = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("transformer", "example", "features")
        }
        # A list preserves the columns' order, since keys are sorted when JSON is written.
        facts["features"] = [[name, kind] for name, kind in self.features.items()]
        with outputs.atomic(path) as partial:
            partial.mkdir()
            weights.dump(self.transformer, partial / "transformer.skops")
            outputs.write_json(partial / "preprocessor.json", facts)
            self.example.write_parquet(partial / "example.parquet")
            if write_more:
                write_more(partial)


def load(path: str | Path) -> Preprocessor:
    """Read a preprocessor that `Preprocessor.save` wrote.

    Raises:
        ValueError: It is missing or damaged.
    """
    from flowparts.util import weights

    directory = Path(path)
    facts = outputs.read_json(directory / "preprocessor.json", "the preprocessor")
    transformer = weights.load(directory / "transformer.skops")
    try:
        example = pl.read_parquet(directory / "example.parquet")
        return Preprocessor(transformer, **{**facts, "features": dict(facts["features"])}, example=example)
    # A damaged directory can raise any error, and all mean the same to the user.
    except (Exception, pl.exceptions.PanicException) as error:
        raise ValueError(
            f"the preprocessor at {path} is damaged ({type(error).__name__}: {errors.first_line(error)}); "
            "run fit_preprocessor again"
        ) from None


def check_options(
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    weight_column: str | None,
    max_one_hot_categories: int,
) -> None:
    """Raise ValueError if the options are invalid or contradict each other."""
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {task!r}")
    if label in exclude_columns:
        raise ValueError(f"label column {label!r} must not be in exclude_columns; remove it there")
    if weight_column == label:
        raise ValueError(f"weight_column and label must differ, but both are {label!r}; give another one")
    if max_one_hot_categories < 1:
        raise ValueError(f"max_one_hot_categories must be at least 1, not {max_one_hot_categories}")


def fit(
    train: pl.LazyFrame,
    *,
    label: str,
    task: str,
    exclude_columns: Sequence[str] = (),
    weight_column: str | None = None,
    max_one_hot_categories: int = 20,
    seed: int = 0,
) -> tuple[Preprocessor, pl.DataFrame]:
    """Fit the preprocessing on the training table, and transform that table.

    Numbers and booleans are imputed by the median and scaled to zero mean and unit variance; an indicator is
    added if at least 1 % of the values are missing. Timestamps become year, month, day of week, hour, days
    since 1970, sine and cosine of the hour and, if they span a year, of the season, which are imputed and
    scaled likewise. Text is one-hot encoded, a missing value being a category and an unseen one all zeros;
    above `max_one_hot_categories` distinct values it is target-encoded by the mean label of the value
    (Micci-Barreca 2001), cross-fitted, so that a training row's features don't leak its label. Free text
    becomes components and scores of its words (`text_features`). Columns with nothing to learn from are
    dropped, and so is other text whose values are nearly all distinct.

    The training features are held in memory.

    Args:
        train: Raw rows.
        label: The column to predict.
        task: "classification" or "regression".
        exclude_columns: Columns to exclude from the features.
        weight_column: Column of sample weights; not a feature.
        max_one_hot_categories: Maximum distinct values to one-hot encode.
        seed: Seed of the folds for cross-fitting.

    Returns:
        The preprocessor, and the transformed training table in the form of `transform`.

    Raises:
        ValueError: An option or the table's content makes training impossible; the message says why.
    """
    check_options(label, task, exclude_columns, weight_column, max_one_hot_categories)
    found = examine(train, label, task, exclude_columns, weight_column, free_text=True)
    features, classes = found.features, found.classes
    others = [label, *([weight_column] if weight_column else [])]
    with tables.with_progress(train, "reading the training table") as counted:
        rows = tables.select(counted, [*features, *others]).pipe(tables.collect)
    kept = tables.select(rows, others)
    raw = casts.conform(tables.select(rows, features), features)
    transformer = _column_transformer(found, max_one_hot_categories, seed, raw.height)
    matrix = transformer.fit_transform(tables.to_pandas(raw), label_values(kept[label]))
    preprocessor = Preprocessor(
        transformer=transformer,
        features=features,
        nullable=found.nullable,
        label=label,
        task=task,
        classes=classes,
        weight_column=weight_column,
        feature_names=_feature_names(transformer, kept.columns),
        dropped=found.dropped,
        training_fingerprint=tables.fingerprint(train),
        example=tables.select(rows, features).head(_EXAMPLE_ROWS),
    )
    return preprocessor, _features_table(matrix, preprocessor, kept)


@dataclass(frozen=True)
class Examined:
    """The features of a training table, and facts about them.

    Attributes:
        classes: The sorted label values of a classification; None for a regression.
        features: Raw column name to type, in the order of the table.
        nullable: Features with missing values.
        often_missing: Those of them, among numbers and booleans, that are missing often enough for an
            indicator.
        distinct: Feature to its number of distinct values; except for text, 2 means more than one.
        free_text: Features that are free text.
        hardly_alike: Text columns whose values are nearly all distinct.
        dropped: Raw columns that were left out, to the reason why.
    """

    classes: list[Any] | None
    features: dict[str, str]
    nullable: list[str]
    often_missing: list[str]
    distinct: dict[str, int]
    free_text: list[str]
    hardly_alike: list[str]
    dropped: dict[str, str]


def examine(
    train: pl.LazyFrame,
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    weight_column: str | None,
    *,
    free_text: bool = False,
) -> Examined:
    """Check a training table and find its features, in one pass over its rows.

    Args:
        train: Raw rows.
        label: The column to predict.
        task: "classification" or "regression".
        exclude_columns: Columns to exclude from the features.
        weight_column: Column of sample weights; not a feature.
        free_text: Whether to keep free text as a feature even if its values are nearly all distinct.

    Raises:
        ValueError: The table's content makes training impossible; the message says why.
    """
    tables.require_columns(train, [label], "label column")
    tables.require_columns(train, exclude_columns, "excluded column")
    tables.require_columns(train, [weight_column] if weight_column else [], "weight column")
    rows = tables.require_rows(train, "the training table")
    classes = check_label(train, label, task)
    _check_weights(train, weight_column, "the training table")

    left_out = {label, weight_column, *exclude_columns}
    schema = {name: dtype for name, dtype in train.collect_schema().items() if name not in left_out}
    types = {name: type_of(name, dtype) for name, dtype in schema.items()}
    pictures = [name for name, kind in types.items() if kind == "image"]
    if pictures:
        raise ValueError(
            f"column {pictures[0]!r} holds images; use train_keras_images, or add it to exclude_columns"
        )
    distinct, nullable = _distinct_values(train, types)
    texts = [name for name, kind in types.items() if kind == "string"]
    # Values that hardly occur twice carry nothing over to other rows, but their words may.
    hardly_alike = [name for name in texts if rows >= _MIN_ROWS_ID and distinct[name] > _MAX_DIFFERENT * rows]
    worded = free_text_columns(train, texts) if free_text and rows >= _MIN_ROWS_WORDS else []
    dropped = {
        name: _nothing_to_learn(kind, distinct[name], name in nullable) for name, kind in types.items()
    }
    dropped |= dict.fromkeys([name for name in hardly_alike if name not in worded], ALL_DIFFERENT)
    dropped = {name: dropped[name] for name in types if dropped[name]}
    features = {name: kind for name, kind in types.items() if name not in dropped}
    if not features:
        raise ValueError(
            "no features are left: "
            + (
                "; ".join(f"{name!r} {reason}" for name, reason in dropped.items())
                or "every column is excluded"
            )
            + "; add columns, or exclude fewer"
        )
    if alike := [name for name, reason in dropped.items() if reason == ALL_DIFFERENT]:
        _log.warning(
            "left out as features, because their values are nearly all distinct: %s",
            listed(map(repr, alike)),
        )
    missing = [name for name in features if name in nullable]
    enough = max(_MIN_ROWS_MISSING, _MIN_FRACTION_MISSING * rows)
    often = [name for name in missing if types[name] in casts.NUMBERS and nullable[name] >= enough]
    worded = [name for name in worded if name in features]
    return Examined(classes, features, missing, often, distinct, worded, hardly_alike, dropped)


def check_held_out(
    frame: pl.LazyFrame,
    features: Iterable[str],
    label: str,
    task: str,
    classes: Sequence[Any] | None,
    weight_column: str | None,
    what: str,
) -> None:
    """Raise ValueError unless a model of the training table can be validated on held-out rows.

    Args:
        frame: Raw rows.
        features: Required columns.
        label: The label column.
        task: "classification" or "regression".
        classes: Label values of the training table; None for a regression.
        weight_column: The column of sample weights, if any.
        what: Name of the table in messages.
    """
    tables.require_columns(frame, features, f"feature column of {what}")
    tables.require_columns(frame, [label], f"label column of {what}")
    tables.require_columns(frame, [weight_column] if weight_column else [], f"weight column of {what}")
    tables.require_rows(frame, what)
    seen = _check_label_values(frame, label, task, what)
    unknown = [value for value in seen or [] if value not in (classes or [])]
    if unknown:
        raise ValueError(
            f"{what} has label values that the training table lacks: {listed(map(repr, unknown))}; "
            "merge rare classes, or split so that each part has all classes, not by time or group"
        )
    _check_weights(frame, weight_column, what)


def transform(frame: pl.LazyFrame, preprocessor: Preprocessor, what: str = "the table") -> pl.LazyFrame:
    """Transform raw rows into features, lazily and in chunks.

    Args:
        frame: Raw rows with the features, the label and the weight column.
        preprocessor: The preprocessor fitted on the training table.
        what: Name of the table in messages.

    Returns:
        The transformed columns (Float32), then the label and the weight column unchanged.

    Raises:
        ValueError: A column is missing, or the label doesn't fit. A value that can't be cast raises when the
            result is collected or written.
    """
    features, label = list(preprocessor.features), preprocessor.label
    kept = [label, *([preprocessor.weight_column] if preprocessor.weight_column else [])]
    check_held_out(
        frame, features, label, preprocessor.task, preprocessor.classes, preprocessor.weight_column, what
    )

    schema = tables.select(frame, kept).collect_schema()
    result = pl.Schema({name: pl.Float32() for name in preprocessor.feature_names} | dict(schema))

    def chunk(rows: pl.DataFrame) -> pl.DataFrame:
        raw = tables.to_pandas(casts.conform(tables.select(rows, features), preprocessor.features))
        return _features_table(
            preprocessor.transformer.transform(raw), preprocessor, tables.select(rows, kept)
        )

    return tables.in_chunks(tables.select(frame, [*features, *kept]), chunk, result, f"transforming {what}")


def matrix(rows: pl.DataFrame, preprocessor: Preprocessor) -> Any:
    """Transform raw rows into float32 features, as `transform` and a saved model do.

    Raises:
        ValueError: As for `conform`.
    """
    from flowparts.prepare.transformers import Float32

    raw = tables.to_pandas(casts.conform(rows, preprocessor.features))
    return Float32().transform(preprocessor.transformer.transform(raw))


def check_label(train: pl.LazyFrame, label: str, task: str) -> list[Any] | None:
    """Check that a training table's label can be learned, and return its classes, sorted."""
    classes = _check_label_values(train, label, task, "the training table")
    if classes is not None and len(classes) < 2:
        raise ValueError(
            f"label column {label!r} holds a single class in the training table: {classes[0]!r}; "
            "a classification needs at least two: add rows of another class"
        )
    if classes is not None:
        rows = train.select(tables.column(label).alias("class")).group_by("class").len("rows")
        rare = rows.filter(pl.col("rows") == 1).sort("class").pipe(tables.collect)["class"].to_list()
        if rare:
            _log.warning(
                "label column %r has only one row each of %s in the training table, too few to learn from; "
                "merge or drop such classes",
                label,
                listed(map(repr, rare)),
            )
    return classes


def _check_label_values(frame: pl.LazyFrame, label: str, task: str, what: str) -> list[Any] | None:
    """Check that every label can be learned, and return the classes of a classification, sorted."""
    dtype = frame.collect_schema()[label]
    column = tables.column(label)
    missing = column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()
    count = int(frame.select(missing.sum()).pipe(tables.collect).item())
    if count:
        raise ValueError(
            f"label column {label!r} is missing in {count} rows of {what}; drop these rows or fill the label"
        )
    if task == "regression":
        if not dtype.is_numeric():
            raise ValueError(
                f"label column {label!r} holds {dtype}, but a regression needs numbers; "
                "use task 'classification' or another label"
            )
        infinite = frame.select((~column.cast(pl.Float64).is_finite()).sum()).pipe(tables.collect).item()
        if infinite:
            raise ValueError(
                f"label column {label!r} is infinite in {infinite} rows of {what}; drop these rows"
            )
        return None
    if dtype.is_temporal() or dtype.is_nested() or dtype == pl.Binary:
        raise ValueError(
            f"label column {label!r} holds {dtype}, but a classification needs text, integers or booleans; "
            "use another label"
        )
    if dtype.is_decimal() or dtype.is_float():
        fractions = frame.filter(column.cast(pl.Float64) % 1 != 0).select(column.first())
        found = fractions.pipe(tables.collect).item()
        if found is not None:
            raise ValueError(
                f"label column {label!r} holds fractions such as {found}, but a classification needs text, "
                "integers or booleans; use task 'regression' or another label"
            )
    values = frame.select(_comparable(column, dtype).unique()).pipe(tables.collect).to_series().to_list()
    return sorted(values)


def _comparable(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    return column.cast(pl.Float64) if dtype.is_decimal() else column


def _check_weights(frame: pl.LazyFrame, weight_column: str | None, what: str) -> None:
    if weight_column is None:
        return
    dtype = frame.collect_schema()[weight_column]
    if not dtype.is_numeric():
        raise ValueError(
            f"weight column {weight_column!r} holds {dtype}, but weights must be numbers of at least 0; use "
            "another column"
        )
    column = tables.column(weight_column).cast(pl.Float64)
    usable = column.is_finite() & (column >= 0)
    bad = frame.select((~usable.fill_null(value=False)).sum()).pipe(tables.collect).item()
    if bad:
        raise ValueError(
            f"weight column {weight_column!r} is missing, negative or infinite in {bad} rows of {what}; "
            "weights must be finite numbers of at least 0: correct or drop these rows"
        )
    if not frame.select(column.sum()).pipe(tables.collect).item():
        raise ValueError(
            f"weight column {weight_column!r} is 0 in every row of {what}; some weights must be positive"
        )


def _distinct_values(train: pl.LazyFrame, types: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """Count each column's distinct values, and the missing values of columns that have some.

    Except for text, 2 distinct values mean more than one.
    """
    counts = []
    for index, (name, kind) in enumerate(types.items()):
        column = tables.column(name)
        if kind == "string":
            count = column.drop_nulls().n_unique()
        else:
            present = column.cast(pl.Float64, strict=False) if kind in casts.NUMBERS else column
            finite = present.filter(present.is_finite()) if kind in casts.NUMBERS else present
            count = (
                pl.when(finite.min().is_null())
                .then(0)
                .when(finite.min() == finite.max())
                .then(1)
                .otherwise(2)
            )
        counts += [count.alias(f"count{index}"), column.null_count().alias(f"nulls{index}")]
    if not counts:
        return {}, {}
    with tables.with_progress(train, "counting values") as counted:
        found = counted.select(counts).pipe(tables.collect).row(0, named=True)
    distinct = {name: int(found[f"count{index}"]) for index, name in enumerate(types)}
    nulls = {name: int(found[f"nulls{index}"]) for index, name in enumerate(types)}
    return distinct, {name: count for name, count in nulls.items() if count}


def free_text_columns(train: pl.LazyFrame, texts: Sequence[str]) -> list[str]:
    """Return the columns of free text, judging by the first rows of the table."""
    found = []
    head = tables.select(train, texts).head(_ROWS_READ).pipe(tables.collect)
    for column in head.iter_columns():
        values = column.cast(pl.String).drop_nulls()
        count, capitalized = (
            int(values.str.count_matches(pattern).sum()) for pattern in (_WORD, _CAPITALIZED)
        )
        if values.len() and count >= _MIN_WORDS * values.len() and capitalized < _MAX_CAPITALIZED * count:
            found.append(column.name)
    return found


def _nothing_to_learn(kind: str, distinct: int, nullable: bool) -> str:
    if distinct == 0:
        return "is missing in every row"
    # A single text and a missing one are two categories; a missing number becomes the median, the only value.
    return "" if distinct > 1 or (kind == "string" and nullable) else "holds a single value"


def _column_transformer(found: Examined, max_one_hot_categories: int, seed: int, rows: int) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder

    from flowparts.prepare.text_features import TextFeatures
    from flowparts.prepare.transformers import TimestampFeatures

    classes = found.classes
    target = "continuous" if classes is None else "binary" if len(classes) == 2 else "multiclass"

    def of(*kinds: str) -> list[str]:
        return [name for name, kind in found.features.items() if kind in kinds]

    def numbers(*first: Any) -> Any:
        return make_pipeline(*first, SimpleImputer(strategy="median"), StandardScaler())

    few = [name for name in of("string") if found.distinct[name] <= max_one_hot_categories]
    many = [name for name in of("string") if name not in few]
    known = [name for name in many if name not in found.hardly_alike]
    worded = [name for name in many if name in found.free_text]
    folds = KFold(min(_FOLDS, rows), shuffle=True, random_state=seed)
    steps = [
        ("number", numbers(), of(*casts.NUMBERS)),
        ("timestamp", numbers(TimestampFeatures(waves=True)), of("timestamp")),
        ("date", numbers(TimestampFeatures(hours=False, waves=True)), of("date")),
        ("category", OneHotEncoder(handle_unknown="ignore", sparse_output=False), few),
        ("target", make_pipeline(TargetEncoder(target_type=target, cv=folds), StandardScaler()), known),
        ("text", make_pipeline(TextFeatures(target, seed), StandardScaler()), worded),
        ("missing", MissingIndicator(features="all"), found.often_missing),
    ]
    return ColumnTransformer([step for step in steps if step[2]], sparse_threshold=0)


def _feature_names(transformer: Any, taken: Iterable[str]) -> list[str]:
    """Name the transformed columns, distinct from each other and from the label."""
    names: list[str] = []
    used = set(taken)
    for full in transformer.get_feature_names_out():
        step, _, base = str(full).partition("__")
        if step == "missing":
            base = base.removeprefix("missingindicator_") + "_is_missing"
        name, number = base, 2
        while name in used:
            name, number = f"{base}_{number}", number + 1
        used.add(name)
        names.append(name)
    return names


def _features_table(matrix: Any, preprocessor: Preprocessor, kept: pl.DataFrame) -> pl.DataFrame:
    import numpy as np

    # A value beyond the range of 32 bits would become infinite, which estimators refuse.
    limit = np.finfo(np.float32).max
    numbers = np.clip(matrix, -limit, limit).astype(np.float32, order="F")
    if not np.isfinite(numbers).all():
        bad = preprocessor.feature_names[int(np.argmin(np.isfinite(numbers).all(axis=0)))]
        raise ValueError(
            f"feature {bad!r} isn't finite after scaling, because the values of its column are too large; "
            "rescale the column, or add it to exclude_columns"
        )
    columns = {name: numbers[:, index] for index, name in enumerate(preprocessor.feature_names)}
    return pl.DataFrame(columns).hstack(kept.get_columns())


def label_values(label: pl.Series) -> Any:
    """Return a label column as the array that estimators take: text as objects, other types unchanged."""
    if label.dtype in (pl.String, pl.Categorical, pl.Enum):
        return label.cast(pl.String).to_numpy()
    return label.cast(pl.Float64).to_numpy() if label.dtype.is_decimal() else label.to_numpy()
