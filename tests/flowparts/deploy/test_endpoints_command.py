"""endpoints.py against the stand-in for the Kubernetes API."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import endpoints
from tests.flowparts.deploy.kubernetes_api import KubernetesApi

FIRST, SECOND = "s3://models/churn/1", "s3://models/churn/2"


@pytest.fixture
def options(tmp_path: Path) -> str:
    file = tmp_path / "team.yaml"
    given = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 30, "replicas": 1}
    file.write_text(yaml.safe_dump(given))
    return f"--options={file}"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert endpoints.main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("target", ["kubernetes", "kserve", "seldon"])
def test_an_endpoint_is_deployed_shown_and_rolled_back(
    target: str, api: KubernetesApi, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "list", target) == ""
    first = said(capsys, "deploy", target, "churn", FIRST, options).split()[2]
    second = said(capsys, "deploy", target, "churn", SECOND, "--traffic-fraction=0.5", options).split()[2]
    line = said(capsys, "list", target)
    assert line.startswith("churn  http")
    assert {f"{first} 50 %", f"{second} 50 %"} <= set(line.strip().split("  ")[-1].split(", "))
    status = said(capsys, "status", target, "churn")
    assert f"{second}  50 %  current  0 crashes  no problems" in status
    assert "namespace: team" in status
    assert f"{second} 100 %" in said(capsys, "shift", target, "churn", "1")
    assert said(capsys, "rollback", target, "churn") == f"{first} 100 %\n"


def test_a_dry_run_shows_the_plan_and_the_manifests(
    api: KubernetesApi, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "deploy", "kubernetes", "churn", FIRST, options)
    before = api.versions()
    text = said(
        capsys, "deploy", "kubernetes", "churn", SECOND, "--traffic-fraction=0.1", options, "--dry-run"
    )
    assert "# 10 % asked for: the new revision gets 50 %" in text
    assert "# without a Gateway the share is a ratio of pods" in text
    kinds = [manifest["kind"] for manifest in yaml.safe_load_all(text)]
    assert {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"} <= set(kinds)
    assert api.versions() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "kubernetes", "churn"], "there is no endpoint 'churn' on kubernetes; there are: none"),
        (["deploy", "docker", "churn", "/nowhere", "--dry-run"], "the target docker has no manifests"),
    ],
)
def test_impossible_options_give_a_one_line_error(
    arguments: list[str], words: str, api: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert endpoints.main(arguments) == 2
    assert words in capsys.readouterr().err
