"""Sources that a step may not ask for, each as an attacker would write it; servers are on this machine."""

import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from flowparts import ingest, tables
from flowparts.ingest import image_files
from flowparts.util import allowed_sources, sources


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        content = b"a,b\n1,2\n" if self.path.endswith("a.csv") else b"path,label\n/etc/hostname,x\n"
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 by its base class

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


METADATA = {
    "by number": "http://169.254.169.254/latest/meta-data.csv",
    "IPv6": "http://[fd00:ec2::254]/a.csv",
    "IPv4 in IPv6": "http://[::ffff:169.254.169.254]/a.csv",
    "as a decimal": "http://2852039166/a.csv",
    "as octal": "http://0251.0376.0251.0376/a.csv",
    "link-local": "http://[fe80::1]/a.csv",
    "anywhere": "http://0.0.0.0/a.csv",
}


@pytest.mark.parametrize("address", METADATA.values(), ids=METADATA)
def test_a_clouds_credentials_are_not_asked_for(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a link-local or metadata address|is not a canonical IPv4"):
        sources.fetch(address, tmp_path)


def test_files_are_not_reached_by_a_redirect(server: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"169\.254\.169\.254 is a link-local or metadata address"):
        sources.fetch(f"{server}/to/http://169.254.169.254/a.csv", tmp_path)


def test_files_are_not_reached_by_a_host_name(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a name stands for is looked at when the connection is made, so it doesn't matter who resolved it.
    import socket

    resolve = socket.getaddrinfo

    def hostile(host: str, port: int, *args: int, **options: int) -> list[tuple]:
        return resolve("169.254.169.254" if host == "data.example" else host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hostile)
    with pytest.raises(ValueError, match="is a link-local or metadata address"):
        sources.fetch("http://data.example/a.csv", tmp_path)


def test_an_administrator_may_allow_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(allowed_sources.ALLOWED_ADDRESSES, "10.0.0.0/8 169.254.7.0/24")
    allowed_sources.require_address("169.254.7.1")
    with pytest.raises(PermissionError, match=r"169\.254\.169\.254"):
        allowed_sources.require_address("169.254.169.254")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "8.8.8.8", "::1", "2001:db8::1"])
def test_other_addresses_are_allowed(address: str) -> None:
    allowed_sources.require_address(address)


OUTSIDE = {
    "another host": "https://evil.example/a.csv",
    "a user that looks like the host": "https://data.example@evil.example/a.csv",
    "another bucket": "s3://other/a.csv",
    "a bucket with the same beginning": "s3://bucket-of-others/a.csv",
    "a way out": "https://data.example/../a.csv",
    "a file": "/etc/hostname",
    "a file's address": "file:///etc/hostname",
    "a file by a way out": "/data/../etc/hostname",
    "a sample": "sample://iris",
}


@pytest.mark.parametrize("source", OUTSIDE.values(), ids=OUTSIDE)
def test_sources_keep_to_the_list_of_the_environment(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(allowed_sources.ALLOWED, "https://data.example/* s3://bucket/* /data/*")
    with pytest.raises(
        ValueError, match=r"source .* is not allowed here; FLOWPARTS_ALLOWED_SOURCES .* allows: "
    ):
        sources.fetch(source, tmp_path)
    with pytest.raises(ValueError, match="is not allowed here"):
        sources.fetch_tree(source, tmp_path)


def test_a_link_out_of_an_allowed_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.csv").symlink_to("/etc/hostname")
    (tmp_path / "data" / "a.csv").write_text("a\n1\n")
    monkeypatch.setenv(allowed_sources.ALLOWED, f"{tmp_path.resolve()}/data/*")
    assert sources.fetch(str(tmp_path / "data" / "a.csv"), tmp_path)
    with pytest.raises(ValueError, match="source /etc/hostname is not allowed here"):
        sources.fetch(str(tmp_path / "data" / "link.csv"), tmp_path)


def test_redirects_keep_to_the_list_as_well(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(allowed_sources.ALLOWED, f"{server}/*")
    assert sources.fetch(f"{server}/to/{server}/a.csv", tmp_path)
    with pytest.raises(ValueError, match=r"localhost.* is not allowed here"):
        sources.fetch(f"{server}/to/{server.replace('127.0.0.1', 'localhost')}/a.csv", tmp_path)


def test_an_external_table_cannot_name_local_files(server: str, tmp_path: Path) -> None:
    options = image_files.Options("path", "label", "quarantine")
    with pytest.raises(ValueError, match="a remote table must not name a file on this machine"):
        image_files.read(f"{server}/images.csv?table", tmp_path / "t", tmp_path / "r", options)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_that_unpacks_to_far_more_than_tables_do_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_UNPACKED_BYTES_THAT_ARE_FINE", 1_000_000)
    line = b'{"a": 1}\n' if kind == "jsonl" else b"0\n"
    bomb = tmp_path / f"bomb.{kind}.gz"
    bomb.write_bytes(gzip.compress(b"a\n" * (kind == "csv") + line * (40_000_000 // len(line))))
    with pytest.raises(ValueError, match=r"bomb\.(csv|jsonl)\.gz unpacks to more than .* bytes"):
        ingest.ingest(str(bomb), tmp_path / "t", tmp_path / "r")
    assert sorted(file.name for file in tmp_path.iterdir()) == [bomb.name]


def test_an_administrator_bounds_what_files_unpack_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(b"a\n" + b"1\n" * 2_000_000))
    assert ingest.ingest(str(file), tmp_path / "t", tmp_path / "r")[0]["rows"] == 2_000_000
    monkeypatch.setenv("FLOWPARTS_MOST_UNPACKED_GB", "0.002")
    with pytest.raises(ValueError, match="unpacks to more than 2,000,000 bytes"):
        ingest.ingest(str(file), tmp_path / "t", tmp_path / "r")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_last_line_beyond_duckdbs_buffer_is_reported(kind: str, tmp_path: Path) -> None:
    long = "x" * 17_000_000
    good, bad = (
        ("1,a\n", f"7,{long}\n") if kind == "csv" else ('{"i":1,"t":"a"}\n', f'{{"i":7,"t":"{long}"}}\n')
    )
    file = tmp_path / f"long.{kind}"
    file.write_text(("i,t\n" if kind == "csv" else "") + good * 100 + bad)
    options = ingest.Options(on_bad_rows="quarantine")
    table, rejected = ingest.ingest(str(file), tmp_path / "t", tmp_path / "r", options)
    assert (table["rows"], rejected["rows"]) == (100, 1)
    (reason,) = tables.scan(tmp_path / "r").select(pl.col("reason")).collect().to_series()
    assert "is longer than" in reason
