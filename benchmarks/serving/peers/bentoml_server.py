"""BentoML: the service, and a start of its server."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import bentoml
import pipeline


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Model:
    def __init__(self) -> None:
        self.pipeline = pipeline.fitted()

    @bentoml.api
    def predict(self, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return pipeline.predict(self.pipeline, instances)


if __name__ == "__main__":
    command = [sys.executable, "-m", "bentoml", "serve", "bentoml_server:Model", "--host=127.0.0.1"]
    sys.exit(subprocess.call([*command, f"--port={sys.argv[1]}"], cwd=Path(__file__).parent))
