import csv
import datetime as dt
import gzip
import io
import json
import math
import random
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from flowparts import ingest, tables
from flowparts.ingest import Options, screening
from flowparts.tables import schema

FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

MIXED = pl.DataFrame(
    {
        "id": [1, 2, None, -4],
        "amount": [1.5, None, -2.25, 1e300],
        "name": ["ann", 'says "hi", twice', "line\nbreak", None],
        "member": [True, False, None, True],
        "born": [dt.date(2001, 2, 3), None, dt.date(1999, 12, 31), dt.date(2024, 2, 29)],
        "seen": [
            dt.datetime(2024, 1, 2, 3, 4, 5, 678901),
            dt.datetime(1970, 1, 1),
            None,
            dt.datetime(2030, 1, 1),
        ],
        "größe": ["é", "ü", "字", "x"],
    }
)

Ingest = Callable[..., tuple[pl.DataFrame, pl.DataFrame]]


@pytest.fixture
def read(tmp_path: Path) -> Ingest:
    """Ingest bytes (a file named `name`) or a source; return the table and the bad rows."""

    def run(source: bytes | str, name: str = "data.csv", **options: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        if isinstance(source, bytes):
            (tmp_path / name).write_bytes(source)
            source = str(tmp_path / name)
        out = tmp_path / "out"
        good, bad = ingest.ingest(source, out / "table", out / "rejected", Options(**options))
        frames = tables.scan(out / "table").collect(), tables.scan(out / "rejected").collect()
        assert (good["rows"], bad["rows"]) == tuple(frame.height for frame in frames)
        return frames

    return run


@pytest.fixture
def refused(tmp_path: Path, read: Ingest) -> Callable[..., str]:
    """Ingest what must be refused; return the sentence. Nothing may be left behind."""

    def run(source: bytes | str, name: str = "data.csv", **options: Any) -> str:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - every test looks at the sentence
            read(source, name, **options)
        assert not list((tmp_path / "out").rglob("*"))
        sentence = str(caught.value).replace(f"{tmp_path}/", "")
        assert sentence
        assert "\n" not in sentence
        return sentence

    return run


def _write(frame: pl.DataFrame, kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "csv":
        frame.write_csv(stream)
    elif kind == "jsonl":
        frame.write_ndjson(stream)
    else:
        frame.write_parquet(stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_mixed_columns_with_nulls_come_back_with_their_types(kind: str, read: Ingest) -> None:
    table, rejected = read(_write(MIXED, kind), f"data.{kind}")
    assert_frame_equal(table, MIXED)
    assert rejected.height == 0
    assert rejected.schema == screening.BadRows.SCHEMA


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gz", "zst"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_compressed_text_is_read_like_plain_text(kind: str, compress: Any, read: Ingest) -> None:
    table, _ = read(compress(_write(MIXED, kind)), f"data.{kind}.gz")
    assert_frame_equal(table, MIXED)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_detected_from_the_header(delimiter: str, read: Ingest) -> None:
    table, _ = read(MIXED.write_csv(separator=delimiter).encode())
    assert_frame_equal(table, MIXED)


def test_windows_files_with_mark_and_line_endings_are_taken(read: Ingest) -> None:
    table, _ = read(b"\xef\xbb\xbf" + MIXED.drop("name").write_csv(line_terminator="\r\n").encode())
    assert_frame_equal(table, MIXED.drop("name"))


def test_line_endings_may_be_mixed(read: Ingest) -> None:
    assert read(b"a,b\r\n1,x\n2,y\r\n3,z")[0].rows() == [(1, "x"), (2, "y"), (3, "z")]


GERMAN = "Umsatz, netto;Kosten, ges.\n1,5;2,5\n3,25;4,75\n"


@pytest.mark.parametrize(
    ("content", "name", "rows"),
    [
        (GERMAN, "data.csv", [(1.5, 2.5), (3.25, 4.75)]),
        ("Preis\n1,5\n2,25\n", "data.csv", [(1.5,), (2.25,)]),
        ("sep=;\nid;price\n1;2\n3;4\n", "data.csv", [(1, 2), (3, 4)]),
        ('"sep=|"\r\na|b\r\n1|2,5\r\n', "data.csv", [(1, 2.5)]),
        ("a, b\tc\n1\t2\n", "data.tsv", [(1, 2)]),
        ('a,b\n"x;y",1\n"z;w;v",2\n', "data.csv", [("x;y", 1), ("z;w;v", 2)]),
        ("a|b\nx, y|1\nz, w|2\n", "data.csv", [("x, y", 1), ("z, w", 2)]),
        ("at;x\n2024-01-01 10:00:00;1\n", "data.csv", [(dt.datetime(2024, 1, 1, 10), 1)]),
    ],
    ids=["german", "one-column", "sep", "sep-quoted", "tsv", "semicolons-in-text", "commas-in-text", "times"],
)
def test_delimiter_cuts_rows_into_whole_values(
    content: str, name: str, rows: list[Any], read: Ingest
) -> None:
    assert read(content.encode(), name)[0].rows() == rows


def test_a_given_delimiter_takes_the_place_of_the_guess(read: Ingest, refused: Callable[..., str]) -> None:
    assert read(b"a~b\n1~2\n", delimiter="~")[0].rows() == [(1, 2)]
    assert read(b"a,b;c\n1,2;3\n", delimiter=";", decimal=".")[0].columns == ["a,b", "c"]
    assert refused(b'{"a": 1}\n', "data.jsonl", delimiter=";") == (
        "delimiter is for CSV files only, but data.jsonl is jsonl; leave it out"
    )


def test_a_file_without_a_header_is_refused_or_gets_its_names(
    read: Ingest, refused: Callable[..., str]
) -> None:
    content = b"5.1,3.5,setosa\n4.9,3.0,setosa\n"
    assert refused(content).startswith("data.csv seems to have no header: its first line holds numbers")
    names = ["length", "width", "species"]
    table, _ = read(content, column_names=names)
    assert table.columns == names
    assert table.rows() == [(5.1, 3.5, "setosa"), (4.9, 3.0, "setosa")]
    assert read(",".join(names).encode() + b"\n" + content, column_names=names)[0].height == 2
    assert refused(content, column_names=["a"]) == (
        "column_names has 1 names, but the first line of data.csv has 3 fields separated by ','; give one "
        "name for each field"
    )


@pytest.mark.parametrize("header", ["id,x,no,2023,2024-01-01", "0,1,2,3,4", "a,2022,2023,2024,2025"])
def test_numbers_may_be_names(header: str, read: Ingest) -> None:
    assert read(f"{header}\n7,0.5,1.5,2.5,3.5\n".encode())[0].columns == header.split(",")


@pytest.mark.parametrize(
    "content",
    ["3,4,x\n5,6,y\n", "Paris,2021\nRome,2022\nOslo,2020\n", "0,1\n1,0\n", "0\n1\n", "2,3,4\n7,8,9\n"],
)
def test_a_row_that_could_be_numbered_names_is_not_taken_for_them(
    content: str, refused: Callable[..., str]
) -> None:
    assert refused(content.encode()).startswith("data.csv seems to have no header")


def test_one_column_is_enough(read: Ingest) -> None:
    assert read(b"a\n1\n2\n")[0].to_dict(as_series=False) == {"a": [1, 2]}


def test_csv_agrees_with_pandas_on_a_file_that_is_larger_than_the_sample(
    read: Ingest, tmp_path: Path
) -> None:
    import pandas as pd

    generator = random.Random(0)
    rows = [
        (
            index,
            generator.gauss(0, 1),
            f'"{generator.choice("xyz")}, quoted"' if index % 7 else "",
            index % 3 == 0,
        )
        for index in range(50_000)
    ]
    text = "a,b,c,d\n" + "".join(f"{a},{b!r},{c},{d}\n" for a, b, c, d in rows)
    table, _ = read(text.encode())
    expected = pd.read_csv(io.StringIO(text))
    assert table["a"].to_list() == expected["a"].tolist()
    assert table["b"].to_list() == pytest.approx(expected["b"].tolist(), rel=1e-15)
    assert table["c"].to_list() == [None if pd.isna(value) else value for value in expected["c"]]
    assert table["d"].to_list() == expected["d"].tolist()


@pytest.mark.parametrize(
    ("late", "dtype", "value"),
    [
        (("1", "2.5"), pl.Float64(), 2.5),
        (("1", "x1"), pl.String(), "x1"),
        (("", "7"), pl.Int64(), 7),
        (("2024-01-01", "2024-01-02T03:04"), pl.Datetime("us"), dt.datetime(2024, 1, 2, 3, 4)),
        (("true", "B1"), pl.String(), "B1"),
        (("7", "007"), pl.String(), "007"),
    ],
    ids=["number", "string", "integer", "timestamp", "not-boolean", "leading-zero"],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_types_are_inferred_over_rows_far_behind_the_first(
    kind: str, late: tuple[str, str], dtype: pl.DataType, value: object, read: Ingest
) -> None:
    first, last = late
    if kind == "jsonl":
        bare = ("1", "2.5", "7", "true")
        first, last = (text if text in bare else json.dumps(text or None) for text in late)
        lines = [f'{{"a": {first}}}'] * 30_000 + [f'{{"a": {last}, "b": 1}}']
    else:
        lines = ["a,b", *[f"{first},x"] * 30_000, f"{last},x"]
    table, _ = read("\n".join(lines).encode(), f"data.{kind}")
    assert table.schema["a"] == dtype
    assert table["a"][-1] == value


def test_numeric_codes_stay_text(read: Ingest) -> None:
    table, _ = read(b"zip,big,mixed\n00501,123456789012345678901,1_000\n10001,1,2\n")
    assert table.schema == {"zip": pl.String(), "big": pl.String(), "mixed": pl.String()}
    assert table["zip"].to_list() == ["00501", "10001"]


def test_nan_is_null_and_an_empty_column_is_text(read: Ingest) -> None:
    table, _ = read(b"a,b\n1.5,\nNaN,\n")
    assert table.schema == {"a": pl.Float64(), "b": pl.String()}
    assert table.rows() == [(1.5, None), (None, None)]
    parquet, _ = read(_write(pl.DataFrame({"a": [math.nan, 1.0]}), "parquet"), "data.parquet")
    assert parquet["a"].to_list() == [None, 1.0]


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({}, [None, None, "-"]),
        ({"null_values": ["NA", "-"]}, ["", None, None]),
        ({"null_values": []}, ["", "NA", "-"]),
    ],
    ids=["default", "named", "none"],
)
def test_null_values_are_what_they_are_named(
    options: dict[str, Any], values: list[Any], read: Ingest
) -> None:
    table, _ = read(b"a,b\n,1\nNA,2\n-,3\n", **options)
    assert table["a"].to_list() == values


@pytest.mark.parametrize("text", ["NA", "n/a", "NaN", "null", "?", "#N/A"])
def test_usual_words_for_missing_are_null(text: str, read: Ingest) -> None:
    table, _ = read(f"a,b,c\n1.5,x,2024-01-01\n{text},{text},{text}\n".encode())
    assert table.rows() == [(1.5, "x", dt.date(2024, 1, 1)), (None, None, None)]


NUMBERS = [f"{index / 7:.3f}" for index in range(1, 200)]
DAYS = [f"2024-{1 + index % 12:02}-{1 + index % 28:02}" for index in range(199)]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (NUMBERS, "unknown"),
        (NUMBERS, "-"),
        (NUMBERS, "34,90"),
        (NUMBERS, "1.234,5"),
        (NUMBERS, "$ 5"),
        (NUMBERS, "31.12.2021"),
        (DAYS, "31.12.2021"),
        (DAYS, "soon"),
        (["true", "false"] * 100, "maybe"),
        ([str(index) for index in range(200)], "-"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_bad_cell_does_not_turn_its_column_into_text(
    values: list[str], text: str, read: Ingest, refused: Callable[..., str]
) -> None:
    content = "\n".join(
        ["id;a", *(f"{index};{value}" for index, value in enumerate([*values, text]))]
    ).encode()
    sentence = refused(content)
    assert sentence.startswith(f"1 bad row: data.csv line {len(values) + 2}, column 'a': {text!r} is not a")
    assert f"{len(values)} of {len(values) + 1} values of 'a' are each" in sentence
    assert "column_types={'a': 'string'} keeps all as text" in sentence
    whole = read("\n".join(["id;a", *(f"{i};{value}" for i, value in enumerate(values))]).encode())[0]
    table, rejected = read(content, on_bad_rows="quarantine")
    assert_frame_equal(table, whole)
    assert rejected.select("line", "column").rows() == [(len(values) + 2, "a")]
    table, rejected = read(content, on_bad_rows="null")
    assert table["a"].to_list() == [*whole["a"].to_list(), None]
    assert rejected.select("line", "column").rows() == [(len(values) + 2, "a")]
    assert read(content, null_values=["", text])[0]["a"].to_list() == [*whole["a"].to_list(), None]
    assert read(content, column_types={"a": "string"})[0]["a"].to_list() == [*values, text]


def test_a_mark_that_is_repeated_among_numbers_is_bad_however_often(refused: Callable[..., str]) -> None:
    content = "a\n" + "1.5\n2.5\n-\n" * 20
    assert "40 of 60 values of 'a' are each a number" in refused(content.encode())


@pytest.mark.parametrize("text", ["C536379", "12a", "K1A 0B1", "007", "1234567890123456789012"])
def test_an_identifier_among_numbers_makes_text(text: str, read: Ingest) -> None:
    content = "a,b\n" + "".join(f"{index},x\n" for index in range(100)) + f"{text},x\n"
    assert read(content.encode())[0]["a"].to_list() == [*map(str, range(100)), text]


def test_every_bad_cell_becomes_null_and_is_listed_and_unreadable_rows_are_left_out(read: Ingest) -> None:
    table, rejected = read(
        b"a,b,c\n1,x,1.5\n?!,x,?!\n3\n4,y,2.5\n",
        column_types={"a": "integer", "c": "number"},
        on_bad_rows="null",
    )
    assert table.rows() == [(1, "x", 1.5), (None, "x", None), (4, "y", 2.5)]
    assert rejected.select("line", "column", "text").rows() == [
        (3, "a", "?!,x,?!"),
        (3, "c", "?!,x,?!"),
        (4, None, "3"),
    ]


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1,5", "-0,25", "3"], [1.5, -0.25, 3]),
        (["1.234,5", "1.000.000", "7"], [1234.5, 1e6, 7]),
        (["1,234.5", "1,000,000", "7"], [1234.5, 1e6, 7]),
        (["0,125", "2,250"], [0.125, 2.25]),
    ],
)
@pytest.mark.parametrize("given", [True, False])
def test_numbers_with_commas_are_recognized_column_by_column(
    texts: list[str], values: list[float], given: bool, read: Ingest
) -> None:
    content = "a;b\n" + "".join(f"{text};1.5\n" for text in texts)
    table, _ = read(content.encode(), column_types={"a": "number"} if given else None)
    assert table["a"].to_list() == values
    assert table["b"].to_list() == [1.5] * len(values)


def test_numbers_that_may_mean_two_things_need_a_word(read: Ingest, refused: Callable[..., str]) -> None:
    content = b"a;b\n1,234;x\n5,678;y\n"
    assert "column 'a' of data.csv holds numbers such as 1,234" in refused(content)
    assert read(content, decimal=",")[0]["a"].to_list() == [1.234, 5.678]
    assert read(content, decimal=".")[0]["a"].to_list() == [1234, 5678]
    assert read(content, column_types={"a": "string"})[0]["a"].to_list() == ["1,234", "5,678"]


def test_a_decimal_comma_far_behind_the_first_rows_is_recognized(read: Ingest) -> None:
    table, _ = read(b"a;b\n" + b"1;x\n" * 20_000 + b"2,5;x\n")
    assert table["a"][-1] == 2.5


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({}, [None, None, None, "x", "NAME", "k. Ä."]),
        ({"null_values": ["NA", "k. Ä."]}, [None, "N/A", "", "x", "NAME", None]),
        ({"null_values": []}, ["NA", "N/A", "", "x", "NAME", "k. Ä."]),
    ],
    ids=["default", "named", "none"],
)
def test_null_values_hold_for_json_and_parquet_too(
    kind: str, options: dict[str, Any], values: list[Any], read: Ingest
) -> None:
    frame = pl.DataFrame({"a": ["NA", "N/A", "", "x", "NAME", "k. Ä."], "b": range(6)})
    table, _ = read(_write(frame, kind), f"data.{kind}", **options)
    assert table["a"].to_list() == values
    assert table["b"].to_list() == [*range(6)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_whole_numbers_stay_integers_for_numeric_inputs(kind: str, read: Ingest) -> None:
    ages = [*range(200), None]
    frame = pl.DataFrame({"age": ages, "size": [1.5, *ages[1:]], "id": [f"{n}" for n in range(201)]})
    expected = {"age": "number", "size": "number", "id": "string"}
    options: dict[str, Any] = {"expected_types": expected, "keep_integers": True}
    table, _ = read(_write(frame, kind), f"data.{kind}", **options)
    assert_frame_equal(table, frame)
    table, _ = read(_write(frame, kind), f"data.{kind}", **options, column_types={"age": "number"})
    assert table.schema["age"] == pl.Float64
    late = pl.DataFrame({"age": [*range(6_000), 2.5]}, strict=False)
    table, _ = read(_write(late, kind), f"data.{kind}", **options)
    assert table["age"][-1] == 2.5
    codes = b"age\n007\n08\n"
    assert read(codes, **options)[0]["age"].to_list() == [7.0, 8.0]


def test_a_word_for_missing_neither_turns_numbers_into_text_nor_becomes_a_class(read: Ingest) -> None:
    lines = [f'{{"x": {number}, "y": "{"no" if number % 2 else "yes"}"}}' for number in range(30)]
    lines += ['{"x": "N\\/A", "y": "yes"}', '{"x": -1, "y": "NA"}', '{"x": "k. \\u00c4.", "y": "no"}']
    content = "\n".join(lines).encode()
    table, _ = read(content, "data.jsonl", null_values=["NA", "N/A", "-1", "k. Ä."], label="y")
    assert table["x"].to_list() == [*range(30), None, None]
    assert set(table["y"]) == {"yes", "no"}


def test_json_keeps_strings_apart_from_numbers_and_nested_values_as_json(read: Ingest) -> None:
    lines = b"""{"a": "1", "b": {"x": [1, "y"]}}

{"c": true, "a": "2", "b": [null]}
{"d": "2024-01-02T03:04:05+02:00"}
"""
    table, _ = read(lines, "data.ndjson")
    assert table.columns == ["a", "b", "c", "d"]
    assert table["a"].to_list() == ["1", "2", None]
    assert [json.loads(text) if text else None for text in table["b"]] == [{"x": [1, "y"]}, [None], None]
    assert table["c"].to_list() == [None, True, None]
    assert table["d"].to_list() == [None, None, dt.datetime(2024, 1, 2, 1, 4, 5)]


def test_parquet_types_become_the_table_types(read: Ingest) -> None:
    frame = pl.DataFrame(
        {
            "small": pl.Series([1, None], dtype=pl.Int8),
            "price": pl.Series(["1.10", "2.25"]).cast(pl.Decimal(10, 2)),
            "list": [[1, 2], None],
            "kind": pl.Series(["a", "b"], dtype=pl.Categorical),
            "zoned": pl.Series([dt.datetime(2024, 1, 1, 12), None]).dt.replace_time_zone("Europe/Berlin"),
            "time": [dt.time(1, 2, 3), None],
        }
    )
    table, _ = read(_write(frame, "parquet"), "data.parquet")
    assert table["small"].to_list() == [1, None]
    assert table["price"].to_list() == [1.1, 2.25]
    assert table["list"].to_list() == ["[1,2]", None]
    assert table["kind"].to_list() == ["a", "b"]
    assert table["zoned"].to_list() == [dt.datetime(2024, 1, 1, 11), None]
    assert table["time"].to_list() == ["01:02:03", None]


def test_whole_numbers_of_more_than_64_bits_are_never_rounded(read: Ingest) -> None:
    fits = [2**53 + 1, 2**53 + 2, None]
    large = [2**53 + 1, 2**64 - 1, None]
    frame = pl.DataFrame(
        {
            "decimal": pl.Series(fits, dtype=pl.Decimal(38, 0)),
            "large": pl.Series([Decimal(2**53 + 1), Decimal(10**30), None], dtype=pl.Decimal(38, 0)),
            "unsigned": pl.Series(large, dtype=pl.UInt64),
            "small": pl.Series([1, 2, None], dtype=pl.UInt64),
        }
    )
    table, _ = read(_write(frame, "parquet"), "data.parquet")
    assert table.to_dict(as_series=False) == {
        "decimal": fits,
        "large": [str(2**53 + 1), str(10**30), None],
        "unsigned": [str(2**53 + 1), str(2**64 - 1), None],
        "small": [1, 2, None],
    }
    huge = tuple(f"{2**53 + index}" for index in range(3))
    assert read("\n".join(["a,b", *(f"{text},x" for text in [*huge, "0.5"])]).encode())[0]["a"][0] == huge[0]


def test_parquet_types_that_would_lose_digits_are_refused(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pl.DataFrame({"a": [2**53 + 1]}).write_parquet(folder / "1.parquet")
    pl.DataFrame({"a": [2.5]}).write_parquet(folder / "2.parquet")
    assert refused(str(folder)).startswith(
        "column 'a' is BIGINT in in/1.parquet but DOUBLE in another file, which can't hold numbers such as"
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("files", [1, 2])
def test_columns_may_differ_only_in_case(kind: str, files: int, read: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    # What DuckDB would call the second column is the name of another one.
    frame = pl.DataFrame(
        {"a": [1, 2], "A": ["x", None], "A_1": [1.5, 2.5], "~/é 'É": [3, 4], "~/é 'é": [5, 6]}
    )
    for number in range(files):
        (folder / f"{number}.{kind}").write_bytes(_write(frame, kind))
    table, rejected = read(str(folder), column_types={"A": "string"}, label="a")
    assert_frame_equal(table, pl.concat([frame] * files))
    assert rejected.is_empty()


def test_bad_values_of_columns_that_differ_only_in_case_are_distinguished(read: Ingest) -> None:
    table, rejected = read(
        b"a,A\n1,x\n2,y\nz,3\n4,4\n", column_types={"a": "integer"}, on_bad_rows="quarantine"
    )
    assert table.rows() == [(1, "x"), (2, "y"), (4, "4")]
    assert rejected["column"].to_list() == ["a"]


def test_index_of_a_pandas_frame_is_left_out_unless_it_has_a_name(read: Ingest, tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"x": [1.5, 2.5, 3.5]}, index=[7, 3, 5])
    frame.to_parquet(tmp_path / "data.parquet")
    assert read(str(tmp_path / "data.parquet"))[0].columns == ["x"]
    frame.rename_axis("id").to_parquet(tmp_path / "data.parquet")
    assert read(str(tmp_path / "data.parquet"))[0].columns == ["x", "id"]
    folder = tmp_path / "in"
    folder.mkdir()
    for index in (False, True):
        frame.assign(X=[1, 2, 3]).to_parquet(folder / f"{index}.parquet", index=index)
    assert read(str(folder))[0].rows() == [(1.5, 1), (2.5, 2), (3.5, 3)] * 2


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_timestamps_with_a_zone_are_read_in_any_unit(unit: Any, read: Ingest) -> None:
    at = pl.Series([dt.datetime(2024, 1, 1, 12), None]).dt.replace_time_zone("Europe/Berlin")
    table, _ = read(_write(pl.DataFrame({"at": at.dt.cast_time_unit(unit)}), "parquet"), "data.parquet")
    assert table["at"].to_list() == [dt.datetime(2024, 1, 1, 11), None]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_folders_that_stand_for_columns_become_columns(kind: str, read: Ingest, tmp_path: Path) -> None:
    for number, (day, code) in enumerate(
        [("2024-01-31", "01"), ("2024-02-29", "__HIVE_DEFAULT_PARTITION__")]
    ):
        folder = tmp_path / "in" / f"day={day}" / f"code={code}"
        folder.mkdir(parents=True)
        (folder / f"part.{kind}").write_bytes(_write(pl.DataFrame({"x": [number, 10]}), kind))
        (folder / f"empty.{kind}").touch()
        (folder / "_SUCCESS").touch()
    rows = [(0, dt.date(2024, 1, 31), "01"), (10, dt.date(2024, 1, 31), "01")]
    rows += [(1, dt.date(2024, 2, 29), None), (10, dt.date(2024, 2, 29), None)]
    for place in ("in", "in/*", f"in/*/*/*.{kind}", "in/**"):
        table, _ = read(f"{tmp_path}/{place}", file_format=kind)
        assert table.columns == ["x", "day", "code"]
        assert table.rows() == rows
    table, _ = read(f"{tmp_path}/in", file_format=kind, column_types={"day": "timestamp"})
    assert table["day"].to_list()[0] == dt.datetime(2024, 1, 31)
    if kind == "csv":
        (tmp_path / "in/day=2024-01-31/code=01/part.csv").write_text("x\n0\n1,a,b\n")
        table, rejected = read(f"{tmp_path}/in", on_bad_rows="quarantine")
        assert table.rows() == [rows[0], *rows[2:]]
        assert rejected["line"].to_list() == [3]


def test_columns_may_have_the_names_of_internal_position_columns(
    read: Ingest, refused: Callable[..., str]
) -> None:
    frame = pl.DataFrame(
        {name: ["1", "x"] for name in ("position", "line", "start", "length", "place", "bad")}
    )
    for kind in ("csv", "jsonl", "parquet"):
        content = _write(frame, kind)
        assert_frame_equal(read(content, f"data.{kind}")[0], frame)
        types = {"position": "integer", "length": "integer"}
        assert "column 'position': 'x' is not an integer" in refused(
            content, f"data.{kind}", column_types=types
        )


@pytest.mark.parametrize("kind", ["date", "timestamp"])
def test_times_that_no_calendar_has_are_named(kind: str, read: Ingest, refused: Callable[..., str]) -> None:
    days = pl.Series([19_000, 10_000_000, None])
    times = days.cast(pl.Date) if kind == "date" else (days * 86_400_000_000).cast(pl.Datetime("us"))
    content = _write(times.to_frame("valid_to"), "parquet")
    assert "line 2, column 'valid_to': '29349-01-2" in refused(content, "data.parquet")
    assert read(content, "data.parquet", on_bad_rows="null")[0]["valid_to"].null_count() == 2
    sentinel = "".join(
        f"{year}-01-01T00:00:00-05:00,x\n9999-12-31T23:59:59-05:00,x\n" for year in range(2000, 2020)
    )
    assert (
        "column 'valid_to': '9999-12-31T23:59:59-05:00' is not a timestamp in the years 1 to 9999"
        in refused(f"valid_to,x\n{sentinel}".encode())
    )


def test_a_table_satisfies_the_schema_that_is_inferred_from_it(read: Ingest) -> None:
    rows = [f"{index},1.5,2024-01-01T10:00:00-05:00,x" for index in range(30)]
    rows += ["inf,1e400,9999-12-31T23:59:59,", "-inf,-1e400,0001-01-01,y", "1,2,,z"]
    table, _ = read("\n".join(["a,b,c,d", *rows]).encode())
    assert table.dtypes == [pl.Float64(), pl.Float64(), pl.Datetime("us"), pl.String()]
    assert schema.validate(table.lazy(), schema.infer(table.lazy())) == []


def test_binary_parquet_column_is_refused(refused: Callable[..., str]) -> None:
    content = _write(pl.DataFrame({"image": [b"\x00\xff"]}), "parquet")
    assert "column 'image' of data.parquet holds binary values" in refused(content, "data.parquet")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_of_the_same_columns_become_one_table_in_the_order_of_their_names(
    kind: str, read: Ingest, tmp_path: Path
) -> None:
    folder = tmp_path / "in[1]'s"
    folder.mkdir()
    for number in (3, 1, 2):
        frame = pl.DataFrame({"n": [number, number * 10], "x": [number / 2, None]})
        (folder / f"part {number}.{kind}").write_bytes(_write(frame, kind))
    for source in (str(folder), f"{tmp_path}/in*/*.{kind}"):
        table, _ = read(source)
        assert table["n"].to_list() == [1, 10, 2, 20, 3, 30]
        assert table.schema == {"n": pl.Int64(), "x": pl.Float64()}


def test_parquet_files_whose_types_differ_widen_without_loss(read: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pl.DataFrame({"a": [1]}).write_parquet(folder / "1.parquet")
    pl.DataFrame({"a": [2.5]}).write_parquet(folder / "2.parquet")
    assert read(str(folder))[0]["a"].to_list() == [1.0, 2.5]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_with_other_columns_are_named_with_the_difference(
    kind: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"1.{kind}").write_bytes(_write(pl.DataFrame({"a": [1], "b": [2]}), kind))
    (folder / f"2.{kind}").write_bytes(_write(pl.DataFrame({"a": [1], "c": [2]}), kind))
    assert refused(str(folder)) == (
        f"in/2.{kind} does not have the columns of in/1.{kind}: it lacks b and adds c; ingest it "
        "separately, or rewrite it with the same columns".replace("in/1", f"{folder.relative_to(tmp_path)}/1")
    )


RAGGED = b'id,name,amount\n1,ann,1.5\n2,"bo\nb",2\n3,cy,abc\n4\n5,ee,3,extra\n6,ff,7\n'


def test_bad_rows_fail_with_file_line_reason_and_the_way_out(refused: Callable[..., str]) -> None:
    assert refused(RAGGED, column_types={"amount": "number"}) == (
        "3 bad rows: data.csv line 5, column 'amount': 'abc' is not a number; "
        "data.csv line 6 has 1 field where the header has 3; "
        "data.csv line 7 has 4 fields where the header has 3. "
        "Correct the source, or pass on_bad_rows='quarantine' to leave them out"
    )


def test_only_the_first_bad_rows_are_listed(refused: Callable[..., str]) -> None:
    sentence = refused(b"a,b\n" + b"1\n" * 1000 + b"1,2\n")
    assert sentence.startswith("1,000 bad rows: data.csv line 2 has")
    assert "line 6 has" in sentence
    assert "line 7 has" not in sentence
    assert "; and 995 more." in sentence


def test_quarantine_removes_bad_rows_and_keeps_the_rest(read: Ingest) -> None:
    table, rejected = read(RAGGED, column_types={"amount": "number"}, on_bad_rows="quarantine")
    assert table.rows() == [(1, "ann", 1.5), (2, "bo\nb", 2.0), (6, "ff", 7.0)]
    assert rejected.drop("file").rows() == [
        (5, "amount", "'abc' is not a number", "3,cy,abc"),
        (6, None, "has 1 field where the header has 3", "4"),
        (7, None, "has 4 fields where the header has 3", "5,ee,3,extra"),
    ]


def test_bad_rows_of_many_files_are_found_in_their_file(read: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_bytes(b"a,b\n1,x\n2\n")
    (folder / "2.csv").write_bytes(gzip.compress(b'a,b\n\n"x\n",y\n4,y\nq,z\n'))
    table, rejected = read(f"{folder}/*.csv", column_types={"a": "integer"}, on_bad_rows="quarantine")
    assert table.rows() == [(1, "x"), (4, "y")]
    assert rejected.select("file", "line", "column", "text").rows() == [
        (f"{folder}/1.csv", 3, None, "2"),
        (f"{folder}/2.csv", 3, "a", '"x\n",y'),
        (f"{folder}/2.csv", 6, "a", "q,z"),
    ]


def test_bad_json_lines_are_quarantined(read: Ingest, refused: Callable[..., str]) -> None:
    lines = b'{"a": 1}\n{"a": 2,}\n[3]\n\n{"a": "x"}\n'
    sentence = refused(lines, "data.jsonl", column_types={"a": "integer"})
    assert sentence.startswith("3 bad rows: data.jsonl line 2 is not valid JSON: ")
    assert "data.jsonl line 5, column 'a': 'x' is not an integer of at most 64 bits" in sentence
    table, rejected = read(lines, "data.jsonl", on_bad_rows="quarantine", column_types={"a": "integer"})
    assert table["a"].to_list() == [1]
    assert rejected["line"].to_list() == [2, 3, 5]


def test_values_of_a_parquet_file_that_are_not_of_the_given_type_are_bad(read: Ingest) -> None:
    content = _write(pl.DataFrame({"a": ["1", "x", None], "b": [1.0, 2.0, 3.5]}), "parquet")
    types = {"a": "integer", "b": "integer"}
    table, rejected = read(content, "data.parquet", column_types=types, on_bad_rows="quarantine")
    assert table.rows() == [(1, 1)]
    assert rejected.select("line", "column").rows() == [(2, "a"), (3, "b")]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("integer", "007", "1.5"),
        ("number", "1e3", "1,5"),
        ("string", "1", None),
        ("boolean", "yes", "maybe"),
        ("date", "2024-02-29", "2024-02-29T12:00:00"),
        ("timestamp", "2024-02-29", "yesterday"),
    ],
)
def test_given_type_is_kept_and_nothing_is_rounded_into_it(
    kind: str, good: str, bad: str | None, read: Ingest
) -> None:
    text = f'a,b\n"{good}",1\n' + (f'"{bad}",2\n' if bad else "")
    table, rejected = read(text.encode(), column_types={"a": kind}, on_bad_rows="quarantine")
    dtype = {
        "integer": pl.Int64(),
        "number": pl.Float64(),
        "string": pl.String(),
        "boolean": pl.Boolean(),
        "date": pl.Date(),
        "timestamp": pl.Datetime("us"),
    }[kind]
    assert table.schema["a"] == dtype
    assert table.height == 1
    assert rejected.height == (1 if bad else 0)


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (b"", "data.csv", "data.csv is empty"),
        (b"\n \n", "data.csv", "data.csv is empty"),
        (b"a,b\n", "data.csv", "data.csv has no rows"),
        (b"a,b", "data.csv", "data.csv has no rows"),
        (b"a,b,a\n1,2,3\n", "data.csv", "data.csv has more than one column named 'a'; rename all but one"),
        ("a,b\né,1\n".encode("latin-1"), "data.csv", "data.csv line 2 is not UTF-8 text; convert the file"),
        (
            "é,b\n1,1\n".encode("latin-1"),
            "data.csv",
            "the header of data.csv is not UTF-8 text; convert the file",
        ),
        ("a,b\n1,1\n".encode("utf-16"), "data.csv", "data.csv is UTF-16 text; convert it"),
        ("a,b\n1,1\n".encode("utf-16-le"), "data.csv", "data.csv holds NUL bytes, so it is binary"),
        (b"a,b\n1," + b"x" * 5000 + b"\0\n", "data.csv", "data.csv line 2 holds a NUL byte"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "data.csv", "data.csv line 3 opens a quote that isn't closed"),
        (b'a,"b\n1,2\n', "data.csv", "the header of data.csv opens a quote that isn't closed"),
        (
            b"a" * (2 << 20),
            "data.csv",
            "the header of data.csv is longer than 1,048,576 bytes; check that it is a CSV file",
        ),
        (b"a,b\n" + b"1" * 5_000_000, "data.csv", "data.csv line 2 is longer than 2,000,000 bytes"),
        (b"hello", "data.parquet", "data.parquet is not a Parquet file: it doesn't begin with PAR1"),
        (b"PAR1hello", "data.parquet", "data.parquet is a truncated Parquet file: it doesn't end with PAR1"),
        (b"PAR1" + b"x" * 50 + b"PAR1", "data.parquet", "data.parquet can't be read"),
        (b"", "data.jsonl", "data.jsonl is empty"),
        (b"not json\n", "data.jsonl", "data.jsonl line 1 is not valid JSON"),
        (b"{}\n{}\n", "data.jsonl", "data.jsonl has an object without keys"),
        (b'{"": 1}\n', "data.jsonl", "data.jsonl has an object without keys, or with an empty key"),
        (b'[{"a": 1}]', "data.json", "data.json is a JSON array, not JSON Lines; write one object per"),
        (gzip.compress(RAGGED * 50)[:-9], "data.csv.gz", "data.csv.gz is truncated or damaged gzip data"),
        (
            zstd.compress(RAGGED * 50)[:-9],
            "data.csv.zst",
            "data.csv.zst is truncated or damaged Zstandard data",
        ),
        (b"a,b\n1,2\n", "data.dat", "the name of data.dat doesn't show its format; pass"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_gives_a_one_line_error(
    content: bytes, name: str, sentence: str, refused: Callable[..., str]
) -> None:
    assert sentence in refused(content, name)


def test_empty_parquet_table_is_refused(refused: Callable[..., str]) -> None:
    content = _write(pl.DataFrame({"a": [1]}).clear(), "parquet")
    assert refused(content, "data.parquet") == "data.parquet has no rows"


def test_quarantine_of_every_row_is_refused(refused: Callable[..., str]) -> None:
    sentence = refused(b"a,b\n1\n2\n", on_bad_rows="quarantine")
    assert sentence.startswith("data.csv has no good row; 2 bad rows: data.csv line 2 has 1 field")


def test_missing_source_is_refused(refused: Callable[..., str]) -> None:
    assert refused("nowhere.csv") == "there is no file or directory at nowhere.csv"


def test_named_type_of_an_unknown_column_is_refused_with_the_near_match(refused: Callable[..., str]) -> None:
    for kind in ("csv", "jsonl", "parquet"):
        content = _write(pl.DataFrame({"amount": [1]}), kind)
        assert refused(content, f"data.{kind}", column_types={"amuont": "number"}) == (
            "column 'amuont' of column_types is not in the source; did you mean 'amount'? columns are: amount"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad_rows": "skip"}, "on_bad_rows is 'skip'; use one of: fail, quarantine, null"),
        ({"file_format": "parket"}, "file_format is 'parket'; did you mean 'parquet'?"),
        ({"column_types": {"a": "int"}}, r"column_types\['a'\] is 'int'; did you mean 'integer'?"),
        ({"column_types": {"a": 3.0}}, r"column_types\['a'\] is 3.0; use one of: boolean, integer"),
        ({"delimiter": ";;"}, "delimiter must be one character .*, not ';;'"),
        ({"delimiter": "a"}, "delimiter must be one character .*, not 'a'"),
        ({"decimal": ";"}, "decimal is ';'; use one of: ., ,"),
        ({"column_names": "a"}, "column_names must be a list of names, not 'a'"),
        ({"null_values": "NA"}, r"null_values must be a list of texts, .*, not 'NA'"),
        ({"null_values": [0]}, r"null_values must be a list of texts, .*, not \[0\]"),
    ],
)
def test_unknown_option_is_refused_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_file_format_takes_the_place_of_the_suffix(read: Ingest) -> None:
    assert read(b"a;b\n1;2\n", "data.txt", file_format="csv")[0].rows() == [(1, 2)]


def test_quoted_line_breaks_across_the_reader_buffers_keep_their_rows(read: Ingest) -> None:
    generator = random.Random(1)
    rows = [
        [str(index), "\n".join(generator.choice(['a"', "b,", "c\r"]) for _ in range(generator.randrange(40)))]
        for index in range(60_000)
    ]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    table, _ = read(text.getvalue().encode(), null_values=[])
    assert table.rows() == [(int(a), b) for a, b in rows]


def test_same_input_gives_the_same_files(tmp_path: Path) -> None:
    source = tmp_path / "data.csv"
    source.write_text("a,b\n" + "".join(f"{index},{index * 7 % 13}\n" for index in range(300_000)))
    for name in ("1", "2"):
        ingest.ingest(str(source), tmp_path / name, tmp_path / f"{name}-rejected")
    assert (tmp_path / "1/part-00000.parquet").read_bytes() == (
        tmp_path / "2/part-00000.parquet"
    ).read_bytes()


def test_metadata_names_the_source_without_its_secrets(tmp_path: Path) -> None:
    good, _ = ingest.ingest("sample://iris", tmp_path / "table", tmp_path / "rejected")
    assert good["rows"] == 150
    assert good["columns"][-1] == "target"
    assert good["source"] == "sample://iris"
    assert good["fingerprint"] == tables.fingerprint(tables.scan(tmp_path / "table"))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@FUZZ
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12))
def test_any_text_survives_csv_and_json(rows: list[tuple[str, str]], read: Ingest) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b"), *rows])
    types = {"a": "string", "b": "string"}
    table, _ = read(text.getvalue().encode(), column_types=types, null_values=[])
    assert table.rows() == rows
    lines = "".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows)
    table, _ = read(lines.encode(), "data.jsonl", column_types=types, null_values=[])
    assert table.rows() == rows


