"""Read what a model directory says about itself, without any framework: its file MLmodel."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from flowparts.util import errors, trees

# By this file Seldon knows a model's directory; its agent writes its own name for the model there.
SETTINGS = ("model-settings.json", '{"name": "model"}\n')

_EXPECTED = {"framework", "task", "label", "classes", "features", "schema"}
_PARTS = ("model_uuid", "signature", "flavors")
# A description of ten thousand columns takes two megabytes.
_MAX_BYTES = 16 << 20
_MAX_NODES = 2_000_000
_MAX_DEPTH = 100


class Card(TypedDict):
    """What a model says about itself; trainers may add facts of their own.

    Attributes:
        framework: Such as sklearn, tensorflow or onnx.
        task: "classification" or "regression".
        label: The column that it predicts.
        classes: Sorted label values of a classification; None for a regression.
        features: Columns of the raw rows that it takes.
        schema: Schema of these columns, as `tables.schema.Schema.to_dict` gives it.
        estimator: Class of the estimator.
        parameters: Parameters of the estimator.
        validation: Metric to value on the validation table.
        metric: The metric that it was chosen or is judged by.
        metric_reason: Why that isn't the task's primary one; empty if it is.
        positive_class: Of two classes, the one that curves and rates are about; None if there are not two.
        candidates: What it was chosen among, best first, as `selection.ranking` has them.
        training_fingerprint: Fingerprint of the training table.
        git_commit: Commit of the code that trained it.
        split: How the training table was split from others, a sentence.
        split_warning: What to know of the split; empty if there is nothing.
        rows_left_out: Rows of the source that aren't in the training table: a sentence for each kind.
        onnx: What the export to ONNX found; None if there is no graph.
        members: Of an ensemble: estimator, parameters and weight of each.
        calibration: How its probabilities are calibrated: none, temperature, platt or isotonic.
        threshold: The least probability of the positive class with which it is predicted; not there if the
            more probable class is.
        threshold_rule: What the threshold was chosen for.
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
        ValueError: flowparts didn't save it, or the directory holds what no model does, such as a link that
            leads out of it.
    """
    import yaml

    file = Path(path) / "MLmodel"
    # Exists: a link to nothing is news of its own.
    if not file.is_symlink() and not file.exists():
        raise errors.MissingError(f"no model at {path}: the directory holds no file MLmodel")
    trees.files(path)
    found: Any
    try:
        text = _text(file)
        _require_small(text)
        found = yaml.load(text, Loader=yaml.CSafeLoader)
    # A number or date that can't be one is a ValueError of Python's own.
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())[:300]}") from None
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
    """Return what stands for the content of a model that an MLmodel file describes."""
    return str(described["model_uuid"])[:12]


def _wrong(found: dict[str, Any], metadata: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the parts that readers rely on, each with whether it is what they take it for."""
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
    """Return the columns of raw rows that a model's signature names, each with "name" and "required".

    Args:
        described: What `read` returned.
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
    """Raise ValueError where nesting or aliases make of a small text what no memory holds."""
    import yaml

    sizes: dict[str, int] = {}
    # Anchor and number of nodes of each collection that is open.
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"it holds itself, by the alias {event.anchor!r}")
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
