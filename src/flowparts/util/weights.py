"""Store fitted estimators as skops files, which hold no code: loading builds only the types listed here.

A type that is neither trusted by skops itself nor listed below is refused, both on writing and on reading.
skops (https://skops.readthedocs.io) checks types, not numbers: a tampered file can hold wrong weights or
crash the process, but it can't run code.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from flowparts.util import errors, weights_audit

# The parts of fitted estimators, besides scikit-learn's public estimators, which skops already trusts. They
# hold numbers, settings and other parts, which are checked against this list as well; so the few that call
# something (scorers, a defaultdict) can only call trusted types.
TRUSTED_TYPES = (
    "collections.OrderedDict",
    "collections.defaultdict",
    "flowparts.models.adjusted.CalibratedProbabilities",
    "flowparts.models.adjusted.DecisionThreshold",
    "flowparts.prepare.text_features.TextFeatures",
    "flowparts.prepare.transformers.EncodedLabels",
    "flowparts.prepare.transformers.Float32",
    "flowparts.prepare.transformers.RawColumns",
    "flowparts.prepare.transformers.TimestampFeatures",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "numpy.dtype",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.metrics._classification.balanced_accuracy_score",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._scorer._CurveScorer",
    "sklearn.metrics._scorer._Scorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils._metadata_requests.MetadataRequest",
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRFClassifier",
    "xgboost.sklearn.XGBRFRegressor",
    "xgboost.sklearn.XGBRegressor",
)

# The earliest time that a zip file can hold, so that equal estimators give equal bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def dump(fitted: Any, path: str | Path) -> None:
    """Write a fitted estimator or transformer to a skops file; equal content gives equal bytes.

    Raises:
        ValueError: It holds an object that skops can't store, or of a type that isn't trusted.
    """
    from skops.io import dumps, get_untrusted_types
    from skops.io.exceptions import UnsupportedTypeException

    name = type(fitted).__name__
    try:
        data = dumps(fitted)
        unknown = sorted(set(get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
    except (UnsupportedTypeException, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"a fitted {name} can't be stored without a pickle: {error}") from None
    if unknown:
        raise ValueError(
            f"a fitted {name} holds objects of untrusted types: {', '.join(unknown)}; "
            "choose other parameters or another estimator"
        )
    Path(path).write_bytes(_canonical(data))
    try:
        weights_audit.check(path, TRUSTED_TYPES)
    except ValueError as error:
        Path(path).unlink()
        raise ValueError(
            f"a fitted {name} can't be stored: {error}; choose other parameters or another estimator"
        ) from None


def load(path: str | Path) -> Any:
    """Read a skops file.

    Raises:
        ValueError: The file is missing or damaged, or holds a type outside `TRUSTED_TYPES`.
    """
    from skops.io import load as load_skops
    from skops.io.exceptions import UntrustedTypesFoundException

    if not Path(path).is_file():
        raise ValueError(f"the weights are missing: there is no file at {path}")
    try:
        weights_audit.check(path, TRUSTED_TYPES)
    except weights_audit.UntrustedError as error:
        raise ValueError(f"refused to load {path}: it holds untrusted objects: {error}") from None
    # A damaged file can raise any error, and all mean the same to the user.
    except Exception as error:
        raise ValueError(f"{path} is not a valid skops file: {error}") from None
    try:
        return load_skops(path, trusted=list(TRUSTED_TYPES))
    except UntrustedTypesFoundException as error:
        raise ValueError(
            f"refused to load {path}: it holds untrusted objects: {errors.first_line(error)}"
        ) from None
    # A damaged or hostile file can raise any error, and all mean the same to the user.
    except Exception as error:
        raise ValueError(f"{path} is not a valid skops file: {error}") from error


def _canonical(data: bytes) -> bytes:
    """Normalize what differs between dumps of one object: memory addresses, random file names, the time."""
    ids: dict[int, int] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        names: dict[str, str] = {}

        def rename(node: dict[str, Any]) -> dict[str, Any]:
            if "__id__" in node:
                node["__id__"] = ids.setdefault(node["__id__"], len(ids))
            file = node.get("file")
            if isinstance(file, str) and file in members:
                node["file"] = names.setdefault(file, f"{len(names)}{Path(file).suffix}")
            return node

        members = set(source.namelist()) - {"schema.json"}
        schema = json.loads(source.read("schema.json"), object_hook=rename)
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:

            def add(name: str, content: str | bytes) -> None:
                member = zipfile.ZipInfo(name, _NO_TIME)
                archive.writestr(member, content, zipfile.ZIP_DEFLATED, compresslevel=1)

            add("schema.json", json.dumps(schema))
            for old, new in names.items():
                add(new, source.read(old))
    return target.getvalue()
