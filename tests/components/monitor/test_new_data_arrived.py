import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.mark_data_seen import mark_data_seen
from flowparts.components.monitor.new_data_arrived import new_data_arrived

START = datetime(2026, 3, 1)
Look = Callable[..., tuple[bool, int, str]]


@dsl.pipeline
def example(outside: str, source: str = "sample://breast_cancer"):
    table = ingest_table(source=source).outputs["table"]
    new_data_arrived(table=table, state_uri=f"{outside}/seen.json").set_caching_options(False)


def rows(count: int, first: int = 0) -> pl.DataFrame:
    numbers = list(range(first, first + count))
    return pl.DataFrame(
        {"id": numbers, "time": [START + timedelta(hours=number) for number in numbers], "x": [0.5] * count}
    )


@pytest.fixture
def state_uri(tmp_path: Path) -> str:
    return str(tmp_path / "kept" / "seen.json")


@pytest.fixture
def look(artifact: Callable[..., Any], table: Callable[..., dsl.Dataset], state_uri: str) -> Look:
    """Look for new data and mark it as seen if asked to, as the end of a run that succeeds does."""

    def call(frame: pl.DataFrame, column: str | None = None, succeed: bool = True) -> tuple[bool, int, str]:
        mark = artifact("mark")
        found = new_data_arrived.python_func(
            table=table(frame), mark=mark, state_uri=state_uri, column=column
        )
        if succeed:
            mark_data_seen.python_func(mark=mark, state_uri=state_uri)
        return found

    return call


@pytest.mark.parametrize("column", [None, "id", "time"])
def test_rows_are_new_until_a_run_that_used_them_has_succeeded(look: Look, column: str | None) -> None:
    assert look(rows(100), column, succeed=False)[:2] == (True, 100)
    assert look(rows(100), column)[:2] == (True, 100)
    assert look(rows(100), column)[:2] == (False, 0)
    assert look(rows(130), column, succeed=False)[:2] == (True, 30)
    assert look(rows(130), column)[:2] == (True, 30)
    assert look(rows(130), column)[:2] == (False, 0)


def test_the_fingerprint_changes_with_values_but_not_with_row_order(look: Look) -> None:
    look(rows(100))
    assert look(rows(100).reverse())[0] is False
    new, count, reason = look(rows(100).with_columns(x=pl.lit(0.6)))
    assert (new, count) == (True, 0)
    assert reason == "the content changed: 100 rows now, 100 before"


def test_a_window_that_moves_on_has_new_rows_though_it_has_not_grown(look: Look) -> None:
    look(rows(100), "time")
    new, count, reason = look(rows(100, first=20), "time")
    assert (new, count) == (True, 20)
    assert reason == "20 rows lie beyond time 2026-03-05T03:00:00"


def test_late_rows_and_rows_of_the_same_moment_count(look: Look) -> None:
    look(rows(100), "time")
    late = pl.concat([rows(110), rows(3, first=50), rows(1, first=99)])
    assert look(late, "time") == (True, 14, "10 rows lie beyond time 2026-03-05T03:00:00, and 4 came late")


def test_dates_numbers_and_missing_values_have_marks(look: Look, state_uri: str) -> None:
    days = pl.DataFrame({"day": [date(2026, 3, 1), None, date(2026, 3, 3)]})
    assert look(days, "day")[1] == 2
    assert json.loads(Path(state_uri).read_text())["seen"]["highest"] == "2026-03-03T00:00:00"
    Path(state_uri).unlink()
    assert look(pl.DataFrame({"score": [1.5, float("nan"), None, 2.5]}), "score")[1] == 2
    assert look(pl.DataFrame({"score": [1.5, 2.5, 2.75]}), "score")[:2] == (True, 1)


def test_a_run_that_ends_late_does_not_lower_the_mark(
    look: Look, artifact: Callable[..., Any], table: Callable[..., dsl.Dataset], state_uri: str
) -> None:
    older = artifact("older")
    new_data_arrived.python_func(table=table(rows(50), "old"), mark=older, state_uri=state_uri, column="id")
    look(rows(100), "id")
    mark_data_seen.python_func(mark=older, state_uri=state_uri)
    assert look(rows(100), "id")[:2] == (False, 0)
    assert [path.name for path in Path(state_uri).parent.iterdir()] == ["seen.json"]


def test_a_mark_beyond_all_rows_is_reported_with_its_likely_cause(look: Look) -> None:
    look(pl.concat([rows(100), rows(1, first=900_000)]), "time")
    new, _, reason = look(rows(100), "time")
    assert not new
    assert reason == (
        "no row lies beyond time 2128-11-01T00:00:00, but the highest now is 2026-03-05T03:00:00; "
        "if the other was a mistake, remove the state file"
    )


def test_an_empty_source_gives_a_one_line_error(look: Look, state_uri: str) -> None:
    with pytest.raises(ValueError, match="no rows"):
        look(rows(0))
    assert not Path(state_uri).exists()


def test_a_state_file_in_a_store_is_read_and_written(
    artifact: Callable[..., Any], table: Callable[..., dsl.Dataset]
) -> None:
    mark = artifact("mark")
    with pytest.raises(ValueError, match=r"can't read nowhere://bucket/seen\.json"):
        new_data_arrived.python_func(table=table(rows(1)), mark=mark, state_uri="nowhere://bucket/seen.json")
    assert not Path(mark.path).exists()


@pytest.mark.parametrize(
    ("kept", "column", "sentence"),
    [
        (None, "no", "column of the high-water mark 'no' is not in"),
        (None, "name", "column 'name' holds String; a high-water mark needs numbers or times"),
        (None, "empty", "column 'empty' has no values"),
        ("{", "id", "isn't a state file of the data that was seen; name another file, or remove this"),
        ("[]", "id", "isn't a state file of the data"),
        ('{"seen": {"rows": 1, "column": "id"}}', "id", "isn't a state file of the data"),
        (
            '{"seen": {"rows": 1, "column": "time", "highest": "soon"}}',
            "time",
            "isn't a state file of the data",
        ),
        (
            '{"seen": {"rows": 1, "column": "id", "highest": 1}, "at": "soon"}',
            "id",
            "isn't a state file of the data",
        ),
        ('{"seen": {"rows": 1, "fingerprint": "a"}}', "id", "by the fingerprint, and this is by column 'id'"),
        ('{"seen": {"rows": 1, "column": "id", "highest": "2026-03-01"}}', "id", "'id' of another type"),
    ],
)
def test_an_incomparable_table_gives_a_one_line_error(
    look: Look, state_uri: str, kept: str | None, column: str, sentence: str
) -> None:
    if kept:
        Path(state_uri).parent.mkdir()
        Path(state_uri).write_text(kept)
    frame = rows(5).with_columns(name=pl.lit("a"), empty=pl.lit(None, pl.Float64))
    with pytest.raises(ValueError, match=sentence):
        look(frame, column)
    assert (Path(state_uri).read_text() if Path(state_uri).exists() else None) == kept
