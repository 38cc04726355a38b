import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowparts.ingest import screening
from flowparts.ingest.screening import BadRows, Sink, Source
from flowparts.util.sources import File

WIDE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _rows(source: Source, sink: Sink, columns: int, kind: str) -> Iterator[int]:
    if kind == "jsonl":
        return screening.screen_jsonl(source, sink)
    return screening.screen_csv(source, sink, ",", columns, 1, blank_rows=columns == 1)


def _screened(
    folder: Path, content: bytes, columns: int = 2, kind: str = "csv"
) -> tuple[list[str], list[Any]]:
    """Return the good lines and the bad rows (line, reason, text)."""
    path = folder / "data"
    path.write_bytes(content)
    good = io.StringIO(newline="")
    with BadRows(folder / "bad.jsonl") as bad:
        rows = _rows(Source(0, File(path, "data")), Sink(good, bad), columns, kind)
        assert all(read <= len(content) for read in rows)
    if kind == "csv":
        return _originals(content, good), bad.frame().select("line", "reason", "text").collect().rows()
    places = re.findall(r"(?ms)^(:0:\d+:\d+:\d+)[,\x01](.*?)\n(?=:0:\d+:\d+:\d+[,\x01]|\Z)", good.getvalue())
    for place, text in places:
        _, _, _, start, length = place.split(":")
        assert path.read_bytes()[int(start) :][: int(length)].strip() == text.encode("latin-1").strip()
    return [text for _, text in places], bad.frame().select("line", "reason", "text").collect().rows()


def _originals(content: bytes, good: io.StringIO) -> list[str]:
    """Return the good records as the file has them; what was written of each has the same fields."""
    found = []
    for place, *fields in csv.reader(io.StringIO(good.getvalue(), newline="")):
        _, _, _, start, length = place.split(":")
        original = content[int(start) :][: int(length)].decode("latin-1")
        read = next(csv.reader(io.StringIO(original, newline="")), [""])
        assert read[: len(fields)] == fields or not original.strip()
        found.append(original.strip("\r\n"))
    return found


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    good, bad = _screened(tmp_path, b'a,b\n1,"x\ny"\n2\n3,z\n4,5,6\n')
    assert good == ['1,"x\ny"', "3,z"]
    assert bad == [
        (4, "has 1 field where the header has 2", "2"),
        (6, "has 3 fields where the header has 2", "4,5,6"),
    ]


def test_stray_quote_costs_one_line_only(tmp_path: Path) -> None:
    good, bad = _screened(tmp_path, b'a,b\n1,"x\n2,y\n3,"z"\n4,w\n')
    assert good == ["2,y", '3,"z"', "4,w"]
    assert [(line, text) for line, _, text in bad] == [(2, '1,"x')]


def test_quote_that_never_closes_costs_one_line_only(tmp_path: Path) -> None:
    good, bad = _screened(tmp_path, b'a,b\n1,"x\n' + b"2,y\n" * 1000)
    assert good == ["2,y"] * 1000
    assert bad == [(2, "opens a quote that isn't closed, or not at the end of the value", '1,"x')]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'1,"x"y\n', "has text after a closing quote"),
        (b"1,\xff\n", "is not UTF-8 text; convert the file"),
        (b"1,\0\n", "holds a NUL byte"),
        (b"1," + b"x" * (screening.MAX_LINE_BYTES + 5) + b"\n", "is longer than 2,000,000 bytes"),
    ],
    ids=["after-quote", "latin-1", "nul", "long"],
)
def test_an_unreadable_line_is_quarantined_with_its_reason(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    good, bad = _screened(tmp_path, b"a,b\n0,w\n" + content + b"2,y\n")
    assert good == ["0,w", "2,y"]
    assert [line for line, _, _ in bad] == [3]
    assert bad[0][1].startswith(reason)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_is_taken(end: bytes, tmp_path: Path) -> None:
    good, bad = _screened(tmp_path, b"\xef\xbb\xbf" + end.join([b"a,b", b"1,x", b"", b"2", b"3,y", b""]))
    assert good == ["1,x", "3,y"]
    assert [line for line, _, _ in bad] == [4]


@WIDE
@given(
    rows=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=4),
        max_size=8,
    )
)
def test_csv_module_output_is_accepted_unless_ragged(rows: list[list[str]], tmp_path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([["a", "b"], *rows])
    good, bad = _screened(tmp_path, text.getvalue().encode())
    again = list(csv.reader(io.StringIO("\n".join(good).encode("latin-1").decode(), newline="")))
    # An empty field behind the last one is a delimiter too many, which some programs write.
    whole = [row for row in rows if len(row) == 2 or (len(row) == 3 and not row[2])]
    assert again == whole
    assert len(bad) == len(rows) - len(whole)


@WIDE
@given(content=st.binary(max_size=200))
def test_any_bytes_end_up_as_good_or_bad_rows(content: bytes, tmp_path: Path) -> None:
    _screened(tmp_path, b"a,b\n" + content.replace(b"\x00", b""))
    _screened(tmp_path, content, kind="jsonl")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{bad", "is not valid JSON: Expecting property name enclosed in double quotes at character 2"),
        (b"[1]", "is not a JSON object but a list"),
        (b'{"a": "\xff"}', "is not UTF-8 text"),
        (b'{"a": "\\ud800"}', "holds half of a surrogate pair"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "can't be read as JSON"),
        (b'{"a": "' + b"x" * screening.MAX_LINE_BYTES + b'"}', "is longer than 2,000,000 bytes"),
    ],
    ids=["syntax", "array", "latin-1", "surrogate", "deep", "digits", "long"],
)
def test_a_line_that_is_not_a_json_object_is_quarantined(line: bytes, reason: str, tmp_path: Path) -> None:
    good, bad = _screened(tmp_path, b'{"a": 1}\n\n' + line + b'\r\n{"a": 2}\n', kind="jsonl")
    assert [json.loads(text) for text in good] == [{"a": 1}, {"a": 2}]
    assert [number for number, _, _ in bad] == [3]
    assert bad[0][1].startswith(reason)


def test_first_bad_rows_are_listed_in_the_order_of_the_source(tmp_path: Path) -> None:
    with BadRows(tmp_path / "bad.jsonl") as bad:
        for line in range(8, 1, -1):
            bad.add(1, File(tmp_path, "b.csv"), line, None, "is ragged", "x")
        bad.add(0, File(tmp_path, "a.csv"), 99, "age", "'x' is not a number", "x")
    assert bad.listed() == (
        "8 bad rows: a.csv line 99, column 'age': 'x' is not a number; b.csv line 2 is ragged; "
        "b.csv line 3 is ragged; b.csv line 4 is ragged; b.csv line 5 is ragged; and 3 more"
    )
