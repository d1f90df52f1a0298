"""Services of no known protocol on the tests' two models, to be served in the tests' own process."""

from __future__ import annotations

import base64
import io
import itertools
from typing import Any

import numpy as np
from PIL import Image

from tests.servers.vendors import Asked, Said, Service

__all__ = ["services"]


def services(cancer: Any, digits: Any) -> dict[str, Service]:
    """By name; ``cancer`` and ``digits`` have ``predict_proba``."""
    noise, canaries = np.random.default_rng(7), itertools.count(1)

    def labelled(p: np.ndarray, top: int | None = None) -> list[dict[str, Any]]:
        return [{"label": f"LABEL_{k}", "score": float(p[k])} for k in np.argsort(-p)[: top or len(p)]]

    def pixels(png: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(png))
        assert image.format == "PNG"
        return np.asarray(image, dtype=np.float64).reshape(1, -1) / 255.0 * 16.0

    def rows(asked: Asked) -> np.ndarray:
        return np.array(asked.json["x"], dtype=np.float64)

    def shown(p: np.ndarray) -> dict[str, Any]:
        return {"p": (p / p.sum(axis=1, keepdims=True)).tolist()}

    def classify(asked: Asked) -> Any:
        """Hugging Face style: all labels, or the top few."""
        p = digits.predict_proba(np.array(asked.json["inputs"], dtype=np.float64))
        return [labelled(row, asked.json.get("parameters", {}).get("top_k")) for row in p]

    def image(asked: Asked) -> Any:
        """One PNG in the body."""
        if asked.headers["content-type"] != "image/png":
            return Said({"error": "expected image/png"}, 415)
        return labelled(digits.predict_proba(pixels(asked.body))[0])

    def raw(asked: Asked) -> Any:
        """One image as bare bytes."""
        levels = np.frombuffer(asked.body, np.uint8).reshape(1, -1)
        return {"p": digits.predict_proba(levels / 255.0 * 16.0)[0].tolist()}

    def images64(asked: Asked) -> Any:
        """PNGs in base64, answers as log-probabilities."""
        x = np.vstack([pixels(base64.b64decode(text)) for text in asked.json["pictures"]])
        return {"result": {"rows": [{"logp": row.tolist()} for row in digits.predict_log_proba(x)]}}

    def table(asked: Asked) -> Any:
        """Records with named columns, logits back."""
        x = np.array([[record[f"f{i}"] for i in range(30)] for record in asked.json["data"]["records"]])
        return {"out": [{"scores": [0.0, float(z)]} for z in cancer.decision_function(x)]}

    def columns(asked: Asked) -> Any:
        x = np.array([asked.json[f"f{i}"] for i in range(30)]).T
        return {"p1": cancer.predict_proba(x)[:, 1].tolist()}

    def one(asked: Asked) -> Any:
        """One row a request, rounded to three decimals."""
        return {"p": np.round(digits.predict_proba(rows(asked)[None]), 3)[0].tolist()}

    def noisy(asked: Asked) -> Any:
        x = rows(asked)
        return shown(digits.predict_proba(x) * np.exp(0.01 * noise.standard_normal((len(x), 10))))

    def canary(asked: Asked) -> Any:
        """One request in twelve is answered by another version of the model."""
        p = digits.predict_proba(rows(asked))
        return shown(p * np.exp(0.05 * np.cos(np.arange(10))) if next(canaries) % 12 == 0 else p)

    def some_null(asked: Asked) -> Any:
        p = digits.predict_proba(rows(asked)).tolist()
        return {"predictions": [{"scores": row} if i else None for i, row in enumerate(p)]}

    def sick(asked: Asked) -> Any:
        """Rows whose first value is 99 cannot be answered: 503 for the whole request, for ever."""
        x = rows(asked)
        if (x[:, 0] == 99).any():
            return Said({"error": f"worker died on {x[0].tolist()} in /srv/secret/model.py"}, 503)
        return {"p": digits.predict_proba(x).tolist()}

    def resized(asked: Asked) -> Any:
        """Casts to 8 bits and halves the resolution before the model sees anything."""
        levels = np.floor(np.clip(rows(asked).reshape(-1, 8, 8), 0, 1) * 255.0) / 255.0
        small = levels.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
        wide = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2).reshape(-1, 64)
        return {"p": digits.predict_proba(wide * 16.0).tolist()}

    def labels(asked: Asked) -> Any:
        return {"p": digits.predict(rows(asked)).tolist()}

    found = [classify, image, raw, images64, table, columns, one, noisy, canary, some_null, sick, resized, labels]
    return {service.__name__.replace("_", "-"): service for service in found}
