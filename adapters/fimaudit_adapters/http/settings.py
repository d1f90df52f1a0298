"""What a person says about an endpoint: a YAML file, flags, or both (flags win). Secrets are named here, never held."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from fimaudit.errors import TargetError
from fimaudit.models.classifier import Options
from fimaudit.models.columns import TableColumn, arranged, coded

__all__ = [
    "DEFAULT_PATIENCE",
    "PROTOCOLS",
    "Aws",
    "Endpoint",
    "Google",
    "OAuth",
    "Poll",
    "checked_url",
    "endpoint_schema",
    "fingerprint",
    "looks_secret",
    "places",
    "read_endpoint",
]

#: What stands for rows in a request document.
PLACES = ("$rows", "$row", "$records", "$record", "$columns", "$each", "$csv", "$index")

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
    "oauth",
    "aws",
    "google",
    "url_query_env",
    "client_cert",
    "client_key",
    "ca_file",
    "trust_env",
    "rate",
    "concurrency",
    "timeout",
    "deadline",
    "attempts",
    "patience",
    "max_response",
    "batch",
}
#: Settings that came after fingerprints were first kept: they enter only where they are set, so that old runs resume.
_LATER = {
    "method", "body", "constants", "numbers", "answer", "label", "score", "names", "columnar", "total", "scale",
    "audit_label", "other_labels", "hidden_below", "poll", "url_query",
}  # fmt: skip
#: Settings of requests and answers that only protocol json has.
_OF_JSON = ("method", "body", "numbers", "answer", "label", "score", "names", "columnar")
#: Seconds of an outage that are waited out.
DEFAULT_PATIENCE = 900.0
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


def _seconds(value: object) -> object:
    """``90``, ``90s``, ``15m``, ``2h`` in seconds."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9.]+)\s*(s|sec|m|min|h|hour)?\s*", value)
    if found is None:
        raise ValueError("expected a time like 90s, 15m or 2h")
    return float(found[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0}[(found[2] or "s")[0]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Poll(_Part):
    """A service that works in the background: the answer to a request says where its result will be."""

    url: str | None = Field(
        None, description="JMESPath to the result's URL, or a URL with {path} parts; the Location header when left out"
    )
    done: str | None = Field(None, description="JMESPath, true when the result is there; any answer but 202 when left out")
    failed: str | None = Field(None, description="JMESPath, true when the work has failed")
    result: str | None = Field(None, description="JMESPath to, or template of, another URL where a done result lies")
    interval: Annotated[float, BeforeValidator(_seconds), Field(gt=0)] = Field(1.0, description="seconds between two looks")
    deadline: Annotated[float, BeforeValidator(_seconds), Field(gt=0)] = Field(
        300.0, description="seconds until a result is given up"
    )


class OAuth(_Part):
    """A bearer token from an OAuth2 token endpoint, renewed before it expires and on 401."""

    token_url: str = Field(description="where tokens are issued")
    client_id_env: str | None = Field(None, description="environment variable that holds the client's id")
    client_secret_env: str | None = Field(None, description="environment variable that holds the client's secret")
    grant_type: str = Field("client_credentials", description="another grant of the same shape: an issuer's own name for it")
    scope: str | None = Field(None, description="scopes between spaces")
    parameters: dict[str, str] = Field(default_factory=dict, description="further fields of the form: audience, resource")
    parameters_env: dict[str, str] = Field(default_factory=dict, description="field: environment variable that holds it")
    client_auth: Literal["basic", "post", "none"] = Field(
        "basic", description="client id and secret in the header, in the form, or not at all"
    )


class Aws(_Part):
    """AWS Signature Version 4, with the credentials that botocore finds (environment, profile, role)."""

    service: str = Field(description="sagemaker, rekognition, execute-api, ...")
    region: str = Field(description="eu-central-1, ...")
    profile: str | None = Field(None, description="profile of the shared configuration")


class Google(_Part):
    """A token for a Google service account, renewed before it expires and on 401."""

    service_account_env: str = Field(
        "GOOGLE_APPLICATION_CREDENTIALS", description="environment variable that names the service account's JSON file"
    )
    scopes: tuple[str, ...] = ("https://www.googleapis.com/auth/cloud-platform",)


class Endpoint(BaseModel):
    """The settings of one endpoint; every key is optional save ``url``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="where rows are posted; for the known protocols the server's root will do")
    protocol: Protocol | None = Field(None, description="wire format; found from the URL and the metadata when left out")
    model_name: str | None = Field(None, description="model behind a server's root URL")
    model_version: str | None = Field(None, description="version of that model; the server's default when left out")
    input: str | None = Field(None, description="name of the input tensor or instance key")
    output: str | None = Field(None, description="name of the output that holds probabilities or logits")
    kind: Literal["probs", "logits", "logprobs", "label_scores", "independent", "labels"] | None = Field(
        None, description="what the numbers are; stated by you, never guessed"
    )
    dtype: Literal["float32", "float64", "uint8"] | None = Field(
        None, description="number type that rows are cast to and sent as"
    )
    input_shape: tuple[int, ...] | None = Field(None, description="shape of one row; the data's own shape when left out")
    columns: tuple[str, ...] | None = Field(None, description="names of the features of a table row, in the data's order")
    constants: dict[str, Any] = Field(
        default_factory=dict, description="columns of one value that go along with every row, by name: {sex: F}"
    )
    numbers: Literal["number", "text"] = Field("number", description="write the numbers of rows as numbers or as text")
    image: Literal["png-base64", "png", "raw", "raw-base64"] | None = Field(
        None, description="what a row is: a PNG or raw bytes, or either in base64; lists of numbers when left out"
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
    labels: tuple[str, ...] | dict[str, tuple[str, ...]] | None = Field(
        None, description="all class labels; or label: its spellings, whose scores add up: {yes: [yes, Yes]}"
    )
    other_labels: Literal["refuse", "rest"] = Field(
        "refuse", description="what a label that is not among labels does: end the run, or count as the rest"
    )
    method: Literal["POST", "GET", "PUT"] = Field("POST", description="json: HTTP method of the rows' requests")
    body: Literal["json", "ndjson", "csv", "form", "multipart", "query", "text", "bytes", "npy"] | None = Field(
        None, description="json: how the request document is written; json when left out, bytes for image: png or raw"
    )
    request: Any = Field(
        None,
        description='json: the request document, with "$rows", "$row", "$records", "$record", "$columns", "$index" as a '
        'value, {"$each": ..} for a value a row, "{row}" and "{column name}" within text, {"$json": ..} and {"$base64": ..} '
        "around one",
    )
    answer: Literal["json", "ndjson", "csv", "text", "events"] = Field("json", description="json: how the answer is written")
    response: str | None = Field(None, description="json: JMESPath to the rows of the answer")
    label: str | None = Field(
        None, description="json: JMESPath, from a score's object to its label, or a row's list of them"
    )
    score: str | None = Field(
        None, description="json: JMESPath, from a score's object to the number, or a row's list of them"
    )
    names: str | None = Field(None, description="json: JMESPath to the class names, where an answer holds them once")
    columnar: bool = Field(False, description="json: the answer has a list of all rows for each class, or for each field")
    total: Annotated[float, Field(gt=0)] = Field(1.0, description="what the scores of a row sum to: 100 for percent")
    scale: Literal["percent"] | None = Field(None, description="percent: the same as total: 100")
    audit_label: str | int | None = Field(
        None, description="kind independent: name (or place) of the score to audit, as yes against no"
    )
    hidden_below: Annotated[float, Field(gt=0)] | None = Field(
        None, description="scores below this are shown as 0 or not at all: every norm is then a lower bound"
    )
    poll: Poll | None = Field(None, description="json: the answer comes later, from another URL")
    url_query: dict[str, str | int | float | bool] = Field(default_factory=dict, description="plain parameters of the URL")
    url_query_env: dict[str, str] = Field(
        default_factory=dict, description="parameter of the URL: environment variable that holds it; shown nowhere"
    )
    headers: dict[str, str] = Field(default_factory=dict, description="plain headers; never put a secret here")
    header_env: dict[str, str] = Field(default_factory=dict, description="header name: environment variable that holds it")
    header_file: dict[str, str] = Field(default_factory=dict, description="header name: file that holds it")
    bearer_env: str | None = Field(None, description="environment variable that holds a bearer token")
    bearer_file: str | None = Field(None, description="file that holds a bearer token; read anew for each request")
    auth: str | None = Field(None, description="package.module:attribute, an httpx.Auth or a factory of one")
    oauth: OAuth | None = Field(None, description="OAuth2 client credentials")
    aws: Aws | None = Field(None, description="AWS Signature Version 4")
    google: Google | None = Field(None, description="Google service account")
    client_cert: str | None = Field(
        None, description="PEM file of a client certificate, with its key where client_key is not set"
    )
    client_key: str | None = Field(None, description="PEM file of the client certificate's key")
    ca_file: str | None = Field(None, description="PEM file of a private certificate authority")
    trust_env: bool = Field(True, description="honour HTTP_PROXY, NO_PROXY and SSL_CERT_FILE")
    rate: Annotated[float, BeforeValidator(_rate), Field(gt=0)] | None = Field(
        None, description="requests a second: 20/s, 100/min"
    )
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(8, description="most requests in flight; adapts below it")
    timeout: Annotated[float, Field(gt=0)] = Field(30.0, description="seconds a request may take, slow answers included")
    deadline: Annotated[float, Field(gt=0)] | None = Field(None, description="seconds the whole run may take")
    attempts: Annotated[int, Field(ge=1, le=50)] = Field(8, description="most sends of one request, an outage apart")
    patience: Annotated[float, BeforeValidator(_seconds), Field(ge=0)] = Field(
        DEFAULT_PATIENCE, description="seconds of an outage that are waited out: 900, 15m"
    )
    batch: Annotated[int, Field(ge=1)] | None = Field(None, description="rows a request; learned when left out")
    max_response: Annotated[int, Field(ge=1024)] = Field(16 * 2**20, description="most bytes of an answer, unpacked")

    #: What the numbers of a row stand for, in the order in which they are sent, and where each stands in the data.
    _table: tuple[tuple[TableColumn, int], ...] = PrivateAttr(())

    @property
    def table(self) -> tuple[tuple[TableColumn, int], ...]:
        """The columns of the data's table in the order of ``columns``, each with its place in a row; () for no table."""
        return self._table

    def with_table(self, table: Sequence[TableColumn]) -> Endpoint:
        """The same endpoint for rows of a table.

        Raises:
            DataError: other columns than ``columns`` says.
            TargetError: text that would go as numbers.
        """
        if not table or self.columns is None:
            return self
        wanted = [name for name in self.columns if name not in self.constants]
        text = coded(table)
        if text and self.body == "npy":
            raise TargetError(f"body: npy sends numbers, but column {text[0]!r} holds text, categories or dates")
        found = self.model_copy()
        found._table = tuple((table[place], place) for place in arranged(table, wanted, "the endpoint"))
        return found

    @property
    def rows_a_request(self) -> int | None:
        """1 where the format takes no more; ``None`` for any number."""
        single = set(places(self.request, self.all_columns)) & {"$row", "$record"}
        bare = self.image in ("png", "raw") and self.body in (None, "bytes")
        return 1 if single or bare or self.body in ("bytes", "query") else None

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Names of the rows' columns and of those that go along with them."""
        said = self.columns or ()
        return (*said, *(name for name in self.constants if name not in said))

    @property
    def adjusts_answers(self) -> bool:
        """Whether scores are scaled, hidden when small, or of their own."""
        return self.whole != 1.0 or self.hidden_below is not None or self.kind == "independent"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """All labels, without their spellings."""
        return None if self.labels is None else tuple(self.labels)

    @property
    def whole(self) -> float:
        """What the scores of a row sum to."""
        return 100.0 if self.scale == "percent" else self.total

    @model_validator(mode="after")
    def _agrees(self) -> Endpoint:
        _check_format(self)
        clash = {name.lower() for name in (*self.headers, *self.header_env, *self.header_file)}
        if len(clash) < len(self.headers) + len(self.header_env) + len(self.header_file):
            raise ValueError("a header is set twice among headers, header_env and header_file")
        secret = [name for name in self.headers if looks_secret(name)]
        if secret:
            raise ValueError(
                f"header {secret[0]} looks like a credential: name its variable or file with header_env or header_file"
            )
        secret = [name for name in self.url_query if _SECRET_PARAMETERS.search(name)]
        if secret:
            raise ValueError(f"parameter {secret[0]} looks like a credential: name its variable with url_query_env")
        bearers = [name for name in ("bearer_env", "bearer_file", "auth", "oauth", "aws", "google") if getattr(self, name)]
        if len(bearers) > 1:
            raise ValueError(f"{bearers[0]} and {bearers[1]} both sign requests: give one of them")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert, the certificate that it belongs to")
        return self


def _check_format(endpoint: Endpoint) -> None:
    """What of the format contradicts itself."""
    needs_no_document = endpoint.image is not None or endpoint.body in ("csv", "npy", "ndjson")
    if endpoint.protocol == "json" and (
        endpoint.response is None or endpoint.kind is None or (endpoint.request is None and not needs_no_document)
    ):
        raise ValueError("protocol json needs request (a document), response (a JMESPath) and kind")
    if endpoint.protocol not in ("json", None) and (endpoint.request is not None or endpoint.response is not None):
        raise ValueError("request and response belong to protocol json")
    if endpoint.protocol not in ("json", None):
        own = [name for name in _OF_JSON if getattr(endpoint, name) != Endpoint.model_fields[name].get_default()]
        if own:
            raise ValueError(f"{own[0]} belongs to protocol json, which takes a request document and a JMESPath")
    if endpoint.protocol == "open_inference" and endpoint.adjusts_answers:
        raise ValueError("total, scale, hidden_below and kind: independent do not go with protocol open_inference")
    if endpoint.method == "GET" and endpoint.body not in (None, "query"):
        raise ValueError(f"a GET has no body: expected body: query, got {endpoint.body}")
    if endpoint.scale is not None and endpoint.total not in (1.0, 100.0):
        raise ValueError("scale: percent and a total other than 100 contradict each other")
    spellings = [s for names in endpoint.labels.values() for s in names] if isinstance(endpoint.labels, dict) else []
    names = [*(endpoint.labels or ()), *spellings] if not isinstance(endpoint.labels, dict) else spellings
    if len(set(names)) < len(names):
        raise ValueError("labels must differ from each other")
    if endpoint.audit_label is not None and endpoint.kind != "independent":
        raise ValueError("audit_label belongs to kind: independent")


def places(part: object, columns: Sequence[str] = ()) -> list[str]:
    """The placeholders for rows in a request document, in their order; what stands within text is of one row, ``$row``.

    Args:
        part: the document.
        columns: names that may stand within text too.

    >>> places({"a": ["$rows"], "b": "data:{row}", "c": "aged {age}, {unknown}"}, ["age"])
    ['$rows', '$row', '$row']
    """
    if isinstance(part, dict):
        if set(part) == {"$each"}:
            return ["$each"]
        return [place for value in part.values() for place in places(value, columns)]
    if isinstance(part, list):
        return [place for value in part for place in places(value, columns)]
    if not isinstance(part, str):
        return []
    if part.removesuffix("...") in PLACES:
        return [part.removesuffix("...")]
    within = re.findall(r"\{([^{}\"':,]+)\}", part)
    return ["$row" for name in within if name in ("row", "csv", "record") or name in columns]


def read_endpoint(target: str, options: Options) -> Endpoint:
    """The settings from a URL or an endpoint file, what ``extra['endpoint']`` names or holds, and the flags over them.

    ``extra['endpoint']`` is a file, a mapping of settings, or a list of these; a mapping wins over files.

    Raises:
        TargetError: unreadable file, unknown or contradicting settings, credentials in the URL, or a flag for local models.
    """
    extra = {key: value for key, value in options.extra.items() if value is not None}
    given = extra.pop("endpoint", None)
    data_columns = extra.pop("data_columns", None)
    parts = [] if given is None else given if isinstance(given, list | tuple) else [given]
    values: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, Mapping):
            values.update(_read_yaml(os.fspath(part)))
    if target.lower().endswith((".yaml", ".yml")) and "://" not in target:
        values.update(_read_yaml(target))
    else:
        values["url"] = target
    for part in parts:
        if isinstance(part, Mapping):
            values.update(part)
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
    if options.link == "labels":
        if values.get("kind") not in (None, "label_scores", "labels"):
            raise TargetError(f"--link labels reads a class from each answer, but the settings say kind: {values['kind']}")
        values["kind"] = "labels"
    if isinstance(values.get("columns"), str):
        values["columns"] = [name.strip() for name in values["columns"].split(",")]
    if values.get("columns") is None and data_columns is not None:
        values["columns"] = [*data_columns, *(name for name in values.get("constants") or {} if name not in data_columns)]
    for word in values.keys() - Endpoint.model_fields.keys():
        near = get_close_matches(word, Endpoint.model_fields, 1, 0.75)
        if near:
            raise TargetError(f"unknown option {word!r}; did you mean {near[0]!r}?")
    try:
        endpoint = Endpoint.model_validate(values)
    except ValidationError as exc:
        raise TargetError(f"the endpoint's settings are not valid: {_first_errors(exc)}") from None
    checked_url(endpoint.url)
    return endpoint


def checked_url(url: str) -> str:
    """The URL, when it is absolute, http or https, and free of credentials; the message never repeats it."""
    blank = re.search(r"<[A-Za-z][\w -]*>", url)
    if blank is not None:
        raise TargetError(f"the url still holds {blank[0]}: put your own in its place")
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
            raise TargetError(
                f"the URL's parameter {name!r} looks like a credential; URLs end up in logs: use url_query_env"
            )
    return url


def fingerprint(endpoint: Endpoint, link: str) -> str:
    """SHA-256 of everything that shapes the question or the reading of its answer; no secret goes in."""
    unset = {
        name
        for name in _LATER
        if getattr(endpoint, name) == Endpoint.model_fields[name].get_default(call_default_factory=True)
    }
    dumped = endpoint.model_dump(mode="json")
    shaping = {name: value for name, value in dumped.items() if name not in _TRANSPORT and name not in unset}
    shaping |= (
        {"cells": cells} if (cells := [[c.name, list(map(str, c.values))] for c, _ in endpoint.table if c.coded]) else {}
    )
    text = json.dumps({"link": link, **shaping}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def endpoint_schema() -> dict[str, Any]:
    """The JSON Schema of an endpoint file, for ``fimaudit inspect --endpoint``."""
    return Endpoint.model_json_schema()


def looks_secret(header: str) -> bool:
    """Whether a header of that name holds a credential."""
    return bool(re.search(r"(?i)auth|cookie|key$|token|secret|passw|credential|session|signature", header))


def _read_yaml(path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except OSError as exc:
        raise TargetError(f"the endpoint file {path} cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as exc:
        raise TargetError(f"the endpoint file {path} is not YAML: {' '.join(str(exc).split())[:200]}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise TargetError(f"the endpoint file {path} must hold a mapping of settings, such as 'url: https://...'")
    return values


def _first_errors(exc: ValidationError) -> str:
    """Setting and reason of the first few errors, without the values: they may be secrets put in the wrong place."""
    said = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in exc.errors(include_input=False)[:3]]
    return "; ".join(said) + "; known settings: " + ", ".join(Endpoint.model_fields)
