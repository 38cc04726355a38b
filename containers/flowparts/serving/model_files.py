"""The model's files on this machine: a directory as it is, anything remote downloaded whole."""

from pathlib import Path
from urllib.parse import unquote

from flowparts import sources

SCHEMES = ("file", "gs", "s3")


def fetch(model: str, directory: Path) -> Path:
    """Return the directory of a model; a remote one is copied into `directory`.

    Args:
        model: A path, or a URI that starts with file://, s3:// or gs://.
        directory: An empty directory for the copy.

    Raises:
        ValueError: The scheme is unknown, nothing is there, or it can't be read.
    """
    scheme, separator, rest = model.partition("://")
    if not separator or scheme == "file":
        path = Path(unquote(rest.removeprefix("localhost")) if separator else model).expanduser()
        if not path.is_dir():
            raise ValueError(f"there is no model directory at {model}")
        return path
    if scheme not in SCHEMES:
        raise ValueError(
            f"model {model!r} has the unknown scheme {scheme!r}; use a directory or one of: "
            + ", ".join(f"{known}://" for known in SCHEMES)
        )
    sources.fetch_tree(model, directory)
    return directory
