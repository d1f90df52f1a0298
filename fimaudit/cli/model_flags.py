"""How a model is opened, here or behind an endpoint."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fimaudit.cli.flag_blocks import FlagBlock
from fimaudit.cli.flag_values import held, output_choice, pair
from fimaudit.cli.flags import Adapter, Device, Hold, TrustPickle, Weights, Yes
from fimaudit.errors import UsageError
from fimaudit.runs.options import refuse_unknown

__all__ = ["EndpointFlags", "ModelFlags", "SentFlags"]


@dataclass(frozen=True)
class ModelFlags(FlagBlock):
    """How a model in this process is opened."""

    panel = "Model"

    weights: Weights = None
    trust_pickle: TrustPickle = False
    device: Device = None
    adapter: Adapter = None
    input: Annotated[str | None, typer.Option("--input", help="Name of the audited input of a model with several.")] = None
    output: Annotated[str | None, typer.Option("--output", help="Name or position of the output to read.")] = None
    output_step: Annotated[
        int | None,
        typer.Option("--output-step", help="Step to read of an output (rows, steps, classes); -1 is the last."),
    ] = None
    finding: Annotated[
        str | None,
        typer.Option("--class", help="Of outputs that do not exclude each other: the one to audit, by name or position."),
    ] = None
    hold: Hold = None

    def options(self) -> dict[str, Any]:
        """As ``open_classifier`` takes them."""
        return {**dataclasses.asdict(self), "output": output_choice(self.output), "hold": held(self.hold)}


@dataclass(frozen=True)
class EndpointFlags(FlagBlock):
    """How an endpoint is asked."""

    panel = "Endpoint"

    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the endpoint, rate=20/s, or the adapter, optimisation=off. Repeatable."),
    ] = None
    header_env: Annotated[
        list[str] | None,
        typer.Option("--header-env", help="Secret header from an environment variable: X-API-Key=MY_VARIABLE. Repeatable."),
    ] = None
    bearer_env: Annotated[str | None, typer.Option(help="Environment variable that holds a bearer token.")] = None
    protocol: Annotated[
        str | None,
        typer.Option(help="open_inference, tensorflow_serving, mlflow, label_scores or json; found when left out."),
    ] = None
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log each request on a line: time, rows, status, wait. Secrets are masked.")
    ] = False
    columns: Annotated[
        str | None, typer.Option(help="Names of a row's features between commas; a table's own when left out.")
    ] = None

    def options(self) -> dict[str, Any]:
        """As ``open_classifier`` takes them; nothing where none was given."""
        if self.verbose:
            _log_requests()
        own = self.endpoint_settings()
        return {"endpoint": [own]} if own else {}

    def endpoint_settings(self) -> dict[str, Any]:
        """The settings of the endpoint alone, as an endpoint file holds them."""
        out: dict[str, Any] = {}
        for item in self.settings or []:
            name, value = pair(item, "--set name=value")
            refuse_unknown([name])
            try:
                out[name] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise UsageError(f"expected --set {name}=value with a value as in a YAML file, got {value!r}") from None
        for name in ("protocol", "rate", "bearer_env", "columns", "patience"):
            if getattr(self, name, None) is not None:
                out[name] = getattr(self, name)
        if self.header_env:
            out["header_env"] = dict(pair(item, "--header-env HEADER=VARIABLE") for item in self.header_env)
        return out


@dataclass(frozen=True)
class SentFlags(EndpointFlags):
    """How an endpoint is asked many rows."""

    endpoint: Annotated[Path | None, typer.Option("--endpoint", help="YAML file with an endpoint's settings.")] = None
    rate: Annotated[str | None, typer.Option(help="Most requests a second: 20/s, 100/min, 5000/h.")] = None
    patience: Annotated[str | None, typer.Option(help="How long an outage is waited out: 15m (when left out), 90s, 0.")] = (
        None
    )
    price_per_row: Annotated[float | None, typer.Option(help="Price of one row, shown before the start.")] = None
    yes: Yes = False

    def options(self) -> dict[str, Any]:
        """See ``EndpointFlags``."""
        parts = [*([] if self.endpoint is None else [str(self.endpoint)]), *super().options().get("endpoint", [])]
        return {"endpoint": parts} if parts else {}


def _log_requests() -> None:
    """One line for each request on stderr, by the logger ``fimaudit.http``."""
    logger = logging.getLogger("fimaudit")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger.addHandler(handler)
