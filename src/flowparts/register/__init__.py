"""The registry of models, and the champion's gate."""
