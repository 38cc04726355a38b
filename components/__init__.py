"""The components: one file each, by stage of a model's life."""

from collections.abc import Callable
from functools import partial
from typing import Any

from kfp import dsl
from kfp.dsl.python_component import PythonComponent

from flowparts import __version__

# compile.py replaces the registry, and the version where a digest is known.
REGISTRY = "flowparts"


def runs_in(image: str) -> Callable[[Callable[..., Any]], PythonComponent]:
    """Make a function a lightweight component that runs in one of the images under containers/.

    kfp is already in the image, so nothing is installed when a step starts.

    Args:
        image: The image's folder name under containers/, such as "base" or "sklearn".
    """
    return partial(
        dsl.component,
        base_image=f"{REGISTRY}/flowparts-{image}:{__version__}",
        install_kfp_package=False,
    )
