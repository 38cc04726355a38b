"""Handle untrusted directories: names and links that lead out of them are refused.

Object stores accept any object name, and a directory may hold links and devices. All code that copies, packs
or loads such a directory goes through here.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

# Far more than any model has; a larger directory is a mistake or an attack.
_MAX_FILES = 100_000


def inside(directory: Path, name: str) -> Path:
    """Return the path of a relative name below a directory; its parents need not exist yet.

    Raises:
        ValueError: The name is absolute, has an empty part, ".", ".." or a NUL, or a link leads out.
    """
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(
            f"the name {name!r} leads out of its directory; rename it without '..', '.' or empty parts "
            "between slashes"
        )
    path = directory / name
    if not _real(path).is_relative_to(_real(directory)):
        raise ValueError(f"the name {name!r} leads out of its directory by a link; remove the link")
    return path


def files(directory: str | Path) -> list[Path]:
    """Return the regular files below a directory, sorted; links inside it are followed.

    Raises:
        ValueError: It doesn't exist, or holds a device, pipe or socket, a broken link, a link that leads out
            of it, or too many files.
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
            raise ValueError(f"{path} is a device, pipe or socket, not a file; remove it")
        if len(found) > _MAX_FILES:
            raise ValueError(f"{directory} holds more than {_MAX_FILES} files, the maximum; remove some")
    return sorted(found)


def digest(directory: str | Path, instead: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return 16 hexadecimal digits of a SHA-256 over the names and bytes of a directory's files.

    Args:
        directory: The directory.
        instead: Name to content to hash in place of a file's own.

    Raises:
        ValueError: As for `files`.
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
    """Check and return a directory's digest.

    Args:
        directory: The directory.
        wanted: The expected digest; empty for any.
        where: Name of the directory in the error message.
        instead: As for `digest`.

    Raises:
        ValueError: The digest differs, or as for `files`.
    """
    found = digest(directory, instead)
    if wanted and found != wanted:
        raise ValueError(
            f"the files at {where} have changed since they were deployed: their digest is {found}, not "
            f"{wanted}; deploy the model again, from an address whose content doesn't change"
        )
    return found


def copy(source: str | Path, target: Path) -> None:
    """Copy the regular files below a directory into another, which must not exist yet.

    Raises:
        ValueError: As for `files`.
    """
    # All files are checked before the first one is copied.
    checked = files(source)
    target.mkdir()
    for file in checked:
        copied = inside(target, file.relative_to(source).as_posix())
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)


def _walk(directory: Path, above: set[Path]) -> Iterator[Path]:
    for path in directory.iterdir():
        yield path
        # A link to a parent directory would be followed forever.
        if path.is_dir() and (real := _real(path)) not in above:
            yield from _walk(path, {*above, real})


def _real(path: Path) -> Path:
    # Path.resolve raises if links form a loop.
    return Path(os.path.realpath(path))


def _kind(path: Path, home: Path) -> int:
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}; remove it") from None
    if not _real(path).is_relative_to(home):
        raise ValueError(f"{path} is a link that leads out of {home}; put the file itself there")
    return kind
