"""What runs inside every flowparts image: plain typed functions, no authoring API."""

__version__ = "0.1.0"
