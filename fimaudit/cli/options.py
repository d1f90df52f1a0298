"""Flags that several commands share, in blocks that a command takes as one parameter."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_type_hints

import numpy as np
import typer
import yaml
from numpy.typing import ArrayLike
from typer.core import TyperCommand

from fimaudit.data.arrays import Inputs
from fimaudit.data.dataset import as_data
from fimaudit.data.streams import Stream
from fimaudit.domain import InputDomain
from fimaudit.engines.selection import EngineName
from fimaudit.errors import DataError, DomainError, UsageError
from fimaudit.measurement.settings import ProfileChoice
from fimaudit.models.classifier import is_endpoint
from fimaudit.models.links import Link
from fimaudit.runs.options import AuditOptions, Mode, choice_sentence, refuse_unknown

__all__ = [
    "SCALES",
    "TARGET_HELP",
    "Adapter",
    "Batch",
    "Budget",
    "Command",
    "Confidence",
    "Data",
    "DataFlags",
    "Device",
    "DomainFlags",
    "EndpointFlags",
    "EngineFlags",
    "FlagBlock",
    "Folder",
    "Hold",
    "LinkName",
    "MeasurementFlags",
    "ModeName",
    "ModelFlags",
    "Overwrite",
    "Resume",
    "SentFlags",
    "Target",
    "TrustPickle",
    "Weights",
    "WhiteBoxFlags",
    "Yes",
    "held",
    "in_blocks",
    "is_endpoint",
    "names_or_mask",
    "number_or_file",
    "one_of_two",
    "output_choice",
    "query_count",
    "resume_command",
    "scale_choice",
]

SCALES = ("raw", "std", "range")
TARGET_HELP = "Model: model.onnx, model.pt2, TorchScript, model.skops, package.module:factory, or a URL."

Target = Annotated[str, typer.Argument(help=TARGET_HELP)]
Folder = Annotated[Path, typer.Argument(help="Run folder of a finished audit.", metavar="DIR")]
Data = Annotated[Path, typer.Option("--data", help="Inputs: .npz with x (and y, group), .npy, .csv or .parquet.")]
LinkName = Annotated[Link, typer.Option("--link", help="What turns the output into probabilities; labels: a class alone.")]
ModeName = Annotated[Mode, typer.Option("--mode", help="auto takes autograd where the model offers it.")]
Confidence = Annotated[float, typer.Option(help="Confidence of each interval.")]
Budget = Annotated[int | None, typer.Option(help="Most rows that may be sent in all.")]
Batch = Annotated[int | None, typer.Option(help="Rows a call.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Weights = Annotated[
    Path | None, typer.Option(help="Weights for a package.module:factory target: .safetensors, or .pt (weights only).")
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Open .joblib/.pkl files, which can run any code when they are opened.")
]
Device = Annotated[str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1; the best at hand when left out.")]
Adapter = Annotated[str | None, typer.Option(help="Adapter to take, where more than one would do.")]
Hold = Annotated[
    list[str] | None,
    typer.Option("--hold", help="What another input holds: name=number, name=file.npy, name=column:NAME. Repeatable."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Endpoint: do not ask on a terminal before rows are sent.")]


class Command(TyperCommand):
    """A command that refuses an unknown flag, or a value that is no choice, in one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See ``TyperCommand``."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # which class typer's errors are differs from version to version
            refused = _refusal(self, error)
            if refused is None:
                raise
            raise UsageError(refused) from None


def _refusal(command: TyperCommand, error: Exception) -> str | None:
    flags = [name for parameter in command.params for name in parameter.opts if name.startswith("-")]
    if type(error).__name__ == "NoSuchOption":
        flag = str(getattr(error, "option_name", ""))
        near = get_close_matches(flag, flags, 1)
        return f"no such option {flag}; " + (f"did you mean {near[0]}?" if near else "--help lists the known ones")
    choice = re.search(r"'([^']*)' is not one of (.+)\.$", getattr(error, "message", ""))
    parameter = getattr(error, "param", None)
    if choice is None or parameter is None:
        return None
    return choice_sentence(parameter.opts[0], re.findall(r"'([^']*)'", choice[2]), choice[1])


class FlagBlock:
    """Flags that belong together: a dataclass that a command takes as one parameter; help shows them in a panel.

    Attributes:
        panel: title of the panel.
    """

    panel: ClassVar[str]


