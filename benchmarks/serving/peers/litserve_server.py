"""LitServe, with its own batching."""

import sys
from typing import Any

import litserve
import pipeline


class Api(litserve.LitAPI):
    def setup(self, _: str) -> None:
        self.model = pipeline.fitted()

    def decode_request(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        return request["instances"]

    def batch(self, inputs: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        return inputs

    def predict(self, requests: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        found = iter(pipeline.predict(self.model, [row for rows in requests for row in rows]))
        return [[next(found) for _ in rows] for rows in requests]

    def unbatch(self, output: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {"predictions": output}


if __name__ == "__main__":
    api = Api(max_batch_size=16, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        generate_client_file=False,
        num_api_servers=1,
    )
