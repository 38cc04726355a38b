"""Small JSON files that outlive runs, on this machine or in a store."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flowparts.util import outputs, sources
from flowparts.util.masking import masked


def read(uri: str, what: str) -> Any:
    """Return what a file holds; None if there is none.

    Args:
        uri: Path or URI (s3://, gs://).
        what: What the file should hold, for the error message.

    Raises:
        ValueError: It can't be read, or isn't JSON.
    """
    local = sources.local_path(uri)
    try:
        if local is not None:
            text = Path(local).read_text(encoding="utf-8")
        else:
            text = sources.filesystem(uri.partition("://")[0]).cat_file(uri).decode()
    except FileNotFoundError:
        return None
    except Exception as error:  # each store's client has exceptions of its own
        raise ValueError(f"can't read {masked(f'{uri}: {type(error).__name__}: {error}')}") from None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise foreign(uri, what) from None


def foreign(uri: str, what: str) -> ValueError:
    """Return the error for a file that holds something else."""
    return ValueError(f"{masked(uri)} isn't {what}; name another file, or remove it")


def write(uri: str, value: Any) -> None:
    """Replace the file by a value; readers find the old one or the new one, never a part.

    Of two writers at once the later one wins.

    Raises:
        ValueError: It can't be written.
    """
    local = sources.local_path(uri)
    if local is not None:
        with _one_at_a_time(Path(local).parent):
            outputs.write_json(local, value)
        return
    with tempfile.TemporaryDirectory() as folder:
        outputs.write_json(Path(folder) / "kept", value)
        try:
            sources.filesystem(uri.partition("://")[0]).put_file(str(Path(folder) / "kept"), uri)
        except Exception as error:  # each store's client has exceptions of its own
            raise ValueError(f"can't write {masked(f'{uri}: {type(error).__name__}: {error}')}") from None


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which ends with the process: two writers would share one partial file."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # mounts of object stores know no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
