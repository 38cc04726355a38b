"""What a user would write instead, with pandas, NumPy and Keras: `plain.py CASE ARGUMENTS...`.

The network itself is the one that flowparts builds, so that both sides train and score the same one; all
around it is a bare script.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from flowparts.train.networks import tabular
from flowparts.train.networks.encoding import Encoding

LABEL = "label"
NOT_FEATURES = ("id", "user", "session", LABEL)


def learned(frame: pd.DataFrame) -> Encoding:
    """Return means, variances and vocabularies of a frame, as an adapted preprocessing layer would hold."""
    kinds = {name: kind(frame[name]) for name in frame if name not in NOT_FEATURES}
    numbers = pd.DataFrame(
        {name: numeric(frame[name]) for name, of in kinds.items() if of in ("number", "timestamp")}
    )
    days = [name for name, of in kinds.items() if of == "timestamp"]
    numbers[days] /= 86_400e6
    vocabularies = {}
    for name, of in kinds.items():
        if of == "string":
            counts = frame[name].value_counts()
            vocabularies[name] = list(counts[counts > 1].index[:10_000])
    return Encoding(
        kinds,
        [name for name in kinds if frame[name].isna().any()],
        numbers.mean().to_dict(),
        numbers.var(ddof=0).to_dict(),
        vocabularies,
    )


def kind(column: pd.Series) -> str:
    if pd.api.types.is_datetime64_any_dtype(column):
        return "timestamp"
    return "string" if isinstance(column.dtype, pd.StringDtype) else "number"


def numeric(column: pd.Series) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(column):
        microseconds = column.astype("datetime64[us]").astype("int64").astype("float64")
        return microseconds.where(column.notna())
    return column.astype("float64")


def arrays(frame: pd.DataFrame, encoding: Encoding) -> dict[str, Any]:
    """Return all that the network takes, in memory."""
    texts = []
    for name in encoding.texts:
        places = {value: place for place, value in enumerate(encoding.vocabularies[name], 2)}
        texts.append(frame[name].map(places).fillna(1).where(frame[name].notna(), 0).to_numpy("int32"))
    return {
        "numbers": np.stack([numeric(frame[name]).to_numpy() for name in encoding.numbers], axis=1),
        "moments": np.stack([numeric(frame[name]).to_numpy() for name in encoding.moments], axis=1),
        "texts": np.stack(texts, axis=1),
    }


def train(data: str, out: str, epochs: str, batch_size: str) -> None:
    frame = pd.read_parquet(Path(data) / "train")
    encoding = learned(frame)
    inputs, target = arrays(frame, encoding), frame[LABEL].to_numpy()
    held_out = pd.read_parquet(Path(data) / "validation")
    watched = arrays(held_out, encoding), held_out[LABEL].to_numpy()
    keras.utils.set_random_seed(0)
    model = tabular.trunk(encoding, 2, 64, 0.1, 2, True, "float32")
    steps = -(-len(target) // int(batch_size)) * int(epochs)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.003, steps)),
        loss="sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(
        inputs,
        target,
        epochs=int(epochs),
        batch_size=int(batch_size),
        validation_data=watched,
        validation_batch_size=4096,
        verbose=2,
    )
    model.save(Path(out) / "model.keras")


def feed(data: str, batch_size: str) -> None:
    """Give every row of a table once, in batches, as `fit` gives arrays to a network; tell the seconds."""
    from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

    encoding = Encoding.from_dict(json.loads((Path(data) / "encoding.json").read_text()))
    start = time.perf_counter()
    frame = pd.read_parquet(Path(data) / "train")
    adapter = ArrayDataAdapter(
        arrays(frame, encoding), frame[LABEL].to_numpy(), batch_size=int(batch_size), shuffle=True
    )
    rows = sum(len(target) for _, target in adapter.get_tf_dataset())
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - start}))


def score(data: str, model: str, out: str) -> None:
    """Score a whole frame with the Keras archive of a model directory, which takes raw columns."""
    network = keras.saving.load_model(Path(model) / "model.keras")
    frame = pd.read_parquet(Path(data) / "table")
    columns = []
    for name in (name for name in frame if name not in NOT_FEATURES):
        if kind(frame[name]) == "string":
            columns.append(frame[name].fillna("").to_numpy(object)[:, None])
        else:
            columns.append(numeric(frame[name]).to_numpy()[:, None])
    # Keras takes text from a dataset only.
    batches = tf.data.Dataset.from_tensor_slices((tuple(columns),)).batch(4096)
    answers = network.predict(batches, verbose=0)
    scored = frame[["id"]].assign(
        prediction=answers.argmax(axis=1), probability_0=answers[:, 0], probability_1=answers[:, 1]
    )
    scored.to_parquet(Path(out) / "predictions.parquet", compression="zstd", compression_level=3, index=False)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
