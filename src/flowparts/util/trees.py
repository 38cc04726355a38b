"""Directories that somebody else wrote: names and links that lead out of them are refused.

Object stores take any name for an object, and a directory may hold links and devices. Whatever copies, packs
or loads such a directory asks here first.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

# Far more than a model or a network has; a directory of more is a mistake or an attack.
_MAX_FILES = 100_000


def inside(directory: Path, name: str) -> Path:
    """Return the path of a relative name below a directory, whose parents may not exist yet.

    Raises:
        ValueError: The name is absolute, has an empty part, "." or "..", or a NUL, or a link leads out.
    """
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(
            f"the name {name!r} leads out of its directory; rename it to parts without '..', '.' or nothing "
            "between slashes"
        )
    path = directory / name
    if not _real(path).is_relative_to(_real(directory)):
        raise ValueError(f"the name {name!r} leads out of its directory by a link; remove the link")
    return path


def files(directory: str | Path) -> list[Path]:
    """Return the regular files below a directory, sorted; links inside it are followed.

    Raises:
        ValueError: It isn't there, holds a device, pipe or socket, a link that leads out of it or nowhere, or
            too many files.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ValueError(f"there is no directory at {directory}")
    home = _real(root)
    found = []
    for path in _walk(root, {home}):
        kind = _kind(path, home)
        if stat.S_ISREG(kind):
            found.append(path)
        elif not stat.S_ISDIR(kind):
            raise ValueError(f"{path} is no file but a device, pipe or socket; remove it")
        if len(found) > _MAX_FILES:
            raise ValueError(f"{directory} holds more than {_MAX_FILES} files")
    return sorted(found)


def digest(directory: str | Path, instead: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return 16 hexadecimal digits that stand for the names and bytes of a directory's files (SHA-256).

    Args:
        directory: The directory.
        instead: Content that files are taken to have, whatever is in them.

    Raises:
        ValueError: As `files`.
    """
    total = hashlib.sha256()
    for path in files(directory):
        name = path.relative_to(directory).as_posix()
        if name in instead:
            of_file = hashlib.sha256(instead[name].encode()).hexdigest()
        else:
            with path.open("rb") as file:
                of_file = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name}\n{of_file}\n".encode())
    return total.hexdigest()[:16]


def require_digest(
    directory: str | Path,
    wanted: str,
    where: object,
    instead: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a directory's digest.

    Args:
        directory: The directory.
        wanted: The digest that it must have; empty for any.
        where: What the directory is called in the error.
        instead: As for `digest`.

    Raises:
        ValueError: It has another one, or as `files`.
    """
    found = digest(directory, instead)
    if wanted and found != wanted:
        raise ValueError(
            f"the files at {where} have changed since they were deployed: their digest is {found}, not "
            f"{wanted}; deploy the model again, from an address at which it stays as it is"
        )
    return found


def copy(source: str | Path, target: Path) -> None:
    """Copy the regular files below a directory into another, which must not exist yet.

    Raises:
        ValueError: As `files`.
    """
    whole = files(source)
    target.mkdir()
    for file in whole:
        copied = inside(target, file.relative_to(source).as_posix())
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)


def _walk(directory: Path, above: set[Path]) -> Iterator[Path]:
    for path in directory.iterdir():
        yield path
        # A link to a directory above would be walked through for ever.
        if path.is_dir() and (real := _real(path)) not in above:
            yield from _walk(path, {*above, real})


def _real(path: Path) -> Path:
    # Path.resolve raises where links make a loop.
    return Path(os.path.realpath(path))


def _kind(path: Path, home: Path) -> int:
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}; remove it") from None
    if not _real(path).is_relative_to(home):
        raise ValueError(f"{path} is a link that leads out of {home}; put the file itself there")
    return kind
