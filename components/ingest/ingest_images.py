from typing import NamedTuple, Optional

from kfp.dsl import Dataset, Output

from .. import STORES, runs_in


@runs_in("base", secrets=STORES)
def ingest_images(
    table: Output[Dataset],
    rejected: Output[Dataset],
    source: str = "sample://digits",
    data_version: Optional[str] = None,
    uri_column: str = "uri",
    label_column: str = "label",
    on_bad_images: str = "fail",
) -> NamedTuple("Outputs", [("rows", int), ("rejected_rows", int)]):  # type: ignore[valid-type]
    """Read image files into one table of encoded images with their labels and sizes.

    Formats are BMP, GIF, JPEG, PNG, TIFF and WebP. Each file is decoded once to check that it is intact; the
    table stores its original bytes. Hidden files and names that start with an underscore are ignored.

    Args:
        table: The good images: a table of path (the key), image (encoded bytes), label, width and height
            (pixels).
        rejected: The bad images: a table of path and reason, empty if there are none.
        source: A directory tree (a path, file://, s3:// or gs://) in which an image's folder is its label; or
            a table of URIs and labels (.csv, .jsonl or .parquet); or real example images, sample://digits.
        data_version: Version of the source, such as a date. With caching on, a source whose content changed
            is read again only if this changes too.
        uri_column: Column with the images' locations, for a table of URIs; relative paths start at the table.
        label_column: Column with the images' labels, for a table of URIs.
        on_bad_images: What to do with an image that is damaged or has no label: fail (with path and reason)
            or quarantine (into rejected).

    Returns:
        rows: Number of images in the table.
        rejected_rows: Number of bad images that were quarantined.
    """
    from flowparts.ingest import image_files as ingest_images
    from flowparts.util import metadata

    options = ingest_images.Options(uri_column, label_column, on_bad_images)
    good, bad = ingest_images.read(source, table.path, rejected.path, options)
    metadata.describe(table, {**good, "data_version": data_version or ""})
    metadata.describe(rejected, {**bad, "data_version": data_version or ""})
    return good["rows"], bad["rows"]
