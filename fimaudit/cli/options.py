"""Flags that several commands share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
import yaml
from numpy.typing import ArrayLike

from fimaudit.errors import DataError, DomainError, UsageError

__all__ = [
    "TARGET_HELP",
    "Adapter",
    "Address",
    "BearerEnv",
    "Data",
    "Device",
    "EndpointFile",
    "EndpointSet",
    "EngineChoice",
    "GpusPerWorker",
    "HeaderEnv",
    "Hold",
    "Input",
    "LargeData",
    "LinkName",
    "MaxFailures",
    "Output",
    "OutputStep",
    "Protocol",
    "Rate",
    "Target",
    "TrustPickle",
    "Weights",
    "Workers",
    "endpoint_options",
    "held",
    "is_endpoint",
    "names_or_mask",
    "number_or_file",
    "output_choice",
    "query_count",
    "resume_command",
    "scale_choice",
]

SCALES = ("raw", "std", "range")

TARGET_HELP = "Model: model.onnx, model.pt2, TorchScript, model.skops, package.module:factory, or a URL."
Target = Annotated[str, typer.Argument(help=TARGET_HELP)]
Data = Annotated[Path, typer.Option("--data", help="Inputs: .npz with x (and y, group), .npy, .csv or .parquet.")]
LargeData = Annotated[
    str,
    typer.Option(
        "--data",
        help="Inputs: .npz with x (and y, group), .npy, .csv or .parquet; or a folder, glob or URL (s3://) of such files, "
        "of images, or of WebDataset .tar.",
    ),
]
EngineChoice = Annotated[str, typer.Option("--engine", help="Where inputs are measured: local (this process) or ray.")]
Address = Annotated[
    str | None, typer.Option(help="Ray: cluster to use, auto or host:port; one is started here when left out.")
]
Workers = Annotated[int | None, typer.Option(help="Ray: processes with a model each; as many as fit when left out.")]
GpusPerWorker = Annotated[
    float | None, typer.Option(help="Ray: GPUs of each worker, fractions too; 1 where there are any when left out.")
]
MaxFailures = Annotated[int | None, typer.Option(help="Stop, resumable, when more inputs than this have failed.")]
LinkName = Annotated[
    str, typer.Option("--link", help="What turns the output into probabilities: auto, identity, softmax or sigmoid.")
]
Weights = Annotated[
    Path | None, typer.Option(help="Weights for a package.module:factory target: .safetensors, or .pt (weights only).")
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Open .joblib/.pkl files, which can run any code when they are opened.")
]
Device = Annotated[str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1; the best at hand when left out.")]
Adapter = Annotated[str | None, typer.Option(help="Adapter to take, where more than one would do.")]
Input = Annotated[str | None, typer.Option("--input", help="Name of the audited input of a model with several.")]
Output = Annotated[str | None, typer.Option("--output", help="Name or position of the output to read.")]
OutputStep = Annotated[
    int | None,
    typer.Option("--output-step", help="Step to read of an output (rows, steps, classes); -1 is the last."),
]
Hold = Annotated[
    list[str] | None, typer.Option("--hold", help="Constant for another input: name=number or name=file.npy. Repeatable.")
]

EndpointFile = Annotated[Path | None, typer.Option("--endpoint", help="YAML file with an endpoint's settings.")]
EndpointSet = Annotated[
    list[str] | None,
    typer.Option("--set", help="An endpoint setting: rate=20/s, protocol=mlflow, timeout=10. Repeatable."),
]
HeaderEnv = Annotated[
    list[str] | None,
    typer.Option("--header-env", help="Secret header from an environment variable: X-API-Key=MY_VARIABLE. Repeatable."),
]
BearerEnv = Annotated[str | None, typer.Option(help="Environment variable that holds a bearer token.")]
Protocol = Annotated[
    str | None,
    typer.Option(help="Endpoint: open_inference, tensorflow_serving, mlflow, label_scores or json; found when left out."),
]
Rate = Annotated[str | None, typer.Option(help="Endpoint: most requests a second: 20/s, 100/min, 5000/h.")]


def is_endpoint(target: str) -> bool:
    """Whether rows sent to ``target`` leave this machine's process: a URL or an endpoint file."""
    return "://" in target or target.lower().endswith((".yaml", ".yml"))


def endpoint_options(
    file: Path | None,
    settings: list[str] | None,
    header_env: list[str] | None,
    bearer_env: str | None,
    **named: str | None,
) -> dict[str, Any]:
    """The endpoint flags as options of ``open_classifier``; nothing where none was given."""
    out: dict[str, Any] = {}
    for item in settings or []:
        name, value = _pair(item, "--set name=value")
        out[name] = yaml.safe_load(value)
    out.update({name: value for name, value in named.items() if value is not None})
    if header_env:
        out["header_env"] = dict(_pair(item, "--header-env HEADER=VARIABLE") for item in header_env)
    if bearer_env is not None:
        out["bearer_env"] = bearer_env
    if file is not None:
        out["endpoint"] = str(file)
    return out


def _pair(item: str, wanted: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise UsageError(f"expected {wanted}, got {name!r} without a value")
    return name, value


def held(items: list[str] | None) -> Mapping[str, Any]:
    """``name=value`` pairs to constants."""
    out: dict[str, Any] = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise UsageError(f"expected --hold name=number or name=file.npy, got {item!r}")
        out[name] = np.asarray(number_or_file(value, "--hold"))
    return out


def names_or_mask(text: str | None, flag: str) -> list[str] | ArrayLike | None:
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
