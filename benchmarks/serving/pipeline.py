"""The model that every server serves: a scikit-learn pipeline of 20 mixed columns and 100 boosted trees."""

from typing import Any

import numpy as np
import pandas as pd

NUMBERS = [f"number_{i}" for i in range(14)]
TEXTS = [f"text_{i}" for i in range(5)]
COLUMNS = [*NUMBERS, *TEXTS, "flag"]


def rows(count: int = 4000) -> pd.DataFrame:
    """Return rows made with a seed, with the label in the column "label"."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {name: random.normal(size=count) for name in NUMBERS}
        | {name: random.choice(["red", "green", "blue", "grey"], count) for name in TEXTS}
        | {"flag": random.integers(0, 2, count).astype(bool)}
    )
    score = frame["number_0"] + frame["number_1"] * frame["flag"] + random.normal(0, 0.3, count)
    frame["label"] = np.where(score + (frame["text_0"] == "red") > 0, "yes", "no")
    return frame


def records(count: int) -> list[dict[str, Any]]:
    """Return rows as a client sends them."""
    found: list[dict[str, Any]] = rows(count)[COLUMNS].to_dict("records")
    return found


def fitted() -> Any:
    """Return the fitted pipeline."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = ColumnTransformer(
        [
            ("numbers", numbers, [*NUMBERS, "flag"]),
            ("texts", OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXTS),
        ]
    )
    frame = rows()
    pipeline = make_pipeline(columns, HistGradientBoostingClassifier(max_iter=100, random_state=0))
    return pipeline.fit(frame[COLUMNS], frame["label"])


def predict(pipeline: Any, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return predictions in the form of our server's; shared by the servers that take records."""
    probabilities = pipeline.predict_proba(pd.DataFrame(records, columns=COLUMNS))
    no, yes = pipeline.classes_
    predicted = pipeline.classes_[probabilities.argmax(axis=1)]
    return [
        {"prediction": str(label), f"probability_{no}": float(row[0]), f"probability_{yes}": float(row[1])}
        for label, row in zip(predicted, probabilities, strict=True)
    ]
