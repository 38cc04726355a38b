"""Operations of components and commands on a target: deploy with kept options, plan, list, remove."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from flowparts import deploy
from flowparts.deploy import common
from flowparts.deploy.endpoint import Endpoint, Written, publish
from flowparts.deploy.options import InCluster, checked, percent_of
from flowparts.util.errors import MissingError

# Options of a single deployment, or that locate the endpoint; they aren't kept.
_PASSING = ("digest", "namespace", "project", "location", "region", "timeout_seconds", "wait_seconds")

_log = logging.getLogger("flowparts")


class Addressed(Protocol):
    """The part of an input artifact that a deployment needs."""

    uri: str


def deployed(
    name: str,
    model: str,
    endpoint: str,
    traffic_fraction: float,
    given: Mapping[str, Any],
    origin: Mapping[str, str] | None = None,
) -> Endpoint:
    """Deploy a model as a revision of an endpoint, with the endpoint's options updated by the given ones.

    Args:
        name: The target.
        model: The model's directory or URI.
        endpoint: Name of the endpoint.
        traffic_fraction: Fraction of the requests for the revision.
        given: The target's options and `reset`. None stands for an option that isn't given, and so does -1,
            because integer parameters of components can't be None.
        origin: As for `changing`.

    Raises:
        ValueError: An option is wrong, another step is changing the endpoint, or the revision fails to start;
            the previous revision keeps serving.
    """
    percent = percent_of(traffic_fraction)
    named = options(name, {option: value for option, value in given.items() if value not in (None, -1)})
    with changing(name, endpoint, named, origin) as chosen:
        return deploy.target(name).deploy(model, endpoint, percent=percent, **chosen)


def deploy_step(
    target: str,
    *,
    model: Addressed,
    endpoint: Written,
    endpoint_name: str,
    traffic_fraction: float,
    **given: Any,
) -> tuple[str, str, float]:
    """Run the component of a target, which has one parameter for each of the target's options.

    Args:
        target: The target.
        model: The model's artifact.
        endpoint: The output artifact for the endpoint.
        endpoint_name: Name of the endpoint.
        traffic_fraction: Fraction of the requests for the revision.
        given: As for `deployed`.

    Returns:
        The endpoint's URL, its revision and that revision's fraction of the requests.
    """
    return publish(deployed(target, model.uri, endpoint_name, traffic_fraction, given), endpoint)


@contextmanager
def changing(
    name: str, endpoint: str, given: Mapping[str, Any], origin: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Lock an endpoint for changes, and yield the options to deploy with.

    These are the options that it was deployed with, updated by the given ones: a deployment changes only the
    options that it names. With `reset`, they are only the given ones.

    Args:
        name: The target.
        endpoint: Name of the endpoint.
        given: The target's options, as returned by `options`, and `reset`.
        origin: Origin of the model, as "run" and "model-version"; clusters record it with the revision.

    Raises:
        ValueError: The endpoint's name or an option is wrong, or another step is changing the endpoint.
    """
    named = dict(given)
    reset = named.pop("reset", False)
    target = deploy.target(name)
    common.check_name(endpoint)
    # Check the options before asking the platform. Whether max_replicas is large enough may depend on the
    # endpoint's replicas.
    is_whole = reset or "replicas" in named
    target.Options(**{key: named[key] for key in named if is_whole or key != "max_replicas"})
    with common.one_writer(), target.writing(endpoint, **common.accepted_by(target.writing, named)) as before:
        if before and before.target == name and not reset:
            named = {**_options_of(before), **named}
        kept = {"options": {key: named[key] for key in sorted(named) if key not in _PASSING}}
        with common.deploying_with(_with_previous(kept, before.settings) if before else kept, origin):
            yield named


def _options_of(endpoint: Endpoint) -> dict[str, Any]:
    """Return the options that an endpoint was deployed with, by their present names."""
    options = dict(endpoint.settings.get("options", {}))
    # Endpoints that an earlier version deployed call the fraction of logged requests "share".
    if "share" in (log := options.get("prediction_log") or {}):
        options["prediction_log"] = {"fraction" if name == "share" else name: log[name] for name in log}
    return options


def _with_previous(kept: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options to keep with an endpoint, with those for a rollback."""
    if kept["options"] != before.get("options", {}):
        return {**kept, "previous_options": before.get("options", {})}
    # Deployed again with the same options, as by a retried step.
    return {**kept, **{key: before[key] for key in ("previous_options",) if key in before}}


def plan(name: str, endpoint: str, percentages: Sequence[int], given: Mapping[str, Any]) -> common.Plan:
    """Return the percentages that a target would actually give a new revision in each stage.

    Args:
        name: The target.
        endpoint: Name of the endpoint.
        percentages: The requested percentages.
        given: The target's options, as returned by `options`.
    """
    target = deploy.target(name)
    if not isinstance(target, deploy.SupportsPlanning):
        return common.Plan({percent: percent for percent in percentages})
    return target.plan(endpoint, percentages, **given)


class NoEndpointError(MissingError):
    """There is no endpoint with this name."""


def remove(
    name: str,
    endpoint: str,
    given: Mapping[str, Any],
    *,
    even_if_serving: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Remove an endpoint with everything created for it.

    Args:
        name: The target.
        endpoint: Name of the endpoint.
        given: The target's options that locate it, such as namespace or region, and wait_seconds.
        even_if_serving: Remove it even if it serves.
        dry_run: Remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        NoEndpointError: There is no such endpoint.
        ValueError: It serves, or another step is changing it.
    """
    target = deploy.target(name)
    common.check_name(endpoint)
    where = common.accepted_by(target.remove, given)
    with target.writing(endpoint, **common.accepted_by(target.writing, given)) as before:
        held = target.remove(endpoint, **where, dry_run=True)
        if not held:
            raise NoEndpointError(f"there is no endpoint {endpoint!r} on {name}")
        if dry_run:
            return held
        if before and not even_if_serving:
            traffic = ", ".join(f"{revision} {percent} %" for revision, percent in before.traffic.items())
            raise ValueError(
                f"endpoint {endpoint!r} serves ({traffic}); set even_if_serving (--even-if-serving on the "
                f"command line) to remove it anyway, with {', '.join(held)}"
            )
        for thing in held:
            _log.info("removing %s", thing)
        return target.remove(endpoint, **where)


def endpoints(name: str, given: Mapping[str, Any]) -> list[Endpoint]:
    """Return the endpoints of a target.

    Args:
        name: The target.
        given: The target's options that locate them, such as namespace or region.

    Raises:
        ValueError: The platform can't be reached or refuses.
    """
    target = deploy.target(name)
    return target.endpoints(**common.accepted_by(target.endpoints, given))


def manifests(
    name: str, model: str, endpoint: str, traffic_fraction: float, given: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the manifests that a deployment to a cluster would apply, checked by its API server's dry run.

    Args:
        name: The target.
        model: The model's URI.
        endpoint: Name of the endpoint.
        traffic_fraction: Fraction of the requests for the revision.
        given: The target's options, as returned by `options`.

    Raises:
        ValueError: The API server refuses a manifest, or the target isn't a cluster.
    """
    target = deploy.target(name)
    if not issubclass(target.Options, InCluster):
        raise ValueError(f"the target {name} has no manifests; only clusters have")
    with common.without_changes() as found, changing(name, endpoint, given) as chosen:
        target.deploy(model, endpoint, percent=percent_of(traffic_fraction), **chosen)
    return found


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options converted to the target's types, by `flowparts.deploy.options.checked`."""
    return checked(name, deploy.target(name).Options, given)
