"""Deployment targets: a module for each, found by its name, all with the same functions.

- `deploy(model, name, *, share, replicas, cpu, memory, image, timeout_seconds, ...) -> Endpoint` brings a
  model up as a revision of an endpoint, as `Endpoint.deploying` says. The same model is the same revision,
  and running it again changes nothing. On failure it raises a sentence with the platform's own reason and
  leaves the previous revision serving.
- `shift(endpoint, percent) -> Endpoint` gives the current revision a share; the previous one keeps the rest.
- `rollback(endpoint) -> Endpoint` gives all traffic back to the previous revision and removes the current.
- `predict(endpoint, rows, revision="") -> list[dict]` sends rows the way the platform's clients do. An answer
  is a row of `Model.predict`. With a revision only that one may answer, else whichever the traffic picks.
  Raises ValueError when there is no answer, and AnotherRevisionError where clients can't choose the revision
  and the platform chose another one; then asking again may help.
- `crashes(endpoint, revision) -> dict[str, int]` says of each server of a revision how often it has ended by
  itself, and `trouble(endpoint, revision) -> str` why one has ended or doesn't run: exit code, lack of
  memory, the last line of its log; "" if nothing is wrong. Only where the platform tells: Vertex AI and
  SageMaker don't.
- `plan(name, shares, **options) -> Plan` says what shares a rollout would really give. Only where they
  can differ from what is asked for.
- `endpoints(...) -> list[Endpoint]` returns all endpoints of a namespace, a region or this machine.
- `writing(name, ...)` is a context in which no other step changes an endpoint; it gives the endpoint as it
  is, with the options that it was deployed with. Vertex AI and SageMaker themselves refuse a second change.
- `remove(name, *, pretend, ...) -> list[str]` removes an endpoint with all that was made for it, and returns
  what; with `pretend` it only says so.
- `release(endpoint)` takes the servers from a previous revision, if it has no requests; a rollback brings
  them back. Only on clusters; elsewhere they stay until another model is deployed.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Any, Protocol

from flowparts.deploy.endpoint import Endpoint
from flowparts.util.names import unknown


class Target(Protocol):
    """What every module of this package offers."""

    def deploy(self, model: str, name: str, **options: Any) -> Endpoint:
        """Bring a model up as a revision of an endpoint."""

    def shift(self, endpoint: Endpoint, percent: int) -> Endpoint:
        """Give the current revision a share of the traffic."""

    def rollback(self, endpoint: Endpoint) -> Endpoint:
        """Give all traffic back to the previous revision and remove the current one."""

    def predict(
        self, endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = ""
    ) -> list[dict[str, Any]]:
        """Send rows the way the platform's clients do."""


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
