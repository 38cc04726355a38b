"""Images of many files, larger together than the database's memory, in the rows that stay."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from flowparts import ingest, tables
from flowparts.ingest import ingestion


def images(count: int, size: int) -> list[bytes | None]:
    """Images that differ, each of so many bytes; every seventh is missing."""
    stream = io.BytesIO()
    Image.new("L", (4, 3), 90).save(stream, "PNG")
    draw = np.random.default_rng(0)
    return [stream.getvalue() + draw.bytes(size) if number % 7 else None for number in range(count)]


def write(folder: Path, size: int) -> pl.DataFrame:
    """Write a log of 1,300 rows in files of 600, 600 and 100."""
    numbers = list(range(1_300))
    # The names are those of columns in between.
    frame = pl.DataFrame(
        {
            "position": numbers,
            "image": images(1_300, size),
            "line": [f"r{number}" if number != 3 else "" for number in numbers],
            "Image": images(1_300, 10),
        }
    )
    folder.mkdir()
    for number, start in enumerate((0, 600, 1_200)):
        frame.slice(start, 600).write_parquet(folder / f"part-{number}.parquet", row_group_size=250)
    return frame.with_columns(line=pl.when(pl.col("line") != "").then("line"))


def test_images_may_be_larger_than_the_memory_of_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "MEMORY_MB", 20)
    monkeypatch.setattr(ingestion, "MEMORY_MB_PER_THREAD", 5)
    expected = write(tmp_path / "log", 60_000)
    good, bad = ingest.ingest(str(tmp_path / "log"), tmp_path / "table", tmp_path / "rejected")
    assert (good["rows"], bad["rows"]) == (1_300, 0)
    found = tables.scan(tmp_path / "table").collect()
    assert found.equals(expected)


@pytest.mark.parametrize(("on_bad_rows", "kept"), [("quarantine", 1_299), ("null", 1_300)])
def test_images_of_bad_rows_are_left_out_with_them(on_bad_rows: str, kept: int, tmp_path: Path) -> None:
    expected = write(tmp_path / "log", 20)
    options = ingest.Options(column_types={"line": "integer"}, on_bad_rows=on_bad_rows)
    whole = [f"{number}" if number != 700 else "many" for number in range(1_300)]
    for number, start in enumerate((0, 600, 1_200)):
        file = tmp_path / "log" / f"part-{number}.parquet"
        pl.read_parquet(file).with_columns(line=pl.Series(whole[start : start + 600])).write_parquet(file)
    good, bad = ingest.ingest(str(tmp_path / "log"), tmp_path / "table", tmp_path / "rejected", options)
    assert (good["rows"], bad["rows"]) == (kept, 1)
    found = tables.scan(tmp_path / "table").collect()
    numbers = [number for number in range(1_300) if number != 700 or on_bad_rows == "null"]
    assert found["position"].to_list() == numbers
    assert found["line"].to_list() == [number if number != 700 else None for number in numbers]
    for name in ("image", "Image"):
        assert found[name].to_list() == [expected[name][number] for number in numbers]
