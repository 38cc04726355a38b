"""Neural networks with Keras, from tables and from images; `import tensorflow` stands inside functions."""

import logging
import os

# TensorFlow's remarks about processors and absent accelerators would fill every step's log; it reads this
# when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
for _name in ("tensorflow", "tf2onnx"):
    logging.getLogger(_name).setLevel(logging.WARNING)
