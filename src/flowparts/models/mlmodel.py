"""Read the metadata of a model directory, its file MLmodel, without any framework."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from flowparts.util import errors, trees
from flowparts.util.shortening import one_line

# Seldon recognises a model's directory by this file; its agent writes its own name for the model there.
SETTINGS = ("model-settings.json", '{"name": "model"}\n')

_EXPECTED = {"framework", "task", "label", "classes", "features", "schema"}
_PARTS = ("model_uuid", "signature", "flavors")
# A description of ten thousand columns takes two megabytes.
_MAX_BYTES = 16 << 20
_MAX_NODES = 2_000_000
_MAX_DEPTH = 100


class Card(TypedDict):
    """A model's metadata; trainers may add more.

    Attributes:
        framework: Such as sklearn, tensorflow or onnx.
        task: "classification" or "regression".
        label: The label column.
        classes: Sorted classes of a classifier; None for a regressor.
        features: Raw feature columns.
        schema: Schema of these columns, in the form of `tables.schema.Schema.to_dict`.
        estimator: Class of the estimator.
        parameters: Parameters of the estimator.
        validation: Metric to value on the validation table.
        metric: The metric that it was selected by or is judged by.
        metric_reason: Why that isn't the task's primary metric; empty if it is.
        positive_class: The positive one of two classes; None unless there are two.
        candidates: The candidates that it was selected from, best first, in the form of `selection.ranking`.
        left_out: Candidates that weren't trained, or failed: `estimator` and `reason` of each.
        warnings: What may be wrong with the training table, a sentence each.
        training_rows: Rows of the training table.
        training_fingerprint: Its fingerprint.
        git_commit: Commit of the code that trained it.
        split: How the training table was split off, in a sentence.
        split_warning: Warning about the split; empty if there is none.
        rows_left_out: Rows of the source that were left out before the split: a sentence for each kind.
        onnx: Result of the ONNX export; None if there is no graph.
        members: Estimator, parameters and weight of each member of an ensemble.
        calibration: Calibration of its probabilities: none, temperature, platt or isotonic.
        threshold: Minimum probability of the positive class to predict it; left out if the more probable
            class is predicted.
        threshold_rule: What the threshold was optimised for.
    """

    framework: str
    task: str
    label: str
    classes: list[Any] | None
    features: list[str]
    schema: dict[str, Any]
    estimator: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]
    validation: NotRequired[dict[str, float]]
    metric: NotRequired[str]
    metric_reason: NotRequired[str]
    positive_class: NotRequired[Any]
    candidates: NotRequired[list[dict[str, Any]]]
    left_out: NotRequired[list[dict[str, str]]]
    warnings: NotRequired[list[str]]
    training_rows: NotRequired[int]
    training_fingerprint: NotRequired[str]
    git_commit: NotRequired[str]
    split: NotRequired[str]
    split_warning: NotRequired[str]
    rows_left_out: NotRequired[list[str]]
    onnx: NotRequired[dict[str, Any] | None]
    members: NotRequired[list[dict[str, Any]]]
    calibration: NotRequired[str]
    threshold: NotRequired[float]
    threshold_rule: NotRequired[str]


def read(path: str | Path) -> dict[str, Any]:
    """Return the content of a model directory's MLmodel file.

    Raises:
        MissingError: There is no model at `path`.
        ValueError: It wasn't saved by flowparts, or the directory holds unexpected files, such as a link that
            leads out of it.
    """
    import yaml

    file = Path(path) / "MLmodel"
    # A dangling link gets its own message.
    if not file.is_symlink() and not file.exists():
        raise errors.MissingError(f"no model at {path}: the directory holds no file MLmodel")
    trees.files(path)
    found: Any
    try:
        text = _text(file)
        _require_small(text)
        found = yaml.load(text, Loader=yaml.CSafeLoader)
    # Invalid numbers and dates raise Python's ValueError.
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{file} is not valid YAML: {one_line(error, 300)}") from None
    metadata = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(metadata, dict) or not metadata.keys() >= _EXPECTED:
        raise ValueError(
            f"the model at {path} was not saved by flowparts: its MLmodel lacks the metadata "
            + ", ".join(sorted(_EXPECTED))
        )
    if missing := [part for part in _PARTS if part not in found]:
        raise ValueError(f"the model at {path} is damaged: its MLmodel lacks {' and '.join(missing)}")
    if wrong := [name for name, fits in _wrong(found, metadata) if not fits]:
        raise ValueError(f"the model at {path} is damaged: its MLmodel has a wrong {wrong[0]}; save it again")
    described: dict[str, Any] = found
    return described


def version(described: dict[str, Any]) -> str:
    """Return the version of a model by its MLmodel file, which identifies its content."""
    return str(described["model_uuid"])[:12]


def _wrong(found: dict[str, Any], metadata: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the parts that readers rely on, each with whether it is valid."""
    classes, features = metadata["classes"], metadata["features"]
    yield "model_uuid", isinstance(found["model_uuid"], str)
    yield "signature", _is_list_of_columns(found["signature"])
    yield "flavors", isinstance(found["flavors"], dict)
    yield "task", metadata["task"] in ("classification", "regression")
    yield "label", isinstance(metadata["label"], str)
    yield "list of features", isinstance(features, list) and all(isinstance(each, str) for each in features)
    scalars = isinstance(classes, list) and {type(each) for each in classes} <= {bool, float, int, str}
    yield "list of classes", classes is None or (scalars and len({type(each) for each in classes}) == 1)
    yield "schema", isinstance(metadata["schema"], dict)
    yield "part on onnx", isinstance(metadata.get("onnx"), dict | None)


def inputs(described: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the input columns of a model's signature, each with "name" and "required".

    Args:
        described: Result of `read`.
    """
    columns: list[dict[str, Any]] = json.loads(described["signature"]["inputs"])
    return columns


def _is_list_of_columns(signature: Any) -> bool:
    try:
        columns = json.loads(signature["inputs"])
    except (KeyError, TypeError, json.JSONDecodeError, RecursionError):
        return False
    return isinstance(columns, list) and all(
        isinstance(column, dict) and isinstance(column.get("name"), str) and "required" in column
        for column in columns
    )


def _text(file: Path) -> str:
    if file.is_dir():
        raise ValueError("it is a directory")
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES >> 20} MB")
    return file.read_text(encoding="utf-8")


def _require_small(text: str) -> None:
    """Raise ValueError if nesting or aliases would expand a small text beyond memory."""
    import yaml

    sizes: dict[str, int] = {}
    # Anchor and number of nodes of each open collection.
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"it contains itself by the alias {event.anchor!r}")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            total += 1
            open_nodes.append((event.anchor, total))
            if len(open_nodes) > _MAX_DEPTH:
                raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before + 1
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        if total > _MAX_NODES:
            raise ValueError(f"it holds more than {_MAX_NODES:,} values, with what its aliases repeat")
