"""What runs inside every flowparts image: plain typed functions, no authoring API."""

import os

__version__ = "0.1.0"

# ONNX Runtime asks when it is imported, and would tell its maker what it runs.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
