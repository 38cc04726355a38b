"""Small JSON files that persist between runs, on this machine or in an object store."""

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
    """Return a file's content; None if there is no file.

    Args:
        uri: Path or URI (s3://, gs://).
        what: What the file should hold, for the error message.

    Raises:
        ValueError: The file can't be read, or isn't JSON.
    """
    local = sources.local_path(uri)
    try:
        if local is not None:
            text = Path(local).read_text(encoding="utf-8")
        else:
            text = sources.filesystem(uri.partition("://")[0]).cat_file(uri).decode()
    except FileNotFoundError:
        return None
    except Exception as error:  # each store's client raises its own exceptions
        raise ValueError(f"can't read {masked(f'{uri}: {type(error).__name__}: {error}')}") from None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise unexpected_content(uri, what) from None


def unexpected_content(uri: str, what: str) -> ValueError:
    """Return the error for a file with unexpected content."""
    return ValueError(f"{masked(uri)} isn't {what}; name another file, or remove this one")


@contextmanager
def locked(uri: str) -> Iterator[None]:
    """Run the block for one process at a time, so that what it writes takes account of what others wrote.

    The lock is on the file's folder, and ends with the process. In an object store, and in one that is
    mounted as a folder, there are no locks: of two concurrent writers, the later one wins.

    Raises:
        ValueError: The folder can't be created or read.
    """
    local = sources.local_path(uri)
    if local is None:
        yield
        return
    folder = Path(local).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(uri, error) from None
    try:
        with suppress(OSError):  # mounted object stores don't support locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def write(uri: str, value: Any) -> None:
    """Replace the file's content by a value, in a block of `locked`.

    Readers see the old content or the new, never a mixture.

    Raises:
        ValueError: The file can't be written.
    """
    local = sources.local_path(uri)
    try:
        if local is not None:
            outputs.write_json(local, value)
            return
        with tempfile.TemporaryDirectory() as folder:
            outputs.write_json(Path(folder) / "kept", value)
            sources.filesystem(uri.partition("://")[0]).put_file(str(Path(folder) / "kept"), uri)
    except Exception as error:  # each store's client raises its own exceptions
        raise _unwritable(uri, error) from None


def _unwritable(uri: str, error: Exception) -> ValueError:
    return ValueError(f"can't write {masked(f'{uri}: {type(error).__name__}: {error}')}")
