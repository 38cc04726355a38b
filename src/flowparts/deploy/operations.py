"""What components and commands do with a target: deploy with kept options, plan, list, remove."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flowparts import deploy
from flowparts.deploy import common
from flowparts.deploy.endpoint import Endpoint
from flowparts.util.errors import MissingError
from flowparts.util.names import unknown

# What is about one deployment and not about the endpoint, or says where the endpoint is.
_PASSING = ("digest", "namespace", "project", "location", "region", "timeout_seconds", "wait_seconds")

_log = logging.getLogger("flowparts")


def deployed(
    name: str,
    model: str,
    endpoint: str,
    share: int,
    given: Mapping[str, Any],
    origin: Mapping[str, str] | None = None,
) -> Endpoint:
    """Deploy a model as a revision of an endpoint, with the options that it has and those that are given.

    Args:
        name: The target.
        model: The model's directory or address.
        endpoint: Name of the endpoint.
        share: Percent of the requests that the revision gets.
        given: The target's own options and `reset`. None stands for one that isn't named, and so does -1,
            since whole numbers of components can't be None.
        origin: As for `changing`.

    Raises:
        ValueError: An option is wrong, another step changes the endpoint, or the revision doesn't come up;
            what served before still does.
    """
    named = options(name, {option: value for option, value in given.items() if value not in (None, -1)})
    with changing(name, endpoint, named, origin) as chosen:
        return deploy.target(name).deploy(model, endpoint, share=share, **chosen)


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
        ValueError: Another step changes the endpoint.
    """
    named = dict(given)
    reset = named.pop("reset", False)
    module: Any = deploy.target(name)
    with common.one_writer(), module.writing(endpoint, **common.taken_by(module.writing, named)) as before:
        if before and before.target == name and not reset:
            named = {**before.settings.get("options", {}), **named}
        kept = {"options": {key: named[key] for key in sorted(named) if key not in _PASSING}}
        with common.deploying_with(_with_previous(kept, before.settings) if before else kept, origin):
            yield named


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
    asked = getattr(deploy.target(name), "plan", None)
    if asked is None:
        return common.Plan({share: share for share in shares})
    found: common.Plan = asked(endpoint, shares, **given)
    return found


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
    module: Any = deploy.target(name)
    common.check_name(endpoint)
    where = common.taken_by(module.remove, given)
    with module.writing(endpoint, **common.taken_by(module.writing, given)) as before:
        held: list[str] = module.remove(endpoint, **where, pretend=True)
        if not held:
            raise NoEndpointError(f"there is no endpoint {endpoint!r} on {name}")
        if pretend:
            return held
        if before and not even_if_serving:
            shares = ", ".join(f"{revision} {share} %" for revision, share in before.traffic.items())
            raise ValueError(
                f"endpoint {endpoint!r} serves ({shares}); say even_if_serving to remove it all the same, "
                f"with {', '.join(held)}"
            )
        for thing in held:
            _log.info("removing %s", thing)
        removed: list[str] = module.remove(endpoint, **where)
        return removed


def endpoints(name: str, given: Mapping[str, Any]) -> list[Endpoint]:
    """Return the endpoints of a target.

    Args:
        name: The target.
        given: The target's options that say where they are, such as namespace or region.

    Raises:
        ValueError: The target can't be asked.
    """
    module: Any = deploy.target(name)
    found: list[Endpoint] = module.endpoints(**common.taken_by(module.endpoints, given))
    return found


def manifests(
    name: str, model: str, endpoint: str, share: int, given: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what deploying to a cluster would apply, which its API server has checked; nothing is changed.

    Args:
        name: The target.
        model: The model's address.
        endpoint: Name of the endpoint.
        share: Percent of the requests that the revision would get.
        given: The target's options, as `options` returns them.

    Raises:
        ValueError: The API server refuses a manifest, or the target is no cluster.
    """
    module: Any = deploy.target(name)
    if not hasattr(module, "Cluster"):
        raise ValueError(f"the target {name} has no manifests; only clusters have")
    with common.without_changes() as found, changing(name, endpoint, given) as chosen:
        module.deploy(model, endpoint, share=share, **chosen)
    return found


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for a target's `deploy` with the types that it takes.

    Whole numbers arrive as floats from a pipeline. Every target has the option `reset`: see `changing`.

    Raises:
        ValueError: The target doesn't know an option or needs one that isn't given, or a value is of another
            type.
    """
    module: Any = deploy.target(name)
    parameters = inspect.signature(module.deploy).parameters.values()
    ports = {port.name: port.annotation for port in parameters if port.kind is port.KEYWORD_ONLY}
    required = [port.name for port in parameters if port.name in ports and port.default is port.empty]
    checked: dict[str, Any] = {}
    for option in required:
        if option not in given:
            raise ValueError(f"the target {name} needs the option {option!r}; give it among the options")
    for option, value in given.items():
        if option == "share":
            raise ValueError("'share' is no option of a target; give it to the step itself")
        if option == "reset" and isinstance(value, bool):
            checked[option] = value
            continue
        if option not in ports:
            raise ValueError(unknown(f"option of the target {name}", option, sorted(set(ports) - {"share"})))
        wanted = ports[option]
        if wanted is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        elif wanted is float and type(value) is int:
            value = float(value)
        plain = wanted if isinstance(wanted, type) else getattr(wanted, "__origin__", object)
        if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
            raise ValueError(
                f"option {option!r} of the target {name} must be {plain.__name__}, not {value!r}"
            )
        checked[option] = value
    return checked
