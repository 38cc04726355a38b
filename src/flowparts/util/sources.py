"""Resolve a source that a user names to files on this machine."""

import glob
import logging
import os
import re
import socket
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flowparts.util import allowed_sources, errors, masking, trees
from flowparts.util.errors import MissingError
from flowparts.util.names import hint

SCHEMES = ("file", "gs", "http", "https", "s3", "sample")
FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
COMPRESSIONS = (".gz", ".zst")
SAMPLES = Path(__file__).parents[1] / "samples"

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_COPY_BYTES = 1 << 20
# Tables rarely compress to a twentieth, and zip bombs to a thousandth. Small files have no such limit.
_MAX_UNPACKED_PER_BYTE = 200
_UNPACKED_BYTES_THAT_ARE_FINE = 100_000_000
_MAX_UNPACKED_GB = "FLOWPARTS_MOST_UNPACKED_GB"
# Folder that Hive, Spark and others create for the rows with one value of a column, and its name for null.
_PARTITION = re.compile("([^=/]+)=(.*)")
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class File:
    """A file of the source.

    Attributes:
        path: Its path on this machine.
        name: Its name in messages: the path, or the address without credentials.
        partitions: Columns and values of its partition folders (`year=2024/country=de`), below the folder or
            the pattern that was named.
    """

    path: Path
    name: str
    partitions: tuple[tuple[str, str | None], ...] = ()


def fetch(source: str, directory: Path) -> list[File]:
    """Find the files of a source, sorted by name, and download remote ones to a directory.

    Args:
        source: sample://NAME, or a file, a glob pattern or a directory on this machine (a path or file://),
            in S3 (s3://) or in Cloud Storage (gs://), or the address of one file (https://, http://).
            A directory stands for the files directly in it and in partition folders such as `year=2024`,
            except hidden ones and those whose name starts with an underscore.
        directory: An existing directory for copies of remote files.

    Raises:
        ValueError: The scheme or the sample is unknown, no file is found, or the server can't be reached.
    """
    if not source.strip():
        raise ValueError("source is empty; give a path, a URL or sample://NAME")
    scheme, _, rest = source.partition("://")
    path = local_path(source)
    allowed_sources.require_source(masking.shown(source) if path is None else os.path.realpath(path))
    if path is not None:
        return _local(source, path)
    if scheme not in SCHEMES:
        raise ValueError(
            f"source {masking.shown(source)!r} has an unknown scheme {scheme!r}; "
            "use a local path or one of: " + ", ".join(f"{known}://" for known in SCHEMES)
        )
    if scheme == "sample":
        return [_sample(rest)]
    return _remote(source, scheme, directory)


def fetch_tree(source: str, directory: Path) -> None:
    """Download a directory from S3 (s3://) or Cloud Storage (gs://), with everything below it.

    Args:
        source: The directory's address.
        directory: An existing directory for the copies.

    Raises:
        ValueError: The source is empty, a name in it leads out of the directory, or the server can't be
            reached.
    """
    scheme, _, rest = source.partition("://")
    allowed_sources.require_source(masking.shown(source))
    try:
        files = filesystem(scheme)
        root = rest.strip("/")
        # Consoles create an empty object whose name ends in a slash for each folder.
        names = [name for name in files.find(root) if name != root and not name.endswith("/")]
    # The client libraries' errors have no common base class, and each becomes a one-line message.
    except Exception as error:
        raise _failure(source, scheme, error) from None
    if not names:
        raise MissingError(f"there is nothing at {masking.shown(source)}")
    # An object may have any name, so all names are checked before the first file is written.
    targets = {name: _inside(directory, name.removeprefix(f"{root}/"), source) for name in sorted(names)}
    try:
        for name, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(target))
    except Exception as error:
        raise _failure(source, scheme, error) from None


def local_path(source: str) -> str | None:
    """Return the local path of a path or a file:// address; None for other addresses.

    `~` is the home directory; file:///data.csv and file://localhost/data.csv are the same file, and %20 in
    them stands for a space.
    """
    scheme, separator, rest = source.partition("://")
    if not separator:
        return os.path.expanduser(source)
    if scheme != "file":
        return None
    return os.path.expanduser(
        unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)
    )


