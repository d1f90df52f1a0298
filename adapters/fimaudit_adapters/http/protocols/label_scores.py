"""Lists of labels with scores, in the style of Hugging Face: sorted by score, perhaps only the top few."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fimaudit.errors import OutputError
from fimaudit_adapters.http.protocols.base import Answer, Body, Reply, Scores, as_labels, as_scores, load_json
from fimaudit_adapters.http.protocols.encoding import dump, json_rows
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["LabelScores"]


class LabelScores:
    """``{"inputs": [...], "parameters": {"top_k": 5}}`` -> ``[{"label", "score"}, ...]`` a row."""

    most_rows: int | None = None

    def __init__(self, endpoint: Endpoint, url: str) -> None:
        self.url = url
        self._endpoint = endpoint

    def encode(self, rows: NDArray[Any]) -> Body:
        document: dict[str, Any] = {"inputs": json_rows(rows, self._endpoint)}
        parameters = dict(self._endpoint.parameters or {})
        if self._endpoint.top_k is not None:
            parameters["top_k"] = self._endpoint.top_k
        if parameters:
            document["parameters"] = parameters
        return Body(dump(document))

    def decode(self, reply: Reply, rows: int) -> Answer:
        found = load_json(reply.content)
        if not isinstance(found, list) or not found:
            raise OutputError("expected a list of label and score pairs")
        if self._endpoint.kind == "labels":
            nested = rows > 1 or len(found) == 1 or isinstance(found[0], list)
            return as_labels(found if nested else [found], "the answer")
        if rows == 1 and isinstance(found[0], dict) and "label" in found[0]:
            found = [found]
        return Scores([as_scores(row, "the answer") for row in found])
