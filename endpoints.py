"""Show and change the endpoints that models are served from."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import yaml

from flowparts import deploy
from flowparts.endpoint import Endpoint
from flowparts.rollout import STEPS
from targets import parameters


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)
    try:
        options.do(options)
        return 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _list(options: argparse.Namespace) -> None:
    for endpoint in deploy.endpoints(options.target, options.namespace):
        print(f"{endpoint.name}  {endpoint.url}  {_shares(endpoint)}")


def _status(options: argparse.Namespace) -> None:
    endpoint = _find(options)
    print(f"{endpoint.name} on {endpoint.target}: {endpoint.url}")
    module: Any = deploy.target(options.target)
    for revision, share in endpoint.traffic.items():
        crashes = sum(module.crashes(endpoint, revision).values())
        trouble = module.trouble(endpoint, revision) or "no trouble"
        role = "current" if revision == endpoint.revision else "previous"
        print(f"  {revision}  {share} %  {role}  {crashes} crashes  {trouble}")
    for name, value in endpoint.settings.items():
        print(f"  {name}: {value}")


def _deploy(options: argparse.Namespace) -> None:
    given = parameters.read(options.options) if options.options else {}
    if options.namespace:
        given["namespace"] = options.namespace
    if options.reset:
        given["reset"] = True
    chosen = deploy.options(options.target, given)
    if options.dry_run:
        _show(options, chosen)
        return
    target: Any = deploy.target(options.target)
    with deploy.changing(options.target, options.name, chosen) as kept:
        endpoint = target.deploy(options.model, options.name, share=options.share, **kept)
    print(f"{endpoint.name}  {endpoint.url}  {_shares(endpoint)}")


def _show(options: argparse.Namespace, chosen: dict[str, Any]) -> None:
    """Print the manifests, and as comments what a rollout would do with them."""
    # First: it refuses targets without manifests, whatever else there is to ask of them.
    found = deploy.manifests(options.target, options.model, options.name, options.share, chosen)
    shares = [options.share, *(step for step in STEPS if step > options.share)]
    with deploy.without_changes(), deploy.changing(options.target, options.name, chosen) as kept:
        plan = deploy.plan(options.target, options.name, shares, kept)
    for share, given in plan.shares.items():
        print(f"# {share} % asked for: the new revision gets {given} %")
    if plan.note:
        print(f"# {plan.note}")
    # Without YAML's anchors for what is in it twice.
    print(yaml.safe_dump_all(json.loads(json.dumps(found)), sort_keys=False), end="")


def _shift(options: argparse.Namespace) -> None:
    print(_shares(deploy.target(options.target).shift(_find(options), options.percent)))


def _rollback(options: argparse.Namespace) -> None:
    print(_shares(deploy.target(options.target).rollback(_find(options))))


def _remove(options: argparse.Namespace) -> None:
    where = {"namespace": options.namespace} if options.namespace else {}
    removed = deploy.remove(
        options.target, options.name, where, even_if_serving=options.even_if_serving, pretend=options.dry_run
    )
    print("\n".join(removed))


def _find(options: argparse.Namespace) -> Endpoint:
    found = deploy.endpoints(options.target, options.namespace)
    for endpoint in found:
        if endpoint.name == options.name:
            return endpoint
    known = ", ".join(endpoint.name for endpoint in found) or "none"
    raise ValueError(f"there is no endpoint {options.name!r} on {options.target}; there are: {known}")


def _shares(endpoint: Endpoint) -> str:
    return ", ".join(f"{revision} {share} %" for revision, share in endpoint.traffic.items())


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="endpoints.py", description=__doc__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def command(do: Any, name: str, words: str, *, named: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(do=do)
        added.add_argument("target", choices=deploy.targets(), metavar="TARGET", help="such as kubernetes")
        added.add_argument("--namespace", default="", help="by default the kubeconfig's")
        if named:
            added.add_argument("name", metavar="NAME", help="the endpoint")
        return added

    command(_list, "list", "List the endpoints of a cluster's namespace.", named=False)
    command(_status, "status", "Show an endpoint's revisions, their shares and what is wrong with them.")
    deploying = command(_deploy, "deploy", "Deploy a model that is at an address, or on this machine.")
    deploying.add_argument("model", metavar="MODEL", help="s3://, gs://, pvc://CLAIM/PATH or a directory")
    deploying.add_argument("--share", type=int, default=100, help="percent of the requests (100)")
    deploying.add_argument(
        "--options",
        type=Path,
        metavar="FILE",
        help="YAML file of the target's options, as pipelines take them",
    )
    deploying.add_argument(
        "--dry-run", action="store_true", help="show the manifests and the shares, and change nothing"
    )
    deploying.add_argument(
        "--reset", action="store_true", help="forget the options that the endpoint was deployed with before"
    )
    shifting = command(_shift, "shift", "Give an endpoint's current revision a share of the requests.")
    shifting.add_argument("percent", type=int, metavar="PERCENT")
    command(_rollback, "rollback", "Give all requests back to the previous revision.")
    removing = command(_remove, "remove", "Remove an endpoint with all that was made for it.")
    removing.add_argument("--even-if-serving", action="store_true", help="although it serves")
    removing.add_argument("--dry-run", action="store_true", help="show what would be removed")
    return made


if __name__ == "__main__":
    sys.exit(main())
