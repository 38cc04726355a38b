"""Settings of submissions and steps: flags override the environment, which overrides flowparts.toml."""

import argparse
import dataclasses
import os
import tomllib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from backends import plain_yaml
from flowparts.components import REGISTRY
from flowparts.util.names import unknown

FILE = Path("flowparts.toml")
_SECRETS = ("token", "cookie", "password")


def _setting(what: str, default: Any = "") -> Any:
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"help": what})
    return field(default=default, metadata={"help": what})


@dataclass(frozen=True)
class _Common:
    registry: str = _setting("where the images are pulled from", REGISTRY)
    version: str = _setting("tag of the images; by default it follows their content")
    digests: str = _setting("images.json of make push: what to pin")
    endpoint: str = _setting("address of the API; for Vertex AI only where it isn't the region's own")
    pipeline_root: str = _setting("where artifacts go, such as gs://bucket/runs")
    service_account: str = _setting("the account that steps run as")
    caching: bool = _setting("whether results of equal steps are used again", True)
    resources: dict[str, dict[str, Any]] = _setting(
        "by a step's name, or * for every step, its cpu_limit and memory_limit, on Kubeflow also its "
        "cpu_request and memory_request",
        {},
    )


@dataclass(frozen=True)
class Kubeflow(_Common):
    """Settings of a Kubeflow Pipelines server, and what Kubernetes gives to the steps."""

    namespace: str = _setting("the profile's namespace where Kubeflow serves many users")
    experiment: str = _setting("groups runs in the UI", "Default")
    ca_certificate: str = _setting("file with the certificate authority of the endpoint")
    secrets: dict[str, list[str]] = _setting(
        "by a Kubernetes secret's name, its keys that become variables of the steps that ask for them", {}
    )
    image_pull_secrets: list[str] = _setting("secrets that images are pulled with", [])
    volumes: dict[str, str] = _setting("by a volume claim's name, the path where every step has it", {})
    node_selector: dict[str, str] = _setting("labels of the nodes that steps may run on", {})
    tolerations: list[dict[str, Any]] = _setting("taints that steps tolerate, as Kubernetes writes them", [])
    gpu_node_selector: dict[str, str] = _setting("further labels for steps that use a GPU", {})
    gpu_tolerations: list[dict[str, Any]] = _setting("further tolerations for steps that use a GPU", [])
    node: str = _setting(
        'free CPU and memory of the largest node, such as "2 8Gi": a step that asks for more is refused'
    )


@dataclass(frozen=True)
class Vertex(_Common):
    """Settings of a Google Cloud project."""

    project: str = _setting("Google Cloud project")
    location: str = _setting("region, such as europe-west4")
    network: str = _setting("VPC network, such as projects/12345/global/networks/name")
    kms_key: str = _setting(
        "Cloud KMS key that encrypts the runs: projects/P/locations/L/keyRings/R/cryptoKeys/K"
    )
    labels: dict[str, str] = _setting("labels of every run, which billing shows", {})
    secrets: dict[str, str] = _setting(
        "by a variable of the steps that ask for it, its secret: "
        "projects/PROJECT/secrets/SECRET/versions/VERSION",
        {},
    )
    templates: str = _setting("Artifact Registry of upload: https://LOCATION-kfp.pkg.dev/PROJECT/REPOSITORY")


Settings = TypeVar("Settings", Kubeflow, Vertex)


def add_flags(
    parser: argparse.ArgumentParser, kind: type[_Common], only: Container[str] | None = None
) -> None:
    """Give a parser `--profile`, `--config` and a flag for each setting, or for some."""
    parser.add_argument("--profile", metavar="NAME", help="a profile of the configuration file")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration file ({FILE})")
    group = parser.add_argument_group("settings (flag, else FLOWPARTS_<NAME>, else the profile)")
    for setting in dataclasses.fields(kind):
        if only is not None and setting.name not in only:
            continue
        flag, explained = f"--{setting.name.replace('_', '-')}", setting.metadata["help"]
        if setting.type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=explained)
        else:
            written = "VALUE" if setting.type is str else "YAML"
            group.add_argument(flag, metavar=written, default=None, help=explained)


