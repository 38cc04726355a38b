"""The code that runs in every flowparts image: plain typed functions, no authoring API."""

import os

__version__ = "0.1.0"

# Telemetry is off. Libraries read these variables when they are imported: ONNX Runtime, MLflow, and others
# that follow the common DO_NOT_TRACK.
for _name in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
