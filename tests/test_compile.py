from pathlib import Path

import pytest
import yaml
from kfp import dsl

import compile as compile_command
from targets import package, vertex


def test_writes_pipelines_for_both_targets_and_components_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert compile_command.main(["tabular-training", "split_table", "--out", str(tmp_path)]) == 0
    written = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.yaml"))
    assert written == [
        "components/split_table.yaml",
        "kubeflow/tabular_training.yaml",
        "vertex/tabular_training.yaml",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_settles_registry_and_version_of_every_image(tmp_path: Path) -> None:
    arguments = ["tabular-training", "--target", "vertex", "--out", str(tmp_path)]
    assert compile_command.main([*arguments, "--registry", "registry.example/team", "--version", "9.9"]) == 0
    spec = yaml.safe_load((tmp_path / "vertex" / "tabular_training.yaml").read_text())
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {
        f"registry.example/team/flowparts-{name}:9.9"
        for name in ("base", "deploy", "serving", "sklearn", "tensorflow")
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["tabular-trainin"],
            "unknown pipeline or component 'tabular_trainin'; did you mean 'tabular_training'?",
        ),
        (["split_table", "--version", "latest"], "version 'latest' is not a fixed image tag"),
        (["split_table", "--digests", "missing.json"], "cannot read the images in missing.json"),
    ],
)
def test_a_wrong_option_is_answered_with_a_sentence_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    assert compile_command.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert not (tmp_path / "out").exists()


def test_a_kubernetes_secret_is_referred_to_by_every_step(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    secret = ["--secret", "aws=AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY"]
    arguments = ["tabular-training", "--out", str(tmp_path), *secret]
    assert compile_command.main([*arguments, "--target", "kubeflow"]) == 0
    spec, overlay = yaml.safe_load_all((tmp_path / "kubeflow" / "tabular_training.yaml").read_text())
    configs = overlay["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(configs) == set(spec["deploymentSpec"]["executors"])
    (reference,) = configs["exec-ingest-table"]["secretAsEnv"]
    assert reference["secretName"] == "aws"
    assert [pair["envVar"] for pair in reference["keyToEnv"]] == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ]
    assert compile_command.main([*arguments, "--target", "vertex"]) == 1
    assert "must be written VARIABLE=projects/PROJECT/secrets/" in capsys.readouterr().err
    assert compile_command.main(["tabular-training", "--target", "kubeflow", "--secret", "aws"]) == 1
    assert "must be written NAME=KEY,KEY" in capsys.readouterr().err
    assert compile_command.main(arguments) == 1
    assert "compile with --target" in capsys.readouterr().err


def test_a_secret_of_secret_manager_is_read_by_every_step_of_a_pipeline(tmp_path: Path) -> None:
    secret = ["--secret", "TOKEN=projects/my-project/secrets/token/versions/latest"]
    arguments = ["tabular-training", "split_table", "--target", "vertex", "--out", str(tmp_path), *secret]
    assert compile_command.main(arguments) == 0
    text = (tmp_path / "vertex" / "tabular_training.yaml").read_text()
    plain = ["tabular-training", "--target", "vertex", "--out", str(tmp_path / "plain")]
    assert compile_command.main(plain) == 0
    without = (tmp_path / "plain" / "vertex" / "tabular_training.yaml").read_text()
    variable = {"name": "TOKEN", "value": "secretmanager://projects/my-project/secrets/token/versions/latest"}
    for executor in yaml.safe_load(text)["deploymentSpec"]["executors"].values():
        assert executor["container"]["env"] == [variable]
    # Nothing else differs.
    assert text.count("#") == without.count("#")
    spec = yaml.safe_load(text)
    for executor in spec["deploymentSpec"]["executors"].values():
        del executor["container"]["env"]
        command = executor["container"]["command"]
        assert command[:3] == ["python3", "-m", "flowparts.secrets"]
        executor["container"]["command"] = command[3:]
    assert spec == yaml.safe_load(without)
    assert "secret" not in (tmp_path / "components" / "split_table.yaml").read_text()


def test_a_component_whose_source_is_embedded_is_started_with_secrets_as_well(tmp_path: Path) -> None:
    secret = ["--secret", "TOKEN=projects/my-project/secrets/token/versions/latest"]
    arguments = ["batch-prediction", "--embed-source", "--target", "vertex", "--out", str(tmp_path), *secret]
    assert compile_command.main(arguments) == 0
    spec = yaml.safe_load((tmp_path / "vertex" / "batch_prediction.yaml").read_text())
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "python3 -m flowparts.secrets python3 -m kfp" in executor["container"]["command"][2]


def test_a_container_component_cannot_be_given_secrets() -> None:
    @dsl.container_component
    def greet() -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image="registry/greeter:1", command=["echo"], args=["hello"])

    text = package.compiled(greet, str)
    with pytest.raises(ValueError, match="exec-greet has a command of its own"):
        vertex.with_secrets(text, ["TOKEN=projects/p/secrets/token/versions/1"])


def test_writes_resources_for_gitops(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--format", "manifest", "--out", str(tmp_path)]
    assert compile_command.main(["tabular-training", *arguments]) == 1
    assert "give --target kubeflow and pipelines" in capsys.readouterr().err
    assert compile_command.main(["split_table", "--target", "kubeflow", *arguments]) == 1
    assert not list(tmp_path.iterdir())
    config = tmp_path / "flowparts.toml"
    config.write_text('[team]\ntarget = "kubeflow"\nnamespace = "team"\nnode_selector = { pool = "ml" }\n')
    arguments += ["--config", str(config)]
    assert compile_command.main(["tabular-training", "--target", "kubeflow", *arguments]) == 0
    pipeline, version = yaml.safe_load_all((tmp_path / "manifest" / "tabular_training.yaml").read_text())
    assert pipeline["metadata"]["namespace"] == version["metadata"]["namespace"] == "team"
    assert pipeline["spec"]["displayName"] == "Train on a table"
    executors = version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-ingest-table"]["nodeSelector"] == {"labels": {"pool": "ml"}}
