from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flowparts import tables
from flowparts.train.networks import feed

ROWS = 1_000


@pytest.fixture
def rows(tmp_path: Path) -> feed.Rows:
    """A table of more rows than are held at once."""
    numbers = np.arange(ROWS, dtype=float)
    tables.write(pl.DataFrame({"number": numbers, "label": numbers * 2, "else": "text"}), tmp_path / "table")
    found = feed.table_rows(
        tables.scan(tmp_path / "table"),
        lambda some: {"numbers": some.select("number").to_numpy()},
        {"number": "number"},
        "label",
        lambda labels: labels.to_numpy(),
        lambda some: np.ones(some.height, np.float32),
        None,
    )
    found.pool_rows = 180
    return found


def numbers(rows: feed.Rows, seed: int | None) -> list[float]:
    return [number for inputs, _, _ in rows.passes(seed) for number in inputs["numbers"][:, 0].tolist()]


def test_a_pass_reads_every_row_once_in_pieces_of_bounded_size(rows: feed.Rows) -> None:
    pieces = list(rows.passes(seed=1))
    assert len(pieces) > 5
    assert max(len(target) for _, target, _ in pieces) <= 180
    assert sorted(numbers(rows, 1)) == list(range(ROWS))
    for inputs, target, weight in pieces:
        assert (target == 2 * inputs["numbers"][:, 0]).all()
        assert weight.tolist() == [1.0] * len(target)


def test_a_seed_decides_the_order_and_none_keeps_the_tables(rows: feed.Rows) -> None:
    assert numbers(rows, None) == list(range(ROWS))
    assert numbers(rows, 1) == numbers(rows, 1)
    assert numbers(rows, 1) != numbers(rows, 2)
    # Neighbours in the table are apart: pieces are shuffled, and so is what is in one.
    neighbours = np.abs(np.diff(numbers(rows, 1))) == 1
    assert neighbours.mean() < 0.1


def test_batches_are_full_whatever_the_pieces_are(rows: feed.Rows) -> None:
    sizes = [len(target) for _, target, _ in feed.dataset(rows, 64)]
    assert sizes == [64] * 15 + [40]
    assert [len(target) for _, target, _ in feed.dataset(rows, 64, even=True)] == [64] * 15


def test_each_pass_over_a_dataset_has_an_order_of_its_own(rows: feed.Rows) -> None:
    made = feed.dataset(rows, 100, iter([1, 2]))
    first, second = ([float(number) for _, target, _ in made for number in target] for _ in range(2))
    assert sorted(first) == sorted(second)
    assert first != second
