"""Compile pipelines with settings for a backend, for compile.py and submit.py."""

from pathlib import Path
from typing import Any

from kfp.dsl.base_component import BaseComponent

from backends import package, profiles, submission
from backends.kubeflow import overlay
from backends.vertex import document

BACKENDS: dict[str, Any] = {"kubeflow": overlay, "vertex": document}
SETTINGS: dict[str, Any] = {"kubeflow": profiles.Kubeflow, "vertex": profiles.Vertex}


def component_text(part: BaseComponent, chosen: Any, embed_source: bool) -> str:
    """Return the compiled YAML of a component or pipeline, with the images of the settings.

    Raises:
        ValueError: The settings don't have the images.
    """
    version = images_version(chosen)
    references = package.image_references(chosen.registry, version, _digests(chosen))
    return package.compiled(part, references, None if embed_source else version)


def pipeline_text(part: BaseComponent, backend: str, chosen: Any, embed_source: bool) -> str:
    """Return the compiled YAML of a pipeline with the settings of its steps.

    Raises:
        ValueError: A setting doesn't fit the pipeline.
    """
    text = component_text(part, chosen, embed_source)
    return str(BACKENDS[backend].with_settings(text, chosen))


def checked(text: str, backend: str, chosen: Any) -> submission.Package:
    """Return a compiled pipeline, of this repository or another, as a package to send.

    Raises:
        ValueError: The backend would refuse it.
    """
    BACKENDS[backend].check(text)
    if backend == "kubeflow" and chosen.node:
        overlay.check_fits(text, chosen.node)
    return submission.Package(
        text if chosen.caching else submission.without_caching(text), images_version(chosen)
    )


def images_version(chosen: Any) -> str:
    """Return the tag of the images of the settings."""
    return package.images_version(chosen.version, _digests(chosen))


def _digests(chosen: Any) -> Path | None:
    return Path(chosen.digests) if chosen.digests else None
