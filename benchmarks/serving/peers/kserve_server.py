"""KServe's own server with a `Model` subclass."""

import sys
from typing import Any

import kserve
import pipeline


class Model(kserve.Model):
    def __init__(self) -> None:
        super().__init__("model")
        self.pipeline = pipeline.fitted()
        self.ready = True

    def predict(self, payload: dict[str, Any], _: Any = None) -> dict[str, Any]:
        return {"predictions": pipeline.predict(self.pipeline, payload["instances"])}


if __name__ == "__main__":
    port = sys.argv.pop(1)
    server = kserve.ModelServer(http_port=int(port), enable_grpc=False, workers=1, access_log_format=None)
    server.start([Model()])
