"""What a person says about an endpoint: a YAML file, flags, or both (flags win). Secrets are named here, never held."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fimaudit.errors import TargetError
from fimaudit.models.classifier import Options

__all__ = ["PROTOCOLS", "Endpoint", "checked_url", "endpoint_schema", "fingerprint", "read_endpoint"]

Protocol = Literal["open_inference", "tensorflow_serving", "mlflow", "label_scores", "json"]
PROTOCOLS: tuple[str, ...] = ("open_inference", "tensorflow_serving", "mlflow", "label_scores", "json")

#: Settings that change neither the question nor the answer: they stay out of the fingerprint, so that a run can be
#: resumed with another rate, deadline or credential.
_TRANSPORT = {
    "header_env",
    "header_file",
    "bearer_env",
    "bearer_file",
    "auth",
    "ca_file",
    "trust_env",
    "rate",
    "concurrency",
    "timeout",
    "deadline",
    "attempts",
    "max_response",
    "batch",
}
_SECRET_PARAMETERS = re.compile(r"(?i)(key|token|secret|passw|pwd|^sig$|signature|credential|^auth|^code$|session)")


def _rate(value: object) -> object:
    """``20/s``, ``100/min``, ``5000/h`` or a number a second."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9.]+)\s*(?:/\s*(s|sec|second|min|minute|h|hour))?\s*", value)
    if found is None:
        raise ValueError("expected a rate like 20/s, 100/min or 5000/h")
    seconds = {"s": 1.0, "m": 60.0, "h": 3600.0}[(found[2] or "s")[0]]
    return float(found[1]) / seconds


