"""What follows the training of a network: its scores, its model directory and its page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from flowparts import tables
from flowparts.evaluate import positives
from flowparts.evaluate.metrics import score
from flowparts.models import mlmodel
from flowparts.train.networks import curves, label_encoding, training
from flowparts.train.networks.checkpoints import Checkpoints
from flowparts.util import lineage


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network, of rows or of images.

    Attributes:
        labels: The learned encoding of the label.
        trained: The training's history.
        facts: Metadata of the training.
        checkpoints: Training states, until all is written; None to keep none.
        example: A few raw rows.
        held_out: Raw rows of the validation table to check exports with.
    """

    labels: label_encoding.LabelEncoding
    trained: training.Trained
    facts: dict[str, Any]
    checkpoints: Checkpoints | None
    example: pl.DataFrame
    held_out: pl.DataFrame


N = TypeVar("N", bound=Network)


def facts(
    trained: training.Trained,
    labels: label_encoding.LabelEncoding,
    answers: Any,
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
) -> dict[str, Any]:
    """Return the metadata of a training: its length, and what the network scores on the validation table.

    Args:
        trained: The training's history.
        labels: The learned encoding of the label.
        answers: The network's output for the validation table: numbers, or probabilities (rows, classes).
        table: Training rows.
        validation: Validation rows.
    """
    task = "regression" if labels.classes is None else "classification"
    judged = positives.training_facts(table, labels.label, task)
    truth = tables.select(validation, [labels.label]).pipe(tables.collect).to_series().alias("label")
    predicted = predictions(answers, labels.classes)
    return {
        "best_epoch": trained.best_epoch,
        "epochs_done": len(trained.history["loss"]),
        **judged,
        "validation": score(task, truth, predicted, labels.classes, judged["positive_class"]),
    }


def predictions(answers: Any, classes: Sequence[Any] | None) -> pl.DataFrame:
    """Return a network's answers as the columns of `models.Model.predict`."""
    if classes is None:
        return pl.DataFrame({"prediction": np.asarray(answers, float).reshape(-1)})
    named = {
        f"probability_{value}": np.asarray(answers, float)[:, index] for index, value in enumerate(classes)
    }
    best = pl.Series("prediction", [classes[place] for place in np.argmax(answers, axis=1)])
    return pl.DataFrame([best]).with_columns(**named)


def write(
    network: N,
    save: Callable[[N, str | Path, dict[str, Any]], mlmodel.Card],
    path: str | Path,
    *,
    class_weight: str | None,
    options: training.Options,
    subject: str,
) -> tuple[mlmodel.Card, str] | None:
    """Write a network's model directory, then clear its training states.

    Args:
        network: The network.
        save: Writes the directory and returns the model's metadata.
        path: The directory to make.
        class_weight: How classes were weighted; a part of the metadata.
        options: How it was trained.
        subject: What the page is about, such as "regression of price".

    Returns:
        The model's metadata, and a page with the learning curves. None in all workers but the first, which
        alone writes.
    """
    if not training.is_chief():
        return None
    stored = save(network, path, {"class_weight": class_weight, "git_commit": lineage.git_commit()})
    if network.checkpoints:
        network.checkpoints.clear()
    return stored, curves.page(network.trained, options, subject)
