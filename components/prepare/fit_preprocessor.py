from typing import Optional

from kfp.dsl import Artifact, Dataset, Input, Output

from .. import runs_in


@runs_in("sklearn", cpu="2", memory="4Gi")
def fit_preprocessor(
    train: Input[Dataset],
    validation: Input[Dataset],
    preprocessor: Output[Artifact],
    train_features: Output[Dataset],
    validation_features: Output[Dataset],
    label: str,
    task: str = "classification",
    exclude_columns: Optional[list[str]] = None,
    weight_column: Optional[str] = None,
    max_one_hot_categories: int = 20,
    seed: int = 0,
) -> None:
    """Fit imputation, scaling and encoding on the training table, and transform training and validation.

    Done once and shared by all candidates. The training features are held in memory during fitting; the
    validation table is transformed in chunks.

    Args:
        train: Raw rows to fit on.
        validation: Raw rows to transform; nothing is learned from them.
        preprocessor: The fitted preprocessing: a directory with a skops file, JSON, a few example rows and a
            sketch of the rows, by which a model knows which rows it has seen.
        train_features: Transformed training rows: 32-bit features, the label and the weights. Target-encoded
            features are cross-fitted, so they don't leak a row's own label.
        validation_features: Transformed validation rows, with the same columns.
        label: Column to predict.
        task: classification or regression.
        exclude_columns: Columns to exclude from the features, such as identifiers.
        weight_column: Column of sample weights, at least 0; not a feature.
        max_one_hot_categories: Maximum number of distinct values to one-hot encode a column; columns with
            more are target-encoded (each value by its mean label).
        seed: Seed of the folds for target encoding.
    """
    from flowparts import tables
    from flowparts.models import baseline
    from flowparts.prepare import preprocess
    from flowparts.util import metadata, names

    excluded = names.texts(exclude_columns, "exclude_columns")
    preprocess.check_options(label, task, excluded, weight_column or None, max_one_hot_categories)
    fitted, transformed = preprocess.fit(
        tables.scan(train.path),
        label=label,
        task=task,
        exclude_columns=excluded,
        weight_column=weight_column or None,
        max_one_hot_categories=max_one_hot_categories,
        seed=seed,
    )
    held_out = preprocess.transform(tables.scan(validation.path), fitted, "the validation table")
    for features, output, raw in (
        (held_out, validation_features, validation),
        (transformed, train_features, train),
    ):
        metadata.describe(output, tables.write(features, output.path, source=f"features of {raw.uri}"))
    fitted.save(
        preprocessor.path,
        lambda folder: baseline.write(folder, train.path, validation.path, fitted.features, label),
    )
    facts = {
        "label": label,
        "task": task,
        "classes": fitted.classes,
        "features": list(fitted.features),
        "dropped_columns": fitted.dropped,
        "training_fingerprint": fitted.training_fingerprint,
    }
    metadata.describe(preprocessor, facts)