def local_files(source: str) -> list[File]:
    """Find the files of a source on this machine; none if it has another scheme.

    Raises:
        ValueError: No file is found.
    """
    path = local_path(source)
    return [] if path is None else _local(source, path)


def format_of(files: Sequence[File], file_format: str | None = None, names_options: bool = True) -> str:
    """Return the common format of the files ("csv", "jsonl" or "parquet"), by their suffixes.

    Args:
        files: The files of one source.
        file_format: Format that overrides the suffixes.
        names_options: Whether a message may suggest `file_format`, which not every caller offers.

    Raises:
        ValueError: A suffix is unknown, or the files have different formats.
    """
    if file_format is not None:
        return file_format
    formats: dict[str, str] = {}
    for file in files:
        ending = suffix(file.name)
        if ending not in FORMATS:
            option = "pass file_format='csv', 'jsonl' or 'parquet', or " if names_options else ""
            raise ValueError(
                f"the name of {file.name} doesn't show its format; {option}use one of the suffixes: "
                f"{', '.join(FORMATS)}, each also with .gz or .zst"
            )
        formats.setdefault(FORMATS[ending], file.name)
    if len(formats) > 1:
        examples = ", ".join(f"{name} ({kind})" for kind, name in sorted(formats.items()))
        raise ValueError(
            f"the source mixes formats: {examples}; select one with a glob pattern, such as 'data/*.csv'"
        )
    return next(iter(formats))


def decompressed(file: File, directory: Path) -> File:
    """Unpack a gzip or Zstandard file into a directory, and return it; other files are returned unchanged.

    The first bytes show the compression. The file is unpacked here because the reader takes a truncated or
    damaged file for a short one.

    Raises:
        ValueError: The compressed data is truncated or damaged, or unpacks to far more than tables do.
    """
    with file.path.open("rb") as stream:
        magic = stream.read(4)
    opener: Any
    errors: tuple[type[Exception], ...]
    if magic.startswith(_GZIP_MAGIC):
        import gzip

        opener, kind, errors = gzip.open, "gzip", (EOFError, OSError, zlib.error)
    elif magic == _ZSTD_MAGIC:
        from backports import zstd

        opener, kind, errors = zstd.open, "Zstandard", (EOFError, OSError, zstd.ZstdError)
    else:
        return file
    plain = directory / f"{len(list(directory.iterdir())):05d}-{Path(file.path).stem}"
    try:
        with opener(file.path, "rb") as packed, plain.open("wb") as unpacked:
            _unpack(packed, unpacked, file)
    except errors as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(
            f"{file.name} is truncated or damaged {kind} data; create or copy it again ({error})"
        ) from None
    return replace(file, path=plain)


def _unpack(packed: Any, unpacked: Any, file: File) -> None:
    limit_gb = os.environ.get(_MAX_UNPACKED_GB)
    most = max(_UNPACKED_BYTES_THAT_ARE_FINE, _MAX_UNPACKED_PER_BYTE * file.path.stat().st_size)
    most = min(most, int(float(limit_gb) * 1e9)) if limit_gb else most
    written = 0
    while block := packed.read(_COPY_BYTES):
        written += unpacked.write(block)
        if written > most:
            raise ValueError(
                f"{file.name} unpacks to more than {most:,} bytes, the limit for a file of its size; if you "
                "trust it, unpack it yourself"
            )


def _inside(directory: Path, name: str, source: str) -> Path:
    try:
        return trees.inside(directory, name)
    except ValueError as error:
        raise ValueError(f"{source} can't be copied: {error}") from None


def suffix(name: str) -> str:
    """Return the suffix of a file's name in lower case, ignoring a compression's suffix."""
    path = Path(name)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def _sample(name: str) -> File:
    names = sorted(path.stem for path in SAMPLES.glob("*.parquet"))
    if name not in names:
        raise MissingError(f"there is no sample {name!r}; {hint(name, names)}samples are: {', '.join(names)}")
    return File(SAMPLES / f"{name}.parquet", f"sample://{name}.parquet")


