"""What follows the training of a network: its model directory and its page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flowparts.models import mlmodel
from flowparts.train.networks import curves, training
from flowparts.train.networks.checkpoints import Checkpoints
from flowparts.util import lineage


class Network(Protocol):
    """A trained network, of rows or of images."""

    @property
    def trained(self) -> training.Trained:
        """How training went."""

    @property
    def checkpoints(self) -> Checkpoints | None:
        """Where training states are, until all is written."""


N = TypeVar("N", bound=Network)


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
