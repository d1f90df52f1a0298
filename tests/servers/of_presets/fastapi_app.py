"""FastAPI, as in its tutorial, on a body and on an uploaded file: ``python fastapi_app.py PORT``; ``MODEL`` is the model."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI, File
from PIL import Image
from pydantic import BaseModel, create_model

model = joblib.load(os.environ["MODEL"])
Row: type[BaseModel] = create_model("Row", **{f"f{i}": (float, ...) for i in range(model.n_features_in_)})  # type: ignore[call-overload]
app = FastAPI()


def named(row):
    return {"probabilities": {str(k): float(p) for k, p in enumerate(model.predict_proba([row])[0])}}


@app.get("/ready")
def ready() -> str:
    return "yes"


@app.post("/predict")
def predict(row: Row):
    return named(list(row.model_dump().values()))


@app.post("/uploadfile")
def upload(file: Annotated[bytes, File()]):
    return named(np.asarray(Image.open(io.BytesIO(file)), dtype=np.float64).ravel() / 16.0)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
