from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl

import compile as compile_command
from backends import catalogue, package
from backends.profiles import Vertex
from backends.vertex import document


def test_writes_pipelines_for_both_backends_and_components_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert compile_command.main(["tabular-training", "split_table", "--out", str(tmp_path)]) == 0
    written = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.yaml"))
    assert written == [
        "components/split_table.yaml",
        "kubeflow/tabular_training.yaml",
        "vertex/tabular_training.yaml",
    ]
    files, table = capsys.readouterr().out.split("on Kubeflow")
    assert sorted(files.split()) == [str(tmp_path / file) for file in written]
    # One row for the pipeline, and one for what its default parameters leave out.
    assert table.splitlines()[1].split()[0] == "tabular-training"


def test_settles_registry_and_version_of_every_image(tmp_path: Path) -> None:
    arguments = ["tabular-training", "--backend", "vertex", "--out", str(tmp_path)]
    assert compile_command.main([*arguments, "--registry", "registry.example/team", "--version", "9.9"]) == 0
    spec = yaml.safe_load((tmp_path / "vertex" / "tabular_training.yaml").read_text())
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {
        f"registry.example/team/flowparts-{name}:9.9"
        for name in ("base", "deploy", "serving", "sklearn", "tensorflow")
    }


def test_target_is_still_another_name_of_the_flag_backend(tmp_path: Path) -> None:
    assert compile_command.main(["batch-prediction", "--target", "vertex", "--out", str(tmp_path)]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["vertex"]


def test_files_compiled_for_a_registry_are_not_overwritten_by_ones_without(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["split_table", "--out", str(tmp_path)]
    file = tmp_path / "components" / "split_table.yaml"
    assert compile_command.main([*arguments, "--registry", "registry.example/team"]) == 0
    before = file.read_text()
    assert compile_command.main(arguments) == 1
    assert (
        f"{file} was compiled with --registry registry.example/team; give it again" in capsys.readouterr().err
    )
    assert file.read_text() == before
    assert compile_command.main([*arguments, "--registry", "registry.example/other"]) == 0
    assert "registry.example/other/flowparts-base" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["tabular-trainin"],
            "unknown pipeline or component 'tabular_trainin'; did you mean 'tabular_training'?",
        ),
        (["split_table", "--version", "latest"], "version 'latest' is not a fixed image tag"),
        (["split_table", "--digests", "missing.json"], "cannot read the images in missing.json"),
        (["batch-prediction", "--resources", "{trian: {}}"], "unknown step 'trian'; "),
        (["batch-prediction", "--resources", "{a: 2}"], "setting 'resources' takes a mapping of mappings"),
        (
            ["batch-prediction", "--node", "50m 8Gi"],
            "batch-prediction: step 'batch-predict' asks for 100m CPU 512 Mi and the largest node has 50m",
        ),
    ],
)
def test_a_wrong_option_gives_a_one_line_error_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    assert compile_command.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert not (tmp_path / "out").exists()


def test_a_kubernetes_secret_is_referred_to_by_the_steps_that_ask_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    secret = ["--secret", "aws=AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY"]
    arguments = ["tabular-training", "--out", str(tmp_path), *secret]
    assert compile_command.main([*arguments, "--backend", "kubeflow"]) == 0
    spec, overlay = yaml.safe_load_all((tmp_path / "kubeflow" / "tabular_training.yaml").read_text())
    configs = overlay["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(configs) == set(spec["deploymentSpec"]["executors"])
    given = {label.removeprefix("exec-") for label, config in configs.items() if "secretAsEnv" in config}
    assert "ingest-table" in given
    assert not given & {"split-table", "evaluate-model", "check-serving"}
    (reference,) = configs["exec-ingest-table"]["secretAsEnv"]
    assert reference["secretName"] == "aws"
    assert [pair["envVar"] for pair in reference["keyToEnv"]] == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ]
    assert compile_command.main([*arguments, "--backend", "vertex"]) == 1
    assert "must be written VARIABLE=projects/PROJECT/secrets/" in capsys.readouterr().err
    assert compile_command.main(["tabular-training", "--backend", "kubeflow", "--secret", "aws"]) == 1
    assert "must be written NAME=KEY,KEY" in capsys.readouterr().err
    assert compile_command.main(arguments) == 1
    assert "compile with --backend" in capsys.readouterr().err


