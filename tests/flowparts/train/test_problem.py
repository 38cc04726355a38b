import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flowparts.train import recurrence, stages
from flowparts.train.candidates import Options
from flowparts.train.problem import Problem

COLUMNS = 20


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.iterdir()), "files are left behind"


def problem(**options: Any) -> Problem:
    return Problem(**{"label": "label", "task": "regression", "options": Options(), **options})


def rows(height: int) -> pl.DataFrame:
    draw = np.random.default_rng(0).normal(size=(height, COLUMNS + 1))
    return pl.DataFrame(draw, schema=[*(f"x{place}" for place in range(COLUMNS)), "label"])


def mapped(folder: Path) -> set[str]:
    """Return the files of a folder that are mapped into this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split()[-1]).name for line in lines if str(folder) in line}


def test_memory_holds_the_features_of_one_fold_at_a_time(scratch: Path) -> None:
    with problem(folds=4).compared(rows(400).lazy(), None) as compared:
        assert len(list(scratch.glob("*/*.npy"))) == 8
        assert mapped(scratch) == set()
        for place, stage in enumerate(compared.stages):
            assert stage.train.matrix.shape == (300, COLUMNS)
            assert mapped(scratch) == {f"{place}-train.npy", f"{place}-validation.npy"}


def test_stages_give_the_same_features_each_time_and_to_other_processes(scratch: Path) -> None:
    with problem(folds=3).compared(rows(300).lazy(), None) as compared:
        other = pickle.loads(pickle.dumps(compared.stages))
        for place, stage in enumerate(compared.stages):
            again = other[place]
            assert (stage.train.matrix == again.train.matrix).all()
            assert stage.train.truth.equals(again.train.truth)
            assert stage.train.matrix.shape[0] + stage.validation.matrix.shape[0] == 300
            stage.train.matrix[:] = 0
            assert (again.train.matrix != 0).any(), "what an estimator writes stays its own"


def test_the_fractions_of_a_large_table_have_one_file_of_validation_rows(
    monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    monkeypatch.setattr(stages, "_MIN_ROWS", 10)
    with problem().compared(rows(120).lazy(), rows(30).lazy()) as compared:
        (only,) = compared.stages
        assert only.train.matrix.shape == (120, COLUMNS), "only a search needs fractions of the rows"
    with problem().compared(rows(120).lazy(), rows(30).lazy(), halving=True) as compared:
        files = sorted(file.name for file in scratch.glob("*/*"))
        assert files == ["0-train.npy", "0-validation.npy", "1-train.npy", "2-train.npy"]
        first, *others = (stage.validation.matrix for stage in compared.stages)
        assert all((first == each).all() for each in others)


def of_hours(first: int, hours: int) -> pl.DataFrame:
    """Ten rows for each of some hours, with columns of text."""
    draw, hour = np.random.default_rng(first), np.repeat(np.arange(first, first + hours), 10)
    return pl.DataFrame(
        {
            "hour": [f"h{each}" for each in hour],
            "town": draw.choice(["Köln", "Paris", "Rom"], 10 * hours),
            "said": [f"hour {each} of row {place} was good" for place, each in enumerate(hour)],
            "label": draw.normal(size=10 * hours),
        }
    )


def test_text_that_does_not_recur_in_the_validation_rows_is_no_feature(
    scratch: Path,
) -> None:
    table, later = of_hours(0, 40).lazy(), of_hours(39, 20).lazy()
    with problem().compared(table, later) as compared:
        assert set(compared.stages[0].learned.features) == {"town", "said"}
        assert compared.problem.exclude_columns == ["hour"], "in whatever is trained later, too"
        (warning,) = compared.facts["warnings"]
        assert warning.startswith("column 'hour' is left out of the features: fewer than 10% of its values")
    with problem().compared(table, of_hours(30, 20).lazy()) as compared:
        assert set(compared.stages[0].learned.features) == {"hour", "town", "said"}, "half of them recur"
    with problem().compared(table, later.with_columns(hour=pl.lit(None, pl.String))) as compared:
        assert "hour" in compared.stages[0].learned.features, "nothing is known of missing ones"
    with problem(exclude_columns=["town", "said"]).compared(table, later) as compared:
        assert set(compared.stages[0].learned.features) == {"hour"}, "there is nothing else"


def test_text_is_kept_if_too_little_speaks_against_it(scratch: Path) -> None:
    table, later = of_hours(0, 40), of_hours(60, 20)

    def kept(table: pl.DataFrame, later: pl.DataFrame, **options: Any) -> bool:
        with problem(**options).compared(table.lazy(), later.lazy()) as compared:
            return "hour" in compared.stages[0].learned.features

    assert not kept(table, later)
    assert kept(table, later.head(recurrence.MIN_ROWS - 1)), "a few rows differ by chance"
    assert not kept(table, later.head(recurrence.MIN_ROWS))
    some = pl.when(pl.int_range(pl.len()) % 2 == 0).then("hour")
    assert kept(table.with_columns(hour=some), later.with_columns(hour=some)), "missing values recur"
    useless = [rows.with_columns(town=pl.lit("Rom"), said=pl.lit("so it is")) for rows in (table, later)]
    assert kept(*useless), "the others hold a single value"


def test_identifiers_and_values_of_another_type_have_their_own_reasons(scratch: Path) -> None:
    table, later = of_hours(0, 40), of_hours(60, 20)
    different = pl.format("id {}", pl.int_range(pl.len()))
    with problem().compared(
        table.with_columns(hour=different).lazy(), later.with_columns(hour=different).lazy()
    ) as compared:
        assert compared.problem.exclude_columns == []
        (warning,) = compared.facts["warnings"]
        assert warning.endswith("it holds text whose values are nearly all distinct")
    for wrong in (pl.lit(["a"]), pl.lit(b"\xff")):
        with (
            pytest.raises(ValueError, match="feature column 'hour' must hold string values, as in training"),
            problem().compared(table.lazy(), later.with_columns(hour=wrong).lazy()),
        ):
            pass


def test_values_are_looked_for_in_all_training_rows(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recurrence, "_ROWS_READ", 10)
    with problem().compared(of_hours(0, 40).lazy(), of_hours(30, 20).lazy()) as compared:
        assert "hour" in compared.stages[0].learned.features
    assert not caplog.messages
    with problem().compared(of_hours(0, 40).lazy(), of_hours(60, 20).lazy()) as compared:
        assert caplog.messages == compared.facts["warnings"]


def test_folds_follow_the_split_of_their_table_unless_asked_otherwise() -> None:
    described = {"kept_together": ["customer"], "time_column": ""}
    assert problem().split_as(described, validated=False).kept_together == ("customer",)
    assert problem().split_as({}, validated=False) == problem()
    assert problem().split_as({"time_column": "day"}, validated=False).time_column == "day"
    assert problem().split_as({"time_column": "day"}, validated=True) == problem()
    for given in ({"group_by": "shop"}, {"time_column": "at"}):
        assert problem(**given).split_as(described, validated=False) == problem(**given)
