import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flowparts import models, tables
from flowparts.models import seen
from flowparts.prepare import preprocess


@pytest.fixture
def remembering(tmp_path: Path) -> Callable[..., Path]:
    """Make a model of column "y" that says which rows it has seen: `remembering(rows, key=["id"])`."""

    def make(rows: pl.DataFrame, key: Sequence[str] = (), exclude: Sequence[str] = ()) -> Path:
        from sklearn.linear_model import Ridge

        place = len(list(tmp_path.iterdir()))
        part, path = tmp_path / f"part-{place}", tmp_path / f"model-{place}"
        tables.write(rows, part, facts={"split": "by hash", "split_warning": "", "kept_together": list(key)})
        learned, features = preprocess.fit(
            rows.lazy(), label="y", task="regression", exclude_columns=[*key, *exclude]
        )
        facts = {"estimator": "Ridge", "parameters": {}, "validation": {}, "git_commit": ""}
        models.save(
            path,
            Ridge().fit(features.drop("y").to_numpy(), features["y"].to_numpy()),
            preprocessor=learned,
            task="regression",
            label="y",
            classes=None,
            metadata={**facts, "training_fingerprint": learned.training_fingerprint},
        )
        stored = seen.record(path, [part])
        assert stored["split"] == models.metadata(path)["split"] == "by hash"
        return path

    return make


def table(rows: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "a": rng.normal(size=rows),
            "b": rng.integers(0, 5, rows),
            "t": rng.choice(["x", "y"], rows),
            "y": rng.normal(size=rows),
        }
    )


def unseen(model: Path, rows: pl.DataFrame) -> list[bool]:
    found = seen.unseen(model, rows.lazy())
    assert found is not None
    return found.to_list()


def test_seen_rows_are_known_and_others_are_not(remembering: Any) -> None:
    rows = table(400)
    model = remembering(rows.head(200), exclude=["id"])
    assert unseen(model, rows) == [False] * 200 + [True] * 200
    assert (model / seen.FILE).stat().st_size < 3_000


def test_a_row_stays_known_when_columns_come_move_or_change_their_type(remembering: Any) -> None:
    rows = table(400)
    model = remembering(rows.head(200), exclude=["id"])
    changed = rows.select("y", "t", pl.col("b").cast(pl.Float64), "a", new=pl.lit(1), id=pl.col("id") + 7)
    assert unseen(model, changed) == [False] * 200 + [True] * 200
    assert seen.unseen(model, rows.drop("a").lazy()) is None


def test_a_row_is_known_by_its_key_where_the_split_had_one(remembering: Any) -> None:
    rows = table(400)
    model = remembering(rows.head(200), key=["id"])
    assert unseen(model, rows.with_columns(a=pl.col("a") + 1)) == [False] * 200 + [True] * 200


def test_equal_rows_that_differ_in_the_label_only_are_not_distinguished(remembering: Any) -> None:
    rows = pl.DataFrame({"a": [1, 1, 1, 2, 3] * 20, "b": range(100), "y": np.arange(100.0)}).with_columns(
        b=pl.when(pl.col("a") == 1).then(0).otherwise(pl.col("b"))
    )
    model = remembering(rows)
    assert unseen(model, rows) == (rows["a"] == 1).to_list()


def test_the_sketch_of_a_large_table_covers_a_bounded_sample(
    remembering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "MAX_HASHES", 500)
    rows = table(10_000)
    model = remembering(rows.head(5_000), exclude=["id"])
    found = unseen(model, rows)
    assert not any(found[:5_000])
    # A tenth of the seen rows' hashes is kept, so a tenth of the others can be told from them.
    assert 400 < sum(found[5_000:]) < 600
    assert len(pl.read_parquet(model / seen.FILE)) == 500


def test_a_model_without_a_sketch_and_a_damaged_sketch_are_handled(remembering: Any) -> None:
    model = remembering(table(100))
    facts = pl.read_parquet_metadata(model / seen.FILE)["flowparts"]
    assert json.loads(facts)["columns"] == ["a", "b", "id", "t", "y"]
    (model / seen.FILE).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"seen_rows\.parquet is damaged"):
        seen.unseen(model, table(10).lazy())
    (model / seen.FILE).unlink()
    assert seen.unseen(model, table(10).lazy()) is None


def test_a_model_takes_the_sketch_over_from_its_preprocessor(remembering: Any, tmp_path: Path) -> None:
    rows = table(400)
    source, model = remembering(rows.head(200), key=["id"]), remembering(rows.tail(100), key=["id"])
    assert unseen(model, rows) == [True] * 300 + [False] * 100
    stored = seen.carry_over(source, model)
    assert unseen(model, rows) == [False] * 200 + [True] * 200
    assert stored["split"] == models.metadata(model)["split"] == "by hash"
    (source / seen.FILE).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"seen_rows.parquet is damaged"):
        seen.carry_over(source, model)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert seen.carry_over(empty, model) == models.metadata(model)
