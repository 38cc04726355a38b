"""Run compiled pipelines on this machine as a real Kubeflow Pipelines backend does."""
