"""Show and change the endpoints that models are served from."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import yaml

from backends import parameters
from flowparts import deploy
from flowparts.deploy import common, operations
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import percent_of
from flowparts.deploy.rollout import STEPS

_PLACES = {
    "namespace": "of a cluster; by default the kubeconfig's",
    "project": "of Google Cloud; by default the environment's",
    "location": "of Vertex AI; by default the environment's",
    "region": "of SageMaker; by default the environment's",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)
    try:
        options.do(options)
        return 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _list(options: argparse.Namespace) -> None:
    for endpoint in operations.endpoints(options.target, _where(options)):
        print(f"{endpoint.name}  {endpoint.url}  {_shares(endpoint)}")


def _status(options: argparse.Namespace) -> None:
    endpoint = _find(options)
    print(f"{endpoint.name} on {endpoint.target}: {endpoint.url}")
    module: Any = deploy.target(options.target)
    for revision, percent in endpoint.traffic.items():
        role = "current" if revision == endpoint.revision else "previous"
        health = ""
        if hasattr(module, "crashes"):  # not known on clouds
            crashes = sum(module.crashes(endpoint, revision).values())
            health = f"  {crashes} crashes  {module.diagnose(endpoint, revision) or 'no problems'}"
        print(f"  {revision}  {percent} %  {role}{health}")
    for name, value in endpoint.settings.items():
        print(f"  {name}: {value}")


def _deploy(options: argparse.Namespace) -> None:
    given = parameters.read(options.options) if options.options else {}
    given |= _where(options)
    if options.reset:
        given["reset"] = True
    if options.dry_run:
        _show(options, operations.options(options.target, given))
        return
    endpoint = operations.deployed(
        options.target, options.model, options.name, options.traffic_fraction, given
    )
    print(f"{endpoint.name}  {endpoint.url}  {_shares(endpoint)}")


def _show(options: argparse.Namespace, chosen: dict[str, Any]) -> None:
    """Print the manifests, with comments on how a rollout would split the traffic."""
    # First, because it rejects targets without manifests.
    found = operations.manifests(
        options.target, options.model, options.name, options.traffic_fraction, chosen
    )
    first = percent_of(options.traffic_fraction)
    percentages = [first, *(step for step in STEPS if step > first)]
    with common.without_changes(), operations.changing(options.target, options.name, chosen) as kept:
        plan = operations.plan(options.target, options.name, percentages, kept)
    for percent, given in plan.percentages.items():
        print(f"# {percent} % asked for: the new revision gets {given} %")
    if plan.note:
        print(f"# {plan.note}")
    # The copy has no shared objects, for which YAML would write anchors.
    print(yaml.safe_dump_all(json.loads(json.dumps(found)), sort_keys=False), end="")


def _shift(options: argparse.Namespace) -> None:
    print(_shares(deploy.target(options.target).shift(_find(options), percent_of(options.traffic_fraction))))


def _rollback(options: argparse.Namespace) -> None:
    print(_shares(deploy.target(options.target).rollback(_find(options))))


def _remove(options: argparse.Namespace) -> None:
    removed = operations.remove(
        options.target,
        options.name,
        _where(options),
        even_if_serving=options.even_if_serving,
        dry_run=options.dry_run,
    )
    print("\n".join(removed))


def _where(options: argparse.Namespace) -> dict[str, str]:
    """Return the given options that locate an endpoint."""
    return {place: value for place in _PLACES if (value := getattr(options, place))}


def _find(options: argparse.Namespace) -> Endpoint:
    found = operations.endpoints(options.target, _where(options))
    for endpoint in found:
        if endpoint.name == options.name:
            return endpoint
    known = ", ".join(endpoint.name for endpoint in found) or "none"
    raise ValueError(f"there is no endpoint {options.name!r} on {options.target}; there are: {known}")


def _shares(endpoint: Endpoint) -> str:
    return ", ".join(f"{revision} {percent} %" for revision, percent in endpoint.traffic.items())


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="endpoints.py", description=__doc__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def command(do: Any, name: str, words: str, *, named: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(do=do)
        added.add_argument(
            "target", choices=deploy.target_names(), metavar="TARGET", help="such as kubernetes"
        )
        for place, words_of_place in _PLACES.items():
            added.add_argument(f"--{place}", default="", help=words_of_place)
        if named:
            added.add_argument("name", metavar="NAME", help="the endpoint")
        return added

    command(_list, "list", "List the endpoints of a namespace, a region or this machine.", named=False)
    command(_status, "status", "Show an endpoint's revisions, their traffic and their problems.")
    deploying = command(_deploy, "deploy", "Deploy a model from an address or from this machine.")
    deploying.add_argument("model", metavar="MODEL", help="s3://, gs://, pvc://CLAIM/PATH or a directory")
    deploying.add_argument(
        "--traffic-fraction", type=float, default=1.0, help="fraction of the requests, from 0 to 1 (1)"
    )
    deploying.add_argument(
        "--options",
        type=Path,
        metavar="FILE",
        help="YAML file of the target's options, as pipelines take them",
    )
    deploying.add_argument(
        "--dry-run", action="store_true", help="show the manifests and the traffic split, and change nothing"
    )
    deploying.add_argument(
        "--reset", action="store_true", help="don't keep the options of the endpoint's previous deployment"
    )
    shifting = command(_shift, "shift", "Shift a fraction of the requests to an endpoint's current revision.")
    shifting.add_argument("traffic_fraction", type=float, metavar="FRACTION", help="from 0 to 1")
    command(_rollback, "rollback", "Route all requests back to the previous revision.")
    removing = command(_remove, "remove", "Remove an endpoint and all its resources.")
    removing.add_argument("--even-if-serving", action="store_true", help="even if the endpoint still serves")
    removing.add_argument("--dry-run", action="store_true", help="show what would be removed")
    return made


if __name__ == "__main__":
    sys.exit(main())
