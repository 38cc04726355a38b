"""FastAPI saying hello: what a Python web framework can reach when there is nothing to do."""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/predict")
async def hello() -> dict[str, str]:
    return {"message": "hello"}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
