"""Compile for Vertex AI Pipelines, submit to it and follow its runs."""
