"""A plain server of a SavedModel: FastAPI and TensorFlow's own predict; `tf_server.py MODEL PORT`."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pipeline
import tensorflow as tf
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, create_model

model = tf.saved_model.load(f"{sys.argv[1]}/saved_model")
signature = model.signatures["serving_default"]
app = FastAPI()
types = (
    dict.fromkeys(pipeline.NUMBERS, (float, ...))
    | dict.fromkeys(pipeline.TEXTS, (str, ...))
    | {"flag": (bool, ...)}
)
Row = create_model("Row", **types)


class Rows(BaseModel):
    instances: list[Row]


class Prediction(BaseModel):
    prediction: str
    probability_no: float
    probability_yes: float


class Predictions(BaseModel):
    predictions: list[Prediction]


@app.post("/predict")
async def predict(rows: Rows) -> Predictions:
    columns = {
        f"input_{place}": tf.constant(
            [getattr(row, name) for row in rows.instances],
            tf.string if name in pipeline.TEXTS else tf.float64,
        )
        for place, name in enumerate(pipeline.COLUMNS)
    }
    answers = signature(**columns)
    named = zip(*(answers[f"output_{place}"].numpy().tolist() for place in range(3)), strict=True)
    return Predictions(
        predictions=[
            Prediction(prediction=text.decode(), probability_no=no, probability_yes=yes)
            for text, no, yes in named
        ]
    )


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
