"""Protocol, model and names from the URL and the server's metadata, where that is safe: only GETs, and Triton's index."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pydantic import ValidationError

from fimaudit.errors import OutputError, TargetError
from fimaudit_adapters.http.protocols.base import Body, Reply, load_json
from fimaudit_adapters.http.protocols.open_inference import likely_outputs
from fimaudit_adapters.http.sending.faults import Fault, most_sends
from fimaudit_adapters.http.sending.transport import Transport
from fimaudit_adapters.http.settings import PROTOCOLS, Endpoint

__all__ = ["Discovered", "discover"]

TRIES = 6
_V2 = re.compile(r"^(?P<root>.*)/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/infer)?/?$")
_V1 = re.compile(r"^(?P<root>.*)/v1/models/(?P<model>[^/:]+)(?:/(?:versions|labels)/[^/:]+)?(?::predict)?/?$")
_DTYPES = {"FP32": "float32", "FP64": "float64", "UINT8": "uint8"}


@dataclass(frozen=True)
class Discovered:
    """The settings with every gap filled, where to post, and what to tell the user."""

    endpoint: Endpoint
    url: str
    notes: tuple[str, ...] = ()
    input_shape: tuple[int | None, ...] | None = None
    classes: int | None = None


async def discover(endpoint: Endpoint, transport: Transport) -> Discovered:
    """Find what was not said.

    Raises:
        TargetError: nothing answers, the server wants credentials, or what it offers is ambiguous.
    """
    parts = urlsplit(endpoint.url)
    known: dict[str, Any] = {}
    protocol = endpoint.protocol or _by_url(endpoint, parts.path)
    if protocol is None:
        protocol, known = await _by_probe(endpoint, transport)
    try:
        endpoint = endpoint.model_validate({**endpoint.model_dump(exclude_unset=True), "protocol": protocol, **known})
    except ValidationError as exc:
        said = "; ".join(error["msg"].removeprefix("Value error, ") for error in exc.errors(include_input=False)[:3])
        raise TargetError(f"the endpoint speaks {protocol}, and its settings do not go with that: {said}") from None
    if protocol == "open_inference":
        return await _open_inference(endpoint, transport)
    dtype = endpoint.dtype or _default_dtype(endpoint, "float64")
    endpoint = endpoint.model_copy(update={"dtype": dtype})
    if protocol == "tensorflow_serving":
        found = _V1.match(parts.path)
        model = endpoint.model_name or (unquote(found["model"]) if found else None)
        if model is None:
            model = await _only_model(
                transport, _with_path(endpoint.url, parts.path.rstrip("/") + "/v1/models"), "tensorflow_serving"
            )
        path = parts.path if found else f"{parts.path.rstrip('/')}/v1/models/{quote(model, safe='')}"
        path = path.rstrip("/")
        path = path if path.endswith(":predict") else path + ":predict"
        return Discovered(endpoint.model_copy(update={"model_name": model}), _with_path(endpoint.url, path))
    if protocol == "mlflow" and not parts.path.rstrip("/").endswith("/invocations"):
        return Discovered(endpoint, _with_path(endpoint.url, parts.path.rstrip("/") + "/invocations"))
    return Discovered(endpoint, endpoint.url)


def _by_url(endpoint: Endpoint, path: str) -> str | None:
    if endpoint.request is not None or endpoint.response is not None:
        return "json"
    if _V2.match(path):
        return "open_inference"
    if _V1.match(path):
        return "tensorflow_serving"
    return "mlflow" if path.rstrip("/").endswith("/invocations") else None


async def _by_probe(endpoint: Endpoint, transport: Transport) -> tuple[str, dict[str, Any]]:
    """A server's root: ask the health paths that each protocol defines."""
    path = urlsplit(endpoint.url).path.rstrip("/")
    if await _get(transport, _with_path(endpoint.url, path + "/v2/health/ready")) is not None:
        return "open_inference", {}
    if await _get(transport, _with_path(endpoint.url, path + "/v1/models")) is not None:
        return "tensorflow_serving", {}
    ping = await _get(transport, _with_path(endpoint.url, path + "/ping"))
    if ping is not None and await _get(transport, _with_path(endpoint.url, path + "/version")) is not None:
        return "mlflow", {}
    raise TargetError(
        f"the protocol cannot be seen from the URL or the server's metadata; say it with --protocol {'|'.join(PROTOCOLS)}"
    )


