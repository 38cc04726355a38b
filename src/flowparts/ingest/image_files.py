"""Read images from a tree of folders or a table of URIs into a table of encoded images."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import ingest, tables
from flowparts.util import images, masking, outputs, progress, sources

# Bytes of encoded images held in memory before they are written.
_PART_BYTES = 32 << 20
_REJECTED = {"path": pl.String(), "reason": pl.String()}
_SIZES = {"width": pl.Int64(), "height": pl.Int64()}


ON_BAD_IMAGES = ("fail", "quarantine")


@dataclass(frozen=True)
class Options:
    """Options for reading images.

    Attributes:
        uri_column: Column with the images' locations, in a table of URIs.
        label_column: Column with the images' labels, in a table of URIs.
        on_bad_images: "fail" or "quarantine".
    """

    uri_column: str
    label_column: str
    on_bad_images: str

    def __post_init__(self) -> None:
        """Raise ValueError if an option is unknown."""
        if self.on_bad_images not in ON_BAD_IMAGES:
            raise ValueError(
                f"on_bad_images must be one of {', '.join(ON_BAD_IMAGES)}, not {self.on_bad_images!r}"
            )


@dataclass(frozen=True)
class _Listing:
    """The images of a source: the type of their labels, their number, and path, label and content of each."""

    label_type: pl.DataType
    count: int
    entries: Iterator[tuple[str, Any, bytes | ValueError]]


def read(
    source: str, table: str | Path, rejected: str | Path, options: Options
) -> tuple[tables.Description, tables.Description]:
    """Read images into a table one at a time, and list those that can't be decoded in another.

    Args:
        source: A directory whose folders are labels, or a table (CSV, JSON Lines, Parquet) of URIs and
            labels.
        table: Where to write the table: path, image (encoded bytes), label, width and height.
        rejected: Where to write the table of bad images: path and reason.
        options: Options for reading.

    Returns:
        The descriptions of both tables.

    Raises:
        ValueError: No good image is found, or one is bad and `on_bad_images` is "fail".
    """
    with tempfile.TemporaryDirectory() as scratch, _listing(source, Path(scratch), options) as found:
        schema = {"path": pl.String(), "image": pl.Binary(), "label": found.label_type, **_SIZES}
        with outputs.atomic(table) as partial:
            partial.mkdir()
            parts, bad = _Parts(partial, schema), []
            done = 0
            with progress.reported("reading images", lambda: done, found.count, "images"):
                for path, label, content in found.entries:
                    done += 1
                    try:
                        if isinstance(content, ValueError):
                            raise content
                        if label is None:
                            raise ValueError("it has no label")
                        parts.add((path, content, label, *images.dimensions(content)))
                    except ValueError as error:
                        if options.on_bad_images == "fail":
                            raise ValueError(
                                f"{path}: {error}; pass on_bad_images='quarantine' to leave out such images"
                            ) from None
                        bad.append((path, str(error)))
            if not parts.rows:
                reason = f"; the first one, {bad[0][0]}: {bad[0][1]}" if bad else ""
                raise ValueError(f"there is no usable image at {masking.shown(source)}{reason}")
            parts.write()
    shown = masking.shown(source)
    return (
        tables.record(table, shown),
        tables.write(pl.DataFrame(bad, _REJECTED, orient="row"), rejected, shown),
    )


@dataclass
class _Parts:
    """Write rows to several files of a table, each small enough to hold in memory."""

    folder: Path
    schema: dict[str, pl.DataType]
    rows: int = 0
    _held: list[tuple[Any, ...]] = field(default_factory=list)
    _bytes: int = 0
    _files: int = 0

    def add(self, row: tuple[Any, ...]) -> None:
        self._held.append(row)
        self.rows += 1
        self._bytes += len(row[1])
        if self._bytes >= _PART_BYTES:
            self.write()

    def write(self) -> None:
        if self._held:
            frame = pl.DataFrame(self._held, self.schema, orient="row")
            tables.write_part(frame, self.folder / f"part-{self._files:05}.parquet")
            self._held, self._bytes, self._files = [], 0, self._files + 1


@contextmanager
def _listing(source: str, scratch: Path, options: Options) -> Iterator[_Listing]:
    scheme, separator, rest = source.partition("://")
    if not source.strip():
        raise ValueError(
            "source is empty; give a directory of images, a table of their URIs or sample://digits"
        )
    if scheme == "sample" and separator:
        yield _tree(_digits(rest, scratch))
        return
    if scheme.startswith("http") or Path(source).name.lower().endswith(tuple(sources.FORMATS)):
        yield _table(source, scratch, options)
    elif separator and scheme != "file":
        if scheme not in sources.SCHEMES:
            raise ValueError(
                f"source {masking.shown(source)!r} has an unknown scheme {scheme!r}; "
                "use a local path or one of: " + ", ".join(f"{known}://" for known in sources.SCHEMES)
            )
        folder = scratch / "tree"
        folder.mkdir()
        sources.fetch_tree(source, folder)
        yield _tree(folder)
    else:
        folder = Path(rest.removeprefix("localhost") if separator else source).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"there is no directory at {source}; give a directory whose folders are labels, or a table "
                "of URIs: a file that ends in .csv, .jsonl or .parquet"
            )
        yield _tree(folder)


def _tree(folder: Path) -> _Listing:
    """Find the images of a tree; the label of each is the name of its folder."""
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    )

    def entries() -> Iterator[tuple[str, Any, bytes | ValueError]]:
        for file in files:
            labelled = file.parent != folder
            content = (
                file.read_bytes() if labelled else ValueError("it isn't in a folder, so it has no label")
            )
            yield file.relative_to(folder).as_posix(), file.parent.name, content

    return _Listing(pl.String(), len(files), entries())


def _table(source: str, scratch: Path, options: Options) -> _Listing:
    """Find the images of a table of URIs; relative paths start at the table.

    A row that can't be read counts as a bad image, which `on_bad_images` applies to.
    """
    plain, rejected = scratch / "table", scratch / "rejected"
    # A decimal separator is set, because commas in the table's other columns don't matter.
    table_options = ingest.Options(on_bad_rows="quarantine", decimal=".", named_in_messages=False)
    ingest.ingest(source, plain, rejected, table_options)
    frame, unread = tables.scan(plain), tables.scan(rejected).pipe(tables.collect)
    tables.require_columns(frame, [options.uri_column], "uri_column")
    tables.require_columns(frame, [options.label_column], "label_column")
    uri, label = tables.column(options.uri_column), tables.column(options.label_column)
    rows = frame.select(uri=uri.cast(pl.String), label=label)
    beside = masking.shown(source).rpartition("/")[0]
    is_remote = sources.local_path(source) is None

    def entries() -> Iterator[tuple[str, Any, bytes | ValueError]]:
        for file, line, reason in unread.select("file", "line", "reason").iter_rows():
            yield f"{file} line {line}", None, ValueError(reason)
        for chunk in tables.batches(rows, 1_000):
            for uri, label in chunk.iter_rows():
                if not uri:
                    yield "", label, ValueError("its URI is missing")
                    continue
                is_absolute = "://" in uri or uri.startswith(("/", "~")) or not beside
                full = uri if is_absolute else f"{beside}/{uri}"
                if is_remote and sources.local_path(full) is not None:
                    content: bytes | ValueError = ValueError(
                        "a remote table must not name a file on this machine; give the image's address"
                    )
                else:
                    content = _fetched(full)
                yield masking.shown(uri), label, content

    count = tables.row_count(frame) + unread.height
    return _Listing(frame.collect_schema()[options.label_column], count, entries())


def _fetched(uri: str) -> bytes | ValueError:
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = sources.fetch(uri, Path(folder))
            if len(files) > 1:
                raise ValueError(f"{masking.shown(uri)} must name one image, not {len(files)} files")
            return files[0].path.read_bytes()
        except ValueError as error:
            return error


def _digits(name: str, scratch: Path) -> Path:
    """Write scikit-learn's digits as PNG files of 8 x 8 pixels, in one folder for each digit."""
    from PIL import Image

    if name != "digits":
        raise ValueError(f"there is no sample of images {name!r}; use sample://digits")
    frame = pl.read_parquet(sources.SAMPLES / "digits.parquet")
    labels = frame["target"].to_list()
    # The sample's pixels range from 0 to 16.
    grey = frame.select((pl.exclude("target") * 255 / 16).round(mode="half_to_even").cast(pl.UInt8)).rows()
    folder = scratch / "digits"
    for index, (label, image) in enumerate(zip(labels, grey, strict=True)):
        encoded = io.BytesIO()
        Image.frombytes("L", (8, 8), bytes(image)).save(encoded, "PNG")
        file = folder / str(label) / f"{index:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded.getvalue())
    return folder
