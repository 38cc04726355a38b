"""A model that is ready to answer: loaded, and warmed up with its input example."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowparts.models import engines, mlmodel
from flowparts.serving import limits
from flowparts.serving.batching import Columns, Row
from flowparts.serving.refusals import RequestError
from flowparts.serving.server_settings import Settings
from flowparts.serving.signature import Signature
from flowparts.util import images, trees

# Decoded and scored in one go.
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class ServedModel:
    """A model with the facts that the protocols need.

    Attributes:
        name: Its name in URLs.
        version: Identifies its training.
        digest: Identifies its files.
        engine: The engine that scores.
        signature: Its inputs and outputs.
        example: Rows of its input example, in JSON form.
    """

    name: str
    version: str
    digest: str
    engine: engines.Engine
    signature: Signature
    example: list[dict[str, Any]]

    @property
    def facts(self) -> dict[str, str]:
        """Labels that identify it: name, version, engine."""
        return {"name": self.name, "version": self.version, "engine": self.engine.name}

    def predict(self, rows: Sequence[Row], pause: Callable[[], None] = lambda: None) -> Columns:
        """Score rows with values in the order of the features.

        Args:
            rows: The rows; at least one.
            pause: Called before and between parts of rows with images, which may take long.

        Raises:
            ValueError: A value isn't of its column's type.
        """
        if not self.signature.images:
            return self._predict(rows)
        pause()
        for position, name in enumerate(self.signature.features):
            if name in self.signature.images:
                images.require_affordable([images.from_text(text) for row in rows if (text := row[position])])
        found: Columns = {}
        for start in range(0, len(rows), _IMAGES_AT_ONCE):
            if start:
                pause()
            for name, values in self._predict(rows[start : start + _IMAGES_AT_ONCE]).items():
                found.setdefault(name, []).extend(values)
        return found

    def _predict(self, rows: Sequence[Row]) -> Columns:
        columns = dict(zip(self.signature.features, zip(*rows, strict=True), strict=True))
        return {name: values.tolist() for name, values in self.engine.predict_columns(columns).items()}


def load(directory: Path, settings: Settings) -> ServedModel:
    """Load a model and warm it up with its input example.

    Raises:
        ValueError: There is no model, it is damaged, or it can't score its own example.
    """
    try:
        with limits.memory(limits.memory_bytes()):
            return _load(directory, settings)
    except MemoryError:
        raise ValueError(
            f"the model at {directory} takes more memory than the server has; give it more"
        ) from None
    # MLmodel is a file that anyone may have edited.
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"the metadata of the model at {directory} is damaged ({type(error).__name__}: {error}); "
            "save the model again"
        ) from error


def _load(directory: Path, settings: Settings) -> ServedModel:
    # Files that a repository's controller has added don't make another model.
    own = dict([mlmodel.SETTINGS]) if settings.repository else {}
    digest = trees.require_digest(directory, settings.digest, directory, own)
    engine = engines.load(directory)
    described = mlmodel.read(directory)
    known = described["metadata"].get("categories") if settings.unknown_categories == "reject" else None
    signature = Signature(
        features=engine.features,
        optional=[column["name"] for column in mlmodel.inputs(described) if not column["required"]],
        classes=engine.classes,
        unknown_fields=settings.unknown_fields,
        categories=known,
    )
    example = _example(directory)
    served = ServedModel(settings.name, mlmodel.version(described), digest, engine, signature, example)
    try:
        # As clients send it, so that the JSON types are checked too.
        rows = signature.rows_of_json(json.dumps({"instances": example}).encode(), len(example))
        predicted = served.predict(rows)
    except (RequestError, ValueError) as error:
        raise ValueError(f"the model at {directory} can't score its own input example: {error}") from None
    if sorted(predicted) != sorted(signature.outputs) or len(predicted["prediction"]) != len(rows):
        raise ValueError(
            f"the model at {directory} predicts {', '.join(predicted)} for its input example, "
            f"but its metadata promises {', '.join(signature.outputs)}"
        )
    return served


def _example(directory: Path) -> list[dict[str, Any]]:
    from flowparts.util import outputs

    content = outputs.read_json(directory / "input_example.json", "the model's input example")
    try:
        return [dict(zip(content["columns"], values, strict=True)) for values in content["data"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"the input example at {directory} is damaged; train the model again") from None
