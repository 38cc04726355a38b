import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flowparts import tables
from flowparts.predict import export
from flowparts.prepare import preprocess, split
from flowparts.tables import schema
from flowparts.util import progress
from flowparts.validate import profile


def test_the_line_shows_fraction_rate_and_time_left() -> None:
    assert progress.line("reading a.csv", 120, 480, "MB", 2.0) == (
        "reading a.csv: 120 of 480 MB (25 %), 60 MB/s, 6 s left"
    )
    assert progress.line("reading a.csv", 0, 480, "MB", 2.0).endswith("0 MB/s, time left unknown")
    assert progress.line("profiling", 3, 20, "columns", 12.0) == (
        "profiling: 3 of 20 columns (15 %), 0.25 columns/s, 68 s left"
    )
    assert progress.line("writing train", 2e6, 1e9, "rows", 10.0).endswith(" 200,000 rows/s, 83 min left")
    assert progress.line("writing train", 2e6, 1e10, "rows", 10.0).endswith(" 13 h 53 min left")


def test_long_work_is_reported_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.02)
    with caplog.at_level(logging.INFO, "flowparts"), progress.reported("work", lambda: 5, 10, "rows"):
        time.sleep(0.1)
    said = len(caplog.messages)
    assert said >= 1
    assert caplog.messages[0].startswith("work: 5 of 10 rows (50 %), ")
    time.sleep(0.06)
    assert len(caplog.messages) == said


def test_short_operations_report_no_progress(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flowparts"), progress.reported("work", lambda: 1, 1, "rows"):
        pass
    assert not caplog.messages


PASSES: dict[str, tuple[Callable[[pl.LazyFrame, Path], Any], list[str]]] = {
    "split": (
        lambda frame, _: split.assign(frame, (0.7, 0.15, 0.15), stratify_by="kind"),
        ["hashing rows: "],
    ),
    "profile": (lambda frame, _: profile.profile(frame), ["measuring every column: ", "profiling: "]),
    "infer": (
        lambda frame, _: schema.infer(frame),
        ["inferring the schema: ", "looking for duplicates: "],
    ),
    "validate": (
        lambda frame, _: schema.validate(frame, schema.Schema([schema.Column("id", "integer", maximum=5)])),
        ["checking every rule: ", "looking for examples: "],
    ),
    "prepare": (
        lambda frame, _: preprocess.fit(frame, label="kind", task="classification"),
        ["counting values: ", "reading the training table: "],
    ),
    "export": (lambda frame, folder: export.write_file(frame, str(folder / "rows.csv")), ["exporting: "]),
    "write": (lambda frame, folder: tables.write(frame, folder / "copy"), ["fingerprinting: "]),
}


@pytest.mark.parametrize(("work", "said"), PASSES.values(), ids=PASSES)
def test_every_pass_over_a_large_table_reports_progress(
    work: Callable[[pl.LazyFrame, Path], Any],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @contextmanager
    def told_at_the_end(what: str, done: Callable[[], float], total: float, unit: str) -> Iterator[None]:
        yield
        logging.getLogger("flowparts").info(progress.line(what, done(), total, unit, 1.0))

    # A machine may do a pass before a thread that looks every few moments has looked once.
    monkeypatch.setattr(progress, "reported", told_at_the_end)
    number = pl.int_range(100_000, eager=True)
    rows = pl.DataFrame({"id": number, "value": (number * 37 % 1009) / 7, "kind": number % 2 == 0})
    tables.write(rows, tmp_path / "table")
    with caplog.at_level(logging.INFO, "flowparts"):
        work(tables.scan(tmp_path / "table"), tmp_path)
    for words in said:
        assert any(message.startswith(words) for message in caplog.messages), words
