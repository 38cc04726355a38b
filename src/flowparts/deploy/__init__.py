"""Deployment targets: one module each, found by name, with the functions of `Target`.

What only some platforms support are separate protocols: `SupportsPlanning`, `SupportsDiagnosis`,
`SupportsRelease`.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import Options
from flowparts.util.names import unknown

if TYPE_CHECKING:
    from flowparts.deploy.common import Plan

__all__ = [
    "SupportsDiagnosis",
    "SupportsPlanning",
    "SupportsRelease",
    "Target",
    "cluster",
    "common",
    "endpoint",
    "model_pod",
    "operations",
    "options",
    "pod_options",
    "probe",
    "prometheus",
    "rollout",
    "target",
    "target_names",
    "vertex_api",
]


class Target(Protocol):
    """The functions that every target has."""

    Options: type[Options]

    def deploy(self, model: str, name: str, **given: Any) -> Endpoint:
        """Bring a model up as a revision of an endpoint, as `Endpoint.deploying` says.

        The same model with the same options is the same revision, and running it again changes nothing.

        Args:
            model: The model's directory or address.
            name: The endpoint.
            given: `Options` by name.

        Raises:
            ValueError: An option is wrong, or the revision fails to start, with the platform's reason; the
                previous revision keeps serving.
        """

    def shift(self, endpoint: Endpoint, percent: int) -> Endpoint:
        """Route a part of the traffic to the current revision; the previous one gets the rest."""

    def rollback(self, endpoint: Endpoint) -> Endpoint:
        """Route all traffic back to the previous revision and remove the current one."""

    def predict(
        self, endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = ""
    ) -> list[dict[str, Any]]:
        """Send rows as the platform's clients do; return rows of `Model.predict`.

        Args:
            endpoint: The endpoint.
            rows: Raw rows, with JSON values.
            revision: The revision that must answer; by default, the traffic split decides.

        Raises:
            AnotherRevisionError: Clients can't choose the revision, and the platform chose another one; a
                retry may help.
            ValueError: There is no answer.
        """

    def endpoints(self, **where: Any) -> list[Endpoint]:
        """Return all endpoints of a namespace, a region or this machine."""

    def writing(self, name: str, **where: Any) -> AbstractContextManager[Endpoint | None]:
        """Lock an endpoint for changes; yield it with the options that it was deployed with.

        Vertex AI and SageMaker refuse concurrent changes themselves.
        """

    def remove(self, name: str, *, dry_run: bool = False, **where: Any) -> list[str]:
        """Remove an endpoint with everything created for it; with `dry_run`, only return what."""


@runtime_checkable
class SupportsPlanning(Protocol):
    """Targets whose actual traffic split can differ from the requested one."""

    def plan(self, name: str, percentages: Sequence[int], **given: Any) -> "Plan":
        """Return the traffic that a revision would actually get in each stage."""


@runtime_checkable
class SupportsDiagnosis(Protocol):
    """Targets that report the state of servers: all but Vertex AI and SageMaker."""

    def crashes(self, endpoint: Endpoint, revision: str) -> Mapping[str, int]:
        """Return how often each server of a revision has crashed."""

    def diagnose(self, endpoint: Endpoint, revision: str) -> str:
        """Return why a server has crashed or doesn't run: exit code, out of memory, last log line."""


@runtime_checkable
class SupportsRelease(Protocol):
    """Targets that can stop the servers of a revision and start them again: clusters."""

    def release(self, endpoint: Endpoint) -> None:
        """Stop the servers of the previous revision if it gets no requests."""


def target_names() -> list[str]:
    """Return the names of all targets."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent / "targets")])
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def target(name: str) -> Target:
    """Return the target of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in target_names():
        raise ValueError(unknown("deployment target", name, target_names()))
    module: Any = importlib.import_module(f"{__name__}.targets.{name}")
    found: Target = module
    return found
