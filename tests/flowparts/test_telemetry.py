"""Libraries tell their makers nothing: no step and no server looks up a name that nobody gave it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flowparts.serving.conftest import CODE, train

LOOKED_UP = Path(__file__).with_name("looked_up.py")
# Serves until it has answered.
SERVER = """
import json, os, signal, sys, threading, time, urllib.request
from flowparts.serving.__main__ import main

def ask():
    address = "http://127.0.0.1:18080"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/v2/health/ready").close()
            break
        except OSError:
            time.sleep(0.1)
    document = json.load(urllib.request.urlopen(f"{address}/openapi.json"))
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    headers = {"content-type": "application/json"}
    given = urllib.request.Request(f"{address}/predict", json.dumps(example).encode(), headers)
    print(len(json.load(urllib.request.urlopen(given))["predictions"]), "predicted", file=sys.stderr)

def stop():
    try:
        ask()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop).start()
options = ["--host=127.0.0.1", "--port=18080", "--grpc-port=0", "--drain-seconds=0"]
sys.exit(main([f"--model={sys.argv[1]}", *options]))
"""
STEPS = """
import sys
from pathlib import Path
from flowparts import models, registry
from tests.flowparts.serving.conftest import rows, train

model = train(Path(sys.argv[1]) / "model")
models.load(model).predict(rows())
import mlflow, skops.io
"""


def isolated() -> bool:
    command = ["unshare", "--net", "--mount", "mount", "--bind", os.devnull, "/etc/resolv.conf"]
    return shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True).returncode


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("told") / "model")


@pytest.mark.parametrize("program", [SERVER, STEPS], ids=["server", "steps"])
def test_nothing_is_looked_up_and_nothing_is_left_at_home(program: str, model: Path, tmp_path: Path) -> None:
    if not isolated():
        pytest.skip("needs a network namespace of its own: unshare --net --mount, as root")
    home, given = tmp_path / "home", tmp_path / "given"
    home.mkdir()
    shutil.copytree(model, given)
    environment = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    ended = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, LOOKED_UP, sys.executable, "-c", program, given],
        env=environment | {"HOME": str(home), "PYTHONPATH": f"{CODE}:{Path.cwd()}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert program is STEPS or "1 predicted" in ended.stderr
    assert json.loads(ended.stdout) == {"names": [], "unroutable": 0}
    # ONNX Runtime makes a number for the device at once, and sends it later.
    assert not [path for path in home.rglob("*") if "microsoft" in str(path).lower()]


def test_a_name_that_is_looked_up_is_seen() -> None:
    if not isolated():
        pytest.skip("needs a network namespace of its own: unshare --net --mount, as root")
    program = "import socket\ntry: socket.getaddrinfo('told.example', 80)\nexcept OSError: pass"
    ended = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, LOOKED_UP, sys.executable, "-c", program],
        capture_output=True,
        text=True,
    )
    assert "told.example" in json.loads(ended.stdout)["names"]
