"""MLServer with a runtime of its own kind: tensors become a pandas frame by its codec."""

import asyncio
import sys

import numpy as np
import pipeline
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self.pipeline = pipeline.fitted()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        frame = self.decode_request(payload, default_codec=PandasCodec)
        probabilities = self.pipeline.predict_proba(frame[pipeline.COLUMNS])
        predicted = self.pipeline.classes_[probabilities.argmax(axis=1)]
        outputs = [StringCodec.encode_output("prediction", predicted.tolist())]
        for index, name in enumerate(self.pipeline.classes_):
            outputs.append(
                NumpyCodec.encode_output(f"probability_{name}", np.ascontiguousarray(probabilities[:, index]))
            )
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main() -> None:
    port = int(sys.argv[1])
    settings = Settings(
        host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, parallel_workers=0,
        debug=False,
    )  # fmt: skip
    server = MLServer(settings)
    await server.start([ModelSettings(name="model", implementation=Runtime)])


asyncio.run(main())
