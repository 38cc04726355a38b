"""The prediction log of a deployment, as one option `prediction_log`.

Its names are those of the model server's options, without what they begin with. On this machine:

    {"directory": "/var/lib/churn-log", "keys": "order_id", "mask": ["email", "phone"], "days": 30}

On clusters the directory is a folder of a volume: `flowparts.deploy.pod_log`.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowparts.serving import server_settings
from flowparts.serving.server_settings import Settings
from flowparts.util.names import unknown

OPTION = "prediction_log"
SECRET = f"{server_settings.PREFIX}PREDICTION_LOG_SECRET"
_NAMES = [
    field.name.removeprefix(f"{OPTION}_")
    for field in dataclasses.fields(Settings)
    if field.name.startswith(f"{OPTION}_")
]


def check(given: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are options of a prediction log on this machine, with its directory."""
    check_names(given)
    if given and not (isinstance(given.get("directory"), str) and given["directory"].startswith("/")):
        raise ValueError(
            f"directory of the option {OPTION!r} must be an absolute path on the machine that serves, not "
            f"{given.get('directory')!r}"
        )


def check_names(given: Mapping[str, Any], *further: str) -> None:
    """Raise ValueError unless these are options of a prediction log, with values that a server takes.

    Args:
        given: The option.
        further: Names that a target takes besides the directory and the server's own.
    """
    known = ["directory", *further, *_NAMES]
    for name in given:
        if name not in known:
            raise ValueError(unknown(f"name in the option {OPTION!r}", name, known))
    server_settings.parse([], {f"{server_settings.PREFIX}MODEL": "/", **settings(given, "/")})


def settings(given: Mapping[str, Any], directory: str) -> dict[str, str]:
    """Return the variables that a server takes its log's options from, without the hashes' key.

    Args:
        given: The option, which may be empty.
        directory: Where the server finds the log's directory.
    """
    if not given:
        return {}
    prefix = f"{server_settings.PREFIX}PREDICTION_LOG"
    texts = {f"{prefix}_{name.upper()}": _text(given[name]) for name in given if name in _NAMES}
    return {prefix: directory, **texts}


def variables(given: Mapping[str, Any], directory: str) -> dict[str, str]:
    """Return `settings` with the hashes' key, which is this step's."""
    secret = {SECRET: os.environ[SECRET]} if given and SECRET in os.environ else {}
    return {**settings(given, directory), **secret}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    # Pipelines hand whole numbers on as 30.0.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def writer_of(given: Mapping[str, Any], user: int) -> int:
    """Make the log's directory on this machine if it isn't there, and return who can write to it.

    Args:
        given: The option.
        user: Who writes if root deploys; else it is who deploys, so they can delete what is written.

    Raises:
        ValueError: The directory can't be made.
    """
    directory = Path(given["directory"])
    user = os.getuid() or user
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True)
            os.chown(directory, user, -1)
    except OSError as error:
        raise ValueError(f"the prediction log can't be at {directory}: {error.strerror}") from None
    return user