def gather(
    kind: type[Settings],
    flags: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the settings of a backend.

    Args:
        kind: Kubeflow or Vertex.
        flags: What `add_flags` read: `profile`, `config` and each setting, None where it isn't given.
        environment: Variables such as FLOWPARTS_ENDPOINT or FLOWPARTS_PROFILE.

    Raises:
        ValueError: A profile or setting is unknown or of the wrong type, several profiles fit and none is
            named, or the file holds a secret.
    """
    settings = {setting.name: setting for setting in dataclasses.fields(kind)}
    values = _profile(
        kind.__name__.lower(),
        flags.get("profile") or environment.get("FLOWPARTS_PROFILE"),
        flags.get("config"),
    )
    for name in values:
        if name not in settings:
            raise ValueError(unknown("setting", name, list(settings)))
    for name, setting in settings.items():
        variable = f"FLOWPARTS_{name.upper()}"
        if variable in environment:
            values[name] = _parsed(variable, environment[variable], setting.type)
        flag = flags.get(name)
        if flag is not None:
            values[name] = _parsed(f"--{name.replace('_', '-')}", flag, setting.type)
    return kind(**{name: _typed(name, value, settings[name].type) for name, value in values.items()})


def backends(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the backend of the profile that is named, or all if none is.

    Raises:
        ValueError: The profile is unknown, or the file can't be read.
    """
    name = flags.get("profile") or environment.get("FLOWPARTS_PROFILE")
    if not name:
        return ["kubeflow", "vertex"]
    profiles = _profiles(flags.get("config") or FILE)
    if name not in profiles:
        raise ValueError(unknown("profile", name, list(profiles)))
    return [profiles[name]["backend"]]


def _profile(backend: str, name: str | None, file: Path | None) -> dict[str, Any]:
    """Return a profile's settings; without a name, those of the only profile for the backend."""
    path = file or FILE
    if not path.exists() and not file and not name:
        return {}
    profiles = _profiles(path)
    fitting = [profile for profile, settings in profiles.items() if settings["backend"] == backend]
    if name and name not in fitting:
        raise ValueError(unknown(f"{backend} profile", name, fitting))
    if not name and len(fitting) > 1:
        raise ValueError(f"{path} has several profiles for {backend}; give --profile {' or '.join(fitting)}")
    chosen = profiles[name or fitting[0]] if name or fitting else {}
    return {key: value for key, value in chosen.items() if key != "backend"}


def _profiles(path: Path) -> dict[str, dict[str, Any]]:
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read the profiles in {path}: {error}") from None
    for profile, settings in profiles.items():
        if isinstance(settings, dict) and "target" in settings:
            # Its name in earlier versions.
            settings.setdefault("backend", settings.pop("target"))
        if not isinstance(settings, dict) or settings.get("backend") not in ("kubeflow", "vertex"):
            raise ValueError(f'[{profile}] of {path} must say backend = "kubeflow" or backend = "vertex"')
        for setting in settings:
            if setting in _SECRETS:
                raise ValueError(
                    f"{setting} doesn't belong into {path}; set FLOWPARTS_{setting.upper()} instead"
                )
    return profiles


def _parsed(source: str, text: Any, kind: Any) -> Any:
    if kind is str or not isinstance(text, str):
        return text
    try:
        return plain_yaml.load(text)
    except ValueError as error:
        raise ValueError(f"{source} is not valid YAML or JSON: {text}: {error}") from None


_SHAPES = {
    str: ("text", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    list[str]: ("a list such as [a, b]", lambda value: _all(str, value)),
    dict[str, str]: ("a mapping of texts such as {a: b}", lambda value: _pairs(value, str)),
    dict[str, list[str]]: (
        "a mapping such as {name: [KEY]}",
        lambda value: isinstance(value, dict) and all(_all(str, keys) for keys in value.values()),
    ),
    dict[str, dict[str, Any]]: (
        "a mapping of mappings such as {step: {memory_limit: 8Gi}}",
        lambda value: _pairs(value, dict),
    ),
    list[dict[str, Any]]: ("a list of mappings such as [{key: a}]", lambda value: _all(dict, value)),
}


def _typed(name: str, value: Any, kind: Any) -> Any:
    described, fits = _SHAPES[kind]
    if not fits(value):
        raise ValueError(f"setting {name!r} takes {described}, not {value!r}")
    return value


def _all(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _pairs(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(item, kind) for item in value.values())