class Endpoint(BaseModel):
    """The settings of one endpoint; every key is optional save ``url``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="where rows are posted; for the known protocols the server's root will do")
    protocol: Protocol | None = Field(None, description="wire format; found from the URL and the metadata when left out")
    model_name: str | None = Field(None, description="model behind a server's root URL")
    model_version: str | None = Field(None, description="version of that model; the server's default when left out")
    input: str | None = Field(None, description="name of the input tensor or instance key")
    output: str | None = Field(None, description="name of the output that holds probabilities or logits")
    kind: Literal["probs", "logits", "logprobs", "label_scores"] | None = Field(
        None, description="what the numbers are; stated by you, never guessed"
    )
    dtype: Literal["float32", "float64", "uint8"] | None = Field(
        None, description="number type that rows are cast to and sent as"
    )
    input_shape: tuple[int, ...] | None = Field(None, description="shape of one row; the data's own shape when left out")
    columns: tuple[str, ...] | None = Field(None, description="names of the features of a table row, in the data's order")
    image: Literal["png-base64", "png", "raw"] | None = Field(
        None, description="send each row as a PNG in base64, as a PNG body, or as a body of raw bytes"
    )
    pixel_max: Literal[1, 255] = Field(
        255, description="value of a white pixel in the data: 255 (levels) or 1 (levels / 255)"
    )
    binary: bool | None = Field(None, description="binary tensors of the Open Inference Protocol; tried when left out")
    style: Literal["row", "column"] = Field("row", description="TensorFlow Serving: instances/predictions or inputs/outputs")
    rows_as: Literal["inputs", "instances", "dataframe_split", "dataframe_records"] | None = Field(
        None, description="MLflow: how rows are written; dataframe_split with columns, else inputs"
    )
    signature_name: str | None = Field(None, description="TensorFlow Serving signature")
    parameters: dict[str, Any] | None = Field(None, description="sent along with every request, unchanged")
    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="how many labels to ask for in each answer")
    labels: tuple[str, ...] | None = Field(None, description="all class labels, where answers are labels with scores")
    request: Any = Field(
        None, description='json: the request document, with "$rows", "$row", "$records" or "$columns" as a value'
    )
    response: str | None = Field(None, description="json: JMESPath to the rows of the answer")
    headers: dict[str, str] = Field(default_factory=dict, description="plain headers; never put a secret here")
    header_env: dict[str, str] = Field(default_factory=dict, description="header name: environment variable that holds it")
    header_file: dict[str, str] = Field(default_factory=dict, description="header name: file that holds it")
    bearer_env: str | None = Field(None, description="environment variable that holds a bearer token")
    bearer_file: str | None = Field(None, description="file that holds a bearer token; read anew for each request")
    auth: str | None = Field(None, description="package.module:attribute, an httpx.Auth or a factory of one")
    ca_file: str | None = Field(None, description="PEM file of a private certificate authority")
    trust_env: bool = Field(True, description="honour HTTP_PROXY, NO_PROXY and SSL_CERT_FILE")
    rate: Annotated[float, BeforeValidator(_rate), Field(gt=0)] | None = Field(
        None, description="requests a second: 20/s, 100/min"
    )
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(8, description="most requests in flight; adapts below it")
    timeout: Annotated[float, Field(gt=0)] = Field(30.0, description="seconds a request may take, slow answers included")
    deadline: Annotated[float, Field(gt=0)] | None = Field(None, description="seconds the whole run may take")
    attempts: Annotated[int, Field(ge=1, le=50)] = Field(8, description="most sends of one request")
    batch: Annotated[int, Field(ge=1)] | None = Field(None, description="rows a request; learned when left out")
    max_response: Annotated[int, Field(ge=1024)] = Field(16 * 2**20, description="most bytes of an answer, unpacked")

    @model_validator(mode="after")
    def _agrees(self) -> Endpoint:
        bare = self.image in ("png", "raw")
        if self.protocol == "json" and (self.response is None or self.kind is None or (self.request is None and not bare)):
            raise ValueError("protocol json needs request (a document), response (a JMESPath) and kind")
        if self.protocol not in ("json", None) and (self.request is not None or self.response is not None):
            raise ValueError("request and response belong to protocol json")
        clash = {name.lower() for name in (*self.headers, *self.header_env, *self.header_file)}
        if len(clash) < len(self.headers) + len(self.header_env) + len(self.header_file):
            raise ValueError("a header is set twice among headers, header_env and header_file")
        secret = [name for name in self.headers if _looks_secret(name)]
        if secret:
            raise ValueError(
                f"header {secret[0]} looks like a credential: name its variable or file with header_env or header_file"
            )
        if len(set(self.labels or ())) < len(self.labels or ()):
            raise ValueError("labels must differ from each other")
        return self


def read_endpoint(target: str, options: Options) -> Endpoint:
    """The settings from a URL or an endpoint file, the file named by ``extra['endpoint']``, and the flags over them.

    Raises:
        TargetError: unreadable file, unknown or contradicting settings, credentials in the URL, or a flag for local models.
    """
    values: dict[str, Any] = {}
    extra = {key: value for key, value in options.extra.items() if value is not None}
    path = extra.pop("endpoint", None)
    if target.lower().endswith((".yaml", ".yml")) and "://" not in target:
        values.update(_read_yaml(target))
    else:
        values["url"] = target
    if path is not None:
        values = {**_read_yaml(os.fspath(path)), **values}
    for name in ("weights", "device"):
        if getattr(options, name) is not None:
            raise TargetError(f"--{name} belongs to local models; an endpoint runs where it runs")
    if options.trust_pickle or options.hold or options.packing is not None:
        raise TargetError("--trust-pickle and held inputs belong to local models, not to an endpoint")
    if options.normalise is not None:
        raise TargetError("--mean and --std belong to local models; an endpoint is sent inputs as they are")
    if options.finding is not None:
        raise TargetError("--class belongs to local models; choose one finding with protocol json and a JMESPath response")
    if options.output_step is not None:
        raise TargetError(
            "--output-step belongs to local models; take one step of an endpoint's answer with protocol json and a JMESPath"
        )
    values.update(extra)
    if options.input is not None:
        values["input"] = options.input
    if options.output is not None:
        values["output"] = str(options.output)
    if isinstance(values.get("columns"), str):
        values["columns"] = [name.strip() for name in values["columns"].split(",")]
    try:
        endpoint = Endpoint.model_validate(values)
    except ValidationError as exc:
        raise TargetError(f"the endpoint's settings are not valid: {_first_errors(exc)}") from None
    checked_url(endpoint.url)
    return endpoint


def checked_url(url: str) -> str:
    """The URL, when it is absolute, http or https, and free of credentials; the message never repeats it."""
    try:
        parts = urlsplit(url)
        named = parts.hostname is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        named = False
    if not named or parts.scheme.lower() not in ("http", "https"):
        raise TargetError("expected an absolute http:// or https:// URL with a host")
    if parts.username is not None or parts.password is not None:
        raise TargetError("the URL holds a user name or password; pass them with header_env, bearer_env or an auth plug-in")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if _SECRET_PARAMETERS.search(name):
            raise TargetError(f"the URL's parameter {name!r} looks like a credential; URLs end up in logs: use header_env")
    return url


def fingerprint(endpoint: Endpoint, link: str) -> str:
    """SHA-256 of everything that shapes the question or the reading of its answer; no secret goes in."""
    shaping = {name: value for name, value in endpoint.model_dump(mode="json").items() if name not in _TRANSPORT}
    text = json.dumps({"link": link, **shaping}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def endpoint_schema() -> dict[str, Any]:
    """The JSON Schema of an endpoint file, for ``fimaudit inspect --endpoint``."""
    return Endpoint.model_json_schema()


def _looks_secret(header: str) -> bool:
    return bool(re.search(r"(?i)auth|cookie|key$|token|secret|passw|credential|session|signature", header))


def _read_yaml(path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except OSError as exc:
        raise TargetError(f"the endpoint file {path} cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise TargetError(f"the endpoint file {path} is not YAML: {' '.join(str(exc).split())[:200]}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise TargetError(f"the endpoint file {path} must hold a mapping of settings, such as 'url: https://...'")
    return values


def _first_errors(exc: ValidationError) -> str:
    """Setting and reason of the first few errors, without the values: they may be secrets put in the wrong place."""
    said = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in exc.errors(include_input=False)[:3]]
    return "; ".join(said) + "; known settings: " + ", ".join(Endpoint.model_fields)
