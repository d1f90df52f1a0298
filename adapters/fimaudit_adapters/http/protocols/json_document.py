"""Any other service: a request document with places for the rows, and paths to what is in the answer."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fimaudit_adapters.http.protocols.base import Answer, Body, Reply
from fimaudit_adapters.http.protocols.bodies import check_template, encode_body
from fimaudit_adapters.http.protocols.readings import AnswerShape
from fimaudit_adapters.http.protocols.templates import RowValues
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["JsonDocument"]


class JsonDocument:
    """A document filled with rows (``templates``) and written as the service takes it (``bodies``); an answer read by
    paths (``readings``).

    Raises:
        TargetError: no place for rows, or a path that is no JMESPath.
    """

    def __init__(self, endpoint: Endpoint, url: str) -> None:
        self.url = url
        self._endpoint = endpoint
        check_template(endpoint)
        self.most_rows: int | None = endpoint.rows_a_request
        self.shape = AnswerShape(endpoint, single=self.most_rows == 1)

    def encode(self, rows: NDArray[Any]) -> Body:
        return encode_body(self._endpoint, RowValues(rows, self._endpoint))

    def decode(self, reply: Reply, rows: int) -> Answer:
        return self.shape.read(reply.content, rows)
