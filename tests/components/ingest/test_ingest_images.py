import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from PIL import Image
from sklearn.datasets import load_digits

from flowparts import tables
from flowparts.components.ingest.ingest_images import ingest_images


@pytest.fixture
def ingest(artifact: Callable[..., Any]) -> Callable[..., tuple[Any, Any, Any]]:
    def run(**parameters: Any) -> tuple[Any, Any, Any]:
        table, rejected = artifact("table", dsl.Dataset), artifact("rejected", dsl.Dataset)
        counts = ingest_images.python_func(table=table, rejected=rejected, **parameters)
        return tables.scan(table.path).collect(), tables.scan(rejected.path).collect(), counts

    return run


def encoded(kind: str = "PNG", size: tuple[int, int] = (6, 4), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two good images and four files that are none."""
    files = {
        "cat/a.png": encoded(),
        "dog/b.jpg": encoded("JPEG", (5, 9)),
        "dog/cut.png": encoded("PNG", (64, 64))[:90],
        "dog/notes.txt": b"not an image",
        "dog/empty.png": b"",
        "loose.png": encoded(),
        ".cache/c.png": encoded(),
        "cat/_SUCCESS": b"",
    }
    for name, content in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def test_the_sample_is_the_real_digits_as_png_files(ingest: Callable[..., Any]) -> None:
    frame, rejected, counts = ingest()
    assert counts == (1797, 0)
    assert rejected.columns == ["path", "reason"]
    assert frame.columns == ["path", "image", "label", "width", "height"]
    digits = load_digits()
    by_path = frame.sort(pl.col("path").str.slice(2))
    assert by_path["label"].cast(pl.Int64).to_list() == digits.target.tolist()
    assert frame.select("width", "height").unique().rows() == [(8, 8)]
    first = Image.open(io.BytesIO(by_path["image"][0]))
    assert first.format == "PNG"
    assert np.array_equal(np.asarray(first), (digits.images[0] * 255 / 16).round())


def test_a_folder_is_a_label_and_the_bytes_stay_as_they_are(ingest: Callable[..., Any], tree: Path) -> None:
    frame, rejected, counts = ingest(source=str(tree), on_bad_images="quarantine")
    assert counts == (2, 4)
    assert frame.drop("image").rows() == [("cat/a.png", "cat", 6, 4), ("dog/b.jpg", "dog", 5, 9)]
    assert frame["image"].to_list() == [(tree / path).read_bytes() for path in frame["path"]]
    reasons = dict(rejected.rows())
    assert "damaged" in reasons["dog/cut.png"]
    assert "isn't an image" in reasons["dog/notes.txt"]
    assert "empty" in reasons["dog/empty.png"]
    assert "isn't in a folder" in reasons["loose.png"]


def test_a_bad_image_fails_with_its_path_and_the_way_out(ingest: Callable[..., Any], tree: Path) -> None:
    with pytest.raises(ValueError, match=r"dog/cut.png: the image is damaged.*on_bad_images='quarantine'"):
        ingest(source=str(tree))


def test_a_table_names_images_by_uri_and_by_path_beside_it(
    ingest: Callable[..., Any], tree: Path, tmp_path: Path
) -> None:
    uris = ["cat/a.png", f"file://{tree}/dog/b.jpg", "cat/gone.png", "cat/a.png"]
    listed = pl.DataFrame({"where": uris, "kind": [3, 5, 3, None]})
    listed.write_csv(tree / "list.csv")
    options = {"uri_column": "where", "label_column": "kind", "on_bad_images": "quarantine"}
    frame, rejected, _ = ingest(source=str(tree / "list.csv"), **options)
    assert frame["label"].to_list() == [3, 5]
    assert frame["image"][1] == (tree / "dog/b.jpg").read_bytes()
    assert ["gone.png" in rejected["reason"][0], rejected["reason"][1]] == [True, "it has no label"]


def test_an_unreadable_row_of_an_image_table_is_a_bad_image(ingest: Callable[..., Any], tree: Path) -> None:
    (tree / "list.csv").write_text("uri,label\ncat/a.png,cat\ndog/b.jpg,dog,brown\n")
    frame, rejected, counts = ingest(source=str(tree / "list.csv"), on_bad_images="quarantine")
    assert counts == (1, 1)
    assert frame["label"].to_list() == ["cat"]
    assert rejected.rows() == [(f"{tree}/list.csv line 3", "has 3 fields where the header has 2")]
    with pytest.raises(ValueError, match=r"line 3: has 3 fields.*; pass on_bad_images='quarantine'"):
        ingest(source=str(tree / "list.csv"), on_bad_images="fail")


def test_an_image_is_as_wide_and_high_as_a_viewer_shows_it(
    ingest: Callable[..., Any], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    (tmp_path / "in/x").mkdir(parents=True)
    (tmp_path / "in/x/turned.jpg").write_bytes(encoded("JPEG", (6, 4), exif=exif))
    frame, _, _ = ingest(source=str(tmp_path / "in"))
    assert frame.select("width", "height").row(0) == (4, 6)


BAD = {
    "nothing given": ({"source": " "}, "source is empty"),
    "no directory": ({"source": "/nowhere/at/all"}, "there is no directory at /nowhere/at/all"),
    "unknown scheme": ({"source": "ftp://a/b"}, "unknown scheme 'ftp'"),
    "unknown sample": ({"source": "sample://faces"}, "'faces'; use sample://digits"),
    "unknown way": ({"on_bad_images": "skip"}, "one of fail, quarantine, not 'skip'"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(options: dict[str, Any], words: str, ingest: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=words):
        ingest(**options)


def test_a_tree_without_a_good_image_is_refused(ingest: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "in/x").mkdir(parents=True)
    (tmp_path / "in/x/a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"no usable image .*; the first one, x/a.png: it isn't an image"):
        ingest(source=str(tmp_path / "in"), on_bad_images="quarantine")
