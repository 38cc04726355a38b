from typing import NamedTuple, Optional

from kfp.dsl import Dataset, Input, Output

from .. import runs_in


@runs_in("base")
def split_table(
    table: Input[Dataset],
    train: Output[Dataset],
    validation: Output[Dataset],
    test: Output[Dataset],
    key: Optional[list[str]] = None,
    stratify_by: Optional[str] = None,
    group_by: Optional[str] = None,
    time_column: Optional[str] = None,
    exclude_columns: Optional[list[str]] = None,
    repeated_rows: str = "auto",
    task: Optional[str] = None,
    min_class_rows: int = 3,
    train_fraction: float = 0.7,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
) -> NamedTuple("Outputs", [("train_rows", int), ("validation_rows", int), ("test_rows", int)]):  # type: ignore[valid-type]
    """Split the rows of a table by a hash of their key or features into train, validation and test.

    No row is lost or duplicated, except rows of classes that are too rare to learn. The same seed gives the
    same split, whatever the order of the rows. Give at most one of key, group_by and time_column.

    Args:
        table: Rows to split.
        train: Rows to train on.
        validation: Rows for early stopping and model selection.
        test: Rows for the final evaluation; nothing is learned from them.
        key: Columns that identify a row; rows with equal keys stay together.
        stratify_by: Column, usually the label, whose values get the same proportions in every part; numbers
            with more than 20 distinct values are stratified by decile, and a missing value counts as a value.
            Has no effect with group_by or time_column.
        group_by: Column whose equal values stay together, such as a patient or a customer.
        time_column: Column of timestamps, dates or numbers: the oldest rows go to train, the newest to test.
            "auto" splits by time if the rows are ordered by a timestamp or date and neither key nor group_by
            is given.
        exclude_columns: Columns that are not features, such as identifiers; neither they nor stratify_by
            influence where a row goes.
        repeated_rows: What to do with rows of equal features, unless key, group_by or time_column is given:
            spread them over the parts like other rows, keep them together, or auto: together if they always
            have the same value of stratify_by, as copies of a row do, otherwise spread.
        task: classification or regression. For a classification, rows with very rare values of stratify_by
            are left out; otherwise every row is kept.
        min_class_rows: Minimum number of rows of such a value; 1 to keep every class.
        train_fraction: Fraction of the rows for train, between 0 and 1; the three must add up to 1.
        validation_fraction: Fraction of the rows for validation, at least 0 and below 1.
        test_fraction: Fraction of the rows for test, at least 0 and below 1.
        seed: Seed of the split.

    Returns:
        train_rows: Number of rows in train.
        validation_rows: Number of rows in validation.
        test_rows: Number of rows in test.
    """
    from flowparts import tables
    from flowparts.prepare import preprocess, split
    from flowparts.util import metadata, names

    key, stratify_by = names.texts(key, "key") or None, stratify_by or None
    group_by, time_column = group_by or None, time_column or None
    fractions = (train_fraction, validation_fraction, test_fraction)
    excluded = names.texts(exclude_columns, "exclude_columns")
    split.check_options(fractions, key, group_by, time_column, repeated_rows)
    if task:
        preprocess.check_options(stratify_by or "", task, excluded, None, 1)
    frame, described = tables.scan(table.path), tables.description(table.path)
    whole, left_out = described["source"] or table.uri, described.get("rows_left_out", [])
    if task == "classification" and stratify_by:
        frame, rare = split.without_rare_classes(frame, stratify_by, min_class_rows)
        left_out = [*left_out, *rare]
    strategy = split.choose(frame, fractions, key, group_by, time_column, stratify_by)
    parts = split.assign(
        frame,
        fractions,
        key=key,
        stratify_by=stratify_by,
        group_by=group_by,
        time_column=strategy.time_column,
        exclude_columns=excluded,
        repeated_rows=repeated_rows,
        seed=seed,
    )
    if not strategy.time_column:
        features = set(frame.collect_schema()) - {stratify_by, group_by, *(key or []), *excluded}
        warnings = [strategy.warning, split.near_copies(frame, parts, sorted(features))]
        strategy = strategy._replace(warning="; ".join(filter(None, warnings)))
    print(f"split {strategy.described}" + f"; {strategy.warning}" * bool(strategy.warning))  # noqa: T201
    rows = []
    for name, output in zip(split.PARTS, (train, validation, test), strict=True):
        with tables.with_progress(frame, f"writing {name}") as counted:
            part = split.part(counted, parts, name)
            facts = strategy.facts([group_by] if group_by else key or [], left_out)
            described = tables.write(part, output.path, f"{name} part of {whole}", facts)
        metadata.describe(output, described)
        rows.append(described["rows"])
    return tuple(rows)
