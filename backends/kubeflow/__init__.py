"""Compile for Kubeflow Pipelines, submit to it and follow its runs."""