def _local(source: str, named: str) -> list[File]:
    path = Path(named)
    if path.is_file():
        return [File(path, str(path))]
    if path.is_dir():
        found = _below(path)
        if not found:
            raise MissingError(
                f"the directory {source} holds no data files; give a file, a directory or a glob pattern"
            )
    elif glob.has_magic(named):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        folders = [match for match in matches if match.is_dir() and _PARTITION.fullmatch(match.name)]
        files = {match for match in matches if match.is_file() and _is_data(match.name)}
        found = sorted(files.union(*map(_below, folders)))
        if not found:
            raise MissingError(f"no file matches {source}")
    else:
        raise MissingError(f"there is no file or directory at {source}")
    return [File(entry, str(entry), _partitions(str(entry), str(path))) for entry in found]


def _below(directory: Path) -> list[Path]:
    """Return the data files in a directory and in its partition folders."""
    found = []
    for entry in sorted(directory.iterdir()):
        if entry.is_dir() and _PARTITION.fullmatch(entry.name):
            found += _below(entry)
        elif entry.is_file() and _is_data(entry.name):
            found.append(entry)
    return found


def _partitions(name: str, source: str) -> tuple[tuple[str, str | None], ...]:
    """Return the columns and values of a file's partition folders below the source's directory or pattern."""
    root = source.rstrip("/")
    if not name.startswith(f"{root}/"):
        magic = re.search(r"[*?[]", source)
        root = source[: source.rfind("/", 0, magic.start()) + 1] if magic else name.rpartition("/")[0]
    found = []
    for folder in name.removeprefix(root).split("/")[:-1]:
        named = _PARTITION.fullmatch(folder)
        if named:
            value = unquote(named[2])
            found.append((unquote(named[1]), None if value == _NULL_PARTITION else value))
    return tuple(found)


def _is_data(name: str) -> bool:
    # Writers such as Spark leave _SUCCESS and .crc files beside the data.
    return not name.startswith((".", "_"))


def _remote(source: str, scheme: str, directory: Path) -> list[File]:
    try:
        files, names = _remote_files(source, scheme)
        found = []
        for position, name in enumerate(names):
            # One folder for each file, since two matches of a pattern may have the same name.
            folder = directory / f"{position:05d}"
            folder.mkdir(exist_ok=True)
            target = trees.inside(folder, Path(urlsplit(name).path).name or "data")
            files.get_file(name, str(target))
            if scheme.startswith("http"):
                found.append(File(target, masking.shown(name)))
            else:
                partitions = _partitions(name, source.partition("://")[2])
                found.append(File(target, f"{scheme}://{name}", partitions))
    except MissingError:
        raise
    except ValueError as error:
        raise ValueError(f"{masking.shown(source)} can't be read: {_first_line(error)}") from None
    # The client libraries' errors have no common base class, and each becomes a one-line message.
    except Exception as error:
        raise _failure(masking.shown(source), scheme, error) from None
    return found


def filesystem(scheme: str) -> Any:
    """Return fsspec's file system for a scheme, with short timeouts for unreachable servers.

    Raises:
        OSError: Cloud Storage can't be reached.
    """
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "s3":
        # boto3's defaults wait minutes for an unreachable server.
        options["config_kwargs"] = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": 60,
            "retries": {"max_attempts": 2, "mode": "standard"},
        }
    if scheme.startswith("http"):
        import aiohttp

        # The default timeout of five minutes in total would end large downloads.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=60)
        options |= {"client_kwargs": {"timeout": timeout}, "get_client": allowed_sources.client}
    if scheme == "gs":
        # gcsfs logs the traceback of every failure, which becomes a one-line message here.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        # An unreachable server would take half a minute: gcsfs looks for credentials and tries six times. If
        # the session has its own options, such as a proxy, a direct connection proves nothing.
        anonymous = fsspec.filesystem(scheme, **options, token="anon")  # noqa: S106 no credential
        if not anonymous.session_kwargs:
            _require_reachable(anonymous.base)
    return fsspec.filesystem(scheme, **options)


def _require_reachable(address: str) -> None:
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()