async def _open_inference(endpoint: Endpoint, transport: Transport) -> Discovered:
    parts = urlsplit(endpoint.url)
    found = _V2.match(parts.path)
    model = endpoint.model_name or (unquote(found["model"]) if found else None)
    version = endpoint.model_version or (found["version"] if found else None)
    root = found["root"] if found else parts.path.rstrip("/")
    if model is None:
        model = await _only_model(transport, _with_path(endpoint.url, root + "/v2/models"), "open_inference")
    path = f"{root}/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
    metadata = await _json(transport, _with_path(endpoint.url, path))
    inputs, outputs = (_tensors(metadata, key) for key in ("inputs", "outputs"))
    filled: dict[str, Any] = {"model_name": model, "model_version": version}
    notes: list[str] = []
    shape: tuple[int | None, ...] | None = None
    names = [str(t.get("name")) for t in inputs]
    if endpoint.input is not None and names and endpoint.input not in names:
        raise TargetError(f"the model has no input {endpoint.input!r}; its inputs are {', '.join(names)[:200]}")
    if len(inputs) > 1:
        raise TargetError(f"the model has {len(inputs)} inputs ({', '.join(names)[:200]}); only one can be audited")
    if inputs:
        filled["input"] = names[0]
        datatype = str(inputs[0].get("datatype"))
        if endpoint.dtype is None and endpoint.image is None and datatype not in _DTYPES:
            raise TargetError(f"the model takes {datatype[:20]}, expected one of {', '.join(_DTYPES)} or image: png-base64")
        filled["dtype"] = endpoint.dtype or (_DTYPES.get(datatype) if endpoint.image is None else None)
        shape = _shape(inputs[0])
    elif endpoint.input is None:
        notes.append(
            "the server describes no inputs: the input is sent under the name 'input-0' (say --input where it differs)"
        )
    filled["dtype"] = filled.get("dtype") or endpoint.dtype or _default_dtype(endpoint, "float32")
    if shape is not None and endpoint.input_shape is None and all(n is not None for n in shape):
        filled["input_shape"] = shape
    if endpoint.input_shape is not None:
        shape = None  # rows are reshaped on their way, so the data may have any shape of that size
    filled["output"], classes = _output(endpoint, outputs)
    return Discovered(
        endpoint.model_copy(update=filled), _with_path(endpoint.url, path + "/infer"), tuple(notes), shape, classes
    )


def _output(endpoint: Endpoint, outputs: Sequence[Mapping[str, Any]]) -> tuple[str | None, int | None]:
    """Name of the output to ask for, and its classes where the metadata says so."""
    names = [str(t.get("name")) for t in outputs]
    wanted = endpoint.output
    if wanted is not None and names and wanted not in names:
        raise TargetError(f"the model has no output {wanted!r}; its outputs are {', '.join(names)[:200]}")
    if wanted is None and outputs:
        likely = likely_outputs(outputs, labels=endpoint.kind == "labels")
        if len(likely) != 1:
            raise TargetError(
                f"the model has several outputs ({', '.join(names)[:200]}); name the one with probabilities with --output"
            )
        wanted = likely[0]
    if wanted is None or not outputs or endpoint.top_k is not None:
        return wanted, None
    shape = _shape(outputs[names.index(wanted)])
    return wanted, shape[0] if shape is not None and len(shape) == 1 and (shape[0] or 0) > 1 else None


def _shape(tensor: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """Shape of one row, where the first axis is the batch's."""
    shape = tensor.get("shape")
    if not isinstance(shape, list) or len(shape) < 2 or shape[0] != -1 or not all(isinstance(n, int) for n in shape):
        return None
    return tuple(n if n > 0 else None for n in shape[1:])


def _default_dtype(endpoint: Endpoint, otherwise: str) -> str:
    if endpoint.image is None:
        return otherwise
    return "uint8" if endpoint.pixel_max == 255 else "float32"


def _tensors(metadata: object, key: str) -> list[Mapping[str, Any]]:
    found = metadata.get(key) if isinstance(metadata, dict) else None
    return [t for t in found if isinstance(t, dict)] if isinstance(found, list) else []


async def _only_model(transport: Transport, url: str, protocol: str) -> str:
    """The one model that a server offers."""
    found = await _json(transport, url)
    if found is None and protocol == "open_inference":
        found = await _json(transport, url.replace("/v2/models", "/v2/repository/index"), post=True)
    listed = found.get("models") if isinstance(found, dict) else found
    names = [str(m.get("name")) if isinstance(m, dict) else str(m) for m in listed] if isinstance(listed, list) else []
    if len(names) == 1:
        return names[0]
    offered = f"the server offers {', '.join(names)[:200]}" if names else "the server does not list its models"
    raise TargetError(f"{offered}; name one with --model-name or give its full URL")


async def _json(transport: Transport, url: str, *, post: bool = False) -> Any:
    """A document from the server, or ``None`` where it does not offer it."""
    reply = await _get(transport, url, post=post, whole=True)
    try:
        return load_json(reply.content) if reply is not None and reply.content else None
    except OutputError:
        return None


async def _get(transport: Transport, url: str, *, post: bool = False, whole: bool = False) -> Reply | None:
    """What is there, tried again like any request; ``whole``: a JSON answer that cannot be parsed counts as a failure."""
    for attempt in range(TRIES):
        try:
            reply = await (transport.post(url, Body(b"{}"), 10.0) if post else transport.get(url))
            if whole and "json" in str(reply.headers.get("content-type", "")):
                load_json(reply.content)
            return reply
        except Fault as fault:
            if fault.status in ("401", "403", "407", "tls") or fault.status.startswith("3"):
                raise TargetError(f"the endpoint cannot be opened: {fault.detail}") from None
            if fault.kind in ("settings", "rejected", "size") or attempt + 1 >= most_sends(fault.kind, TRIES):
                if fault.kind in ("transport", "busy") and fault.status != "503":
                    raise TargetError(f"the endpoint cannot be opened: {fault.detail}") from None
                return None
            await asyncio.sleep(min(0.05 * 2.0**attempt if fault.wait is None else fault.wait, 5.0))
        except OutputError:
            await asyncio.sleep(0.05)
    return None


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=path))
