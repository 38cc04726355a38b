"""Deployment targets: a module for each, found by its name, all with the functions of `Target`.

What only some platforms can do is a protocol of its own: `Planning`, `Telling`, `Releasing`.
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


class Target(Protocol):
    """What every module of this package offers."""

    Options: type[Options]

    def deploy(self, model: str, name: str, **given: Any) -> Endpoint:
        """Bring a model up as a revision of an endpoint, as `Endpoint.deploying` says.

        The same model with the same options is the same revision, and running it again changes nothing.

        Args:
            model: The model's directory or address.
            name: The endpoint.
            given: `Options` by name.

        Raises:
            ValueError: An option is wrong, or the revision doesn't come up, with the platform's own reason;
                what served before still does.
        """

    def shift(self, endpoint: Endpoint, percent: int) -> Endpoint:
        """Give the current revision a share of the traffic; the previous one keeps the rest."""

    def rollback(self, endpoint: Endpoint) -> Endpoint:
        """Give all traffic back to the previous revision and remove the current one."""

    def predict(
        self, endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = ""
    ) -> list[dict[str, Any]]:
        """Send rows the way the platform's clients do; return rows of `Model.predict`.

        Args:
            endpoint: The endpoint.
            rows: Raw rows, with values that JSON has.
            revision: The only one that may answer; if not given, whichever the traffic picks.

        Raises:
            AnotherRevisionError: Clients can't choose the revision, and the platform chose another one; then
                asking again may help.
            ValueError: There is no answer.
        """

    def endpoints(self, **where: Any) -> list[Endpoint]:
        """Return all endpoints of a namespace, a region or this machine."""

    def writing(self, name: str, **where: Any) -> AbstractContextManager[Endpoint | None]:
        """Be the only step that changes an endpoint; give it as it is, with the options it was deployed with.

        Vertex AI and SageMaker themselves refuse a second change.
        """

    def remove(self, name: str, *, pretend: bool = False, **where: Any) -> list[str]:
        """Remove an endpoint with all that was made for it, or only pretend to; return what."""


@runtime_checkable
class Planning(Protocol):
    """Targets whose shares can differ from what is asked for."""

    def plan(self, name: str, shares: Sequence[int], **given: Any) -> "Plan":
        """Say what shares a rollout would really give."""


@runtime_checkable
class Telling(Protocol):
    """Targets that tell how servers fare: all but Vertex AI and SageMaker."""

    def crashes(self, endpoint: Endpoint, revision: str) -> Mapping[str, int]:
        """Return of each server of a revision how often it has ended by itself."""

    def trouble(self, endpoint: Endpoint, revision: str) -> str:
        """Return why a server has ended or doesn't run: exit code, lack of memory, last line of its log."""


@runtime_checkable
class Releasing(Protocol):
    """Targets that can take the servers from a revision and bring them back: clusters."""

    def release(self, endpoint: Endpoint) -> None:
        """Take the servers from a previous revision, if it has no requests."""


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
