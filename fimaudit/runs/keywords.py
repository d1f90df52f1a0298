"""The keywords of ``audit`` as types, so that editors complete them and type checkers know them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from numpy.typing import ArrayLike, NDArray

from fimaudit.domain import InputDomain
from fimaudit.engines.selection import EngineName, RayEngine
from fimaudit.measurement.settings import ProfileChoice
from fimaudit.models.links import Link
from fimaudit.runs.input_passes import Progress
from fimaudit.runs.options import Existing, Mode, Order

__all__ = ["AuditArgs", "AuditKeywords", "EndpointArgs", "ModelArgs"]


class ModelArgs(TypedDict, total=False):
    """How a model in this process is opened: ``open_classifier``, and what single adapters take beside."""

    adapter: str | None
    device: str | None
    weights: str | os.PathLike[str] | None
    trust_pickle: bool
    input: str | None
    output: str | int | None
    output_step: int | None
    finding: str | int | None
    hold: Mapping[str, Any] | None
    name: str
    dtype: str
    input_shape: Sequence[int]
    optimisation: str


class EndpointArgs(TypedDict, total=False):
    """The settings of an endpoint (``docs/http.md``)."""

    endpoint: str | os.PathLike[str] | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    protocol: str | None
    model_name: str
    model_version: str
    kind: str
    columns: str | Sequence[str]
    image: str
    pixel_max: int
    binary: bool
    style: str
    rows_as: str
    signature_name: str
    parameters: Mapping[str, Any]
    top_k: int
    labels: Sequence[str]
    request: Any
    response: str
    headers: Mapping[str, str]
    header_env: Mapping[str, str]
    header_file: Mapping[str, str]
    bearer_env: str
    bearer_file: str
    basic: Mapping[str, str]
    auth: str
    ca_file: str
    trust_env: bool
    rate: str | float
    concurrency: int
    timeout: float
    deadline: float
    attempts: int
    max_response: int
    patience: str | float
    body: str
    body_env: Mapping[str, str]
    method: str
    answer: str
    label: str
    score: str
    names: str
    columnar: bool
    separator: str
    failed: str
    total: float
    audit_label: str | int
    other_labels: str
    hidden_below: float
    constants: Mapping[str, Any]
    numbers: str
    poll: Mapping[str, Any]
    url_query: Mapping[str, Any]
    url_query_env: Mapping[str, str]
    oauth: Mapping[str, Any]
    aws: Mapping[str, Any]
    google: Mapping[str, Any]
    client_cert: str
    client_key: str


class AuditArgs(ModelArgs, EndpointArgs, total=False):
    """The options of ``audit`` that its signature does not name; see ``AuditOptions``."""

    queries: int | Literal["auto"]
    mode: Mode
    confidence: float
    seed: int
    profile: ProfileChoice
    witness: bool | None
    integrity: bool | None
    order: Order | None
    precision: float | None
    threshold: float | None
    focus: str | None
    smooth: float | None
    smooth_radius: float | None
    batch: int | None
    count_refused: bool
    tolerance: float
    worst_direction: bool
    surrogate: object | Sequence[object] | None
    max_failures: int | None
    lower: ArrayLike | None
    upper: ArrayLike | None
    quantum: ArrayLike | None
    unit: str | None
    scale: str | ArrayLike | None
    frozen: Sequence[Any] | NDArray[Any] | None
    free: Sequence[str]
    classes: int | str | Sequence[Any] | None
    preprocess: object
    mean: float | str | Sequence[float] | None
    std: float | str | Sequence[float] | None
    drop: str | Sequence[str]
    index: str | None
    sep: str | None
    decimal: str | None
    header: bool | None
    categorical: str | Sequence[str]
    resume: bool
    overwrite: bool
    address: str | None
    workers: int | None
    gpus_per_worker: float | None
    baseline: str | os.PathLike[str] | None
    noise: ArrayLike | None
    linear_model: bool


class AuditKeywords(AuditArgs, total=False):
    """All keywords of ``audit``, for functions that hand them on."""

    y: ArrayLike | str | None
    group: ArrayLike | str | None
    link: Link
    domain: InputDomain | None
    out: str | Path | None
    existing: Existing
    budget: int | None
    engine: EngineName | RayEngine | None
    progress: Progress | None
