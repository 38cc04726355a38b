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
from flowparts import models
from flowparts.register import registry
from tests.flowparts.serving.conftest import rows, train

model = train(Path(sys.argv[1]) / "model")
models.load(model).predict(rows())
import skops.io
skops.io.get_untrusted_types(data=skops.io.dumps([1]))
"""
# What each library does that steps have it do, short of asking the service that it is for.
REGISTER = """
import sys
import flowparts
import mlflow
mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/mlflow.db")
with mlflow.start_run(run_name="told"):
    mlflow.log_metric("a", 1.0)
client = mlflow.MlflowClient()
client.create_registered_model("told")
"""
TABLES = """
import sys
import duckdb, polars
file = f"{sys.argv[1]}/a.parquet"
polars.DataFrame({"a": [1]}).write_parquet(file)
assert duckdb.sql(f"select sum(a) from '{file}'").fetchall() == [(1,)]
assert polars.scan_parquet(file).collect().height == 1
"""
NETWORK = """
import sys
import numpy
from flowparts.train.networks import checkpoints
import keras
network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
network.compile(loss="mse")
network.fit(numpy.ones([4, 1]), numpy.ones([4, 1]), verbose=0)
network.save(f"{sys.argv[1]}/a.keras")
keras.models.load_model(f"{sys.argv[1]}/a.keras")
"""
COMPILE = """
import sys
import compile
compile.main(["batch-prediction", "--out", sys.argv[1]])
import kfp.client
"""
# Who has keys need not ask the machine for some, nor is it asked whether it is a cloud's.
# The services are a server here that has nothing.
CLOUDS = """
import http.server, json, os, sys, threading
from pathlib import Path
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

class Nothing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.path == "/token"
        body = json.dumps({"access_token": "t", "expires_in": 3600} if token else {}).encode()
        self.send_response(200 if token else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_HEAD = do_GET
    def log_message(self, text, *found):
        print("ASKED", text % found, file=sys.stderr)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
private = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
keys = {"type": "service_account", "client_email": "a@b.example", "private_key": private.decode()}
Path(sys.argv[1], "keys.json").write_text(json.dumps({**keys, "token_uri": f"{address}/token"}))
os.environ |= {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": address,
    "GOOGLE_APPLICATION_CREDENTIALS": f"{sys.argv[1]}/keys.json",
    "GOOGLE_CLOUD_PROJECT": "told",
}
from flowparts import deploy
from flowparts.util import secrets, sources

secret = {"KEY": f"{secrets.SCHEME}projects/told/secrets/a/versions/1", secrets.ENDPOINT: address}
for ask in (
    lambda: sources.fetch("s3://bucket/a.csv", Path(sys.argv[1], "s3")),
    lambda: deploy.target("sagemaker").remove("told", dry_run=True),
    lambda: secrets.resolve(secret),
):
    try:
        ask()
    except ValueError as error:
        print(error, file=sys.stderr)
"""
# The same for a bucket: the keys are exchanged for a token, and a file comes and goes.
BUCKET = """
import http.server, json, os, sys, threading
from pathlib import Path
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tests import clouds

class Tokens(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"access_token": "t", "expires_in": 3600}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

tokens = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
threading.Thread(target=tokens.serve_forever, daemon=True).start()
private = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
given = Path(sys.argv[1])
keys = {"type": "service_account", "client_email": "a@b.example", "private_key": private.decode()}
(given / "keys.json").write_text(
    json.dumps({**keys, "token_uri": f"http://127.0.0.1:{tokens.server_port}/token"})
)
with clouds.cloud_storage("bucket") as address:
    os.environ |= {
        "STORAGE_EMULATOR_HOST": address,
        "GOOGLE_APPLICATION_CREDENTIALS": str(given / "keys.json"),
        "GOOGLE_CLOUD_PROJECT": "told",
    }
    from flowparts.util import sources

    sources.filesystem("gs").pipe_file("bucket/folder/a.csv", b"a\\n1\\n")
    sources.fetch_tree("gs://bucket/folder", given / "copy")
assert (given / "copy" / "a.csv").read_bytes() == b"a\\n1\\n"
os._exit(0)  # the emulation's threads don't end
"""


def isolated() -> bool:
    command = ["unshare", "--net", "--mount", "mount", "--bind", os.devnull, "/etc/resolv.conf"]
    return shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True).returncode


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("told") / "model")


PROGRAMS = {
    "server": SERVER,
    "scikit-learn, ONNX Runtime, skops": STEPS,
    "MLflow": REGISTER,
    "DuckDB, Polars": TABLES,
    "TensorFlow, Keras": NETWORK,
    "kfp": COMPILE,
    "boto3, google-auth": CLOUDS,
    "gcsfs": BUCKET,
}
# Google's client asks the cloud whose keys it was given where they may be used.
OF_ITS_CLOUD = "iamcredentials.googleapis.com"


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_no_host_is_resolved_and_no_file_is_left_in_the_home_directory(
    program: str, model: Path, tmp_path: Path
) -> None:
    if not isolated():
        pytest.skip("needs a network namespace of its own: unshare --net --mount, as root")
    home, given = tmp_path / "home", tmp_path / "given"
    home.mkdir()
    shutil.copytree(model, given)
    environment = {
        key: value for key, value in os.environ.items() if "TELEMETRY" not in key and key != "DO_NOT_TRACK"
    }
    ended = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, LOOKED_UP, sys.executable, "-c", program, given],
        env=environment | {"HOME": str(home), "PYTHONPATH": f"{CODE}:{Path.cwd()}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert program is not SERVER or "1 predicted" in ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    names = [name for name in found["names"] if program is not CLOUDS or name != OF_ITS_CLOUD]
    assert (names, found["unroutable"]) == ([], 0)
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
