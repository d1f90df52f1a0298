"""Open Inference Protocol (KServe V2, Triton, MLServer): JSON tensors, and the binary extension.

Format: https://github.com/kserve/open-inference-protocol and Triton's ``extension_binary_data.md``. Answers are reshaped by
their ``shape``, because data may be flat or nested, and split by the ``Inference-Header-Content-Length`` header.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import OutputError
from fimaudit_adapters.http.protocols.base import (
    Answer,
    Body,
    Malformed,
    Reply,
    Scores,
    Tensor,
    as_label,
    as_labels,
    load_json,
)
from fimaudit_adapters.http.protocols.encoding import dump, json_rows, shaped
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["OpenInference", "likely_outputs"]

HEADER = "Inference-Header-Content-Length"
_DATATYPES = {np.dtype("float32"): "FP32", np.dtype("float64"): "FP64", np.dtype("uint8"): "UINT8"}
_DTYPES = {
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "|b1", "UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4",
    "UINT64": "<u8", "INT8": "|i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
}  # fmt: skip
#: Data types of outputs that can hold a class.
_LABEL_TYPES = {"BYTES", *(name for name in _DTYPES if not name.startswith("FP"))}
#: Names under which servers are known to return probabilities; one of them among several outputs is taken unasked.
LIKELY_OUTPUTS = ("probabilities", "output_probability", "predict_proba", "probs", "scores")


class OpenInference:
    """``POST /v2/models/{m}/infer``; with ``top_k``, Triton's classification extension."""

    most_rows: int | None = None

    def __init__(self, endpoint: Endpoint, url: str, *, binary: bool) -> None:
        self.url = url
        self.binary = binary and endpoint.image is None and endpoint.top_k is None
        self._endpoint = endpoint

    def encode(self, rows: NDArray[Any]) -> Body:
        endpoint = self._endpoint
        tensor: dict[str, Any] = {"name": endpoint.input or "input-0"}
        document: dict[str, Any] = {"inputs": [tensor]}
        if endpoint.parameters:
            document["parameters"] = endpoint.parameters
        if endpoint.output is not None:
            document["outputs"] = [{"name": endpoint.output}]
            if endpoint.top_k is not None:
                document["outputs"][0]["parameters"] = {"classification": endpoint.top_k}
        if endpoint.image == "png-base64":
            tensor.update(shape=[len(rows)], datatype="BYTES", data=json_rows(rows, endpoint))
            return Body(dump(document))
        values = shaped(rows, endpoint)
        tensor.update(shape=list(values.shape), datatype=_DATATYPES[values.dtype])
        if not self.binary:
            tensor["data"] = values.ravel().tolist()
            return Body(dump(document))
        raw = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        if endpoint.output is not None:
            document["outputs"][0]["parameters"] = {"binary_data": True}
        else:
            document["parameters"] = {**(endpoint.parameters or {}), "binary_data_output": True}
        head = dump(document)
        return Body(head + raw, {"Content-Type": "application/octet-stream", HEADER: str(len(head))})

    def decode(self, reply: Reply, rows: int) -> Answer:
        content = reply.content
        length = reply.headers.get(HEADER)
        if length is None:
            head, tail = content, b""
        else:
            if not length.isdecimal() or int(length) > len(content):
                raise OutputError(
                    f"expected a header length within the {len(content)} bytes of the answer, got {length[:20]!r}"
                )
            head, tail = content[: int(length)], content[int(length) :]
        document = load_json(head)
        outputs = document.get("outputs") if isinstance(document, dict) else None
        if not isinstance(outputs, list) or not outputs or not all(isinstance(o, dict) for o in outputs):
            raise OutputError("expected an 'outputs' list with at least one tensor in the answer")
        arrays = _arrays(outputs, tail)
        labels = self._endpoint.kind == "labels"
        name = choose_output(outputs, self._endpoint.output, labels=labels)
        values = arrays[name]
        if isinstance(values, list) and labels and self._endpoint.top_k is None:
            return as_labels([values[i] for i in _starts(values, rows)], f"output {name[:80]!r}")
        if isinstance(values, list):
            return Scores([_classification(values[i : i + len(values) // rows]) for i in _starts(values, rows)])
        if not values.ndim:
            raise OutputError(
                f"expected one row of numbers for each of {rows} inputs in output {name[:80]!r}, got one number"
            )
        return Tensor(values)


def choose_output(outputs: Sequence[Mapping[str, Any]], wanted: str | None, *, labels: bool = False) -> str:
    """The output's name: the one asked for, or the only likely one."""
    names = [str(o.get("name")) for o in outputs]
    if wanted is not None:
        if wanted not in names:
            raise OutputError(f"expected an output {wanted!r} in the answer, got {', '.join(names)[:200]}")
        return wanted
    likely = likely_outputs(outputs, labels=labels)
    if len(likely) == 1:
        return likely[0]
    raise OutputError(
        f"the endpoint has several outputs ({', '.join(names)[:200]}); name the one with probabilities with --output"
    )


def likely_outputs(outputs: Sequence[Mapping[str, Any]], *, labels: bool) -> list[str]:
    """Names of the outputs that may be meant where none is named: the only one, else those under a known name.

    For ``labels``, those that hold whole numbers or text come first.
    """
    names = [str(o.get("name")) for o in outputs]
    classes = [name for name, o in zip(names, outputs, strict=True) if labels and str(o.get("datatype")) in _LABEL_TYPES]
    return names if len(names) == 1 else classes or [name for name in names if name.lower() in LIKELY_OUTPUTS]


def _arrays(outputs: Sequence[Mapping[str, Any]], tail: bytes) -> dict[str, NDArray[Any] | list[Any]]:
    """Every output as an array (or a list, for text), binary parts consumed in order."""
    arrays: dict[str, NDArray[Any] | list[Any]] = {}
    offset = 0
    for output in outputs:
        name, datatype, shape = str(output.get("name")), output.get("datatype"), output.get("shape")
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):  # JSON's true is an int
            raise OutputError(f"expected a shape of whole numbers for output {name[:80]!r}")
        parameters = output.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if datatype == "BYTES":
            if size is not None or not isinstance(output.get("data"), list):
                raise OutputError(f"output {name[:80]!r} holds text; name the output with probabilities with --output")
            arrays[name] = output["data"]
            continue
        if not isinstance(datatype, str) or datatype not in _DTYPES:
            raise OutputError(f"expected a known datatype for output {name[:80]!r}, got {str(datatype)[:20]!r}")
        dtype = np.dtype(_DTYPES[datatype])
        count = math.prod(shape)
        if size is not None:
            if not isinstance(size, int) or size != count * dtype.itemsize or offset + size > len(tail):
                raise OutputError(
                    f"expected {count} {datatype} values for output {name[:80]!r}, got another number of bytes"
                )
            flat = np.frombuffer(tail, dtype, count, offset)
            offset += size
        else:
            try:
                flat = np.asarray(output.get("data"), dtype=dtype if dtype.kind == "f" else None).ravel()
            except OverflowError:
                raise Malformed(f"expected finite numbers as data of output {name[:80]!r}") from None
            except (ValueError, TypeError):
                raise OutputError(f"expected numbers as data of output {name[:80]!r}") from None
            if flat.size != count or flat.dtype.kind not in "fiub":
                raise OutputError(f"expected {count} numbers for shape {shape} of output {name[:80]!r}, got {flat.size}")
        arrays[name] = flat.reshape(shape)
    return arrays


def _starts(values: Sequence[Any], rows: int) -> range:
    if not values or len(values) % rows:
        raise OutputError(f"expected the same number of labels for each of {rows} rows, got {len(values)} in all")
    return range(0, len(values), len(values) // rows)


def _classification(entries: Sequence[Any]) -> dict[str, float]:
    """Triton's ``score:index`` or ``score:index:label`` entries of one row."""
    scores: dict[str, float] = {}
    for entry in entries:
        score, colon, rest = str(entry).partition(":")
        index, _, label = rest.partition(":")
        try:
            value = float(score)
        except ValueError:
            colon = ""
        if not colon:
            raise OutputError("expected 'score:index:label' entries; name the output with probabilities with --output")
        scores[as_label(label or index)] = value
    return scores
