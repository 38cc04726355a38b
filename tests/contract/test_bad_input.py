"""Every bad input is answered with one sentence, and nothing half-written is left behind."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl
from kfp.dsl.python_component import PythonComponent

from backends import catalogue
from flowparts import models, tables
from flowparts.prepare import preprocess
from tests.contract.conftest import Recorded

COMPONENTS = catalogue.components()
NOWHERE = "http://127.0.0.1:9"


@contextmanager
def answered(outputs: Path, *words: str) -> Iterator[None]:
    """Require one sentence that holds these words, and that no output is there afterwards."""
    with pytest.raises(ValueError, match=r"\S") as raised:
        yield
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert len(sentence) < 400, sentence
    assert [word for word in words if word not in sentence] == [], sentence
    assert left_in(outputs) == [], "a step that fails leaves outputs; read all inputs before the first write"


def left_in(outputs: Path) -> list[str]:
    return sorted(path.name for path in outputs.iterdir()) if outputs.is_dir() else []


class Call:
    """Calls components as `call.name(port=...)`; their outputs lie in `folder`, by component and port."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.returned: Any = None

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        component: PythonComponent = COMPONENTS[name]
        annotations = component.python_func.__annotations__

        def call(**given: Any) -> dict[str, Any]:
            made = {
                port: annotations[port].__origin__(name=port, uri=str(self.folder / name / port))
                for port, spec in (component.component_spec.outputs or {}).items()
                if spec.type.startswith("system.")
            }
            self.returned = component.python_func(**given, **made)
            for artifact in made.values():
                assert Path(artifact.path).exists()
            assert list(self.folder.rglob(".*.partial")) == []
            return made

        return call


@pytest.fixture
def call(tmp_path: Path) -> Call:
    return Call(tmp_path / "called")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def store(frame: pl.DataFrame, folder: Path) -> dsl.Dataset:
    """Store a table as another tool may have: NaN stays NaN."""
    folder.mkdir(parents=True)
    frame.write_parquet(folder / "part-0.parquet")
    return dsl.Dataset(name=folder.name, uri=str(folder))


def customers(rows: int = 240) -> pl.DataFrame:
    """Rows of mixed columns whose label follows from two of them, with names and values beyond ASCII."""
    number = pl.int_range(rows, eager=True)
    return pl.DataFrame(
        {
            "größe": (number * 37 % 101).cast(pl.Float64),
            "стране": (number % 3).replace_strict({0: "Österreich", 1: "日本", 2: "France"}),
            "leer": pl.Series([None] * rows, dtype=pl.String),
            "名前": (number * 37 % 101 > 50).replace_strict({True: "ja, schön", False: "いいえ"}),
        }
    )


LABEL = "名前"


