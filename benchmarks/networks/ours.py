"""What is measured of flowparts: `ours.py CASE ARGUMENTS...` prints a task's command line, or does it."""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import step

LABEL = "label"
NOT_FEATURES = ["id", "user", "session"]


def train(data: str, out: str, epochs: str, batch_size: str) -> list[str]:
    return step.command(_train(), Path(out), **_training(data, int(epochs), int(batch_size)))


def score(data: str, model: str, out: str) -> list[str]:
    from flowparts.components.predict.batch_predict import batch_predict

    given = {"table": step.artifact(Path(data) / "table"), "model": step.artifact(Path(model))}
    return step.command(batch_predict, Path(out), **given, key_columns=["id"])


def feed(data: str, batch_size: str) -> dict[str, float]:
    """Give every row of a table once, in batches; return how many, and the seconds."""
    from flowparts import tables
    from flowparts.train.networks import encoding, training
    from flowparts.train.networks.feed import dataset, table_rows
    from flowparts.train.networks.label_encoding import LabelEncoding

    learned = encoding.Encoding.from_dict(json.loads((Path(data) / "encoding.json").read_text()))
    labels = LabelEncoding(LABEL, [0, 1])
    training.start(0)
    start = time.perf_counter()
    rows = table_rows(
        tables.scan(Path(data) / "train"),
        lambda some: encoding.arrays(some, learned),
        learned.features,
        LABEL,
        labels.numbers,
        labels.weights,
        None,
    )
    batches = dataset(rows, int(batch_size), iter([0]))
    count = sum(len(target) for _, target, _ in batches)
    return {"rows": count, "seconds": time.perf_counter() - start}


def split(table: str, rows: str, out: str) -> str:
    """Write rows of a table, one in ten as validation, and what is learned of the others."""
    import polars as pl

    from flowparts import tables
    from flowparts.prepare import preprocess
    from flowparts.train.networks import encoding

    some = tables.scan(table).head(int(rows)).with_row_index("place")
    for name, held_out in {"train": False, "validation": True}.items():
        part = some.filter((pl.col("place") % 10 == 0) == held_out).drop("place")
        tables.write(part, Path(out) / name)
    train = tables.scan(Path(out) / "train")
    found = preprocess.examine(train, LABEL, "classification", NOT_FEATURES, None)
    learned = encoding.learn(train, found.features, found.nullable, 10_000)
    (Path(out) / "encoding.json").write_text(json.dumps(learned.to_dict()))
    return out


def model(data: str, out: str) -> str:
    """Train the network that both sides score with."""
    made, _ = step.run(_train(), Path(out), **_training(data, 2, 256))
    return str(made["model"].path)


def _train() -> Any:
    from flowparts.components.train.train_keras_tabular import train_keras_tabular

    return train_keras_tabular


def _training(data: str, epochs: int, batch_size: int) -> dict[str, Any]:
    parts = {name: step.artifact(Path(data) / name) for name in ("train", "validation")}
    options = {"label": LABEL, "exclude_columns": NOT_FEATURES, "patience": 0}
    return {**parts, **options, "epochs": epochs, "batch_size": batch_size}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