def in_blocks(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the flags of its blocks one by one, as typer reads them from a signature."""
    hints = get_type_hints(command, include_extras=True)
    blocks = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, FlagBlock)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in blocks:
            parameters += _flags_of(blocks[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**values: Any) -> None:
        made = {name: block(**{f: values.pop(f) for f in _names(block)}) for name, block in blocks.items()}
        command(**values, **made)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _flags_of(block: Any) -> list[inspect.Parameter]:
    out = []
    hints = get_type_hints(block, include_extras=True)
    for field in dataclasses.fields(block):
        kind, flag = get_args(hints[field.name])
        flag = copy(flag)
        flag.rich_help_panel = block.panel
        annotation: Any = Annotated[kind, flag]
        out.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
        )
    return out


def _names(block: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(block)]


@dataclass(frozen=True)
class MeasurementFlags(FlagBlock):
    """How each input is measured; the names are those of ``audit``."""

    panel = "Measurement"

    mode: ModeName = "auto"
    profile: Annotated[ProfileChoice, typer.Option(help="Radius and flips at longer displacements.")] = "cheap"
    witness: Annotated[
        bool | None,
        typer.Option(
            help="Look for a displacement that really changes each decision; saved in --out. [default: from 170 queries on]"
        ),
    ] = None
    integrity: Annotated[
        bool | None,
        typer.Option(
            help="Check whether the answers are those of one function whose slopes reach its decisions. "
            "[default: where that is a tenth of the rows at most]"
        ),
    ] = None
    precision: Annotated[
        float | None,
        typer.Option(
            help="Stop an input when the half-width of its norm (of its radius, from labels) is within this share."
        ),
    ] = None
    threshold: Annotated[
        float | None, typer.Option(help="Stop an input when its norm is decided to be above or below this.")
    ] = None
    smooth: Annotated[
        float | None,
        typer.Option(help="From labels: certify the classifier that answers by majority under noise of this deviation."),
    ] = None
    smooth_radius: Annotated[
        float | None, typer.Option(help="With --smooth: stop an input when this radius is certified, or cannot be.")
    ] = None
    focus: Annotated[
        str | None, typer.Option(help="top:K: screen all inputs, measure those that may be the K most sensitive.")
    ] = None
    confidence: Confidence = 0.95
    batch: Batch = None
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            help="Local model whose directions are measured exactly, where that pays; or learned, from the first inputs. "
            "Repeatable."
        ),
    ] = None
    max_failures: Annotated[int | None, typer.Option(help="Stop, resumable, when more inputs than this have failed.")] = None


@dataclass(frozen=True)
class DomainFlags(FlagBlock):
    """What an input may be."""

    panel = "Input domain"

    lower: Annotated[str | None, typer.Option(help="Lower bound of the inputs: a number or a .npy file.")] = None
    upper: Annotated[str | None, typer.Option(help="Upper bound of the inputs: a number or a .npy file.")] = None
    quantum: Annotated[str | None, typer.Option(help="Distance of neighbouring input values: 0.00392157, 1.")] = None
    unit: Annotated[str | None, typer.Option(help="Name of the input unit, for the report.")] = None
    scale: Annotated[
        str | None, typer.Option(help="Scale of the metric: raw, std, range, or a .npy file; raw when left out.")
    ] = None
    frozen: Annotated[str | None, typer.Option(help="Features that are held: names, positions, or a mask .npy.")] = None
    free: Annotated[str | None, typer.Option(help="Whole-number columns that may change: names, or all.")] = None

    def options(self) -> dict[str, Any]:
        """As ``audit`` takes them."""
        domain = InputDomain(
            number_or_file(self.lower, "--lower"),
            number_or_file(self.upper, "--upper"),
            number_or_file(self.quantum, "--quantum"),
            names_or_mask(self.frozen, "--frozen"),
            scale_choice(self.scale),
            self.unit,
        )
        return {"domain": domain, "free": names_or_mask(self.free, "--free") or ()}


@dataclass(frozen=True)
class DataFlags(FlagBlock):
    """How tables are read, and what classes are called; the names are those of ``audit``."""

    panel = "Tables and classes"

    label: Annotated[str | None, typer.Option("--label", help="Column of labels; y where there is one.")] = None
    group: Annotated[str | None, typer.Option("--group", help="Column of groups; group where there is one.")] = None
    drop: Annotated[str | None, typer.Option("--drop", help="Columns to leave out: NAME,NAME.")] = None
    index: Annotated[str | None, typer.Option("--index", help="Column that names the rows; left out.")] = None
    sep: Annotated[str | None, typer.Option("--sep", help="Between the cells of a CSV line; a comma when left out.")] = None
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether a CSV begins with a line of names.")
    ] = None
    categorical: Annotated[
        str | None, typer.Option("--categorical", help="Columns that are categories, and held: NAME,NAME.")
    ] = None
    mean: Annotated[
        str | None,
        typer.Option("--mean", help="The network is fed (x - mean) / std: one number, or one a channel: 0.485,0.456,0.406."),
    ] = None
    std: Annotated[str | None, typer.Option("--std", help="See --mean.")] = None
    classes: Annotated[
        str | None, typer.Option("--classes", help="Names of the classes in the model's order, where it has none: a,b,c.")
    ] = None

    def options(self) -> dict[str, Any]:
        """As ``audit`` takes them; nothing where none was given."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {("y" if name == "label" else name): value for name, value in given.items()}

    def read(self, data: str | Path) -> Inputs | Stream:
        """Read the inputs."""
        kept = {name: value for name, value in self.options().items() if name not in ("y", "group")}
        return as_data(data, self.label, self.group, reading=AuditOptions(**kept).reading())


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
            log_requests()
        said = self.said()
        return {"endpoint": [said]} if said else {}

    def said(self) -> dict[str, Any]:
        """The settings of the endpoint alone, as an endpoint file holds them."""
        out: dict[str, Any] = {}
        for item in self.settings or []:
            name, value = _pair(item, "--set name=value")
            refuse_unknown([name])
            try:
                out[name] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise UsageError(f"expected --set {name}=value with a value as in a YAML file, got {value!r}") from None
        for name in ("protocol", "rate", "bearer_env", "columns", "patience"):
            if getattr(self, name, None) is not None:
                out[name] = getattr(self, name)
        if self.header_env:
            out["header_env"] = dict(_pair(item, "--header-env HEADER=VARIABLE") for item in self.header_env)
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


@dataclass(frozen=True)
class EngineFlags(FlagBlock):
    """Where inputs are measured; the names are those of ``audit``."""

    panel = "Many processes and machines"

    engine: Annotated[EngineName, typer.Option("--engine", help="local (this process) or ray.")] = "local"
    address: Annotated[
        str | None, typer.Option(help="Ray: cluster to use, auto or host:port; one is started here when left out.")
    ] = None
    workers: Annotated[int | None, typer.Option(help="Ray: processes with a model each; as many as fit when left out.")] = (
        None
    )
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="Ray: GPUs of each worker, fractions too; 1 where there are any when left out.")
    ] = None


