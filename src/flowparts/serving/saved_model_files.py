"""A model's SavedModel in the layout of TensorFlow Serving: BASE/NAME/VERSION/saved_model.pb.

`python -m flowparts.serving.saved_model_files MODEL DIRECTORY [DIGEST]` does it in a pod, before the server
starts.
"""

import sys
import tempfile
from pathlib import Path

from flowparts.models import mlmodel, saved_model_audit
from flowparts.serving import model_files
from flowparts.util import outputs, trees

# Its place in a model directory.
FOLDER = "saved_model"


def require(directory: Path) -> Path:
    """Return the folder of the SavedModel in a model directory.

    Raises:
        ValueError: There is no model, or it has no SavedModel or an unsafe one.
    """
    described = mlmodel.read(directory)
    if not (directory / FOLDER / saved_model_audit.FILE).is_file():
        framework = described.get("metadata", {}).get("framework", "unknown")
        raise ValueError(
            f"the model at {directory} has no SavedModel, which is all that TensorFlow Serving takes (its "
            f"framework is {framework}); train with train_keras_tabular or train_keras_images, or deploy it "
            "to another target, such as kubernetes"
        )
    saved_model_audit.check(directory / FOLDER)
    return directory / FOLDER


def lay_out(model: str, directory: Path, digest: str = "") -> None:
    """Copy a model's SavedModel to a directory, which appears complete or not at all.

    Args:
        model: The model directory: a path, s3:// or gs://.
        directory: The directory of a version, such as /models/churn/1.
        digest: The digest that the model's files must have; empty for any.

    Raises:
        ValueError: There is no model, it has no SavedModel, it can't be read, or its files have another
            digest.
    """
    with tempfile.TemporaryDirectory() as scratch, outputs.atomic(directory) as partial:
        try:
            fetched = model_files.fetch(model, Path(scratch))
            trees.require_digest(fetched, digest, model)
            found = require(fetched)
        except ValueError as error:
            raise ValueError(str(error).replace(scratch, model)) from None
        trees.copy(found, partial)


if __name__ == "__main__":
    try:
        lay_out(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except ValueError as error:
        sys.exit(str(error))
