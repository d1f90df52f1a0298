"""``fimaudit inspect``: what was found out about a model, before any measurement."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fimaudit.cli import options as o
from fimaudit.data.arrays import Inputs, check_inputs, read_inputs
from fimaudit.errors import DataError, UsageError
from fimaudit.models.classifier import Classifier, is_endpoint, open_classifier
from fimaudit.models.meter import Meter
from fimaudit.runs.label_setup import look_at_labels
from fimaudit.runs.metadata import model_facts
from fimaudit.runs.preflight import Preflight, expected_kind, look, roughness

__all__ = ["inspect"]

#: An optimisation matters when it makes a model so many times as rough.
ROUGH = 2.0
#: Inputs at which the identity is checked.
MOST_IDENTITY = 5


@o.in_blocks
def inspect(
    model: o.ModelFlags,
    asked: o.EndpointFlags,
    target: Annotated[str | None, typer.Argument(help=o.TARGET_HELP)] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Inputs to ask with; random ones when left out.")] = None,
    link: o.LinkName = "auto",
    identity: Annotated[
        bool, typer.Option("--identity", help="Compare three forms of the Fisher information (differentiable models).")
    ] = False,
    endpoint: Annotated[
        bool, typer.Option("--endpoint", help="Print the JSON Schema of an endpoint file instead, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show what was found: shapes, dtypes, batch, provider, classes, link, repeatability, rounding of the answers."""
    if endpoint:
        print(json.dumps(_endpoint_schema(), indent=1))
        return
    if target is None:
        raise UsageError("expected a model to inspect, or --endpoint for the schema of an endpoint file")
    given = None if data is None else read_inputs(data)
    named = given is not None and given.names is not None and is_endpoint(target)
    columns: dict[str, Any] = {"data_columns": list(given.names or ())} if given is not None and named else {}
    classifier = open_classifier(target, link, **model.options(), **asked.options(), **columns)
    try:
        info = classifier.info
        inputs = check_inputs(given or _random_inputs(info.input_shape, info.dtype), info.input_shape)
        meter = Meter(classifier)
        if info.labels_only:
            seen: Preflight = look_at_labels(meter, inputs.x, info.dtype)[0]
        else:
            seen = look(meter, inputs.x, info.dtype, thorough=True)
        info = classifier.info  # the first answers may have decided how rows are sent
        notes = [*info.sentences, *seen.warnings()]
        if info.details.get("quantised_weights"):
            notes += _optimisations(classifier, inputs.x, target, link, {**model.options(), **asked.options()})
        facts = {**model_facts(classifier, seen), "link": link, "notes": notes}
        kind = expected_kind(info.details.get("top_k"), seen)
        if kind != "local":
            facts["kind"] = kind
        if identity:
            facts["identity"] = _identity(classifier, inputs.x)
    finally:
        classifier.close()
    if as_json:
        print(json.dumps(facts, indent=1, default=str))
        return
    _show(Console(), facts)


def _endpoint_schema() -> dict[str, Any]:
    from fimaudit_adapters.http.settings import endpoint_schema

    return endpoint_schema()


def _optimisations(
    classifier: Classifier, x: NDArray[Any], target: str, link: o.LinkName, options: dict[str, Any]
) -> list[str]:
    """What onnxruntime's rewriting of the graph does to a file with quantised weights."""
    if classifier.info.details.get("optimisation"):
        return []
    plain = open_classifier(target, link, **{**options, "optimisation": "off"})
    try:
        rough, without = roughness(classifier, x), roughness(plain, x)
    finally:
        plain.close()
    if rough <= ROUGH * max(without, 1.0):
        return []
    return [
        "onnxruntime's default optimisation makes this file with quantised weights rough: over short steps the secant "
        f"energy is {rough:.2g} times that over long ones, without the optimisation {without:.2g} times; to measure the "
        "file as it is, add --set optimisation=off"
    ]


def _identity(classifier: Classifier, x: NDArray[Any]) -> list[dict[str, float]]:
    from fimaudit.whitebox.identity import check_identity

    return [asdict(check) for check in check_identity(classifier, x[:MOST_IDENTITY].astype(classifier.info.dtype))]


def _show_identity(console: Console, checks: list[dict[str, float]]) -> None:
    table = Table(title="spectral norm by three forms", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("input", "sum p g gᵀ", "covariance over labels", "4 Jₛᵀ Jₛ", "largest difference"):
        table.add_column(name, justify="right")
    for index, check in enumerate(checks):
        forms = [f"{check[name]:.10g}" for name in ("gradient", "covariance", "square_root")]
        table.add_row(str(index), *forms, f"{check['difference']:.2g}")
    console.print(table)


def _random_inputs(shape: tuple[int | None, ...] | None, dtype: str) -> Inputs:
    if shape is None or any(n is None for n in shape):
        raise DataError("the model leaves its input shape open; give inputs to ask with: --data x.npz")
    rng = np.random.default_rng(0)
    full = (3, *(int(n) for n in shape if n is not None))
    if np.dtype(dtype).kind in "iu":
        return Inputs(rng.integers(0, 128, full).astype(dtype), source="random")
    return Inputs(rng.random(full).astype(dtype), source="random")


def _show(console: Console, facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    seen = facts["preflight"]
    shape = facts["input_shape"]
    rows = {
        "model": facts["name"],
        "adapter": facts["adapter"],
        "device": facts["device"],
        "input shape": "open" if shape is None else "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")",
        "input dtype": facts["dtype"],
        "classes": facts["classes"],
        **({"known to jump": facts["not_smooth"]} if facts["not_smooth"] else {}),
        "link": facts["link"],
        "repeated answers differ by": f"{seen['repeat_difference']:.3g}",
        "answers alone and in a batch differ by": f"{seen['batch_difference']:.3g}"
        if seen["batch_difference"]
        else "nothing",
        "answers rounded to": f"{seen['output_quantum']:g}" if seen["output_quantum"] else "not rounded",
        **({"norms will be": facts["kind"].replace("_", " ")} if "kind" in facts else {}),
        **facts["details"],
    }
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)
    if "identity" in facts:
        _show_identity(console, facts["identity"])
    for note in facts["notes"]:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
