"""The model registry, and the decision about a new champion."""
