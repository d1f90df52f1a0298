"""TensorFlow Serving and KServe V1: ``POST /v1/models/{m}:predict``, by rows or by columns."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fimaudit.errors import OutputError
from fimaudit_adapters.http.protocols.base import Answer, Body, Reply, Scores, as_labels, as_scores, as_tensor, load_json
from fimaudit_adapters.http.protocols.encoding import dump, json_rows
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["TensorFlowServing"]


class TensorFlowServing:
    """``instances`` -> ``predictions``, or ``inputs`` -> ``outputs``; binary values go as ``{"b64": ..}``."""

    most_rows: int | None = None

    def __init__(self, endpoint: Endpoint, url: str) -> None:
        self.url = url
        self._endpoint = endpoint

    def encode(self, rows: NDArray[Any]) -> Body:
        endpoint = self._endpoint
        values = json_rows(rows, endpoint)
        if endpoint.image == "png-base64":
            values = [{"b64": text} for text in values]
        document: dict[str, Any] = dict(endpoint.parameters or {})
        if endpoint.signature_name is not None:
            document["signature_name"] = endpoint.signature_name
        if endpoint.style == "column":
            document["inputs"] = {endpoint.input: values} if endpoint.input else values
        else:
            document["instances"] = [{endpoint.input: value} for value in values] if endpoint.input else values
        return Body(dump(document))

    def decode(self, reply: Reply, rows: int) -> Answer:
        document = load_json(reply.content)
        key = "outputs" if self._endpoint.style == "column" else "predictions"
        if not isinstance(document, dict) or key not in document:
            raise OutputError(f"expected {key!r} in the answer")
        return read_predictions(document[key], self._endpoint.output, key, labels=self._endpoint.kind == "labels")


def read_predictions(found: object, output: str | None, key: str, *, labels: bool = False) -> Answer:
    """Predictions as rows, as a dict of named columns, or as one dict of named outputs (or label scores) a row."""
    if isinstance(found, dict):
        name = _named(found, output, key)
        return (as_labels if labels else as_tensor)(found[name], f"{key}.{name}"[:80])
    if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
        first = found[0]
        if labels and output is None and ("label" in first or len(first) > 1):
            return as_labels(found, key)
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in first.values()) and output is None:
            return Scores([as_scores(row, key) for row in found])
        name = _named(first, output, key)
        if not all(name in row for row in found):
            raise OutputError(f"expected {name[:80]!r} in every row of {key}")
        return (as_labels if labels else as_tensor)([row[name] for row in found], f"{key}[].{name}"[:80])
    return (as_labels if labels else as_tensor)(found, key)


def _named(outputs: dict[str, Any], wanted: str | None, key: str) -> str:
    if wanted is not None and wanted in outputs:
        return wanted
    if wanted is None and len(outputs) == 1:
        return next(iter(outputs))
    names = ", ".join(outputs)[:200]
    raise OutputError(f"{key} holds several outputs ({names}); name the one with probabilities with --output")
