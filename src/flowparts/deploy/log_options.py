"""The prediction log of a deployment, as one option `prediction_log`.

Its names are those of the model server's options without the prefix. On this machine:

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
    """Return a server's environment variables for its log, without the hashes' key.

    Args:
        given: The option, which may be empty.
        directory: The server's path of the log's directory.
    """
    if not given:
        return {}
    prefix = f"{server_settings.PREFIX}PREDICTION_LOG"
    texts = {f"{prefix}_{name.upper()}": _text(given[name]) for name in given if name in _NAMES}
    return {prefix: directory, **texts}


def variables(given: Mapping[str, Any], directory: str) -> dict[str, str]:
    """Return `settings` with the hashes' key from this step's environment."""
    secret = {SECRET: os.environ[SECRET]} if given and SECRET in os.environ else {}
    return {**settings(given, directory), **secret}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    # Pipelines pass 30 as 30.0.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def writer_of(given: Mapping[str, Any], user: int) -> int:
    """Create the log's directory on this machine if necessary, and return the user that can write to it.

    Args:
        given: The option.
        user: The writing user if root deploys; otherwise it is the deploying user, who can then delete the
            files.

    Raises:
        ValueError: The directory can't be created.
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
