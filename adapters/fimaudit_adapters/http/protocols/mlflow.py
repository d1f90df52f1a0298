"""MLflow scoring server (and SageMaker containers that follow it): ``POST /invocations``."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fimaudit.errors import OutputError
from fimaudit_adapters.http.protocols.base import Answer, Body, Reply, load_json
from fimaudit_adapters.http.protocols.encoding import cells, dump, json_rows, table_columns, table_records
from fimaudit_adapters.http.protocols.tensorflow_serving import read_predictions
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["MLflow"]


class MLflow:
    """One of ``inputs``, ``instances``, ``dataframe_split``, ``dataframe_records`` -> ``predictions``.

    A model saved without ``pyfunc_predict_fn="predict_proba"`` answers with labels; that is refused with the remedy.
    """

    most_rows: int | None = None

    def __init__(self, endpoint: Endpoint, url: str) -> None:
        self.url = url
        self._endpoint = endpoint

    def encode(self, rows: NDArray[Any]) -> Body:
        endpoint = self._endpoint
        style = endpoint.rows_as or ("dataframe_split" if endpoint.columns else "inputs")
        document: dict[str, Any] = {}
        if style == "dataframe_split":
            document[style] = {"columns": table_columns(rows, endpoint.columns), "data": cells(rows, endpoint)}
        elif style == "dataframe_records":
            document[style] = table_records(rows, endpoint)
        else:
            values = json_rows(rows, endpoint)
            document[style] = {endpoint.input: values} if endpoint.input else values
        if endpoint.parameters:
            document["params"] = endpoint.parameters
        return Body(dump(document))

    def decode(self, reply: Reply, rows: int) -> Answer:
        document = load_json(reply.content)
        if not isinstance(document, dict) or "predictions" not in document:
            raise OutputError("expected 'predictions' in the answer")
        found = document["predictions"]
        if self._endpoint.kind == "labels":
            return read_predictions(found, self._endpoint.output, "predictions", labels=True)
        if isinstance(found, list) and found and all(isinstance(v, int | str) for v in found):
            raise OutputError(
                "the model answers with labels, not probabilities; save it with "
                "mlflow.<flavor>.save_model(..., pyfunc_predict_fn='predict_proba'), "
                "or audit the labels alone with --link labels"
            )
        return read_predictions(found, self._endpoint.output, "predictions")
