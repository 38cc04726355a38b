"""Damaged files of every kind that flowparts reads give a result or a sentence, and never half an output."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowparts import ingest, models, tables
from flowparts.prepare import preprocess
from flowparts.tables import schema

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = pl.DataFrame(
    {
        "id": range(40),
        "größe": [None if number % 5 == 0 else number / 3 for number in range(40)],
        "name": [f'näme {number % 7}, "q"' for number in range(40)],
        "kind": ["no", "yes"] * 20,
    }
)

# What means something to a parser, and what it can't stand.
CSV = [b'"', b'""', b",", b"\n", b"\r", b"\0", b"\xff", b";", b"\t", b"nan", b"1e999", b"9" * 30, b"x" * 5000]
JSON = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b"\\",
    b"\n",
    b"NaN",
    b"1e999",
    b"9" * 30,
    b"\xff",
    b"\0",
    b"null",
]
JSON += [
    b"\\ud800",
    b"\\u0000",
    b'{"id":1,"id":2}\n',
    b"{}\n",
    b"5\n",
    b'{"":1}\n',
    b'{"ID":1}\n',
    b"[" * 2000,
]


@st.composite
def edits(draw: st.DrawFn, tokens: list[bytes]) -> list[tuple[float, int, bytes]]:
    """Draw edits: where (as a share of the length), how many bytes to take out, what to put there."""
    place = st.floats(0, 1) | st.floats(0, 0.05)
    token = st.sampled_from(tokens) | st.binary(max_size=3)
    return draw(st.lists(st.tuples(place, st.sampled_from([0, 1, 2, 50]), token), min_size=1, max_size=4))


def damaged(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for share, length, token in changes:
        start = int(share * len(content))
        content = content[:start] + token + content[start + length :]
    return content


def sentence_of(read: Callable[[], Any]) -> str:
    """Read; return the sentence of the error, empty where there is none."""
    try:
        read()
    except ValueError as error:
        sentence = str(error)
        assert sentence.count(" ") > 2, sentence
        assert "\n" not in sentence
        return sentence
    return ""


def text(write: Callable[[pl.DataFrame, Any], Any]) -> bytes:
    stream = io.BytesIO()
    write(ROWS, stream)
    return stream.getvalue()


@FUZZ
@given(changes=edits(CSV), on_bad_rows=st.sampled_from(ingest.ON_BAD_ROWS))
def test_a_damaged_csv_file(changes: Any, on_bad_rows: str, tmp_path: Path) -> None:
    ingested(damaged(text(pl.DataFrame.write_csv), changes), "rows.csv", on_bad_rows, tmp_path)


@FUZZ
@given(
    lines=st.lists(st.text('a"", ;\t\r', max_size=8), min_size=1, max_size=5),
    columns=st.integers(1, 3),
    ending=st.sampled_from(["\n", "\r\n"]),
)
@example(lines=["1,2,", "1,2,"], columns=2, ending="\n")
@example(lines=['"a" ,b', ' "a","b" '], columns=2, ending="\n")
@example(lines=['a"b,"c""d"', '"x', 'y",z'], columns=2, ending="\r\n")
@example(lines=["", "a", ""], columns=1, ending="\n")
def test_a_bad_line_elsewhere_changes_nothing_about_the_others(
    lines: list[str], columns: int, ending: str, tmp_path: Path
) -> None:
    """Rows are read quickly, and line by line if a line is bad: both take the same for a row."""
    names = [f"c{place}" for place in range(columns)]
    options = ingest.Options(
        column_types=dict.fromkeys(names, "string"), null_values=[], on_bad_rows="quarantine", delimiter=","
    )
    content = ending.join([",".join(names), *lines, ""])
    found: list[tuple[list[Any], list[Any] | None]] = []
    for bad in ("", "a,a,a,a,a,a" + ending):
        (tmp_path / "rows.csv").write_bytes((content + bad).encode())
        try:
            ingest.ingest(str(tmp_path / "rows.csv"), tmp_path / "table", tmp_path / "rejected", options)
        except ValueError as error:
            assert "has no" in str(error)  # noqa: PT017 - all lines may be bad
            found.append(([], None))
            continue
        frames = [tables.scan(tmp_path / name).collect() for name in ("table", "rejected")]
        found.append((frames[0].rows(), frames[1].rows()))
    (rows, rejected), (same, and_one) = found
    assert same == rows
    if rejected is not None and and_one is not None:
        assert and_one[:-1] == rejected


@FUZZ
@given(changes=edits(JSON), on_bad_rows=st.sampled_from(ingest.ON_BAD_ROWS))
@example(changes=[(2 / 2000, 0, b"\\u0000")], on_bad_rows="fail")
def test_a_damaged_json_lines_file(changes: Any, on_bad_rows: str, tmp_path: Path) -> None:
    ingested(damaged(text(pl.DataFrame.write_ndjson), changes), "rows.jsonl", on_bad_rows, tmp_path)


@FUZZ
@given(changes=edits([b"PAR1", b"\0", b"\xff" * 4]), on_bad_rows=st.sampled_from(ingest.ON_BAD_ROWS))
def test_a_damaged_parquet_file(changes: Any, on_bad_rows: str, tmp_path: Path) -> None:
    ingested(damaged(text(pl.DataFrame.write_parquet), changes), "rows.parquet", on_bad_rows, tmp_path)


def ingested(content: bytes, name: str, on_bad_rows: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    out, options = folder / "out", ingest.Options(on_bad_rows=on_bad_rows)
    shutil.rmtree(out, ignore_errors=True)
    sentence = sentence_of(
        lambda: ingest.ingest(str(folder / name), out / "table", out / "rejected", options)
    )
    left = sorted(path.name for path in out.iterdir())
    assert left == ([] if sentence else ["rejected", "table"])


@FUZZ
@given(changes=edits([b"PAR1", b"\0", b"\xff" * 4]))
def test_a_damaged_table(changes: Any, tmp_path: Path) -> None:
    file = tmp_path / "part-00000.parquet"
    file.write_bytes(damaged(text(pl.DataFrame.write_parquet), changes))
    sentence = sentence_of(lambda: tables.scan(tmp_path))
    assert sentence == "" or str(file) in sentence


@FUZZ
@given(changes=edits(JSON))
def test_a_damaged_schema(changes: Any, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    schema.write(schema.infer(ROWS.lazy()), file)
    file.write_bytes(damaged(file.read_bytes(), changes))
    sentence_of(lambda: schema.validate(ROWS.lazy(), schema.read(file)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a model and a preprocessor."""
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("saved")
    learned, features = preprocess.fit(ROWS.lazy(), label="kind", task="classification")
    fitted = LogisticRegression().fit(features.drop("kind").to_numpy(), features["kind"].to_numpy())
    facts: dict[str, object] = {
        "estimator": "LogisticRegression",
        "parameters": {},
        "training_fingerprint": learned.training_fingerprint,
        "git_commit": "unknown",
        "validation": {},
    }
    models.save(
        folder / "model",
        fitted,
        preprocessor=learned,
        task="classification",
        label="kind",
        classes=learned.classes,
        metadata=facts,
    )
    learned.save(folder / "preprocessor")
    return folder


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("model/MLmodel", models.load),
        ("model/model.skops", models.load),
        ("preprocessor/preprocessor.json", preprocess.load),
        ("preprocessor/transformer.skops", preprocess.load),
        ("preprocessor/example.parquet", preprocess.load),
    ],
    ids=lambda value: value.split("/")[-1] if isinstance(value, str) else None,
)
@FUZZ
@given(changes=edits([*JSON, b"- ", b"&a ", b"*a", b"!!python/object/apply:os.abort []"]))
def test_a_damaged_model_or_preprocessor(
    file: str, read: Callable[[Path], Any], changes: Any, saved: Path
) -> None:
    path = saved / file
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, changes))
    try:
        sentence_of(lambda: read(path.parent))
    finally:
        path.write_bytes(whole)
