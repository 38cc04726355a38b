"""Print NannyML's confidence-based estimates of ROC AUC and their intervals as JSON (in its environment)."""

import json
import sys
from pathlib import Path

import nannyml as nml
import pandas as pd


def main(folder: Path, rows: int) -> None:
    reference, windows = (pd.read_parquet(folder / f"{name}.parquet") for name in ("reference", "windows"))
    estimator = nml.CBPE(
        problem_type="classification_binary",
        y_pred_proba="probability_1",
        y_pred="prediction",
        y_true="label",
        metrics=["roc_auc"],
        chunk_size=rows,
    )
    estimator.fit(reference)
    found = estimator.estimate(windows).filter(period="analysis").to_df()["roc_auc"]
    columns = ["value", "lower_confidence_boundary", "upper_confidence_boundary"]
    print(json.dumps(found[columns].to_numpy().tolist()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
