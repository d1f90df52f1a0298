"""Endpoints over HTTP: one file a wire format, one transport they share. Importing this imports no HTTP library."""

from __future__ import annotations

import importlib.util
from typing import Any

from fimaudit.errors import MissingExtraError
from fimaudit.models.classifier import Classifier, Options

__all__ = ["ADAPTER", "HttpAdapter"]


class HttpAdapter:
    """Opens ``http://`` and ``https://`` URLs, and endpoint files (``endpoint.yaml``)."""

    @property
    def option_names(self) -> tuple[str, ...]:
        """The settings of an endpoint, and ``endpoint`` for files of them; ``scale`` would be the metric's."""
        from fimaudit_adapters.http.settings import Endpoint

        return ("endpoint", *(name for name in Endpoint.model_fields if name not in ("url", "scale")))

    def accepts(self, target: object) -> bool:
        """Whether ``target`` is spelled like a URL or an endpoint file."""
        if not isinstance(target, str):
            return False
        return target.lower().startswith(("http://", "https://")) or target.lower().endswith((".yaml", ".yml"))

    def open(self, target: Any, options: Options) -> Classifier:
        """Read the settings, find protocol, model and output; no row is sent before the first question.

        Raises:
            TargetError: the settings contradict themselves or nothing answers there.
            MissingExtraError: one of the packages of the extra ``http`` is not installed.
        """
        for package in ("httpx", "tenacity", "jmespath", "PIL", "msgpack", "defusedxml", "orjson"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError("auditing an endpoint", "Pillow" if package == "PIL" else package, "http")
        from fimaudit_adapters.http.endpoint import open_endpoint

        return open_endpoint(str(target), options)


ADAPTER = HttpAdapter()
