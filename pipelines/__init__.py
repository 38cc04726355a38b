"""The pipelines, one file each, made of the components."""
