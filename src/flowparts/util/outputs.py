"""Atomic outputs: each appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowparts.util import errors


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path for a file or directory that appears at `path` only if the block succeeds.

    An earlier output stays until the new one replaces it. Leftovers of an interrupted attempt are removed
    first, so a killed step can be run again.

    Args:
        path: Final path of the file or directory; its parents are created.

    Yields:
        A path in the same folder that doesn't exist yet; create a file or a directory there.

    Raises:
        ValueError: A file was written, but `path` is an existing directory; or the path has no name of its
            own, as one that ends in "..".
    """
    final = Path(path)
    if final.name in ("", ".."):
        raise ValueError(f"{path} names an existing directory; end the path with the name of the output")
    partial, earlier = (final.with_name(f".{final.name}.{state}") for state in ("partial", "earlier"))
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)
    if os.path.lexists(earlier):
        # An attempt ended after it moved the earlier output away and before it moved the new one in.
        if os.path.lexists(final):
            _remove(earlier)
        else:
            earlier.rename(final)
    try:
        yield partial
        _move(partial, earlier, final)
    finally:
        _remove(partial)


def require_no_directory(path: str | Path) -> None:
    """Raise ValueError if the path of an output file is a directory."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a directory; name the file to write in it")


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file that appears whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON with sorted keys; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        what: What the file should hold, for the error message.

    Raises:
        MissingError: There is no file.
        ValueError: The file isn't JSON.
    """
    try:
        return json.loads(read_text(path, what))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{what} at {path} is not valid JSON: {error}") from None


def read_text(path: str | Path, what: str) -> str:
    """Read a text file; `what` and errors as for `read_json`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise errors.MissingError(f"{what} is missing: there is no file at {path}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} at {path} is not valid text: {error}") from None


def _move(partial: Path, earlier: Path, final: Path) -> None:
    if partial.is_dir():
        _replace_directory(partial, final, earlier)
    else:
        _replace_file(partial, final)


def _replace_file(partial: Path, final: Path) -> None:
    require_no_directory(final)
    try:
        partial.rename(final)
    except OSError:
        shutil.copyfile(partial, final)


def _replace_directory(partial: Path, final: Path, earlier: Path) -> None:
    if os.path.lexists(final):
        try:
            final.rename(earlier)
        except OSError:
            _remove(final)
    try:
        partial.rename(final)
    except OSError:
        # Cloud Storage mounts refuse to rename directories: copy file by file instead.
        try:
            shutil.copytree(partial, final)
        except BaseException:
            _remove(final)
            if os.path.lexists(earlier):
                earlier.rename(final)
            raise
    _remove(earlier)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
