"""What the pages tell people to type is taken by the real commands."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kfp import compiler, dsl

import compile as compile_command
import endpoints as endpoints_command
import run as run_command
import submit as submit_command
from backends import catalogue, parameters, profiles, triggers
from backends.local import runner
from flowparts import deploy
from flowparts.components.evaluate.evaluate_model import evaluate_model
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.prepare.split_table import split_table
from flowparts.deploy import operations
from flowparts.deploy.options import percent_of
from flowparts.deploy.pod_log import PodLog
from flowparts.models import baseline
from flowparts.train import candidates
from flowparts.tune import space

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSERS = {
    "run.py": run_command._parser,
    "compile.py": compile_command._parser,
    "endpoints.py": endpoints_command.parser,
    "submit.py": submit_command.parser,
}


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """Give every command line of a page's shell blocks and workflow steps, split into words."""
    shell = "\n".join(blocks(page, "", "sh", "bash")).replace("\\\n", " ").splitlines()
    steps = [
        re.sub(r"^\s*- run: ", "", line) for block in blocks(page, "yaml") for line in block.splitlines()
    ]
    for line in (*shell, *steps):
        if re.match(r"(\.venv/bin/python |make )", line):
            yield shlex.split(line, comments=True)


COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_taken_by_the_real_parser(words: list[str]) -> None:
    if words[0] == "make":
        target = words[1]
        named = re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert named, f"there is no target {target}"
        return
    if words[1] == "-c":
        ast.parse(words[2])
        return
    if words[1] == "-m":
        return
    options = PARSERS[words[1]]().parse_args(words[2:])
    percent_of(getattr(options, "traffic_fraction", 1.0))
    if words[1] == "submit.py" and options.do.__name__ in ("_run", "_schedule"):
        inputs = catalogue.pipeline(options.name).component_spec.inputs
        parameters.gather(inputs, None, options.parameter)


def test_the_pages_show_every_command_of_both_backends() -> None:
    shown = {tuple(words[2:4]) for page in PAGES for words in commands(page) if words[1] == "submit.py"}
    verbs = ("upload", "run", "schedule", "status", "cancel")
    assert {(target, verb) for target in ("kubeflow", "vertex") for verb in verbs} <= shown


def test_every_profile_and_trigger_that_is_shown_is_one(tmp_path: Path) -> None:
    kinds = {"kubeflow": profiles.Kubeflow, "vertex": profiles.Vertex}
    shown = [text for page in PAGES for text in blocks(page, "toml")]
    assert len(shown) >= 2
    for text in shown:
        file = tmp_path / "flowparts.toml"
        file.write_text(text)
        tables = tomllib.loads(text)
        if not any("backend" in table for table in tables.values()):
            for trigger in triggers.read(file):
                sent = catalogue.pipeline(trigger.pipeline).component_spec.inputs
                parameters.checked(sent, {**trigger.parameters, **dict.fromkeys(trigger.take, "")})
            continue
        for name, profile in tables.items():
            profiles.gather(kinds[profile["backend"]], {"config": file, "profile": name}, {})


def test_workflows_that_are_shown_have_no_finding(tmp_path: Path) -> None:
    shown = [text for page in PAGES for text in blocks(page, "yaml") if "jobs:" in text]
    assert len(shown) == 2
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    for number, text in enumerate(shown):
        (folder / f"{number}.yml").write_text(text)
    linter = Path(sys.executable).parent / "zizmor"
    report = subprocess.run([linter, "--offline", tmp_path / ".github"], capture_output=True, text=True)
    assert report.returncode == 0, report.stdout + report.stderr


def snippet(name: str, folder: Path) -> Any:
    """Import the component of that name from the page that shows it."""
    (text,) = (text for page in PAGES for text in blocks(page, "python") if f"\ndef {name}(" in text)
    file = folder / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_the_component_that_is_shown_runs(tmp_path: Path) -> None:
    drop_duplicates = snippet("drop_duplicates", tmp_path)
    source = tmp_path / "rows.csv"
    source.write_text("a,b\n1,x\n2,y\n1,x\n")

    @dsl.pipeline(name="example")
    def example() -> None:
        drop_duplicates(table=ingest_table(source=str(source)).outputs["table"])

    record = runner.run(example, {}, tmp_path / "runs")
    assert record.succeeded, record.problem
    assert record.tasks[-1].outputs["dropped_rows"] == 1


def test_the_trainer_that_is_shown_makes_a_model_like_any_other(tmp_path: Path) -> None:
    train_ridge = snippet("train_ridge", tmp_path)

    @dsl.pipeline(name="example")
    def example() -> None:
        table = ingest_table(source="sample://diabetes").outputs["table"]
        parts = split_table(table=table).outputs
        trained = train_ridge(train=parts["train"], label="target")
        evaluate_model(model=trained.outputs["model"], test=parts["test"])

    record = runner.run(example, {}, tmp_path / "runs")
    assert record.succeeded, record.problem
    (trained,) = (task for task in record.tasks if task.name == "train-ridge")
    assert baseline.read(trained.outputs["model"].path).facts["label"] == "target"
    (evaluated,) = (task for task in record.tasks if task.name == "evaluate-model")
    assert evaluated.outputs["metric"] == "rmse"
    assert 40 < evaluated.outputs["score"] < 70  # the label's standard deviation is 77


