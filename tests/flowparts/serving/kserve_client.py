"""KServe's own client, which lives in an environment of its own: predicts by every protocol that it speaks.

Standard input holds JSON: "url" and "grpc" of a server, its "model", "records" to predict, and the
"columns" with their datatypes. Standard output gets JSON: a way to ask to the predictions, a record each.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import kserve
import numpy as np
from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig

NUMPY = {"FP64": np.float64, "BOOL": np.bool_, "BYTES": np.object_}


def request(asked: Mapping[str, Any], form: str) -> kserve.InferRequest:
    """Return a request whose tensors are "json", "binary" or, over gRPC, "typed" contents."""
    inputs = []
    for name, datatype in asked["columns"].items():
        values = [record[name] for record in asked["records"]]
        if form == "typed":
            # Contents of a protobuf message have no null; a missing number is NaN.
            values = [float("nan") if value is None else value for value in values]
            inputs.append(kserve.InferInput(name, [len(values)], datatype, values))
            continue
        inputs.append(kserve.InferInput(name, [len(values)], datatype))
        inputs[-1].set_data_from_numpy(np.array(values, NUMPY[datatype]), binary_data=form == "binary")
    parameters = {"binary_data_output": True} if form == "binary" else None
    return kserve.InferRequest(asked["model"], inputs, parameters=parameters)


def rows(response: kserve.InferResponse) -> list[dict[str, Any]]:
    """Return the records of a response."""
    columns = {output.name: output.as_numpy().tolist() for output in response.outputs}
    columns["prediction"] = [
        value.decode() if isinstance(value, bytes) else value for value in columns["prediction"]
    ]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


async def main(asked: Mapping[str, Any]) -> None:
    """Ask in every way."""
    url, model, answers = asked["url"], asked["model"], {}
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as first:
        assert await first.is_server_live(url)
        assert await first.is_model_ready(url, model)
        answers["V1"] = (await first.infer(url, {"instances": asked["records"]}, model))["predictions"]
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as second:
        assert await second.is_server_live(url)
        assert await second.is_server_ready(url)
        assert await second.is_model_ready(url, model)
        assert not await second.is_model_ready(url, "other")
        for form in ("json", "binary"):
            answers[f"V2, {form}"] = rows(await second.infer(url, request(asked, form), model))
    async with InferenceGRPCClient(asked["grpc"]) as third:
        assert await third.is_server_live()
        assert await third.is_server_ready()
        assert await third.is_model_ready(model)
        for form in ("binary", "typed"):
            answers[f"gRPC, {form}"] = rows(await third.infer(request(asked, form)))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
