from pathlib import Path

import pytest

from backends import profiles
from backends.profiles import Kubeflow, Vertex

CONFIG = """
[local]
backend = "kubeflow"
endpoint = "http://localhost:8080"
experiment = "team"
gpu_tolerations = [{ key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }]

[vertex-dev]
backend = "vertex"
project = "dev"
labels = { team = "risk" }

[vertex-prod]
backend = "vertex"
project = "prod"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "flowparts.toml"
    file.write_text(CONFIG)
    return file


def test_flags_win_over_the_environment_and_that_over_the_profile(config: Path) -> None:
    environment = {"FLOWPARTS_EXPERIMENT": "environment", "FLOWPARTS_NAMESPACE": "environment"}
    found = profiles.gather(Kubeflow, {"config": config, "namespace": "flag"}, environment)
    assert (found.endpoint, found.experiment, found.namespace) == (
        "http://localhost:8080",
        "environment",
        "flag",
    )


def test_values_that_are_no_text_are_read_as_yaml(config: Path) -> None:
    environment = {"FLOWPARTS_CACHING": "false", "FLOWPARTS_NODE_SELECTOR": "{pool: ml}"}
    flags = {"config": config, "image_pull_secrets": "[registry]", "volumes": "{cache: /cache}"}
    found = profiles.gather(Kubeflow, flags, environment)
    assert (found.caching, found.node_selector) == (False, {"pool": "ml"})
    assert (found.image_pull_secrets, found.volumes) == (["registry"], {"cache": "/cache"})
    assert found.gpu_tolerations[0]["key"] == "nvidia.com/gpu"


def test_a_profile_is_named_by_flag_or_environment_unless_there_is_only_one(config: Path) -> None:
    assert profiles.gather(Vertex, {"config": config, "profile": "vertex-prod"}, {}).project == "prod"
    assert profiles.gather(Vertex, {"config": config}, {"FLOWPARTS_PROFILE": "vertex-dev"}).labels == {
        "team": "risk"
    }
    with pytest.raises(
        ValueError, match="several profiles for vertex; give --profile vertex-dev or vertex-prod"
    ):
        profiles.gather(Vertex, {"config": config}, {})


def test_a_profile_of_an_earlier_version_names_its_backend_target(tmp_path: Path) -> None:
    file = tmp_path / "flowparts.toml"
    file.write_text('[old]\ntarget = "vertex"\nproject = "prod"\n')
    assert profiles.gather(Vertex, {"config": file}, {}).project == "prod"
    assert profiles.gather(Kubeflow, {"config": file}, {}) == Kubeflow()


def test_without_a_file_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert profiles.gather(Kubeflow, {}, {}) == Kubeflow()


@pytest.mark.parametrize(
    ("content", "flags", "sentence"),
    [
        ("[a]\nendpoint = 'x'", {}, r'\[a\] of .* must say backend = "kubeflow" or backend = "vertex"'),
        (
            "[a]\nbackend = 'kubeflow'\nendpont = 'x'",
            {},
            "unknown setting 'endpont'; did you mean 'endpoint'",
        ),
        ("[a]\nbackend = 'kubeflow'\nproject = 'x'", {}, "unknown setting 'project'"),
        ("[a]\nbackend = 'kubeflow'\ncaching = 'no'", {}, "setting 'caching' takes true or false, not 'no'"),
        (
            "[a]\nbackend = 'kubeflow'\nsecrets = {s3 = 'K'}",
            {},
            r"setting 'secrets' takes a mapping such as \{name",
        ),
        (
            "[a]\nbackend = 'kubeflow'\ntoken = 'x'",
            {},
            "token doesn't belong into .*; set FLOWPARTS_TOKEN instead",
        ),
        ("[a", {}, "cannot read the profiles in "),
        (CONFIG, {"profile": "locl"}, "unknown kubeflow profile 'locl'; did you mean 'local'"),
        (CONFIG, {"profile": "vertex-dev"}, "unknown kubeflow profile 'vertex-dev'"),
        (CONFIG, {"node_selector": "{a"}, "--node-selector is not valid YAML"),
    ],
)
def test_invalid_input_gives_a_one_line_error(
    config: Path, content: str, flags: dict[str, str], sentence: str
) -> None:
    config.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        profiles.gather(Kubeflow, {"config": config, **flags}, {})


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the profiles in"):
        profiles.gather(Kubeflow, {"config": tmp_path / "missing.toml"}, {})