def test_the_components_that_are_shown_are_formatted_and_typed(tmp_path: Path) -> None:
    shown = blocks(ROOT / "docs/authoring.md", "python")
    assert len(shown) == 2
    files = [tmp_path / f"shown_{number}.py" for number in range(len(shown))]
    for file, text in zip(files, shown, strict=True):
        file.write_text(text, encoding="utf-8")
    settings = ["--config", ROOT / "pyproject.toml"]
    for tool in (["ruff", "format", "--check", *settings], ["mypy", "--config-file", settings[1]]):
        checked = subprocess.run([sys.executable, "-m", *tool, *files], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_migrated_pipeline_runs_and_compiles(tmp_path: Path) -> None:
    migrated = snippet("migrated", tmp_path)
    record = runner.run(migrated, {}, tmp_path / "runs")
    assert record.succeeded, record.problem
    (evaluated,) = (task for task in record.tasks if task.name == "evaluate-model")
    assert evaluated.outputs["score"] > 0.9
    compiler.Compiler().compile(migrated, str(tmp_path / "migrated.yaml"))


def test_every_part_that_replaces_another_is_in_the_catalogue() -> None:
    rows = (ROOT / "docs/migrating.md").read_text("utf-8").split("|---|---|\n")[1].partition("\n\n")[0]
    named = set(re.findall(r"`([a-z]+_\w+)`", "".join(row.split("|")[2] for row in rows.splitlines())))
    assert len(named) > 10
    assert named <= catalogue.components().keys()


# Pieces of programs, which need what their page says.
PIECES = {
    "from kfp.components import load_component_from_url": "an address of a release",
    "from flowparts.components.prepare.split_table": "the wheel; test_wheel.py imports it so",
    "reference = batch_predict(": "a deployed model's log; test_estimate_performance.py has a whole pipeline",
    "looked = new_data_arrived(": "part of a pipeline; test_new_data_arrived.py has a whole one",
    "drift = detect_drift(": "a deployed model's log; test_publish_metrics.py has a whole pipeline",
    "tuned = tune_model(": "parts of a table; test_tune_model.py has a whole pipeline",
    "trained = train_ensemble(": "parts of a table; test_train_ensemble.py has a whole pipeline",
    "tuned = tune_on_platform(": "a platform; test_tune_on_platform.py has a whole pipeline",
    "earlier = {}": "a pipeline's loop; test_suggest_trials.py has the whole pipeline",
    "space = {": "an option, which a test below checks",
    "candidates = [": "an option, which a test below checks",
    "torch.onnx.export(": "PyTorch; serving/test_pytorch.py holds what it gives",
}


def python_snippets() -> Iterator[Any]:
    for page in PAGES:
        for text in blocks(page, "python"):
            yield pytest.param(text, id=f"{page.stem}: {text.strip().splitlines()[0][:60]}")


@pytest.mark.parametrize("text", list(python_snippets()))
def test_every_python_snippet_is_run_by_a_test_or_says_why_not(text: str) -> None:
    ast.parse(text)
    run = [name for name in ("drop_duplicates", "train_ridge", "migrated") if f"\ndef {name}(" in text]
    assert run or [start for start in PIECES if text.startswith(start)]


def test_the_search_space_that_is_shown_is_one() -> None:
    (text,) = (text for text in blocks(ROOT / "docs/tuning.md", "python") if text.startswith("space = "))
    found = space.check(ast.literal_eval(text.removeprefix("space = ")), "classification")
    assert [each.estimator for each in found] == ["Linear", "LGBM"]


def test_the_candidates_that_are_shown_can_be_built() -> None:
    (text,) = (text for text in blocks(ROOT / "docs/features.md", "python") if text.startswith("candidates"))
    shown = ast.literal_eval(text.removeprefix("candidates = "))
    built = candidates.build(shown, "regression", candidates.Options())
    assert len({each.name for each in built}) == 3


def manifests(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text("utf-8")))


MANIFESTS = {file.stem: manifests(file) for file in sorted((ROOT / "docs").glob("*/*.yaml"))}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_valid_and_a_page_says_what_it_is_for(name: str) -> None:
    for manifest in MANIFESTS[name]:
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    assert any(f"kubeflow/{name}.yaml" in page.read_text("utf-8") for page in PAGES)


