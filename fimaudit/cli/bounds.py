"""``fimaudit bounds``: upper bounds from the weights, layer by layer, and with data the measured values beside them."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flag_values import held
from fimaudit.cli.flags import Hold, LinkName, Weights
from fimaudit.cli.output import OutputFlags, print_line
from fimaudit.cli.terminal import Terminal
from fimaudit.errors import MissingExtraError, TargetError, UsageError
from fimaudit.models.links import Link
from fimaudit.models.python_targets import call_factory, is_python_target, named_object

__all__ = ["bounds"]

SHOWN_INPUTS = 10


@in_blocks
def bounds(
    output: OutputFlags,
    target: Annotated[str, typer.Argument(help="Model with its weights: model.onnx, model.pt2 or package.module:factory.")],
    data: Annotated[Path | None, typer.Option("--data", help="Inputs to measure at: .npz with x, .npy, .csv.")] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input-shape", help="Shape of one input where the model leaves it open: 3,224,224.")
    ] = None,
    input_bound: Annotated[
        float | None, typer.Option("--input-bound", help="Largest |feature|, for networks without a global bound.")
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option("--constant", help="Lipschitz constant of an operator: NAME=1.0. Repeatable.")
    ] = None,
    queries: Annotated[int, typer.Option(help="With --data: rows an input for the measured value.")] = 200,
    link: LinkName = "auto",
    weights: Weights = None,
    hold: Hold = None,
) -> None:
    """Bound a network's sensitivity from its weights alone, and say which layer to regularise.

    Prints the certified norm of each layer, the Lipschitz constant L_z of the logits and the bound L_z^2 / 2 on the
    spectral norm. With --data also the local bound c(p) L_z^2, the measured spectral norm and the certified radius of
    each input.
    """
    from fimaudit.bounds import lipschitz_bound, register_operator

    for name, value in map(_constant, constant or []):
        register_operator(name, value)
    network = _network(target, weights)
    constants = held(hold)
    x = None if data is None else _inputs(data)
    shape = _shape(input_shape)
    if shape is None and x is not None:
        shape = x.shape[1:]
    bound = lipschitz_bound(network, input_shape=shape, input_bound=input_bound, hold=constants)
    rows = [] if x is None else _measured(network, bound, x, link, queries, constants)
    output.write(
        lambda: bound.to_dict() | ({"inputs": rows} if x is not None else {}), lambda: _show(Terminal(), target, bound, rows)
    )


def _measured(network: Any, bound: Any, x: Any, link: Link, queries: int, held: Any) -> list[dict[str, Any]]:
    from fimaudit import audit, open_classifier
    from fimaudit.bounds import covariance_factor

    report = audit(network, x, link=link, queries=queries, hold=held or None)
    classifier = open_classifier(network, link, hold=held or None)
    try:
        dtype = classifier.info.dtype
        p = np.concatenate([classifier.probabilities(x[i : i + 1].astype(dtype)) for i in range(len(x))])
    finally:
        classifier.close()
    factors, limits, radii = covariance_factor(p), bound.local_spectral_norm_bound(p), bound.certified_radius(p)
    rows = []
    for i, found in enumerate(report.inputs):
        seen = found.spectral_norm
        row = {
            "index": i,
            "probability": float(p[i].max()),
            "covariance_factor": float(factors[i]),
            "local_bound": float(limits[i]),
            "spectral_norm": {"value": seen.value, "lower": seen.lower, "upper": seen.upper},
            "ratio": float(limits[i]) / seen.value if seen.value else None,
            "certified_radius": float(radii[i]) if math.isfinite(radii[i]) else None,
        }
        rows.append(row)
    return rows


def _show(console: Console, target: str, bound: Any, rows: list[dict[str, Any]]) -> None:
    console.print(f"[bold]{escape(target)}[/bold]", highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "kind", "shape", "norm", "product"):
        table.add_column(name, justify="right" if name in ("norm", "product") else "left", overflow="fold")
    table.add_column("share of log L_z", justify="right")
    for layer in bound.layers:
        if layer.norm == 1.0 and not layer.trainable and layer.kind not in ("add", "concat"):
            continue  # ReLU and the like
        share = f"{layer.share:.1%}" if math.isfinite(layer.share) else "-"
        table.add_row(escape(layer.name), layer.kind, layer.shape, f"{layer.norm:.4g}", f"{layer.product:.4g}", share)
    console.print(table)
    console.print(f"Lipschitz constant of the logits  L_z <= {bound.lipschitz:.6g}  ({bound.scope})", highlight=False)
    console.print(f"spectral norm, everywhere    lambda <= {bound.spectral_norm_bound:.6g}  (L_z^2 / 2)", highlight=False)
    if rows:
        _show_inputs(console, rows)
    for note in bound.notes:
        print_line(console, note)
    print_line(console, bound.advice)


def _show_inputs(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("input", "p_max", "c(p)", "local bound", "measured", "bound/measured", "certified radius"):
        table.add_column(name, justify="right")
    for row in rows[:SHOWN_INPUTS]:
        numbers = (
            row["probability"],
            row["covariance_factor"],
            row["local_bound"],
            row["spectral_norm"]["value"],
            row["ratio"],
            row["certified_radius"],
        )
        table.add_row(str(row["index"]), *("-" if number is None else f"{number:.3g}" for number in numbers))
    console.print(table)
    if len(rows) > SHOWN_INPUTS:
        console.print(f"(the first {SHOWN_INPUTS} of {len(rows)} inputs; all are in --json)", highlight=False)
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    if ratios:
        console.print(f"median bound / measured {np.median(ratios):.3g}", highlight=False)


def _constant(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    with contextlib.suppress(ValueError):
        if name:
            return name, float(value)
    raise UsageError(f"expected --constant NAME=number, got {text!r}")


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError as exc:
        raise UsageError(f"expected --input-shape like 3,224,224, got {text!r}") from exc


def _inputs(path: Path) -> Any:
    from fimaudit.data.arrays import check_inputs, read_inputs

    return check_inputs(read_inputs(path), None).x


def _network(target: str, weights: Path | None) -> Any:
    """The path of a file, or the torch module that a factory makes."""
    if not is_python_target(target):
        if weights is not None:
            raise UsageError(
                f"--weights goes with a package.module:factory target, but {target!r} brings its own; leave it out"
            )
        return target
    try:
        import torch
    except ImportError as exc:
        raise MissingExtraError("a package.module:factory target", "torch", "torch") from exc
    made = named_object(target)
    made = made if isinstance(made, torch.nn.Module) else call_factory(made, target)
    if not isinstance(made, torch.nn.Module):
        raise TargetError(
            f"expected {target!r} to make a torch module, whose weights a bound needs, got {type(made).__name__}"
        )
    if weights is not None:
        from fimaudit_adapters.pytorch.files import load_weights

        from fimaudit.models.classifier import Options

        made = load_weights(made, Options(weights=weights)).module
    return made.eval()