class Chain:
    """The components one after the other on one table, up to a model."""

    def __init__(self, call: Call, table: dsl.Dataset):
        self.schema = call.validate_table(table=table)["table_schema"]
        self.parts = call.split_table(table=table, stratify_by=LABEL)
        self.prepared = call.fit_preprocessor(
            train=self.parts["train"], validation=self.parts["validation"], label=LABEL
        )
        self.model = call.train_sklearn(
            train_features=self.prepared["train_features"],
            validation_features=self.prepared["validation_features"],
            preprocessor=self.prepared["preprocessor"],
            estimator="Linear",
        )["model"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    return Chain(Call(folder / "called"), store(customers(), folder / "customers"))


# Files that ingest_table is given.

FILES: dict[str, tuple[str, bytes | None, list[str]]] = {
    "missing file": ("rows.csv", None, ["no file", "rows.csv"]),
    "empty file": ("rows.csv", b"", ["rows.csv", "is empty"]),
    "empty lines only": ("rows.csv", b"\n\n \n", ["rows.csv", "is empty"]),
    "header only": ("rows.csv", b"a,b\n", ["rows.csv", "no rows"]),
    "ragged rows": ("rows.csv", b"a,b\n1,2\n3\n4,5,6\n", ["line 3", "1 field", "header has 2", "quarantine"]),
    "wrong encoding": ("rows.csv", "a,b\n1,größe\n".encode("cp1252"), ["line 2", "not UTF-8", "iconv"]),
    "wrong encoding of the header": ("rows.csv", "größe\n1\n".encode("cp1252"), ["header", "not UTF-8"]),
    "UTF-16": ("rows.csv", "a,b\n1,2\n".encode("utf-16"), ["UTF-16", "iconv"]),
    "duplicate names in CSV": ("rows.csv", b"a,b,a\n1,2,3\n", ["more than one column named 'a'", "rename"]),
    "JSON array": ("rows.jsonl", b'[{"a": 1}]', ["JSON array", "jq"]),
    "broken JSON line": ("rows.jsonl", b'{"a": 1}\n{"a": \n', ["line 2", "not valid JSON", "quarantine"]),
    "empty JSON Lines": ("rows.jsonl", b"", ["rows.jsonl", "is empty"]),
    "not Parquet": ("rows.parquet", b"PK\x03\x04 an archive", ["rows.parquet", "not a Parquet file"]),
    "truncated Parquet": ("rows.parquet", b"PAR1 and no more", ["truncated Parquet file"]),
    "damaged Parquet": ("rows.parquet", b"PAR1 something else PAR1", ["rows.parquet", "can't be read"]),
    "unknown suffix": ("rows.xlsx", b"PK", ["rows.xlsx", "file_format", ".csv"]),
}


@pytest.mark.parametrize(("name", "content", "words"), FILES.values(), ids=FILES)
def test_a_bad_file_is_refused(
    name: str, content: bytes | None, words: list[str], call: Call, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with answered(call.folder / "ingest_table", *words):
        call.ingest_table(source=str(tmp_path / name))


def test_bad_rows_can_be_quarantined_instead(call: Call, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"a,b\n1,2\n3\n4,5,6\n7,gr\xf6\xdfe\n8,9\n")
    made = call.ingest_table(source=str(tmp_path / "rows.csv"), on_bad_rows="quarantine")
    assert call.returned == (2, 3)
    assert tables.scan(made["rejected"].path).collect()["line"].to_list() == [3, 4, 5]


# Tables that any component is given.


def dataset_ports() -> Iterator[Any]:
    """Find every port where a component reads a table; some read its description only, and say so."""
    for name, component in COMPONENTS.items():
        for port, spec in (component.component_spec.inputs or {}).items():
            if spec.type == "system.Dataset@0.0.1" and "only its description" not in spec.description:
                yield pytest.param(name, port, id=f"{name}-{port}")


def no_rows(table: Path, copy: Path) -> None:
    tables.write(tables.scan(table).head(0), copy)


def no_directory(table: Path, copy: Path) -> None:
    copy.parent.mkdir(exist_ok=True)


def no_files(table: Path, copy: Path) -> None:
    copy.mkdir(parents=True)


def truncated(table: Path, copy: Path) -> None:
    copy.mkdir(parents=True)
    whole = (table / "part-00000.parquet").read_bytes()
    (copy / "part-00000.parquet").write_bytes(whole[: len(whole) // 2])


def damaged_pages(table: Path, copy: Path) -> None:
    copy.mkdir(parents=True)
    whole = (table / "part-00000.parquet").read_bytes()
    # The footer, with its length in front of the last four bytes, is left as it is.
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    (copy / "part-00000.parquet").write_bytes(whole[:4] + b"\xff" * (pages - 4) + whole[pages:])


def not_parquet(table: Path, copy: Path) -> None:
    copy.mkdir(parents=True)
    (copy / "part-00000.parquet").write_bytes(b"PAR1" + b"no footer" * 9 + b"PAR1")


def parts_of_two_tables(table: Path, copy: Path) -> None:
    copy.mkdir(parents=True)
    tables.scan(table).sink_parquet(copy / "part-00000.parquet")
    pl.DataFrame({"else": [1]}).write_parquet(copy / "part-00001.parquet")


# An empty table is a fine thing to hand on.
TAKES_NO_ROWS = {"export_table"}
# The schema of a model has no rule on values, so that none is read.
READS_WHAT_RULES_ASK = {"validate_table"}


@pytest.mark.parametrize(
    "damage", [no_rows, no_directory, no_files, truncated, damaged_pages, not_parquet, parts_of_two_tables]
)
@pytest.mark.parametrize(("component", "port"), list(dataset_ports()))
def test_a_bad_table_is_refused(
    component: str, port: str, damage: Callable[[Path, Path], None], recorded: Recorded, tmp_path: Path
) -> None:
    step = recorded.step(component).inside(tmp_path, recorded.outside)
    table = step.executor_input["inputs"]["artifacts"][port]["artifacts"][0]["uri"]
    copy = tmp_path / "damaged" / "table"
    damage(Path(table), copy)
    bad = step.reading(port, copy)
    if (damage is no_rows and component in TAKES_NO_ROWS) or (
        damage is damaged_pages and component in READS_WHAT_RULES_ASK
    ):
        bad.call()
        return
    words = {no_rows: "no rows", damaged_pages: "is damaged"}
    with answered(tmp_path / "made", words.get(damage, str(copy))):
        bad.call()


# Models, schemas and reports that any component is given.


def artifact_ports() -> Iterator[Any]:
    """Find every port where a component reads one artifact that is no table; some read its URI only."""
    for name, component in COMPONENTS.items():
        for port, spec in (component.component_spec.inputs or {}).items():
            of_table = spec.type == "system.Dataset@0.0.1"
            if (
                spec.type.startswith("system.")
                and not of_table
                and not spec.optional
                and "only its URI" not in spec.description
            ):
                yield pytest.param(name, port, id=f"{name}-{port}")


def missing(copy: Path) -> None:
    copy.unlink() if copy.is_file() else shutil.rmtree(copy)


def unreadable(copy: Path) -> None:
    for file in [copy] if copy.is_file() else filter(Path.is_file, copy.rglob("*")):
        file.write_bytes(b"\xff\x00 nothing that was written here")


# For it a model that can't be loaded is a finding.
JUDGES_MODELS = {"check_serving"}


@pytest.mark.parametrize("damage", [missing, unreadable])
@pytest.mark.parametrize(("component", "port"), list(artifact_ports()))
def test_a_bad_artifact_is_refused(
    component: str, port: str, damage: Callable[[Path], None], recorded: Recorded, tmp_path: Path
) -> None:
    step = recorded.step(component).inside(tmp_path, recorded.outside)
    path = Path(step.executor_input["inputs"]["artifacts"][port]["artifacts"][0]["uri"])
    copy = tmp_path / "damaged"
    shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)
    damage(copy)
    bad = step.reading(port, copy)
    values = bad.executor_input["inputs"]["parameterValues"]
    if "run_id" in values:  # what this run has done before is not looked at again
        values["run_id"] = "another"
    if component in JUDGES_MODELS:
        bad.call()
        return
    with answered(tmp_path / "made", str(copy)):
        bad.call()


# A column that is no longer there, at every step that compares a table with what was learned from another.

VANISHED = [
    ("fit_preprocessor", "validation"),
    ("train_sklearn", "train_features"),
    ("train_sklearn", "validation_features"),
    ("train_keras_tabular", "validation"),
    ("train_tabular", "validation"),
    ("train_ensemble", "validation"),
    ("tune_model", "validation"),
    ("tune_on_platform", "validation"),
    ("evaluate_model", "test"),
    ("register_champion", "test"),
    ("batch_predict", "table"),
]


@pytest.mark.parametrize(("component", "port"), VANISHED, ids=["-".join(case) for case in VANISHED])
@pytest.mark.parametrize("what", ["feature", "label"])
def test_a_vanished_column_is_named(
    component: str, port: str, what: str, recorded: Recorded, tmp_path: Path
) -> None:
    step = recorded.step(component).inside(tmp_path, recorded.outside)
    frame = tables.scan(step.executor_input["inputs"]["artifacts"][port]["artifacts"][0]["uri"])
    names = frame.collect_schema().names()
    vanished = names[0] if what == "feature" else "target"
    tables.write(frame.drop(vanished), tmp_path / "damaged")
    bad = step.reading(port, tmp_path / "damaged")
    if (component, what) == ("batch_predict", "label"):
        bad.call()
        return
    with answered(tmp_path / "made", "column", repr(vanished)):
        bad.call()


def test_a_vanished_column_makes_a_model_unservable_and_a_table_invalid(
    chain: Chain, call: Call, tmp_path: Path
) -> None:
    poorer = store(customers().drop("größe"), tmp_path / "poorer")
    call.check_serving(model=chain.model, test=poorer)
    servable, reason, _ = call.returned
    assert not servable
    assert "'größe' is not in the table" in reason
    with pytest.raises(ValueError, match="column 'größe': missing_column") as raised:
        call.validate_table(table=poorer, schema=chain.schema)
    assert "\n" not in str(raised.value)
    # A person wants to see what is wrong, so these two are written before the step fails.
    assert left_in(call.folder / "validate_table") == ["anomalies", "table_schema", "validation_report"]


# Labels.

LABELS: dict[str, tuple[pl.Expr, str, list[str]]] = {
    "not there": (pl.lit("a").alias("other"), "classification", ["'label' is not in the table", "other"]),
    "missing": (pl.lit(None, pl.String).alias("label"), "classification", ["'label'", "missing in 240 rows"]),
    "some NaN": (
        pl.when(pl.int_range(pl.len()) < 3).then(float("nan")).otherwise(1.5).alias("label"),
        "regression",
        ["'label'", "missing in 3 rows", "fill the label"],
    ),
    "some infinite": (
        pl.when(pl.int_range(pl.len()) < 3).then(float("inf")).otherwise(1.5).alias("label"),
        "regression",
        ["'label'", "infinite in 3 rows"],
    ),
    "a single class": (pl.lit("ja").alias("label"), "classification", ["single class", "'ja'", "two"]),
    "text to regress": (pl.lit("ja").alias("label"), "regression", ["String", "needs numbers"]),
    "fractions to classify": (pl.lit(0.5).alias("label"), "classification", ["fractions", "'regression'"]),
}


@pytest.mark.parametrize(("label", "task", "words"), LABELS.values(), ids=LABELS)
def test_a_label_that_cannot_be_learned_is_refused(
    label: pl.Expr,
    task: str,
    words: list[str],
    call: Call,
    tmp_path: Path,
) -> None:
    table = store(customers().drop(LABEL).with_columns(label), tmp_path / "bad")
    with answered(call.folder / "fit_preprocessor", *words):
        call.fit_preprocessor(train=table, validation=table, label="label", task=task)


TEST_LABELS: dict[str, tuple[pl.Expr, list[str]]] = {
    "missing": (pl.when(pl.int_range(pl.len()) > 2).then(pl.col(LABEL)).alias(LABEL), ["3", "missing"]),
    "all missing": (pl.lit(None, pl.String).alias(LABEL), ["missing"]),
    "unknown": (pl.lit("vielleicht").alias(LABEL), ["'vielleicht'"]),
    "another type": (pl.lit(1.5).alias(LABEL), ["1.5"]),
}


@pytest.mark.parametrize(("label", "words"), TEST_LABELS.values(), ids=TEST_LABELS)
@pytest.mark.parametrize("component", ["evaluate_model", "register_champion"])
def test_a_label_that_cannot_be_scored_is_refused(
    component: str,
    label: pl.Expr,
    words: list[str],
    chain: Chain,
    call: Call,
    database: str,
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {}
    if component == "register_champion":
        (page := tmp_path / "evaluation").write_text("<p>evaluation</p>")
        options = {"model_name": "customers", "tracking_uri": database}
        options["evaluation_report"] = dsl.HTML(uri=str(page))
    bad = store(customers().with_columns(label), tmp_path / "bad")
    with answered(call.folder / component, *words):
        getattr(call, component)(model=chain.model, test=bad, bootstrap_samples=20, **options)


def test_a_test_table_of_a_single_class_is_measured_as_far_as_it_goes(
    chain: Chain, call: Call, tmp_path: Path
) -> None:
    one = store(customers().filter(pl.col(LABEL) == "いいえ"), tmp_path / "one")
    metrics = call.evaluate_model(model=chain.model, test=one, bootstrap_samples=20)["test_metrics"]
    assert "accuracy" in metrics.metadata
    assert "roc_auc" not in metrics.metadata


# What is unusual and none the less right.


def test_names_beyond_ascii_and_a_column_without_values_go_from_the_file_to_the_evaluation(
    call: Call, tmp_path: Path
) -> None:
    customers().write_csv(tmp_path / "kunden 顧客.csv")
    table = call.ingest_table(source=str(tmp_path / "kunden 顧客.csv"))["table"]
    assert tables.scan(table.path).collect().equals(customers())

    profiled = call.profile_table(table=table)
    assert "all missing" in Path(profiled["statistics"].path).read_text(encoding="utf-8")
    chain = Chain(call, table)
    call.validate_table(table=table, schema=chain.schema)
    assert call.returned == (True, 0)
    learned = preprocess.load(chain.prepared["preprocessor"].path)
    assert learned.dropped == {"leer": "is missing in every row"}
    assert models.metadata(chain.model.path)["classes"] == ["ja, schön", "いいえ"]

    evaluated = call.evaluate_model(
        model=chain.model, test=chain.parts["test"], slice_columns=["стране"], bootstrap_samples=20
    )
    assert evaluated["test_metrics"].metadata["accuracy"] > 0.9
    assert "Österreich" in Path(evaluated["evaluation_report"].path).read_text(encoding="utf-8")
    call.check_serving(model=chain.model, test=chain.parts["test"], sample_rows=5)
    assert call.returned[0], call.returned[1]
    predicted = call.batch_predict(table=table, model=chain.model, key_columns=["стране"])["predictions"]
    frame = tables.scan(predicted.path).collect()
    assert frame.columns == ["стране", "prediction", "probability_ja, schön", "probability_いいえ"]
    exported = tmp_path / "прогноз.csv"
    call.export_table(table=predicted, destination=str(exported))
    assert pl.read_csv(exported).equals(frame)


def test_an_unseen_category_is_scored_and_evaluated(chain: Chain, call: Call, tmp_path: Path) -> None:
    unseen = customers().with_columns(pl.lit("Atlantis").alias("стране"))
    call.evaluate_model(model=chain.model, test=store(unseen, tmp_path / "unseen"), bootstrap_samples=20)
    assert call.returned[1] > 0.9
    scored = call.batch_predict(table=store(unseen.drop(LABEL), tmp_path / "unseen rows"), model=chain.model)
    predictions = tables.scan(scored["predictions"].path).collect()
    assert predictions.select("prediction").null_count().item() == 0
    with pytest.raises(ValueError, match=r"column 'стране': category, expected one of .*such as Atlantis"):
        call.validate_table(table=store(unseen, tmp_path / "to validate"), schema=chain.schema)


# Options.

SPLITS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "too much": ({"train_fraction": 0.9}, ["add up to 1", "0.9 + 0.15 + 0.15 = 1.2"]),
    "too little": ({"train_fraction": 0.1}, ["add up to 1", "= 0.4"]),
    "negative": ({"train_fraction": 1.15, "test_fraction": -0.3}, ["train_fraction", "1.15"]),
    "not a number": ({"train_fraction": float("nan")}, ["train_fraction", "nan"]),
    "unknown key": ({"key": ["id"]}, ["key column 'id'", "columns are: größe"]),
    "unknown key of a wide table": (
        {"key": ["spalte_10000"]},
        ["did you mean 'spalte_1000'", "and 994 more"],
    ),
    "unknown stratum": ({"stratify_by": "grösse"}, ["stratify_by column 'grösse'", "'größe'"]),
    "contradiction": ({"group_by": "стране", "time_column": "größe"}, ["group_by and time_column"]),
}


@pytest.mark.parametrize(("options", "words"), SPLITS.values(), ids=SPLITS)
def test_a_bad_split_is_refused(
    options: dict[str, Any], words: list[str], call: Call, tmp_path: Path
) -> None:
    table = store(customers(), tmp_path / "customers")
    if "and 994 more" in words:
        more = [pl.lit(1).alias(f"spalte_{number}") for number in range(1000, 2000)]
        table = store(customers().with_columns(more), tmp_path / "wide")
    with answered(call.folder / "split_table", *words):
        call.split_table(table=table, **options)


TRAININGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown estimator": ({"estimator": "RandomForrest"}, ["'RandomForrest'", "did you mean 'RandomForest'"]),
    "estimator of another task": ({"estimator": "LGBMRegressor"}, ["'LGBMRegressor'", "classification"]),
    "estimator from nowhere": ({"estimator": "os.system"}, ["'os.system'"]),
    "unknown parameter": (
        {"estimator": "RandomForest", "parameters": {"n_estimator": 5}},
        ["'n_estimator'", "did you mean 'n_estimators'"],
    ),
    "parameter of the wrong type": (
        {"estimator": "RandomForest", "parameters": {"n_estimators": "many"}},
        ["n_estimators", "many"],
    ),
    "parameter out of range": (
        {"estimator": "RandomForest", "parameters": {"n_estimators": -5}},
        ["n_estimators", "-5"],
    ),
    "early stopping where there is none": (
        {"estimator": "RandomForest", "early_stopping_rounds": 5},
        ["RandomForestClassifier", "can't stop early"],
    ),
    "unknown class weight": ({"estimator": "Linear", "class_weight": "fair"}, ["'fair'", "balanced"]),
    "unknown weight column": ({"estimator": "Linear", "weight_column": "gewicht"}, ["'gewicht'"]),
}


@pytest.mark.parametrize(("options", "words"), TRAININGS.values(), ids=TRAININGS)
def test_a_bad_training_option_is_refused(
    options: dict[str, Any], words: list[str], chain: Chain, call: Call
) -> None:
    with answered(call.folder / "train_sklearn", *words):
        call.train_sklearn(**chain.prepared, **options)


# An MLflow server that isn't there.

SERVED = [name for name, part in COMPONENTS.items() if "tracking_uri" in (part.component_spec.inputs or {})]


@pytest.mark.parametrize("component", SERVED)
def test_an_unreachable_server_is_reported_quickly(
    component: str, recorded: Recorded, tmp_path: Path
) -> None:
    step = recorded.step(component).inside(tmp_path, recorded.outside)
    step.executor_input["inputs"]["parameterValues"]["tracking_uri"] = NOWHERE
    started = time.monotonic()
    with answered(tmp_path / "made", NOWHERE, "no server answers there", "correct the tracking URI"):
        step.call()
    assert time.monotonic() - started < 20