def test_a_secret_of_secret_manager_is_read_by_the_steps_that_ask_for_it(tmp_path: Path) -> None:
    secret = ["--secret", "MLFLOW_TRACKING_TOKEN=projects/my-project/secrets/token/versions/latest"]
    arguments = ["tabular-training", "split_table", "--backend", "vertex", "--out", str(tmp_path), *secret]
    assert compile_command.main(arguments) == 0
    text = (tmp_path / "vertex" / "tabular_training.yaml").read_text()
    plain = ["tabular-training", "--backend", "vertex", "--out", str(tmp_path / "plain")]
    assert compile_command.main(plain) == 0
    without = (tmp_path / "plain" / "vertex" / "tabular_training.yaml").read_text()
    reference = "secretmanager://projects/my-project/secrets/token/versions/latest"
    variable = {"name": "MLFLOW_TRACKING_TOKEN", "value": reference}
    executors = yaml.safe_load(text)["deploymentSpec"]["executors"]
    given = {label.removeprefix("exec-"): each["container"].get("env") for label, each in executors.items()}
    assert given["register-champion"] == [variable]
    assert given["split-table"] is given["ingest-table"] is None
    # Nothing else differs.
    assert text.count("#") == without.count("#")
    spec = yaml.safe_load(text)
    for executor in spec["deploymentSpec"]["executors"].values():
        if not executor["container"].pop("env", None):
            continue
        command = executor["container"]["command"]
        assert command[:3] == ["python3", "-m", "flowparts.util.secrets"]
        executor["container"]["command"] = command[3:]
    assert spec == yaml.safe_load(without)
    assert "secret" not in (tmp_path / "components" / "split_table.yaml").read_text()


def test_a_component_whose_source_is_embedded_is_started_with_secrets_as_well(tmp_path: Path) -> None:
    secret = ["--secret", "MLFLOW_TRACKING_TOKEN=projects/my-project/secrets/token/versions/latest"]
    arguments = ["batch-prediction", "--embed-source", "--backend", "vertex", "--out", str(tmp_path), *secret]
    assert compile_command.main(arguments) == 0
    spec = yaml.safe_load((tmp_path / "vertex" / "batch_prediction.yaml").read_text())
    command = spec["deploymentSpec"]["executors"]["exec-load-champion"]["container"]["command"]
    assert "python3 -m flowparts.util.secrets python3 -m kfp" in command[2]


def test_a_container_component_asks_for_no_secrets() -> None:
    @dsl.container_component
    def greet() -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image="registry/greeter:1", command=["echo"], args=["hello"])

    text = package.compiled(greet, str)
    given = document.with_settings(text, Vertex(secrets={"AWS_KEY": "projects/p/secrets/key/versions/1"}))
    assert "secretmanager" not in given


