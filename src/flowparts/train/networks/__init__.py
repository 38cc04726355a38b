"""Neural networks with Keras, for tables and images; `import tensorflow` only inside functions."""

import logging
import os

__all__ = ["checkpoints", "image_model", "tabular_model", "training"]

# Suppresses TensorFlow's messages about processors and missing accelerators; it is read on import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
for _name in ("tensorflow", "tf2onnx"):
    logging.getLogger(_name).setLevel(logging.WARNING)
