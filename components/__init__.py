"""The components, one file each, by stage of the model lifecycle."""

import inspect
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowparts import __version__

from . import _rules

if TYPE_CHECKING:
    from kfp.dsl.python_component import PythonComponent

# compile.py replaces the registry, and the version where a digest is known.
REGISTRY = "flowparts"

# Patterns of the environment variables that steps ask for. A profile's secrets reach no other step.
STORES = (
    *("AWS_*", "FSSPEC_*", "GOOGLE_*", "FLOWPARTS_ALLOWED_*"),
    *("*_PROXY", "*_proxy", "*_CA_BUNDLE", "SSL_CERT_*"),
)
MLFLOW = ("MLFLOW_*", "DATABRICKS_*", *STORES)
DEPLOYMENT = ("FLOWPARTS_*", "DOCKER_*", "KUBECONFIG", *STORES)
PUBLISHING = (
    *("FLOWPARTS_PUSHGATEWAY_*", "OTEL_EXPORTER_OTLP_*", "FLOWPARTS_ALLOWED_*"),
    *("*_PROXY", "*_proxy", "SSL_CERT_*"),
)
NOTIFYING = ("FLOWPARTS_NOTIFY_*", *STORES)
# Patterns that each component asks for, by its name.
SECRETS: dict[str, tuple[str, ...]] = {}

# A released distribution has its images' references beside this file; `make wheel` writes them.
_REFERENCES = Path(__file__).with_name("images.json")


def runs_in(
    image: str,
    *,
    cpu: str = "1",
    memory: str = "2Gi",
    cpu_request: str = "100m",
    memory_request: str = "512Mi",
    secrets: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], "PythonComponent"]:
    """Make a function a lightweight component that runs in one of the images under containers/.

    kfp is already in the image, so nothing is installed when a step starts. Inside a running step, where kfp
    has no authoring API, the function is returned unchanged.

    Args:
        image: The image's folder name under containers/, such as "base" or "sklearn".
        cpu: CPU limit of a step; Vertex AI picks the machine by it. A pipeline overrides it with
            `task.set_cpu_limit`, a profile with `resources`.
        memory: Memory limit of a step; a pipeline overrides it with `task.set_memory_limit`.
        cpu_request: CPU request of a step, which a node must have free to start it; Kubernetes only.
        memory_request: Memory request: what the step needs for sample data, not for large data.
        secrets: Patterns of the environment variables that the step gets from the secrets of a profile, such
            as `STORES`; it gets no others.

    Raises:
        ValueError: There is no such image, or a file of this library breaks a rule for components.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if os.environ.get("_KFP_RUNTIME") == "true":
            return function
        from kfp import dsl
        from kfp.dsl import structures

        _rules.check_image(image, _released())
        _rules.check_file(function)
        component: PythonComponent = dsl.component(
            function,
            base_image=_reference(f"flowparts-{image}"),
            install_kfp_package=False,
        )
        container = component.component_spec.implementation.container
        assert container
        container.resources = structures.ResourceSpec(
            cpu_request=cpu_request,
            cpu_limit=cpu,
            memory_request=memory_request,
            memory_limit=memory,
        )
        SECRETS[function.__name__] = secrets
        _rules.check_described(function, _describe_ports(component, inspect.getdoc(function) or ""))
        return component

    return decorate


@cache
def _released() -> dict[str, str]:
    return json.loads(_REFERENCES.read_text(encoding="utf-8")) if _REFERENCES.exists() else {}


def _reference(name: str) -> str:
    return _released().get(name, f"{REGISTRY}/{name}:{__version__}")


def _describe_ports(component: "PythonComponent", docstring: str) -> dict[str, Any]:
    """Put each port's description on one line and return the ports; kfp omits those of output artifacts."""
    import docstring_parser

    parsed = docstring_parser.parse(docstring, docstring_parser.DocstringStyle.GOOGLE)
    described = {param.arg_name: param.description for param in parsed.params}
    if parsed.returns:
        described["Output"] = parsed.returns.description
    spec = component.component_spec
    ports: dict[str, Any] = {**(spec.inputs or {}), **(spec.outputs or {})}
    for name, port in ports.items():
        port.description = " ".join((port.description or described.get(name) or "").split())
    return ports
