"""The model contract: an MLflow model directory for raw rows, with weights that run no code on load.

Plain MLflow can load a directory too (`mlflow.pyfunc.load_model`, `mlflow.sklearn.load_model`). Here it is
written and read without importing MLflow, whose import takes longer than scoring most tables.
"""

import json
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

import flowparts
from flowparts import tables
from flowparts.models import fitted_estimators, mlmodel
from flowparts.prepare import preprocess
from flowparts.tables import casts
from flowparts.tables.schema import Column, Schema
from flowparts.util import outputs

if TYPE_CHECKING:
    from flowparts.util import images

_WEIGHTS = "model.skops"
# Bounds memory while a table is scored; large enough that Python's overhead is small.
_CHUNK_ROWS = 100_000
# Pixels take more memory than numbers.
_CHUNK_IMAGES = 500
# Below this many rows, starting threads takes longer than the work.
_ROWS_WORTH_THREADS = 2_000

# XGBoost has two package names: with and without CUDA.
_LIBRARIES = {"xgboost": [["xgboost-cpu", "xgboost"]], "lightgbm": [["lightgbm"]]}

_MLFLOW_TYPES = {
    "integer": "long",
    "number": "double",
    "boolean": "boolean",
    "string": "string",
    "timestamp": "datetime",
    "date": "datetime",
    "image": "binary",
}


