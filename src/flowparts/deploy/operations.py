"""What components and commands do with a target: deploy with kept options, plan, list, remove."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from flowparts import deploy
from flowparts.deploy import common
from flowparts.deploy.endpoint import Endpoint, Written, publish
from flowparts.deploy.options import InCluster, checked, percent_of
from flowparts.util.errors import MissingError

# What is about one deployment and not about the endpoint, or says where the endpoint is.
_PASSING = ("digest", "namespace", "project", "location", "region", "timeout_seconds", "wait_seconds")

_log = logging.getLogger("flowparts")


class Addressed(Protocol):
    """An artifact of a step, as far as a deployment needs it."""

    uri: str


def deployed(
    name: str,
    model: str,
    endpoint: str,
    traffic_fraction: float,
    given: Mapping[str, Any],
    origin: Mapping[str, str] | None = None,
) -> Endpoint:
    """Deploy a model as a revision of an endpoint, with the options that it has and those that are given.

    Args:
        name: The target.
        model: The model's directory or address.
        endpoint: Name of the endpoint.
        traffic_fraction: Fraction of the requests that the revision gets.
        given: The target's own options and `reset`. None stands for one that isn't named, and so does -1,
            since whole numbers of components can't be None.
        origin: As for `changing`.

    Raises:
        ValueError: An option is wrong, another step changes the endpoint, or the revision doesn't come up;
            what served before still does.
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
    """Do what the component of a target does, whose further ports are the target's options.

    Args:
        target: The target.
        model: The model's artifact.
        endpoint: The endpoint's artifact, which is written.
        endpoint_name: Name of the endpoint.
        traffic_fraction: Fraction of the requests that the revision gets.
        given: As for `deployed`.

    Returns:
        The endpoint's address, its revision and the fraction of the requests that it gets.
    """
    return publish(deployed(target, model.uri, endpoint_name, traffic_fraction, given), endpoint)


@contextmanager
def changing(
    name: str, endpoint: str, given: Mapping[str, Any], origin: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Be the only step that changes an endpoint, and give the options that it is deployed with.

    These are the ones that it has been deployed with, and those that are given: a deployment changes only
    what it names. With the option `reset` it has only those that are given.

    Args:
        name: The target.
        endpoint: Name of the endpoint.
        given: The target's options, as `options` returns them, and `reset`.
        origin: Where what is deployed comes from, as "run" and "model-version"; clusters note it beside the
            revision.

    Raises:
        ValueError: The endpoint's name or an option is wrong, or another step changes the endpoint.
    """
    named = dict(given)
    reset = named.pop("reset", False)
    target = deploy.target(name)
    common.check_name(endpoint)
    # What is wrong by itself is refused before the platform is asked. Whether max_replicas is large enough
    # may depend on the replicas that the endpoint has.
    is_whole = reset or "replicas" in named
    target.Options(**{key: named[key] for key in named if is_whole or key != "max_replicas"})
    with common.one_writer(), target.writing(endpoint, **common.taken_by(target.writing, named)) as before:
        if before and before.target == name and not reset:
            named = {**_options_of(before), **named}
        kept = {"options": {key: named[key] for key in sorted(named) if key not in _PASSING}}
        with common.deploying_with(_with_previous(kept, before.settings) if before else kept, origin):
            yield named


def _options_of(endpoint: Endpoint) -> dict[str, Any]:
    """Return the options that an endpoint was deployed with, by their present names."""
    options = dict(endpoint.settings.get("options", {}))
    # Endpoints that an earlier version deployed call the fraction of logged requests share.
    if "share" in (log := options.get("prediction_log") or {}):
        options["prediction_log"] = {"fraction" if name == "share" else name: log[name] for name in log}
    return options


def _with_previous(kept: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an endpoint keeps of its options, with those that a rollback brings back."""
    if kept["options"] != before.get("options", {}):
        return {**kept, "previous_options": before.get("options", {})}
    # Deployed again with the same options, as by a step that is tried again.
    return {**kept, **{key: before[key] for key in ("previous_options",) if key in before}}


def plan(name: str, endpoint: str, shares: Sequence[int], given: Mapping[str, Any]) -> common.Plan:
    """Return the shares that a target would really give a new revision one after the other.

    Args:
        name: The target.
        endpoint: Name of the endpoint.
        shares: What is asked for.
        given: The target's options, as `options` returns them.
    """
    target = deploy.target(name)
    if not isinstance(target, deploy.Planning):
        return common.Plan({share: share for share in shares})
    return target.plan(endpoint, shares, **given)


class NoEndpointError(MissingError):
    """There is no endpoint of this name."""


def remove(
    name: str,
    endpoint: str,
    given: Mapping[str, Any],
    *,
    even_if_serving: bool = False,
    pretend: bool = False,
) -> list[str]:
    """Remove an endpoint with all that was made for it.

    Args:
        name: The target.
        endpoint: Name of the endpoint.
        given: The target's options that say where it is, such as namespace or region, and wait_seconds.
        even_if_serving: Remove it although it serves.
        pretend: Remove nothing.

    Returns:
        What is removed, or would be.

    Raises:
        NoEndpointError: There is no such endpoint.
        ValueError: It serves, or another step changes it.
    """
    target = deploy.target(name)
    common.check_name(endpoint)
    where = common.taken_by(target.remove, given)
    with target.writing(endpoint, **common.taken_by(target.writing, given)) as before:
        held = target.remove(endpoint, **where, pretend=True)
        if not held:
            raise NoEndpointError(f"there is no endpoint {endpoint!r} on {name}")
        if pretend:
            return held
        if before and not even_if_serving:
            shares = ", ".join(f"{revision} {share} %" for revision, share in before.traffic.items())
            raise ValueError(
                f"endpoint {endpoint!r} serves ({shares}); say even_if_serving (--even-if-serving on the "
                f"command line) to remove it anyway, with {', '.join(held)}"
            )
        for thing in held:
            _log.info("removing %s", thing)
        return target.remove(endpoint, **where)


def endpoints(name: str, given: Mapping[str, Any]) -> list[Endpoint]:
    """Return the endpoints of a target.

    Args:
        name: The target.
        given: The target's options that say where they are, such as namespace or region.

    Raises:
        ValueError: The target can't be asked.
    """
    target = deploy.target(name)
    return target.endpoints(**common.taken_by(target.endpoints, given))


def manifests(
    name: str, model: str, endpoint: str, traffic_fraction: float, given: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what deploying to a cluster would apply, which its API server has checked; nothing is changed.

    Args:
        name: The target.
        model: The model's address.
        endpoint: Name of the endpoint.
        traffic_fraction: Fraction of the requests that the revision would get.
        given: The target's options, as `options` returns them.

    Raises:
        ValueError: The API server refuses a manifest, or the target is no cluster.
    """
    target = deploy.target(name)
    if not issubclass(target.Options, InCluster):
        raise ValueError(f"the target {name} has no manifests; only clusters have")
    with common.without_changes() as found, changing(name, endpoint, given) as chosen:
        target.deploy(model, endpoint, percent=percent_of(traffic_fraction), **chosen)
    return found


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a target with the types that it takes, as `flowparts.deploy.options.checked` does."""
    return checked(name, deploy.target(name).Options, given)
