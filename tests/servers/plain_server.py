"""A service of no known protocol (FastAPI and uvicorn) on the same models: ``python plain_server.py PORT CANCER DIGITS``."""

from __future__ import annotations

import base64
import io
import json
import sys

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

app = FastAPI()
models: dict[str, object] = {}
noise = np.random.default_rng(7)
calls = {"canary": 0}


def _labelled(p, top=None, prefix="LABEL_"):
    order = np.argsort(-p)[: top or len(p)]
    return [{"label": f"{prefix}{k}", "score": float(p[k])} for k in order]


def _pixels(png: bytes):
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image, dtype=np.float64).reshape(1, -1) / 255.0 * 16.0


@app.get("/ready")
def ready():
    return {"ready": True}


@app.post("/classify")
async def classify(request: Request):
    """Hugging Face style: all labels, or the top few."""
    body = json.loads(await request.body())
    p = models["digits"].predict_proba(np.array(body["inputs"], dtype=np.float64))
    return [_labelled(row, body.get("parameters", {}).get("top_k")) for row in p]


@app.post("/image")
async def image(request: Request):
    """One PNG in the body."""
    if request.headers["content-type"] != "image/png":
        return Response("expected image/png", status_code=415)
    return _labelled(models["digits"].predict_proba(_pixels(await request.body()))[0])


@app.post("/raw")
async def raw(request: Request):
    """One image as bare bytes."""
    levels = np.frombuffer(await request.body(), np.uint8).reshape(1, -1)
    return {"p": models["digits"].predict_proba(levels / 255.0 * 16.0)[0].tolist()}


@app.post("/images64")
async def images64(request: Request):
    """PNGs in base64, answers as log-probabilities."""
    body = json.loads(await request.body())
    rows = np.vstack([_pixels(base64.b64decode(text)) for text in body["pictures"]])
    return {"result": {"rows": [{"logp": row.tolist()} for row in models["digits"].predict_log_proba(rows)]}}


@app.post("/table")
async def table(request: Request):
    """Records with named columns, logits back."""
    body = json.loads(await request.body())
    names = [f"f{i}" for i in range(30)]
    rows = np.array([[record[name] for name in names] for record in body["data"]["records"]])
    z = models["cancer"].decision_function(rows)
    return {"out": [{"scores": [0.0, float(v)]} for v in z]}


@app.post("/columns")
async def columns(request: Request):
    body = json.loads(await request.body())
    rows = np.array([body[f"f{i}"] for i in range(30)]).T
    return {"p1": models["cancer"].predict_proba(rows)[:, 1].tolist()}


@app.post("/one")
async def one(request: Request):
    """One row a request, rounded to three decimals."""
    body = json.loads(await request.body())
    return {"p": np.round(models["digits"].predict_proba(np.array([body["x"]])), 3)[0].tolist()}


@app.post("/noisy")
async def noisy(request: Request):
    rows = np.array(json.loads(await request.body())["x"])
    p = models["digits"].predict_proba(rows) * np.exp(0.01 * noise.standard_normal((len(rows), 10)))
    return {"p": (p / p.sum(axis=1, keepdims=True)).tolist()}


@app.post("/canary")
async def canary(request: Request):
    """One request in twelve is answered by another version of the model."""
    rows = np.array(json.loads(await request.body())["x"])
    calls["canary"] += 1
    p = models["digits"].predict_proba(rows)
    if calls["canary"] % 12 == 0:
        p = p * np.exp(0.05 * np.cos(np.arange(10)))
    return {"p": (p / p.sum(axis=1, keepdims=True)).tolist()}


@app.post("/labels")
async def labels(request: Request):
    rows = np.array(json.loads(await request.body())["x"])
    return {"p": models["digits"].predict(rows).tolist()}


@app.post("/some-null")
async def some_null(request: Request):
    rows = np.array(json.loads(await request.body())["x"])
    p = models["digits"].predict_proba(rows).tolist()
    return {"predictions": [{"scores": row} if i else None for i, row in enumerate(p)]}


@app.post("/sick")
async def sick(request: Request):
    """Rows whose first value is 99 cannot be answered: 503 for the whole request, for ever."""
    rows = np.array(json.loads(await request.body())["x"])
    if (rows[:, 0] == 99).any():
        return JSONResponse({"error": f"worker died on {rows[0].tolist()} in /srv/secret/model.py"}, status_code=503)
    return {"p": models["digits"].predict_proba(rows).tolist()}


@app.post("/resized")
async def resized(request: Request):
    """Casts to 8 bits and halves the resolution before the model sees anything."""
    rows = np.array(json.loads(await request.body())["x"]).reshape(-1, 8, 8)
    levels = np.floor(np.clip(rows, 0, 1) * 255.0) / 255.0
    small = levels.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    wide = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2).reshape(-1, 64)
    return {"p": models["digits"].predict_proba(wide * 16.0).tolist()}


if __name__ == "__main__":
    _, port, cancer, digits = sys.argv
    models.update(cancer=joblib.load(cancer), digits=joblib.load(digits))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
