"""Predictions to where people want them."""
