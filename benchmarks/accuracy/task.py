"""What measure.py and the process of a method say to each other, through a folder.

The folder holds train.parquet, test.parquet (without the label) and task.json; the method leaves
answer.json and predicted.npy. It runs in environments that have NumPy, and little else in common.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Task:
    """What is to be learned.

    Attributes:
        label: Column to predict.
        task: "classification" or "regression".
        metric: "roc_auc", "log_loss" or "rmse".
        time: Columns by whose order the test rows are the newest; none if they were drawn at random.
        seconds: Time that a method with a budget gets.
    """

    label: str
    task: str
    metric: str
    time: tuple[str, ...]
    seconds: float

    @classmethod
    def read(cls, folder: Path) -> "Task":
        """Read what `write` wrote."""
        content = json.loads((folder / "task.json").read_text())
        return cls(**{**content, "time": tuple(content["time"])})

    def write(self, folder: Path) -> None:
        """Write it into the folder."""
        (folder / "task.json").write_text(json.dumps(asdict(self)))


def answer(folder: Path, predicted: Any, classes: list[Any], used: str, started: float) -> None:
    """Write predictions of the test rows.

    Args:
        folder: The folder.
        predicted: Numbers, or the probability of each class in a column of its own.
        classes: What the columns stand for; empty for a regression.
        used: What the method chose, in a few words.
        started: The monotonic time when training began, after imports and before any look at the rows.
    """
    seconds = time.monotonic() - started
    np.save(folder / "predicted.npy", np.asarray(predicted, dtype=np.float64))
    content = {"classes": [str(value) for value in classes], "used": used, "seconds": seconds}
    (folder / "answer.json").write_text(json.dumps(content))
