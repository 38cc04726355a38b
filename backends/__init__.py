"""What pipelines run on: Kubeflow, Vertex AI and this machine, with the code that these share."""