def test_writes_resources_for_gitops(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--format", "manifest", "--out", str(tmp_path)]
    assert compile_command.main(["tabular-training", *arguments]) == 1
    assert "give --backend kubeflow and pipelines" in capsys.readouterr().err
    assert compile_command.main(["split_table", "--backend", "kubeflow", *arguments]) == 1
    assert not list(tmp_path.iterdir())
    config = tmp_path / "flowparts.toml"
    config.write_text('[team]\nbackend = "kubeflow"\nnamespace = "team"\nnode_selector = { pool = "ml" }\n')
    arguments += ["--config", str(config)]
    assert compile_command.main(["tabular-training", "--backend", "kubeflow", *arguments]) == 0
    pipeline, version = yaml.safe_load_all((tmp_path / "manifest" / "tabular_training.yaml").read_text())
    assert pipeline["metadata"]["namespace"] == version["metadata"]["namespace"] == "team"
    assert pipeline["spec"]["displayName"] == "Train on a table"
    executors = version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-ingest-table"]["nodeSelector"] == {"labels": {"pool": "ml"}}


CONFIG = """
[team]
backend = "kubeflow"
registry = "registry.example/team"
version = "2.0"

[team.resources]
"*" = { cpu_request = "50m" }
batch-predict = { memory_limit = "8Gi" }
roll-out = { cpu_limit = "2" }

[cloud]
backend = "vertex"
registry = "registry.example/cloud"
resources = { batch-predict = { memory_limit = "16Gi" } }
"""


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    file = tmp_path / "flowparts.toml"
    file.write_text(CONFIG)
    return ["--config", str(file), "--out", str(tmp_path)]


def executors(file: Path) -> dict[str, dict[str, Any]]:
    spec = next(yaml.safe_load_all(file.read_text()))
    return {label: part["container"] for label, part in spec["deploymentSpec"]["executors"].items()}


def test_a_profile_settles_images_and_resources_of_its_own_backend(tmp_path: Path, config: list[str]) -> None:
    assert compile_command.main(["batch-prediction", *config, "--profile", "team"]) == 0
    assert not (tmp_path / "vertex").exists()
    containers = executors(tmp_path / "kubeflow" / "batch_prediction.yaml")
    assert containers["exec-ingest-table"]["image"] == "registry.example/team/flowparts-base:2.0"
    resources = containers["exec-batch-predict"]["resources"]
    assert (resources["resourceCpuRequest"], resources["resourceMemoryLimit"]) == ("50m", "8Gi")
    assert containers["exec-ingest-table"]["resources"]["resourceMemoryLimit"] == "2Gi"
    # What is said of a step of other pipelines doesn't matter here.
    assert "exec-roll-out" not in containers


def test_flags_win_over_the_profile(tmp_path: Path, config: list[str]) -> None:
    flags = ["--version", "3.0", "--resources", "{ingest-table: {cpu_limit: 4}}"]
    assert compile_command.main(["batch-prediction", *config, "--profile", "team", *flags]) == 0
    container = executors(tmp_path / "kubeflow" / "batch_prediction.yaml")["exec-ingest-table"]
    assert container["image"] == "registry.example/team/flowparts-base:3.0"
    assert container["resources"]["resourceCpuLimit"] == "4"
    assert container["resources"]["resourceCpuRequest"] == "100m"


def test_every_backend_takes_its_only_profile(tmp_path: Path, config: list[str]) -> None:
    assert compile_command.main(["batch-prediction", *config]) == 0
    images = {
        backend: executors(tmp_path / backend / "batch_prediction.yaml")["exec-ingest-table"]["image"]
        for backend in ("kubeflow", "vertex")
    }
    assert images["kubeflow"] == "registry.example/team/flowparts-base:2.0"
    assert images["vertex"].startswith("registry.example/cloud/flowparts-base:")


def test_vertex_gets_limits_only(tmp_path: Path, config: list[str]) -> None:
    assert compile_command.main(["batch-prediction", *config, "--profile", "cloud"]) == 0
    resources = executors(tmp_path / "vertex" / "batch_prediction.yaml")["exec-batch-predict"]["resources"]
    assert resources == {
        "cpuLimit": 1.0,
        "memoryLimit": pytest.approx(16 * 2**30 / 1e9),
        "resourceCpuLimit": "1",
        "resourceMemoryLimit": "16Gi",
    }


def test_an_unknown_profile_gives_a_one_line_error(config: list[str], capsys: pytest.CaptureFixture) -> None:
    assert compile_command.main(["batch-prediction", *config, "--profile", "taem"]) == 1
    assert (
        capsys.readouterr().err == "error: unknown profile 'taem'; did you mean 'team'? known: team, cloud\n"
    )


def test_warnings_are_printed_beside_the_compiled_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ingest_table = catalogue.components()["ingest_table"]

    @dsl.pipeline(name="batch-prediction")
    def retried() -> None:
        ingest_table(source="sample://iris").set_retry(2)

    monkeypatch.setattr(catalogue, "pipelines", lambda: {"batch_prediction": retried})
    assert compile_command.main(["batch-prediction", "--backend", "kubeflow", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err.startswith(
        "warning: batch-prediction: set_retry of ingest-table doesn't run"
    )
