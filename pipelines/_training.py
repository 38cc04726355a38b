"""Steps that the pipelines that train on a table share after its validation."""

from typing import Any

from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_tabular import train_tabular
from flowparts.components.validate.profile_table import profile_table
from flowparts.pipelines._judgement import judge_and_deploy


# A plain function, not a nested pipeline, for the same reason as judge_and_deploy.
def train_and_judge(
    table: Any,
    validated: Any,
    label: Any,
    task: Any,
    min_class_rows: Any,
    exclude_columns: Any,
    key: Any,
    group_by: Any,
    time_column: Any,
    trainer: Any,
    effort: Any,
    candidates: Any,
    network: Any,
    metric: Any,
    slice_columns: Any,
    seed: Any,
    **judgement: Any,
) -> Any:
    """Add the steps that profile and split a table, train on it, and judge and deploy the model.

    The training waits for the step `validated`; `judgement` holds the other arguments of `judge_and_deploy`.

    Returns:
        The step that registers the model.
    """
    profile_table(table=table)
    parts = split_table(
        table=table,
        key=key,
        stratify_by=label,
        group_by=group_by,
        time_column=time_column,
        exclude_columns=exclude_columns,
        task=task,
        min_class_rows=min_class_rows,
        seed=seed,
    )
    trained = train_tabular(
        train=parts.outputs["train"],
        validation=parts.outputs["validation"],
        label=label,
        task=task,
        trainer=trainer,
        effort=effort,
        candidates=candidates,
        network=network,
        metric=metric,
        exclude_columns=exclude_columns,
        seed=seed,
    ).after(validated)
    return judge_and_deploy(
        model=trained.outputs["model"],
        test=parts.outputs["test"],
        slice_columns=slice_columns,
        metric=metric,
        seed=seed,
        **judgement,
    )
