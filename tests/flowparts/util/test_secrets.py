"""Reads secrets from a stand-in for Secret Manager's REST API with Google's own library and real tokens."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import compile as compile_command
from flowparts.util import secrets
from tests.secret_manager import TOKEN, VALUE, SecretManager, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SecretManager]:
    with serving(tmp_path / "account.json") as running:
        yield running


@pytest.fixture
def environment(server: SecretManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give what a step finds; Google's library looks for credentials in the process's own environment."""
    found = server.environment(tmp_path / "account.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", found["GOOGLE_APPLICATION_CREDENTIALS"])
    return found


def test_reads_what_a_variable_refers_to_and_leaves_the_others(environment: dict[str, str]) -> None:
    assert secrets.resolve(environment) == {"MY_TOKEN": VALUE}
    assert secrets.resolve({"PLAIN": "as it is"}) == {}


def test_tries_again_when_the_service_is_unavailable(
    environment: dict[str, str], server: SecretManager
) -> None:
    server.failures = 2
    assert secrets.resolve(environment) == {"MY_TOKEN": VALUE}


def test_a_refusal_names_the_variable_the_secret_and_the_role(
    environment: dict[str, str], server: SecretManager
) -> None:
    server.held.clear()
    with pytest.raises(
        ValueError, match=rf"MY_TOKEN can't be read from {TOKEN}: Permission .* denied"
    ) as refusal:
        secrets.resolve(environment)
    assert "needs the role roles/secretmanager.secretAccessor" in str(refusal.value)


def test_a_secret_that_is_not_text_is_refused_without_showing_it(
    environment: dict[str, str], server: SecretManager
) -> None:
    server.held[TOKEN] = b"\xff\xfes3cr3t"
    with pytest.raises(ValueError, match="it isn't UTF-8 text") as refusal:
        secrets.resolve(environment)
    assert "s3cr3t" not in str(refusal.value)


def test_without_credentials_it_says_so(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(ValueError, match="no Google Cloud credentials to read MY_TOKEN with"):
        secrets.resolve(environment)


def test_a_service_that_cannot_be_reached_is_named(environment: dict[str, str]) -> None:
    unreachable = {**environment, secrets.ENDPOINT: "http://127.0.0.1:1"}
    with pytest.raises(ValueError, match=r"MY_TOKEN can't be read from .*Connection refused"):
        secrets.resolve(unreachable)


def start(command: list[str], environment: dict[str, str], work: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    everything = {**os.environ, **environment, "PATH": path}
    return subprocess.run(command, env=everything, cwd=work, capture_output=True, text=True)


def test_a_step_that_cannot_have_its_secret_does_not_start(
    environment: dict[str, str], server: SecretManager, tmp_path: Path
) -> None:
    server.held.clear()
    command = [sys.executable, "-m", "flowparts.util.secrets", "touch", str(tmp_path / "started")]
    done = start(command, environment, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("ValueError: MY_TOKEN can't be read from")
    assert not (tmp_path / "started").exists()


def test_a_compiled_step_gets_its_secret_which_shows_nowhere(
    environment: dict[str, str], tmp_path: Path
) -> None:
    variable = "AWS_SECRET_ACCESS_KEY"
    asked = ["--backend", "vertex", "--secret", f"{variable}={TOKEN}", "--out", str(tmp_path / "build")]
    assert compile_command.main(["tabular-training", "--embed-source", *asked]) == 0
    text = (tmp_path / "build" / "vertex" / "tabular_training.yaml").read_text(encoding="utf-8")
    executors = yaml.safe_load(text)["deploymentSpec"]["executors"]
    given = {"name": variable, "value": secrets.SCHEME + TOKEN}
    has_it = {name: given in executor["container"].get("env", []) for name, executor in executors.items()}
    assert has_it["exec-ingest-table"]
    assert not has_it["exec-split-table"]

    container = executors["exec-ingest-table"]["container"]
    # A body of its own, in place of the component's, writes down how long the secret is.
    body = (
        "import os\nfrom kfp.dsl import *\n"
        "def ingest_table(source: str) -> int:\n"
        "    print('the body starts')\n"
        f"    return len(os.environ['{variable}'])\n"
    )
    told = {
        "inputs": {"parameterValues": {"source": "x"}},
        "outputs": {"outputFile": str(tmp_path / "output.json")},
    }
    arguments = [json.dumps(told) if part == "{{$}}" else part for part in container["args"]]
    variables = {part["name"]: part["value"] for part in container["env"]}
    done = start([*container["command"][:-1], body, *arguments], {**environment, **variables}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the body starts" in done.stdout
    assert json.loads((tmp_path / "output.json").read_text()) == {"parameterValues": {"Output": len(VALUE)}}
    shown = [done.stdout, done.stderr, *(file.read_text() for file in tmp_path.rglob("*") if file.is_file())]
    assert not [text for text in shown if VALUE in text]
