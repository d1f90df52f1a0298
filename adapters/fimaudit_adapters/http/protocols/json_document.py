"""Any other JSON service: a request document with places for the rows, and a JMESPath to the rows of the answer."""

from __future__ import annotations

from typing import Any

import jmespath
import jmespath.exceptions
from numpy.typing import NDArray

from fimaudit.errors import OutputError, TargetError
from fimaudit_adapters.http.protocols.base import Answer, Body, Malformed, Reply, Scores, as_labels, as_scores, as_tensor
from fimaudit_adapters.http.protocols.encoding import dump, json_rows, table_columns, table_records
from fimaudit_adapters.http.protocols.safe_json import load
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["JsonDocument"]

PLACES = ("$rows", "$row", "$records", "$columns")


class JsonDocument:
    """``$rows``: list of rows; ``$row``: the only row (single); ``$records``: list of objects; ``$columns``: lists."""

    def __init__(self, endpoint: Endpoint, url: str) -> None:
        self.url = url
        self._endpoint = endpoint
        bare = endpoint.image in ("png", "raw")
        found = set(_places(endpoint.request))
        if not bare and not found:
            raise TargetError(
                f"the request document holds none of {', '.join(PLACES)} as a value, so rows have no place to go"
            )
        self.most_rows: int | None = 1 if "$row" in found else None
        try:
            self._path = jmespath.compile(endpoint.response or "@")
        except jmespath.exceptions.JMESPathError as exc:
            raise TargetError(f"response is not a JMESPath: {' '.join(str(exc).split())[:200]}") from None

    def encode(self, rows: NDArray[Any]) -> Body:
        return Body(dump(self._filled(self._endpoint.request, rows)))

    def decode(self, reply: Reply, rows: int) -> Answer:
        document = load(reply.content)
        path = self._endpoint.response or "@"
        try:
            found = self._path.search(document)
        except jmespath.exceptions.JMESPathError as exc:
            raise OutputError(f"the JMESPath {path!r} does not fit the answer: {' '.join(str(exc).split())[:120]}") from None
        except RecursionError:
            raise Malformed("expected JSON of a sane depth, got one nested too deeply") from None
        if found is None:
            raise OutputError(f"the JMESPath {path!r} leads nowhere in the answer")
        if self._endpoint.kind == "labels":
            one = rows == 1 and (not isinstance(found, list) or len(found) != 1)
            return as_labels([found] if one else found, path)
        if self._endpoint.kind == "label_scores":
            if not isinstance(found, list):
                raise OutputError(f"expected a list of rows at {path!r}, got {type(found).__name__}")
            if rows == 1 and found and isinstance(found[0], dict) and "label" in found[0]:
                found = [found]
            return Scores([as_scores(row, path) for row in found])
        if rows == 1 and self.most_rows == 1 and isinstance(found, list) and found and not isinstance(found[0], list):
            found = [found]
        if isinstance(found, list) and any(row is None for row in found):
            raise OutputError(f"expected a row for each input at {path!r}, got null rows")
        return as_tensor(found, path)

    def _filled(self, part: object, rows: NDArray[Any]) -> object:
        if isinstance(part, dict):
            return {key: self._filled(value, rows) for key, value in part.items()}
        if isinstance(part, list):
            return [self._filled(value, rows) for value in part]
        if part == "$rows":
            return json_rows(rows, self._endpoint)
        if part == "$row":
            return json_rows(rows, self._endpoint)[0]
        if part == "$records":
            return table_records(rows, self._endpoint.columns)
        if part == "$columns":
            names = table_columns(rows, self._endpoint.columns)
            return dict(zip(names, rows.reshape(len(rows), -1).T.tolist(), strict=True))
        return part


def _places(part: object) -> list[str]:
    if isinstance(part, dict):
        return [place for value in part.values() for place in _places(value)]
    if isinstance(part, list):
        return [place for value in part for place in _places(value)]
    return [part] if isinstance(part, str) and part in PLACES else []
