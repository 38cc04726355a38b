"""FastAPI and pydantic, as its tutorial has it."""

import sys

import pipeline
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, create_model

model = pipeline.fitted()
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


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/predict")
async def predict(rows: Rows) -> Predictions:
    return Predictions(predictions=pipeline.predict(model, [row.model_dump() for row in rows.instances]))


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
