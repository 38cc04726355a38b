"""Temporary folders that a killed process doesn't leave behind for good."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """Yield an empty temporary folder, which is removed afterwards.

    A killed process can't remove its folder, so the next call for the same prefix does. It recognizes such
    folders by their locks, which the system releases when a process ends.

    Args:
        prefix: Start of the folder's name.
    """
    _remove_abandoned(prefix)
    made, lock = _made(prefix)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _made(prefix: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            lock = _opened(made)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # a file system without locks, so nothing is removed there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Before it was locked, another process may have taken it for an abandoned one.
        if made.exists():
            return made, lock
        os.close(lock)


def _remove_abandoned(prefix: str) -> None:
    for found in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another user's, in use, or gone by now
            lock = _opened(found)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(found, ignore_errors=True)
            finally:
                os.close(lock)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
