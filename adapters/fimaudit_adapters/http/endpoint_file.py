"""An endpoint's settings from its file and from flags, which win over it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from fimaudit.errors import TargetError
from fimaudit.foreign_errors import one_line
from fimaudit.models.classifier import Options
from fimaudit.models.strict_yaml import StrictLoader
from fimaudit_adapters.http.credential_settings import checked_url
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["endpoint_schema", "read_endpoint"]

#: Of YAML, which is read at some 600 kB a second.
MOST_BYTES = 2**20


def read_endpoint(target: str, options: Options) -> Endpoint:
    """The settings from a URL or an endpoint file, what ``extra['endpoint']`` names or holds, and the flags over them.

    ``extra['endpoint']`` is a file, a mapping of settings, or a list of these; a mapping wins over files.

    Raises:
        TargetError: unreadable file, unknown or contradicting settings, credentials in the URL, or a flag for local models.
    """
    _refuse_local(options)
    extra = {key: value for key, value in options.extra.items() if value is not None}
    data_columns = extra.pop("data_columns", None)
    values = _given_settings(target, extra.pop("endpoint", None)) | extra
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


def endpoint_schema() -> dict[str, Any]:
    """The JSON Schema of an endpoint file, for ``fimaudit inspect --endpoint``."""
    return Endpoint.model_json_schema()


def _refuse_local(options: Options) -> None:
    """What says how a local model is loaded says nothing of an endpoint."""
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


def _given_settings(target: str, given: Any) -> dict[str, Any]:
    """Files first, then the target, then mappings."""
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
    return values


def _read_yaml(path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise TargetError(f"the endpoint file {path} holds more than {MOST_BYTES:,} bytes, which none does")
            values = yaml.load(file, Loader=StrictLoader)
    except OSError as exc:
        raise TargetError(f"the endpoint file {path} cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as exc:
        raise TargetError(f"the endpoint file {path} is not YAML: {one_line(exc)}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise TargetError(f"the endpoint file {path} must hold a mapping of settings, such as 'url: https://...'")
    return values


def _first_errors(exc: ValidationError) -> str:
    """Setting and reason of the first few errors, without the values: they may be secrets put in the wrong place."""
    said = []
    for error in exc.errors(include_input=False)[:3]:
        place, text = error["loc"], error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            within = Endpoint.model_fields[str(place[0])].annotation if len(place) > 1 else Endpoint
            known: Iterable[str] = next(
                (one.model_fields for one in (*get_args(within), within) if hasattr(one, "model_fields")), {}
            )
            text = "no such setting; known settings: " + ", ".join(known)
        said.append(f"{'.'.join(map(str, place))}: {text}" if place else text)
    return "; ".join(said)