@dataclass(frozen=True)
class Model(ABC):
    """A loaded model for raw rows, of any framework.

    Attributes:
        metadata: The model's metadata, see `save`.
        task: "classification" or "regression".
        label: The label column's name.
        features: Raw columns that it needs, in order.
        types: Raw column name to type.
        classes: Sorted classes of a classifier; None for a regressor.
    """

    metadata: mlmodel.Card
    task: str
    label: str
    features: list[str]
    types: dict[str, str]
    classes: list[Any] | None

    @property
    def prediction_schema(self) -> dict[str, pl.DataType]:
        """Names and types of the columns that `predict` returns."""
        return fitted_estimators.prediction_schema(self.classes)

    def predict(self, table: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
        """Score raw rows, in order.

        Args:
            table: Rows with the feature columns; other columns are ignored. A LazyFrame is scored in chunks.

        Returns:
            Column "prediction" (the label's values; Float64 for a regressor) and for a classifier
            "probability_<class>" for each class in order (Float64; rows sum to 1). An estimator without
            probabilities gets them from its decision function (sigmoid or softmax, not calibrated), and
            without one 1 for the predicted class.

        Raises:
            ValueError: A feature column is missing or holds a value of another type.
        """
        tables.require_columns(table, self.features, "feature column")
        chunks = [self._score(chunk) for chunk in _chunks(table, self.features) if chunk.height]
        return pl.concat(chunks) if chunks else pl.DataFrame(schema=self.prediction_schema)

    @abstractmethod
    def _score(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Score rows that have the feature columns."""


@dataclass(frozen=True)
class PipelineModel(Model):
    """A scikit-learn, XGBoost or LightGBM model.

    Attributes:
        pipeline: The scikit-learn Pipeline: raw columns, preprocessing, rounding, estimator.
    """

    pipeline: Any

    def _score(self, rows: pl.DataFrame) -> pl.DataFrame:
        import joblib

        threads = joblib.cpu_count() if rows.height >= _ROWS_WORTH_THREADS else 1
        raw = tables.to_pandas(casts.conform(rows, self.types))
        with joblib.parallel_config("threading", n_jobs=threads), _thread_pools().limit(limits=threads):
            # Skip the first step, which converts a server's values to the types that `raw` already has.
            matrix = self.pipeline[1:-1].transform(raw)
            return fitted_estimators.predictions(self.pipeline[-1], matrix, self.classes)


@dataclass(frozen=True)
class GraphModel(Model):
    """A model that exists only as an ONNX graph, such as a Keras or PyTorch model.

    Attributes:
        graph: The opened `onnx_graph.Graph`.
    """

    graph: Any

    def _score(self, rows: pl.DataFrame) -> pl.DataFrame:
        import numpy as np

        found = self.graph.predict_table(casts.conform(rows, self.types))
        return pl.DataFrame(
            {
                # Text is an object array, which Polars takes only as a list.
                name: values.tolist() if values.dtype == object else np.ascontiguousarray(values)
                for name, values in found.items()
            },
            schema=self.prediction_schema,
        )


@cache
def _thread_pools() -> Any:
    # Finding the libraries takes longer than scoring a row; called only after the pipeline has loaded them.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def save(
    path: str | Path,
    estimator: Any,
    *,
    preprocessor: preprocess.Preprocessor,
    task: str,
    label: str,
    classes: Sequence[Any] | None,
    metadata: Mapping[str, object],
    train_features: Any = None,
    complete: Callable[[Path], None] | None = None,
) -> mlmodel.Card:
    """Write preprocessing and estimator as one MLflow model directory, which appears complete or not at all.

    Args:
        path: The directory to create.
        estimator: A fitted scikit-learn, XGBoost or LightGBM estimator of the preprocessor's features.
        preprocessor: The preprocessor that turns raw rows into these features.
        task: "classification" or "regression".
        label: The label column's name.
        classes: Sorted classes of a classifier; None for a regressor.
        metadata: Further metadata: estimator (class name), parameters, training_fingerprint, git_commit,
            validation (metric to value on the validation table).
        train_features: Features that the estimator was trained on, rows by columns. With them, the model is
            also exported as an ONNX graph for servers, if that predicts the same; see `onnx_export`.
        complete: Called with the directory before it appears, to write further files.

    Returns:
        The stored metadata: the given one, and framework, task, label, classes, features, categories (text
        column to the values seen in training, if they are few), schema (of the tables that can be scored, in
        the form of `flowparts.tables.schema`), and onnx (the result of the export).

    Raises:
        ValueError: The estimator can't be stored without a pickle.
    """
    from sklearn.pipeline import Pipeline

    from flowparts.models import onnx_export, onnx_graph
    from flowparts.prepare.transformers import Float32, RawColumns
    from flowparts.util import weights

    # The number of CPUs is up to the process that loads the model.
    jobs = [name for name in estimator.get_params() if name.split("__")[-1] == "n_jobs"]
    estimator.set_params(**dict.fromkeys(jobs))
    pipeline = Pipeline(
        [
            ("columns", RawColumns(preprocessor.features, preprocessor.nullable)),
            ("preprocess", preprocessor.transformer),
            ("round", Float32()),
            ("estimator", estimator),
        ]
    )
    framework = fitted_estimators.framework(estimator)
    described = {**metadata, "framework": framework, "categories": preprocessor.categories}
    stored = _stored(described, task, label, classes, preprocessor.features)
    with outputs.atomic(path) as partial:
        partial.mkdir()
        weights.dump(pipeline, partial / _WEIGHTS)
        if train_features is not None:
            graph, parity = onnx_export.export(estimator, preprocessor, train_features, classes)
            stored["onnx"] = parity.to_dict()
            if graph is not None:
                (partial / onnx_graph.FILE).write_bytes(graph)
        libraries = [["pandas"], ["pyarrow"], ["scikit-learn"], ["skops"]]
        for name in sorted(
            {fitted_estimators.library(each) for each in fitted_estimators.members(estimator)}
        ):
            libraries += _LIBRARIES.get(name, [])
        _write_requirements(partial, libraries)
        _write_example(partial, preprocessor.example)
        signature = _signature(preprocessor.features, preprocessor.nullable, label, classes)
        _write_mlmodel(partial, stored, signature, _WEIGHTS, _sklearn_flavors())
        if complete:
            complete(partial)
            stored = mlmodel.read(partial)["metadata"]
    return stored


def save_onnx(
    path: str | Path,
    graph: bytes,
    *,
    features: Mapping[str, str],
    example: pl.DataFrame,
    task: str,
    label: str,
    classes: Sequence[Any] | None,
    metadata: Mapping[str, object],
    preprocessor: preprocess.Preprocessor | None = None,
    image_size: "images.Size | None" = None,
) -> mlmodel.Card:
    """Write an ONNX graph as an MLflow model directory, which appears complete or not at all.

    Args:
        path: The directory to create.
        graph: An ONNX file; see `onnx_graph` for its inputs and outputs.
        features: Raw column name to type, as `schema.type_of` names it, in order.
        example: A few raw rows.
        task: "classification" or "regression".
        label: The label column's name.
        classes: Sorted classes of a classifier; None for a regressor.
        metadata: Further metadata, as for `save`; "framework" is the framework that trained it.
        preprocessor: The preprocessor that makes the graph's input "features", a float32 matrix. None for a
            graph with an input for each raw column.
        image_size: The image size of the graph's image columns; None without images.

    Returns:
        The stored metadata.

    Raises:
        ValueError: The graph can't be run, doesn't fit the features, or can't score the example.
    """
    from flowparts.models import onnx_graph, raw_features

    learned: dict[str, Any] = {"types": [list(pair) for pair in features.items()]}
    if image_size:
        learned["image_size"] = asdict(image_size)
    whole = onnx_graph.with_description(
        graph, raw_features.describe(preprocessor) if preprocessor else learned
    )
    raw = casts.conform(example, features).to_dict(as_series=False)
    predicted = len(onnx_graph.Graph(whole, classes).predict(raw)["prediction"])
    if predicted != example.height:
        raise ValueError(f"the ONNX graph gives {predicted} predictions for {example.height} rows")
    stored = _stored({"framework": "onnx", **metadata}, task, label, classes, features)
    missing = [name for name in features if example[name].null_count()]
    nullable = preprocessor.nullable if preprocessor else missing
    with outputs.atomic(path) as partial:
        partial.mkdir()
        (partial / onnx_graph.FILE).write_bytes(whole)
        _write_requirements(partial, [["onnxruntime"], *([["pillow"]] if image_size else [])])
        _write_example(partial, example)
        signature = _signature(features, nullable, label, classes)
        _write_mlmodel(partial, stored, signature, onnx_graph.FILE, _onnx_flavors(onnx_graph.FILE))
    return stored


def load(path: str | Path) -> Model:
    """Load a model directory; only code that is installed and trusted runs.

    Raises:
        ValueError: There is no model at `path`, or its weights are damaged or hold an untrusted type.
    """
    description = mlmodel.read(path)
    stored = description["metadata"]
    known = {name: stored[name] for name in ("task", "label", "features", "classes")}
    # A graph beside scikit-learn weights is an export of them, for servers.
    if "onnx" not in (description.get("flavors") or {}):
        pipeline, types = _load_pipeline(path)
        return PipelineModel(metadata=stored, types=types, pipeline=pipeline, **known)
    import joblib

    from flowparts.models import onnx_graph

    content = onnx_graph.read(Path(path) / onnx_graph.FILE)
    graph = onnx_graph.Graph(content, stored["classes"], joblib.cpu_count())
    return GraphModel(metadata=stored, types=graph.types, graph=graph, **known)


def _load_pipeline(path: str | Path) -> tuple[Any, dict[str, str]]:
    from flowparts.util import weights

    pipeline = weights.load(Path(path) / _WEIGHTS)
    try:
        return pipeline, dict(pipeline.named_steps["columns"].types)
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"the weights at {path} aren't a pipeline saved by flowparts") from None


def metadata(path: str | Path) -> mlmodel.Card:
    """Return a model's metadata without loading its weights.

    Raises:
        ValueError: There is no model at `path`.
    """
    card: mlmodel.Card = mlmodel.read(path)["metadata"]
    return card


def annotate(path: str | Path, facts: Mapping[str, Any]) -> mlmodel.Card:
    """Add facts to the metadata of a model directory; return the metadata.

    Raises:
        ValueError: There is no model at `path`.
    """
    description = mlmodel.read(path)
    card = cast(mlmodel.Card, {**description["metadata"], **facts})
    _dump_mlmodel(Path(path), {**description, "metadata": card})
    return card


def _chunks(table: pl.DataFrame | pl.LazyFrame, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    lazy = tables.select(table.lazy(), columns)
    rows = _CHUNK_IMAGES if tables.has_images(lazy) else _CHUNK_ROWS
    if isinstance(table, pl.DataFrame):
        return tables.select(table, columns).iter_slices(rows)
    return tables.batches(lazy, rows)


def _input_schema(features: Mapping[str, str]) -> dict[str, Any]:
    """Return the schema of tables to score; missing values and fractions are up to the preprocessing."""
    kinds = {name: "number" if kind == "integer" else kind for name, kind in features.items()}
    columns = [Column(name, kind, nullable=True) for name, kind in kinds.items()]
    return Schema(columns, additional_columns=True).to_dict()


def _stored(
    metadata: Mapping[str, object],
    task: str,
    label: str,
    classes: Sequence[Any] | None,
    features: Mapping[str, str],
) -> mlmodel.Card:
    card = {
        **metadata,
        "task": task,
        "label": label,
        "classes": None if classes is None else list(classes),
        "features": list(features),
        "schema": _input_schema(features),
    }
    return cast(mlmodel.Card, card)


def _signature(
    features: Mapping[str, str], nullable: Sequence[str], label_name: str, classes: Sequence[Any] | None
) -> dict[str, str | None]:
    """Return MLflow's model signature; see https://mlflow.org/docs/latest/ml/model/signatures.

    Integers and booleans that may be missing are doubles there, because pandas has NaN only for floats.
    """
    inputs = []
    for name, kind in features.items():
        missing = name in nullable
        mlflow_type = "double" if missing and kind in ("integer", "boolean") else _MLFLOW_TYPES[kind]
        inputs.append({"type": mlflow_type, "name": name, "required": not missing})
    label = (
        "double"
        if classes is None
        else {bool: "boolean", int: "long", float: "double"}.get(type(classes[0]), "string")
    )
    output = [{"type": label, "name": label_name, "required": True}]
    return {"inputs": json.dumps(inputs), "outputs": json.dumps(output), "params": None}


def _write_requirements(directory: Path, libraries: Sequence[Sequence[str]]) -> None:
    from importlib.metadata import PackageNotFoundError, version

    names = [["mlflow", "mlflow-skinny"], ["numpy"], ["polars"], ["polars-hash"], *libraries]
    lines = [f"flowparts=={flowparts.__version__}"]
    for alternatives in names:
        for name in alternatives:
            try:
                lines.append(f"{name}=={version(name)}")
            except PackageNotFoundError:
                continue
            break
    (directory / "requirements.txt").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")
    (directory / "python_env.yaml").write_text(
        f"python: {platform.python_version()}\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\n"
        "dependencies:\n- -r requirements.txt\n",
        encoding="utf-8",
    )


def _write_example(directory: Path, example: pl.DataFrame) -> None:
    # As clients send them: images as base64.
    rows = json.loads(example.with_columns(pl.selectors.binary().bin.encode("base64")).write_json())
    split = {"columns": example.columns, "data": [list(row.values()) for row in rows]}
    (directory / "input_example.json").write_text(json.dumps(split), encoding="utf-8")
    (directory / "serving_input_example.json").write_text(
        json.dumps({"dataframe_split": split}), encoding="utf-8"
    )


def _sklearn_flavors() -> dict[str, Any]:
    from importlib.metadata import version

    from flowparts.util import weights

    return {
        "python_function": {
            "env": {"virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.sklearn",
            "model_path": _WEIGHTS,
            "predict_fn": "predict",
            "python_version": platform.python_version(),
        },
        "sklearn": {
            "code": None,
            "pickled_model": _WEIGHTS,
            "serialization_format": "skops",
            "sklearn_version": version("scikit-learn"),
            "skops_trusted_types": list(weights.TRUSTED_TYPES),
        },
    }


def _onnx_flavors(file: str) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "onnx": {
            "code": None,
            "data": file,
            "onnx_version": version("onnx"),
            "providers": ["CPUExecutionProvider"],
        }
    }


def _write_mlmodel(
    directory: Path,
    stored: Mapping[str, Any],
    signature: Mapping[str, str | None],
    weights_file: str,
    flavors: Mapping[str, Any],
) -> None:
    import hashlib

    with (directory / weights_file).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    description = {
        "flavors": dict(flavors),
        "metadata": dict(stored),
        # A digest instead of a random ID, so that equal trainings give equal files.
        "model_uuid": digest[:32],
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        },
        "signature": dict(signature),
    }
    _dump_mlmodel(directory, description)
    name, text = mlmodel.SETTINGS
    (directory / name).write_text(text, encoding="utf-8")


def _dump_mlmodel(directory: Path, description: Mapping[str, Any]) -> None:
    import yaml

    text = yaml.safe_dump(dict(description), sort_keys=True, allow_unicode=True)
    (directory / "MLmodel").write_text(text, encoding="utf-8")
