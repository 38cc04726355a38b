"""Small wide files give the same tables as by the general way."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flowparts import ingest, tables
from flowparts.ingest import plain_files

# One kind of a column each, some of them only just.
POOLS = [
    ["1", "-20", "0", "999999999999999", ""],
    ["1", "2.5", "-0.0", "3e-7", "1E22", "NA", "0.1234567890123456789"],
    ["1.5", ".5", "5.", "+3", "1e400", "nan", "inf", "-Infinity"],
    ["1", "007", "1000000000000000", "12345678901234567890", "1_0", " 1"],
    ["true", "False", "TRUE", "null", ""],
    ["true", "0", "yes", "t"],
    ["Köln", "b", "North West", "e5", "x007", "None", "True", "naN"],
    ["a'b", "#", "-", "é", "\N{NO-BREAK SPACE}", "A\tB", "'", "1,5"],
    ["2024-01-31", "2024-01-31T10:00:00Z", "31.12.2023", "", "0000-01-01"],
    ["", "NA", "null"],
    ["1,234", "12.5", "34;5"],
    ['"q"', '"a;b"', '"1"', "x"],
]
TYPES = ["number", "integer", "string", "boolean", "date"]


def both(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, options: ingest.Options
) -> tuple[Any, Any, bool]:
    """Return what came of a file by either way, and whether the quick one took it."""
    taken = []
    write = tables.write_part
    monkeypatch.setattr(tables, "write_part", lambda *given: (taken.append(given), write(*given)))
    results = []
    for least in (1, 10**9):
        monkeypatch.setattr(plain_files, "MIN_COLUMNS", least)
        try:
            found, _ = ingest.ingest(str(source), folder / f"{least}", folder / "rejected", options)
            table = tables.scan(folder / f"{least}")
            results.append(
                (found["fingerprint"], found["columns"], str(table.collect_schema()), found["rows"])
            )
        except ValueError as error:
            results.append(str(error))
    monkeypatch.undo()
    return results[0], results[1], bool(taken)


def columns(chance: random.Random, rows: int) -> dict[str, list[str]]:
    pools = chance.choices(POOLS, [5, 5, 1, 1, 3, 1, 5, 1, 1, 2, 1, 1], k=chance.randint(1, 3))
    return {
        f"c{place}": chance.choices(pool[: chance.randint(1, len(pool))], k=rows)
        for place, pool in enumerate(pools)
    }


def written_csv(chance: random.Random) -> str:
    found, delimiter = columns(chance, chance.choice([1, 3, 30])), chance.choice(",;\t")
    lines = [delimiter.join(found), *map(delimiter.join, zip(*found.values(), strict=True))]
    if not chance.randrange(8):
        lines.insert(
            chance.randrange(len(lines) + 1), chance.choice(["", " ", delimiter, "a" + delimiter * 4])
        )
    return (
        chance.choice(["", "", "\ufeff"])
        + chance.choice(["\n", "\n", "\r\n"]).join(lines)
        + chance.choice(["", "\n"])
    )


def as_json(text: str, chance: random.Random) -> str:
    try:
        bare = json.loads(text) is not None and chance.randrange(8)
    except ValueError:
        bare = False
    return (
        "null"
        if not text and chance.randrange(2)
        else text
        if bare
        else json.dumps(text, ensure_ascii=chance.random() < 0.1)
    )


def written_jsonl(chance: random.Random) -> str:
    found = columns(chance, chance.choice([1, 3, 30]))
    rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    lines = [
        "{" + ", ".join(f'"{key}": {as_json(value, chance)}' for key, value in row.items()) + "}"
        for row in rows
    ]
    if not chance.randrange(8):
        lines.append(
            chance.choice(["", '{"c0": 1, "c0": 2}', '{"new": 1}', '{"c0": [1]}', "7", '{"c0": NaN}'])
        )
    return "\n".join(lines) + chance.choice(["", "\n"])


@pytest.mark.parametrize(("ending", "write"), [("csv", written_csv), ("jsonl", written_jsonl)])
def test_files_of_any_content_give_the_same_table_or_the_same_message(
    ending: str, write: Callable[[random.Random], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    for seed in range(60):
        chance = random.Random(seed)
        source = tmp_path / f"{seed}.{ending}"
        source.write_bytes(write(chance).encode())
        given = {f"c{place}": chance.choice(TYPES) for place in range(2) if not chance.randrange(6)}
        options = ingest.Options(
            on_bad_rows=chance.choice(ingest.ingestion.ON_BAD_ROWS),
            expected_types=given,
            keep_integers=seed % 2 > 0,
        )
        quick, general, was_quick = both(source, tmp_path / f"{ending}{seed}", monkeypatch, options)
        assert quick == general, source.read_text()
        taken += was_quick
    assert taken > 12


def test_parquet_files_give_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pl.DataFrame(
        {
            "i": pl.Series([1, None, -3], dtype=pl.Int16),
            "x": [0.5, float("nan"), None],
            "b": [True, None, False],
            "s": ["NA", "x", None],
            "^a.*$": ["", "1", "2024-01-01"],
        }
    )
    others = [
        pl.DataFrame({"u": pl.Series([1, 2**63], dtype=pl.UInt64)}),
        pl.DataFrame({"f": pl.Series([0.1, float("nan")], dtype=pl.Float32)}),
        pl.DataFrame({"__index_level_0__": [0, 1], "a": [1, 2]}),
        pl.DataFrame({"l": [[1], [2]]}),
        pl.DataFrame({"d": pl.Series([20], dtype=pl.Date)}),
    ]
    for place, frame in enumerate([plain, *others]):
        source = tmp_path / f"{place}.parquet"
        frame.write_parquet(source)
        quick, general, was_quick = both(source, tmp_path / f"made{place}", monkeypatch, ingest.Options())
        assert quick == general
        assert was_quick == (place == 0)
    quick, general, was_quick = both(
        tmp_path / "0.parquet", tmp_path / "given", monkeypatch, ingest.Options(column_types={"i": "number"})
    )
    assert (quick == general, was_quick) == (True, False)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_that_must_be_there_is_missed_by_either_way(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / f"rows.{ending}"
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[ending](source)
    quick, general, _ = both(source, tmp_path / "made", monkeypatch, ingest.Options(label="c"))
    assert quick == general == "label column 'c' is not in the source; columns are: a, b"


def test_wide_files_are_read_the_quick_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({f"c{place}": [0.5, 1.25] for place in range(plain_files.MIN_COLUMNS)})
    monkeypatch.setattr("flowparts.ingest.ingestion._database", None)
    for ending, write in {
        "csv": frame.write_csv,
        "jsonl": frame.write_ndjson,
        "parquet": frame.write_parquet,
    }.items():
        source = tmp_path / f"rows.{ending}"
        write(source)
        ingest.ingest(str(source), tmp_path / ending, tmp_path / "rejected")
        assert tables.scan(tmp_path / ending).collect().equals(frame)
