import functools
import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from backports import zstd

from flowparts.samples import make
from flowparts.util import masking, sources
from flowparts.util.sources import File
from tests import clouds
from tests.flowparts.serving.conftest import free_ports

CSV = b"a,b\n1,x\n2,y\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("b.csv", "a.csv", "_SUCCESS", ".hidden.csv"):
        (folder / name).write_bytes(CSV)
    return folder


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    folder = tmp_path / "fetched"
    folder.mkdir()
    return folder


@pytest.fixture
def web(data: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/secret"):
                self.send_error(403)
            else:
                super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(data)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", make.NAMES)
def test_sample_holds_the_data_that_scikit_learn_bundles(name: str, fetched: Path) -> None:
    from sklearn import datasets

    options = {"scaled": False} if name == "diabetes" else {}
    bunch: Any = getattr(datasets, f"load_{name}")(**options)
    (file,) = sources.fetch(f"sample://{name}", fetched)
    frame = pl.read_parquet(file.path)
    assert frame.drop("target").to_numpy().tolist() == bunch.data.tolist()
    assert all(column.isascii() and column.isidentifier() for column in frame.columns)
    labels = bunch.target.tolist()
    if name in ("breast_cancer", "iris", "wine"):
        labels = [str(bunch.target_names[code]) for code in labels]
    assert frame["target"].to_list() == labels


def test_samples_on_disk_are_what_their_script_makes(fetched: Path) -> None:
    for name in make.NAMES:
        (file,) = sources.fetch(f"sample://{name}", fetched)
        assert pl.read_parquet(file.path).equals(make.frame(name))


def test_unknown_sample_is_refused_with_the_near_match(fetched: Path) -> None:
    with pytest.raises(ValueError, match=r"no sample 'breast_cancr'; did you mean 'breast_cancer'"):
        sources.fetch("sample://breast_cancr", fetched)


def test_directory_gives_its_data_files_in_the_order_of_their_names(data: Path, fetched: Path) -> None:
    assert [file.path.name for file in sources.fetch(str(data), fetched)] == ["a.csv", "b.csv"]


@pytest.mark.parametrize("pattern", ["*.csv", "[ab].csv", "../data/?.csv"])
def test_glob_gives_the_matching_files(pattern: str, data: Path, fetched: Path) -> None:
    found = sources.fetch(f"{data}/{pattern}", fetched)
    assert [file.path.name for file in found] == ["a.csv", "b.csv"]


@pytest.mark.parametrize("pattern", ["", "/*/*/*", "/*", "/**/*.csv"])
def test_folders_may_stand_for_columns(pattern: str, fetched: Path, tmp_path: Path) -> None:
    for year, country in (("2023", "de%20at"), ("2024", "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / "hive" / f"year={year}" / f"country={country}"
        folder.mkdir(parents=True)
        (folder / "part-0.csv").write_text("x\n1\n")
        (folder / "_SUCCESS").touch()
        (folder / ".part-0.csv.crc").touch()
    files = sources.fetch(f"{tmp_path}/hive{pattern}", fetched)
    assert sources.partitions(files) == {"year": ["2023", "2024"], "country": ["de at", None]}
    one = sources.fetch(f"{tmp_path}/hive/year=2023/country=de%20at/part-0.csv", fetched)
    assert sources.partitions(one) == {}


def test_folders_of_different_columns_are_refused(fetched: Path, tmp_path: Path) -> None:
    for folder in ("a=1", "b=1"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "x.csv").touch()
    with pytest.raises(
        ValueError, match="are partitioned by different columns: b and a; ingest them separately"
    ):
        sources.partitions(sources.fetch(str(tmp_path / "in"), fetched))


def test_file_url_is_a_local_path(data: Path, fetched: Path) -> None:
    (data / "with space.csv").write_bytes(CSV)
    (file,) = sources.fetch((data / "with space.csv").as_uri(), fetched)
    assert file.path.read_bytes() == CSV


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "source is empty"),
        ("nowhere/data.csv", "no file or directory at nowhere/data.csv"),
        ("nowhere/*.csv", r"no file matches nowhere/\*.csv"),
        ("ftp://host/data.csv", "unknown scheme 'ftp'; use a local path or one of: file://"),
    ],
    ids=["empty", "missing", "glob", "scheme"],
)
def test_a_missing_source_gives_a_one_line_error(source: str, message: str, fetched: Path) -> None:
    with pytest.raises(ValueError, match=message):
        sources.fetch(source, fetched)