def _broken(kind: str) -> bytes:
    compress: dict[str, Any] = {"gz": gzip.compress, "zst": zstd.compress}
    name, _, packed = kind.partition(".")
    content = _write(pl.concat([MIXED] * 3), name)
    return bytes(compress[packed](content)) if packed else content


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "csv.gz", "jsonl.zst"])
@FUZZ
@given(data=st.data())
def test_broken_file_gives_a_table_or_a_one_line_error(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    content = bytearray(_broken(kind))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, 20))
    end = data.draw(st.integers(0, len(content)))
    cut = data.draw(st.sampled_from(["whole", "head", "tail", "hole"]))
    broken = {
        "whole": content,
        "head": content[:end],
        "tail": content[start:],
        "hole": content[:end] + content[end + start :],
    }[cut]
    path, out = tmp_path / f"data.{kind}", tmp_path / "out"
    path.write_bytes(broken)
    sentence = _sentence(path, out, data.draw(st.sampled_from(["fail", "quarantine"])))
    assert len(sentence) > 20 or sentence == ""


@FUZZ
@given(content=st.binary(min_size=1, max_size=300), kind=st.sampled_from(["csv", "jsonl"]))
def test_arbitrary_bytes_give_a_table_or_a_one_line_error(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{kind}"
    path.write_bytes(content)
    assert "\n" not in _sentence(path, tmp_path / "out", "quarantine")


def _sentence(path: Path, out: Path, on_bad_rows: str) -> str:
    """Ingest a file; return the error's sentence, empty where there is a whole table."""
    shutil.rmtree(out, ignore_errors=True)
    try:
        good, _ = ingest.ingest(str(path), out / "table", out / "rejected", Options(on_bad_rows=on_bad_rows))
    except ValueError as error:
        sentence = str(error)
    else:
        assert tables.scan(out / "table").collect().height == good["rows"] > 0
        sentence = ""
    assert sorted(entry.name for entry in out.iterdir()) == ([] if sentence else ["rejected", "table"])
    return sentence