def _remote_files(source: str, scheme: str) -> tuple[Any, list[str]]:
    files = filesystem(scheme)
    if scheme.startswith("http"):
        return files, [source]
    path = source.partition("://")[2]
    try:
        info = files.info(path)
    except FileNotFoundError:
        # A key may look like a pattern, so only a name that doesn't exist is treated as one.
        if not glob.has_magic(path):
            raise
        matches = files.glob(path, detail=True).items()
        names = [name for name, found in matches if found["type"] == "file" and _is_data(_last(name))]
        folders = [
            name
            for name, found in matches
            if found["type"] == "directory" and _PARTITION.fullmatch(_last(name))
        ]
        names += [name for folder in folders for name in _remote_below(files, folder)]
        if not names:
            raise MissingError(f"no file matches {source}") from None
        return files, sorted({*names})
    if info["type"] != "directory":
        return files, [path]
    names = _remote_below(files, path)
    if not names:
        raise MissingError(
            f"the directory {source} holds no data files; give a file, a directory or a glob pattern"
        )
    return files, sorted(names)


def _remote_below(files: Any, directory: str) -> list[str]:
    found = []
    for entry in files.ls(directory, detail=True):
        name = entry["name"]
        if entry["type"] == "directory" and _PARTITION.fullmatch(_last(name)):
            found += _remote_below(files, name)
        elif entry["type"] == "file" and _is_data(_last(name)) and name.rstrip("/") != directory.rstrip("/"):
            found.append(name)
    return found


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _failure(address: str, scheme: str, error: Exception) -> ValueError:
    if isinstance(refused := getattr(error, "os_error", None), allowed_sources.NotAllowedError):
        return ValueError(f"{address} can't be read: {refused}")
    status = getattr(error, "status", None) or getattr(error, "code", None)
    kind, detail = type(error).__name__, _first_line(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return MissingError(f"there is nothing at {address}")
    # gcsfs raises a plain OSError for 403.
    if isinstance(error, PermissionError) or status in (401, 403) or "Forbidden" in detail:
        return errors.RefusedError(
            f"no permission to read {address}; check the credentials of this step ({detail})"
        )
    if "Credentials" in kind:
        hint = ", or set FSSPEC_S3_ANON=true for a public bucket" if scheme == "s3" else ""
        return errors.RefusedError(
            f"no credentials to read {address}; give the step a service account or keys{hint} ({detail})"
        )
    return errors.UnreachableError(
        f"{address} can't be read; check that the address is right and the server is up ({kind}: {detail})"
    )


def _first_line(error: Exception) -> str:
    # Addresses in the libraries' messages may hold presigned queries.
    return re.sub(r"\?\S+", "", errors.first_line(error))


def require_distinct(file: File, names: Sequence[str]) -> None:
    """Raise ValueError unless the columns of a file have different names without NUL characters."""
    for name in names:
        if "\0" in name:
            raise ValueError(f"{file.name} has a NUL character in the column name {name!r}; rename it")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{file.name} has more than one column named {twice[0]!r}; rename all but one")


def partitions(files: Sequence[File]) -> dict[str, list[str | None]]:
    """Return the columns of the files' partition folders, with a value for each file.

    Raises:
        ValueError: The files are partitioned by different columns.
    """
    names = [name for name, _ in files[0].partitions]
    for file in files:
        own = [name for name, _ in file.partitions]
        if own != names:
            raise ValueError(
                f"{file.name} and {files[0].name} are partitioned by different columns: "
                f"{', '.join(own) or 'none'} and {', '.join(names) or 'none'}; ingest them separately"
            )
    return {name: [dict(file.partitions)[name] for file in files] for name in names}


def require_same_columns(first: File, expected: Sequence[str], file: File, names: Sequence[str]) -> None:
    """Raise ValueError unless a file has the columns of the first one, in the same order."""
    if list(names) == list(expected):
        return
    missing = [name for name in expected if name not in names]
    added = [name for name in names if name not in expected]
    differences = [
        f"{what} {', '.join(columns)}" for what, columns in (("lacks", missing), ("adds", added)) if columns
    ]
    raise ValueError(
        f"{file.name} does not have the columns of {first.name}: it "
        + (" and ".join(differences) or "has them in another order")
        + "; ingest it separately, or rewrite it with the same columns"
    )
