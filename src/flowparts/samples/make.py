"""Write scikit-learn's bundled real data sets as the Parquet files behind sample://NAME.

Run as `python src/flowparts/samples/make.py`; needs scikit-learn, which the images that read the
samples do not have.
"""

import re
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl

NAMES = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def frame(name: str) -> pl.DataFrame:
    """Return a data set with snake_case feature names and the label column "target".

    Class labels are the class names; the digits stay the integers 0 to 9.
    """
    from sklearn import datasets

    # As measured, not as scikit-learn scales them by default: years, not standard deviations.
    options = {"scaled": False} if name == "diabetes" else {}
    bunch: Any = getattr(datasets, f"load_{name}")(**options)
    columns = {
        snake_case(feature): bunch.data[:, position] for position, feature in enumerate(bunch.feature_names)
    }
    target = pl.Series("target", bunch.target)
    class_names = [str(label) for label in bunch.get("target_names", [])]
    if class_names and name != "digits":
        target = pl.Series("target", [class_names[code] for code in bunch.target])
    return pl.DataFrame(columns).with_columns(target)


def snake_case(name: str) -> str:
    """Return a name in lower-case ASCII with underscores: "mean radius" becomes "mean_radius"."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    ascii_name = ascii_name.replace("(cm)", "cm").replace("/", "_")
    return re.sub(r"[^0-9a-z]+", "_", ascii_name.lower()).strip("_")


if __name__ == "__main__":
    for sample in NAMES:
        frame(sample).write_parquet(
            Path(__file__).with_name(f"{sample}.parquet"), compression="zstd", compression_level=19
        )