def test_the_secrets_have_what_the_profile_and_the_launcher_take_from_them() -> None:
    secrets = {
        manifest["metadata"]["name"]: manifest["stringData"]
        for documents in MANIFESTS.values()
        for manifest in documents
        if manifest["kind"] == "Secret"
    }
    (shown,) = (text for text in blocks(ROOT / "docs/kubeflow.md", "toml") if "[local]" in text)
    for name, keys in tomllib.loads(shown)["local"]["secrets"].items():
        assert set(keys) <= set(secrets[name])
    (launcher,) = MANIFESTS["launcher"]
    store = yaml.safe_load(launcher["data"]["providers"])["s3"]["default"]
    asked = store["credentials"]["secretRef"]
    assert {asked["accessKeyKey"], asked["secretKeyKey"]} <= set(secrets[asked["secretName"]])
    assert secrets["bucket"]["AWS_ENDPOINT_URL"] == f"http://{store['endpoint']}"


def test_every_limit_that_an_administrator_can_set_is_shown() -> None:
    (shown,) = (text for text in blocks(ROOT / "docs/kubeflow.md", "yaml") if "podSpecPatch" in text)
    (container,) = yaml.safe_load(yaml.safe_load(shown)["spec"]["podSpecPatch"])["containers"]
    assert container["name"] == "main"
    code = "".join(file.read_text("utf-8") for file in (ROOT / "src/flowparts").rglob("*.py"))
    known = set(re.findall(r'"(FLOWPARTS_(?:ALLOWED|MOST)_[A-Z_]+)"', code))
    # Link-local networks are allowed only where there is a reason.
    assert {entry["name"] for entry in container["env"]} == known - {"FLOWPARTS_ALLOWED_ADDRESSES"}


def test_the_options_for_watching_an_endpoint_are_taken_by_every_target_and_fit_the_claim() -> None:
    shown = [yaml.safe_load(text) for text in blocks(ROOT / "docs/monitoring.md", "yaml")]
    (options,) = (each for each in shown if "prediction_log" in each)
    (claim,) = (each for each in shown if each.get("kind") == "PersistentVolumeClaim")
    kubernetes_validate.validate(claim, "1.34", strict=True)
    for target in ("kubernetes", "kserve", "seldon"):
        operations.options(target, options)
        deploy.target(target).Options(**options)
    log = PodLog.of(options["prediction_log"])
    assert log
    assert (log.claim, options["namespace"]) == (claim["metadata"]["name"], claim["metadata"]["namespace"])
    assert f"create secret generic {log.secret} -n {options['namespace']} " in "".join(
        blocks(ROOT / "docs/monitoring.md", "sh")
    )


def granted(*roles: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_role_of_a_local_kubeflow_is_the_part_of_the_full_one_that_a_plain_cluster_needs() -> None:
    (text,) = (text for text in blocks(ROOT / "docs/kubernetes.md", "yaml") if "kind: Role" in text)
    role, binding = MANIFESTS["deploy-role"]
    left_out = granted(*yaml.safe_load_all(text)) - granted(role)
    assert granted(role) <= granted(*yaml.safe_load_all(text))
    # What further resources bring along, and requests from outside of the cluster.
    own = {"", "apps", "autoscaling", "policy", "coordination.k8s.io", "networking.k8s.io"}
    assert {resource for group, resource, _ in left_out if group in own} == {"services/proxy"}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": role["metadata"]["namespace"]}
    ]


RECORDS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name[:4])
def test_a_decision_record_has_the_required_sections(record: Path) -> None:
    text = record.read_text("utf-8")
    number = int(record.name[:4])
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert re.search(r"^- Theme: \w.+$", text, re.MULTILINE)
    (status,) = re.findall(r"^- Status: (.+)$", text, re.MULTILINE)
    if status != "accepted":
        replaced = re.fullmatch(r"superseded by (\d{4})", status)
        assert replaced, status
        assert any(other.name.startswith(replaced[1]) for other in RECORDS)


def test_decision_records_are_numbered_once_and_without_gaps() -> None:
    assert [int(record.name[:4]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))


def named_code(page: Path) -> Iterator[str]:
    """Give the files and the modules of this repository that a page names."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`([\w./-]+)`", text):
        path = re.match(r"(src|tests|backends|tools|components|containers|docs)/", name)
        module = re.fullmatch(r"(flowparts|backends)(\.\w+)+", name)
        if path or (module and not name.endswith(".toml")):
            yield name


@pytest.mark.parametrize(
    ("page", "name"),
    [
        pytest.param(page, name, id=f"{page.stem[:20]}: {name}")
        for page in [*PAGES, *RECORDS]
        for name in dict.fromkeys(named_code(page))
    ],
)
def test_a_file_or_module_that_a_page_names_is_there(page: Path, name: str) -> None:
    if "/" in name:
        assert (ROOT / name.replace("<stage>/", "")).exists()
        return
    # Read and not imported: some modules need what isn't installed here.
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        file = (ROOT / ("src" if parts[0] == "flowparts" else "")).joinpath(*parts[:length])
        module = next(
            (each for each in (file.with_suffix(".py"), file / "__init__.py") if each.is_file()), None
        )
        if module:
            defined = module.read_text("utf-8")
            assert all(re.search(rf"\b{inner}\b", defined) for inner in parts[length:])
            return
    pytest.fail("there is no such module")
