"""Audit a skops file before it is loaded: only parts of models, and no parameter that names a file.

skops trusts every public estimator of scikit-learn with any parameter. Some read files that a parameter
names, or cache pickles in a directory. Here a file may hold classifiers, regressors, this package's own
wrappers and transformers, and nothing that calls a function.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_SCHEMA = "schema.json"
_MAX_SCHEMA_BYTES = 64 << 20
# Numbers of trees compress to a tenth, rarely to less; a zip bomb compresses to a thousandth.
_FREE_BYTES = 1 << 30
_MAX_RATIO = 100
# Types that a skops file's nodes may build, by the node's loader; ObjectNode is checked separately. Loaders
# that aren't listed call functions or methods.
_LOADERS: dict[str, tuple[str, ...]] = {
    "BytearrayNode": ("builtins.bytearray",),
    "BytesNode": ("builtins.bytes",),
    "DTypeNode": ("numpy.dtype",),
    "DefaultDictNode": ("collections.defaultdict",),
    "DictNode": ("builtins.dict", "collections.OrderedDict", "sklearn.utils._bunch.Bunch"),
    "FunctionNode": ("sklearn.metrics._classification.balanced_accuracy_score",),
    "JsonNode": ("builtins.str",),
    "ListNode": ("builtins.list",),
    "LossNode": ("sklearn._loss.*", "sklearn.linear_model._sgd_fast.*"),
    "NdArrayNode": ("numpy.*",),
    "RandomGeneratorNode": ("numpy.random.*",),
    "RandomStateNode": ("numpy.random.*",),
    "SetNode": ("builtins.set",),
    "SliceNode": ("builtins.slice",),
    "SparseMatrixNode": ("scipy.sparse.*",),
    "TreeNode": ("sklearn.tree._tree.Tree",),
    "TupleNode": ("builtins.tuple",),
    "TypeNode": ("builtins.*", "numpy.*", "collections.OrderedDict"),
}
# scikit-learn's estimators besides classifiers and regressors that fitted ones consist of.
_PARTS = (
    "sklearn.compose._column_transformer.ColumnTransformer",
    "sklearn.impute._base.MissingIndicator",
    "sklearn.impute._base.SimpleImputer",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.StandardScaler",
    "sklearn.preprocessing._encoders.OneHotEncoder",
    "sklearn.preprocessing._encoders.OrdinalEncoder",
    "sklearn.preprocessing._function_transformer.FunctionTransformer",
    "sklearn.preprocessing._label.LabelBinarizer",
    "sklearn.preprocessing._label.LabelEncoder",
    "sklearn.preprocessing._target_encoder.TargetEncoder",
)
# Parameters that name a file, a directory or a machine when they are text.
_PLACES = re.compile(
    r"(?:^|_)(?:file|filename|path|dir|directory|memory|config|model|machines|location|input)$"
)
# Attributes in which boosters keep parameters that they pass to their libraries.
_HANDED_ON = ("_other_params", "kwargs", "params")


class UntrustedError(ValueError):
    """A file holds something that isn't part of a model."""


def check(path: str | Path, trusted: Sequence[str]) -> None:
    """Raise an error if a skops file holds more than the parts of a model.

    Args:
        path: The file.
        trusted: Allowed types of objects besides scikit-learn's classifiers and regressors.

    Raises:
        UntrustedError: It names another type or loader, or a parameter names a file.
        ValueError: It would unpack to too much, or isn't a skops file; also zipfile's and json's errors.
    """
    with zipfile.ZipFile(path) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
        if sum(sizes) > _FREE_BYTES + _MAX_RATIO * Path(path).stat().st_size:
            raise ValueError(f"it would unpack to {sum(sizes):,} bytes")
        if archive.getinfo(_SCHEMA).file_size > _MAX_SCHEMA_BYTES:
            raise ValueError(f"its {_SCHEMA} has more than {_MAX_SCHEMA_BYTES >> 20} MB")
        schema = json.loads(archive.read(_SCHEMA))
    for node in _nodes(schema):
        name, loader = f"{node['__module__']}.{node['__class__']}", str(node["__loader__"])
        if loader == "ObjectNode":
            if name not in trusted and name not in _estimators():
                raise UntrustedError(f"{name} isn't part of a model")
            _check_parameters(name, _attributes(node))
        elif not any(_fits(name, pattern) for pattern in _LOADERS.get(loader, ())):
            raise UntrustedError(f"{loader} of {name} isn't part of a model")


@cache
def _estimators() -> frozenset[str]:
    from sklearn.utils import all_estimators

    classes = [cls for _, cls in all_estimators(type_filter=["classifier", "regressor"])]
    # Losses, links and bins, which skops itself trusts.
    from skops.io._trusted_types import SKLEARN_INTERNAL_TYPE_NAMES

    return frozenset(
        [*_PARTS, *SKLEARN_INTERNAL_TYPE_NAMES, *(f"{cls.__module__}.{cls.__name__}" for cls in classes)]
    )


def json_objects(document: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a JSON document, however deeply nested."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    return (value for value in json_objects(schema) if "__loader__" in value)


def _attributes(node: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an object, or the values of a dict, as nodes."""
    content = node.get("content")
    inner = content.get("content") if isinstance(content, dict) and "__loader__" in content else content
    return inner if isinstance(inner, dict) else {}


def _check_parameters(name: str, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        if not isinstance(value, dict):
            continue
        if key in _HANDED_ON and value.get("__loader__") == "DictNode":
            _check_parameters(name, _attributes(value))
        elif _PLACES.search(key) and _text(value):
            raise UntrustedError(f"the parameter {key}={_text(value)!r} of {name} names a file or directory")


def _text(node: dict[str, Any]) -> str:
    """Return the text of a text node, and empty text for any other node."""
    if node.get("__loader__") != "JsonNode":
        return ""
    value = json.loads(node["content"])
    return value if isinstance(value, str) else ""


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))
