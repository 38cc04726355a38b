"""Feed a network from a table's Parquet files with bounded memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from flowparts import tables

# Rows that are shuffled together, and so held in memory at once.
_POOL_ROWS = 4 * tables.ROW_GROUP_ROWS
# Wide rows take more memory.
_POOL_VALUES = 32 << 20
# Chunks that a pool is read in.
_CHUNKS = 2

Arrays = dict[str, Any]


@dataclass
class Rows:
    """Rows of a table as the arrays that a network takes.

    Attributes:
        table: The rows.
        columns: Columns that are read.
        convert: Converts rows to the network's inputs, the target and the weight of each row.
        pool_rows: Rows that are shuffled together, and so held in memory at once.
    """

    table: pl.LazyFrame
    columns: list[str]
    convert: Callable[[pl.DataFrame], tuple[Arrays, Any, Any]]
    pool_rows: int = _POOL_ROWS

    @cached_property
    def count(self) -> int:
        """Return the number of rows."""
        return tables.row_count(self.table)

    def passes(self, seed: int | None = None) -> Iterator[tuple[Arrays, Any, Any]]:
        """Read every row once, in large chunks.

        Args:
            seed: Decides the order; None for the table's own. What is read together is mixed row by row.
        """
        if self.count <= self.pool_rows:
            yield _reordered(self._whole, None if seed is None else np.random.default_rng(seed))
            return
        starts = np.arange(0, self.count, self._chunk_rows)
        generator = None if seed is None else np.random.default_rng(seed)
        if generator is not None:
            generator.shuffle(starts)
        at_once = _CHUNKS if generator is not None else 1
        for first in range(0, len(starts), at_once):
            parts = [self._read(int(start)) for start in starts[first : first + at_once]]
            yield _reordered(self.convert(pl.concat(parts)), generator)

    @property
    def _chunk_rows(self) -> int:
        return max(1, self.pool_rows // _CHUNKS)

    @cached_property
    def _whole(self) -> tuple[Arrays, Any, Any]:
        return self.convert(tables.select(self.table, self.columns).pipe(tables.collect))

    def _read(self, start: int) -> pl.DataFrame:
        return tables.select(self.table, self.columns).slice(start, self._chunk_rows).pipe(tables.collect)


def dataset(rows: Rows, batch_size: int, seeds: Iterator[int] | None = None, *, even: bool = False) -> Any:
    """Return rows as a `tf.data.Dataset` of batches: inputs, target, weight.

    Args:
        rows: The rows.
        batch_size: Rows in a batch.
        seeds: Returns the seed of each pass; None to keep the table's order.
        even: Leave out rows that don't fill a batch.
    """
    import tensorflow as tf

    # Shapes and types of all chunks, from a small one.
    sample = rows.convert(tables.select(rows.table, rows.columns).head(1).pipe(tables.collect))
    specs = tf.nest.map_structure(lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype), sample)

    def read() -> Iterator[tuple[Arrays, Any, Any]]:
        return rows.passes(None if seeds is None else next(seeds))

    made = tf.data.Dataset.from_generator(read, output_signature=specs)
    made = made.rebatch(batch_size, drop_remainder=even)
    batches = rows.count // batch_size if even else -(-rows.count // batch_size)
    # Otherwise Keras takes the first pass for an interrupted one.
    made = made.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return made.with_options(options)


def _reordered(
    piece: tuple[Arrays, Any, Any], generator: np.random.Generator | None
) -> tuple[Arrays, Any, Any]:
    inputs, target, weight = piece
    # Always a copy: TensorFlow takes over the memory, and may compute in place.
    order = np.arange(len(target)) if generator is None else generator.permutation(len(target))
    return {name: array[order] for name, array in inputs.items()}, target[order], weight[order]


def table_rows(
    table: pl.LazyFrame,
    inputs: Callable[[pl.DataFrame], Arrays],
    features: Mapping[str, str],
    label: str,
    target: Callable[[pl.Series], Any],
    weight: Callable[[pl.DataFrame], Any],
    weight_column: str | None,
) -> Rows:
    """Return the rows of a table.

    Args:
        table: Raw rows.
        inputs: Converts rows to the network's inputs.
        features: The columns that this needs.
        label: The label column.
        target: Converts labels to the network's target.
        weight: Returns the weight of each row (float32).
        weight_column: The column of sample weights, if any.
    """
    columns = [*features, label, *([weight_column] if weight_column else [])]
    pool_rows = min(_POOL_ROWS, _POOL_VALUES // len(columns))
    return Rows(table, columns, lambda rows: (inputs(rows), target(rows[label]), weight(rows)), pool_rows)
