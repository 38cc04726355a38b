"""The model's files on this machine: a local directory, or a download of a remote one.

`python -m flowparts.serving.model_files MODEL DIRECTORY [DIGEST]` downloads in a pod, before the server
starts, so that the server needs no access to the store.
"""

import sys
from pathlib import Path
from urllib.parse import unquote

from flowparts.util import outputs, sources, trees
from flowparts.util.errors import MissingError

SCHEMES = ("file", "gs", "s3")


def fetch(model: str, directory: Path) -> Path:
    """Return the directory of a model; a remote one is copied into `directory`.

    Args:
        model: A path, or a URI that starts with file://, s3:// or gs://.
        directory: An empty directory for the copy.

    Raises:
        MissingError: There is no such directory.
        ValueError: The scheme is unknown, or the files can't be read.
    """
    scheme, separator, rest = model.partition("://")
    if not separator or scheme == "file":
        path = Path(unquote(rest.removeprefix("localhost")) if separator else model).expanduser()
        if not path.is_dir():
            raise MissingError(f"there is no model directory at {model}")
        return path
    if scheme not in SCHEMES:
        raise ValueError(
            f"model {model!r} has the unknown scheme {scheme!r}; use a directory or one of: "
            + ", ".join(f"{known}://" for known in SCHEMES)
        )
    sources.fetch_tree(model, directory)
    return directory


def download(model: str, directory: Path, digest: str = "") -> None:
    """Download a model to a directory, which appears complete or not at all.

    Args:
        model: A URI that starts with s3:// or gs://.
        directory: The directory to create.
        digest: The digest that its files must have; empty for any.

    Raises:
        ValueError: As `fetch`, or the files have another digest.
    """
    with outputs.atomic(directory) as partial:
        partial.mkdir()
        fetch(model, partial)
        trees.require_digest(partial, digest, model)


if __name__ == "__main__":
    try:
        download(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except ValueError as error:
        sys.exit(str(error))
