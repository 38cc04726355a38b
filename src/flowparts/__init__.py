"""What runs inside every flowparts image: plain typed functions, no authoring API."""

import os

__version__ = "0.1.0"

# Libraries would tell their makers what they run, and ask when they are imported: ONNX Runtime, MLflow, and
# those that go by the common name.
for _name in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