def test_mixed_formats_are_refused_by_naming_one_file_of_each() -> None:
    files = [File(Path(name), name) for name in ("a.csv", "b.csv.gz", "c.jsonl")]
    with pytest.raises(ValueError, match=r"mixes formats: a.csv \(csv\), c.jsonl \(jsonl\)"):
        sources.format_of(files)
    assert sources.format_of(files, "csv") == "csv"


def test_unknown_suffix_asks_for_the_format() -> None:
    with pytest.raises(ValueError, match=r"name of data.dat doesn't show its format"):
        sources.format_of([File(Path("data.dat"), "data.dat")])
    with pytest.raises(ValueError, match=r"doesn't show its format; use one of the suffixes: \.csv"):
        sources.format_of([File(Path("data.dat"), "data.dat")], names_options=False)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_compressed_file_is_unpacked_whatever_its_name(compress: Any, data: Path, fetched: Path) -> None:
    packed = data / "packed"
    packed.write_bytes(compress(CSV) + compress(b"3,z\n"))
    plain = sources.decompressed(File(packed, "packed"), fetched)
    assert plain.path.read_bytes() == CSV + b"3,z\n"


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("keep", [5, 12, -1])
def test_truncated_compressed_file_is_refused(compress: Any, keep: int, data: Path, fetched: Path) -> None:
    packed = data / "a.csv.gz"
    packed.write_bytes(compress(CSV * 100)[:keep])
    with pytest.raises(ValueError, match=r"truncated or damaged"):
        sources.decompressed(File(packed, "a.csv.gz"), fetched)


def test_damaged_gzip_is_refused(data: Path, fetched: Path) -> None:
    content = bytearray(gzip.compress(CSV * 100))
    content[-6] ^= 0xFF
    packed = data / "a.csv.gz"
    packed.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.csv.gz is truncated or damaged gzip data"):
        sources.decompressed(File(packed, "a.csv.gz"), fetched)


def test_http_file_is_fetched_and_its_query_is_kept_out_of_its_name(web: str, fetched: Path) -> None:
    (file,) = sources.fetch(f"{web}/a.csv?token=secret", fetched)
    assert file.path.read_bytes() == CSV
    assert file.path.name == "a.csv"
    assert file.name == f"{web}/a.csv"


def test_user_and_query_are_not_shown() -> None:
    assert masking.shown("https://me:pw@host:8/a.csv?sig=1") == "https://host:8/a.csv"
    assert masking.shown("s3://bucket/what?.csv") == "s3://bucket/what?.csv"


def test_each_http_failure_gives_a_one_line_error(web: str, fetched: Path) -> None:
    with pytest.raises(ValueError, match=r"there is nothing at http://127.0.0.1:\d+/missing.csv$"):
        sources.fetch(f"{web}/missing.csv?token=1", fetched)
    with pytest.raises(ValueError, match="no permission to read"):
        sources.fetch(f"{web}/secret.csv", fetched)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_unreachable_web_server_gives_a_one_line_error(scheme: str, fetched: Path) -> None:
    with pytest.raises(
        ValueError, match=r"can't be read; check that the address is right and the server is up"
    ):
        sources.fetch(f"{scheme}://127.0.0.1:{free_ports(1)[0]}/a.csv", fetched)


@pytest.fixture
def s3(s3_server: str) -> str:
    """Give a bucket on moto's S3 server: an emulation, as no S3 runs on a developer's machine."""
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for key in ("in/b.csv", "in/a.csv", "in/_SUCCESS", "in/deep/c.csv"):
        client.put_object(Bucket="bucket", Key=key, Body=CSV)
    return "s3://bucket"


