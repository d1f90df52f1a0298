"""What a person may say about an endpoint: every key of an endpoint file, and which of them contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from fimaudit.errors import TargetError
from fimaudit.models.columns import TableColumn, arranged, coded
from fimaudit_adapters.http.credential_settings import Aws, Basic, Google, OAuth, header_looks_secret, parameter_looks_secret
from fimaudit_adapters.http.protocols.placeholders import places
from fimaudit_adapters.http.units import Rate, Seconds

__all__ = ["PROTOCOLS", "Endpoint", "Poll"]

Protocol = Literal["open_inference", "tensorflow_serving", "mlflow", "label_scores", "json"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

#: Settings of requests and answers that only protocol json has.
_OF_JSON = ("method", "body", "numbers", "answer", "label", "score", "names", "columnar", "failed", "separator")
#: Seconds of an outage that are waited out.
DEFAULT_PATIENCE = 900.0


class Poll(BaseModel):
    """A service that works in the background: the answer to a request says where its result will be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(
        None, description="JMESPath to the result's URL, or a URL with {path} parts; the Location header when left out"
    )
    request: Any = Field(
        None, description="document to post there, with {path} parts within its text; nothing is posted when left out"
    )
    done: str | None = Field(None, description="JMESPath, true when the result is there; any answer but 202 when left out")
    failed: str | None = Field(None, description="JMESPath, true when the work has failed")
    result: str | None = Field(None, description="JMESPath to, or template of, another URL where a done result lies")
    interval: Annotated[Seconds, Field(gt=0)] = Field(1.0, description="seconds between two looks")
    deadline: Annotated[Seconds, Field(gt=0)] = Field(300.0, description="seconds until a result is given up")


class Endpoint(BaseModel):
    """The settings of one endpoint; every key is optional save ``url``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        description="where rows are posted; for the known protocols the server's root will do; {column} may stand in it"
    )
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
    body: Literal["json", "ndjson", "csv", "form", "multipart", "query", "text", "bytes", "npy", "msgpack"] | None = Field(
        None, description="json: how the request document is written; json when left out, bytes for image: png or raw"
    )
    request: Any = Field(
        None,
        description="json: the request document, with places for rows: $rows, $row, $records, $record, $columns, $flat, "
        "$transposed, {$each: ..}, {$cells: ..}, and {row}, {csv}, {column name} within text",
    )
    answer: Literal["json", "ndjson", "csv", "text", "events", "npy", "xml", "msgpack", "float32", "float64"] = Field(
        "json", description="json: how the answer is written; float32 and float64 are the bare bytes of numbers"
    )
    separator: str = Field(",", min_length=1, max_length=1, description="json: between the cells of CSV, both ways")
    failed: str | None = Field(
        None, description="json: JMESPath, true where an answer of status 200 is none; it is asked for again"
    )
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
    body_env: dict[str, str] = Field(
        default_factory=dict, description="field of the body's object or form: environment variable that holds it"
    )
    headers: dict[str, str] = Field(default_factory=dict, description="plain headers; never put a secret here")
    header_env: dict[str, str] = Field(default_factory=dict, description="header name: environment variable that holds it")
    header_file: dict[str, str] = Field(default_factory=dict, description="header name: file that holds it")
    bearer_env: str | None = Field(None, description="environment variable that holds a bearer token")
    bearer_file: str | None = Field(None, description="file that holds a bearer token; read anew for each request")
    auth: str | None = Field(None, description="package.module:attribute, an httpx.Auth or a factory of one")
    basic: Basic | None = Field(None, description="HTTP Basic: a user name and a password")
    oauth: OAuth | None = Field(None, description="OAuth2 client credentials")
    aws: Aws | None = Field(None, description="AWS Signature Version 4")
    google: Google | None = Field(None, description="Google service account")
    client_cert: str | None = Field(
        None, description="PEM file of a client certificate, with its key where client_key is not set"
    )
    client_key: str | None = Field(None, description="PEM file of the client certificate's key")
    ca_file: str | None = Field(None, description="PEM file of a private certificate authority")
    trust_env: bool = Field(True, description="honour HTTP_PROXY, NO_PROXY and SSL_CERT_FILE")
    rate: Rate | None = Field(None, description="requests a second: 20/s, 100/min")
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(8, description="most requests in flight; adapts below it")
    timeout: Annotated[float, Field(gt=0)] = Field(30.0, description="seconds a request may take, slow answers included")
    deadline: Annotated[float, Field(gt=0)] | None = Field(None, description="seconds the whole run may take")
    attempts: Annotated[int, Field(ge=1, le=50)] = Field(8, description="most sends of one request, an outage apart")
    patience: Seconds = Field(DEFAULT_PATIENCE, description="seconds of an outage that are waited out: 900, 15m")
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
        single = set(places([self.request, self.url], self.all_columns)) & {"$row", "$record"}
        bare = self.image in ("png", "raw") and self.body in (None, "bytes")
        return 1 if single or bare or self.body in ("bytes", "query") else None

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Names of the rows' columns and of those that go along with them."""
        columns = self.columns or ()
        return (*columns, *(name for name in self.constants if name not in columns))

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
        secret = [name for name in self.headers if header_looks_secret(name)]
        if secret:
            raise ValueError(
                f"header {secret[0]} looks like a credential: name its variable or file with header_env or header_file"
            )
        secret = [name for name in self.url_query if parameter_looks_secret(name)]
        if secret:
            raise ValueError(f"parameter {secret[0]} looks like a credential: name its variable with url_query_env")
        bearers = [
            name for name in ("bearer_env", "bearer_file", "auth", "basic", "oauth", "aws", "google") if getattr(self, name)
        ]
        if len(bearers) > 1:
            raise ValueError(f"{bearers[0]} and {bearers[1]} both sign requests: give one of them")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert, the certificate that it belongs to")
        return self


def _check_format(endpoint: Endpoint) -> None:
    """What of the format contradicts itself."""
    in_url = bool(places(endpoint.url, endpoint.all_columns))
    needs_no_document = endpoint.image is not None or endpoint.body in ("csv", "npy", "ndjson") or in_url
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
    if endpoint.body_env and endpoint.body not in (None, "json", "form", "multipart"):
        raise ValueError(f"body_env needs a body of named fields (json, form, multipart), got {endpoint.body}")
    if endpoint.method == "GET" and endpoint.body not in (None, "query"):
        raise ValueError(f"a GET has no body: expected body: query, got {endpoint.body}")
    if endpoint.hidden_below is not None and endpoint.hidden_below >= endpoint.whole:
        raise ValueError(f"hidden_below must lie below {endpoint.whole:g}, what the scores of a row sum to (total)")
    if endpoint.scale is not None and endpoint.total not in (1.0, 100.0):
        raise ValueError("scale: percent and a total other than 100 contradict each other")
    spellings = [s for names in endpoint.labels.values() for s in names] if isinstance(endpoint.labels, dict) else []
    names = [*(endpoint.labels or ()), *spellings] if not isinstance(endpoint.labels, dict) else spellings
    if len(set(names)) < len(names):
        raise ValueError("labels must differ from each other")
    if endpoint.audit_label is not None and endpoint.kind != "independent":
        raise ValueError("audit_label belongs to kind: independent")