@dataclass(frozen=True)
class WhiteBoxFlags(FlagBlock):
    """Measurement by derivatives; the names are those of ``audit``."""

    panel = "White box"

    tolerance: Annotated[float, typer.Option(help="Relative residual at which an iteration stops.")] = 1e-4
    worst_direction: Annotated[
        bool, typer.Option("--worst-direction", help="Save each input's most sensitive direction.")
    ] = False


def log_requests() -> None:
    """One line for each request on stderr, by the logger ``fimaudit.http``."""
    logger = logging.getLogger("fimaudit")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger.addHandler(handler)


def one_of_two(resume: bool, overwrite: bool) -> Literal["refuse", "resume", "overwrite"]:
    """What to do with a run that is there."""
    if resume and overwrite:
        raise UsageError("expected one of --resume and --overwrite, got both")
    return "resume" if resume else "overwrite" if overwrite else "refuse"


def _pair(item: str, wanted: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise UsageError(f"expected {wanted}, got {name!r} without a value")
    return name, value


def held(items: list[str] | None) -> Mapping[str, Any]:
    """``name=value`` pairs to constants, to values of each input (``.npy`` with a row for each), or columns of the data."""
    pairs = [_pair(item, "--hold name=number, name=file.npy or name=column:NAME") for item in items or []]
    return {
        name: value if value.startswith("column:") else np.asarray(number_or_file(value, "--hold")) for name, value in pairs
    }


def names_or_mask(text: str | None, flag: str) -> Any:
    """Names or positions between commas, or a boolean mask from a .npy file."""
    if text is None:
        return None
    if text.endswith(".npy"):
        return number_or_file(text, flag)
    return [item.strip() for item in text.split(",") if item.strip()]


def query_count(text: str) -> int | Literal["auto"]:
    """A whole number, or ``auto``."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"expected --queries as a whole number or auto, got {text!r}") from None


def scale_choice(text: str | None) -> str | ArrayLike | None:
    """``raw``, ``std``, ``range``, a number, or an array from a .npy file."""
    return text if text in SCALES else number_or_file(text, "--scale", f"{', '.join(SCALES)}, a number")


def number_or_file(text: str | None, flag: str, otherwise: str = "a number") -> ArrayLike | None:
    """A number, or an array from a .npy file."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    path = Path(text)
    if path.suffix != ".npy" or not path.exists():
        raise DomainError(f"{flag} expects {otherwise} or an existing .npy file, got {text!r}")
    try:
        array: ArrayLike = np.load(path, allow_pickle=False)
    except Exception as exc:
        raise DataError(f"could not read {path}: {exc}") from exc
    return array


def output_choice(text: str | None) -> str | int | None:
    """A position when it is a number, else a name."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


def resume_command() -> str:
    """The command line of this process, as it goes on with the run."""
    kept = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
    return shlex.join(["fimaudit", *kept, "--resume"])