# moto's and botocore's own use of what Python deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_s3_gives_files_globs_and_directories(s3: str, tmp_path: Path) -> None:
    for number, (place, names) in enumerate(
        {
            "in/a.csv": ["in/a.csv"],
            "in/*.csv": ["in/a.csv", "in/b.csv"],
            "in": ["in/a.csv", "in/b.csv"],
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = sources.fetch(f"{s3}/{place}", folder)
        assert [file.name for file in files] == [f"{s3}/{name}" for name in names]
        assert all(file.path.read_bytes() == CSV for file in files)
    import boto3

    for key in ("odd/a[1].csv", "odd/a?.csv", "odd/a1.csv", "odd/a*.csv"):
        boto3.client("s3").put_object(Bucket="bucket", Key=key, Body=CSV)
        (tmp_path / key.replace("/", "-")).mkdir()
        files = sources.fetch(f"{s3}/{key}", tmp_path / key.replace("/", "-"))
        assert [file.name for file in files] == [f"{s3}/{key}"]
    for year in ("2023", "2024"):
        boto3.client("s3").put_object(Bucket="bucket", Key=f"hive/year={year}/a.csv", Body=CSV)
    for number, place in enumerate(("hive", "hive/*", "hive/*/*.csv")):
        (tmp_path / f"hive-{number}").mkdir()
        files = sources.fetch(f"{s3}/{place}", tmp_path / f"hive-{number}")
        assert sources.partitions(files) == {"year": ["2023", "2024"]}
    with pytest.raises(ValueError, match=r"there is nothing at s3://bucket/missing.csv"):
        sources.fetch(f"{s3}/missing.csv", tmp_path)
    with pytest.raises(ValueError, match=r"no file matches s3://bucket/in/\*.json"):
        sources.fetch(f"{s3}/in/*.json", tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tree_is_copied_whole_or_where_a_name_leads_out_of_it_not_at_all(s3: str, tmp_path: Path) -> None:
    import boto3

    whole, nothing = tmp_path / "whole", tmp_path / "deep" / "nothing"
    whole.mkdir()
    nothing.mkdir(parents=True)
    sources.fetch_tree(f"{s3}/in/", whole)
    copied = [str(path.relative_to(whole)) for path in sorted(whole.rglob("*")) if path.is_file()]
    assert copied == ["_SUCCESS", "a.csv", "b.csv", "deep/c.csv"]
    client = boto3.client("s3")
    # An empty part after the prefix makes the rest of the key an absolute path.
    for key in ("deep/../../out.csv", f"/{tmp_path}/onnxruntime.py", "deep//out.csv", "./out.csv", "deep/.."):
        client.put_object(Bucket="bucket", Key=f"in/{key}", Body=CSV)
        with pytest.raises(ValueError, match=r"s3://bucket/in can't be copied: the name .* leads out of its"):
            sources.fetch_tree(f"{s3}/in", nothing)
        client.delete_object(Bucket="bucket", Key=f"in/{key}")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and whole not in path.parents] == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_unreachable_s3_gives_a_one_line_error(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(ValueError, match=r"s3://bucket/a.csv can't be read; check that the address is right"):
        sources.fetch("s3://bucket/a.csv", fetched)


@pytest.mark.parametrize("source", ["gs://bucket/a.csv", "gs://bucket/*.csv"])
def test_unreachable_cloud_storage_gives_a_one_line_error_at_once(
    source: str, fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_ports(1)[0]}")

    def slept(_: float) -> None:
        raise AssertionError("it waits to try again")

    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", slept)
    with pytest.raises(ValueError, match=r"gs://bucket/.* can't be read; check that the address .*refused"):
        sources.fetch(source, fetched)


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with clouds.cloud_storage("bucket") as address:
        for name in ("in/a.csv", "in/b.csv"):
            clouds.put(address, "bucket", name, CSV)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield "gs://bucket"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_cloud_storage_gives_files_and_globs(gs: str, tmp_path: Path) -> None:
    for number, (place, names) in enumerate({"in/a.csv": ["a.csv"], "in/*.csv": ["a.csv", "b.csv"]}.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = sources.fetch(f"{gs}/{place}", folder)
        assert [file.path.name for file in files] == names
        assert all(file.path.read_bytes() == CSV for file in files)
    with pytest.raises(ValueError, match=r"there is nothing at gs://bucket/missing.csv"):
        sources.fetch(f"{gs}/missing.csv", tmp_path)
