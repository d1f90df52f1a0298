"""``fimaudit inspect``: what was found out about a model, before any measurement."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fimaudit.cli.data_flags import DataFlags
from fimaudit.cli.flag_blocks import as_words, in_blocks
from fimaudit.cli.flags import TARGET_HELP, LinkName
from fimaudit.cli.model_flags import EndpointFlags, ModelFlags
from fimaudit.cli.output import OutputFlags, print_command, print_line
from fimaudit.cli.terminal import Terminal
from fimaudit.data.arrays import Inputs
from fimaudit.data.dataset import AuditDataset, about, hold_by_input, open_subject
from fimaudit.data.streams import Stream, look_at
from fimaudit.domain import InputDomain, spreads_differ
from fimaudit.errors import DataError, LinkError, SeveralFindingsError, TargetError, UsageError
from fimaudit.models.classes import ClassLabels, class_labels, read_classes
from fimaudit.models.classifier import Classifier, ModelInfo
from fimaudit.models.links import Link
from fimaudit.models.meter import Meter
from fimaudit.models.normalising import read_normalize
from fimaudit.models.opening import open_classifier
from fimaudit.runs.label_setup import look_at_labels
from fimaudit.runs.metadata import model_facts
from fimaudit.runs.preflight import Preflight, expected_kind, look, roughness

__all__ = ["inspect"]

#: An optimisation matters when it makes a model so many times as rough.
ROUGH = 2.0
#: Inputs at which the identity is checked.
MOST_IDENTITY = 5
#: Inputs whose answers are shown, and names of classes and columns.
FIRST, SHOWN = 3, 20


@in_blocks
def inspect(
    model: ModelFlags,
    asked: EndpointFlags,
    table: DataFlags,
    output: OutputFlags,
    target: Annotated[str | None, typer.Argument(help=TARGET_HELP)] = None,
    data: Annotated[str | None, typer.Option("--data", help="Inputs to ask with; random ones when left out.")] = None,
    link: LinkName = "auto",
    identity: Annotated[
        bool, typer.Option("--identity", help="Compare three forms of the Fisher information (differentiable models).")
    ] = False,
    endpoint: Annotated[
        bool, typer.Option("--endpoint", help="Print the JSON Schema of an endpoint file instead, and end.")
    ] = False,
) -> None:
    """Show what was found: shapes, batch, classes, features, repeatability, rounding, first answers under each link."""
    if endpoint:
        from fimaudit_adapters.http.endpoint_file import endpoint_schema

        print(json.dumps(endpoint_schema(), indent=1))
        return
    if target is None:
        raise UsageError("expected a model to inspect, or --endpoint for the schema of an endpoint file")
    inputs = None if data is None else table.read(data)
    options = {**model.options(), **asked.options()}
    normalise = read_normalize(None, table.mean, table.std)
    options |= {} if normalise is None else {"normalise": normalise}
    if inputs is not None:
        inputs, options["hold"] = hold_by_input(inputs, options["hold"])
        options |= about(inputs, target)
    facts = _facts(target, link, options, inputs, table, identity)
    facts["audit"] = _command(target, data, facts, [word for block in (model, asked, table) for word in as_words(block)])
    output.write(lambda: facts, lambda: _show(Terminal(), facts))


def _facts(
    target: str, link: Link, options: dict[str, Any], inputs: Inputs | Stream | None, table: DataFlags, identity: bool
) -> dict[str, Any]:
    """What the first link that does shows of the model, and what each other one says."""
    facts: dict[str, Any] = {}
    links: dict[str, Any] = {}
    several = False
    for tried in (link,) if link != "auto" else ("auto", "identity", "softmax", "sigmoid"):
        classifier = open_classifier(target, tried, **options)
        try:
            info, notes_before = classifier.info, len(classifier.info.notes)
            given = _first_inputs(inputs, info) if inputs is not None else _random(info.input_shape, info.dtype)
            labels = class_labels(info, read_classes(table.classes))
            subject = open_subject(replace(given, y=None), info, InputDomain(scale="raw"), (), labels)
            whole = subject.x[subject.complete]
            try:
                seen = _look(classifier, whole)
                answers = classifier.probabilities(whole[:FIRST].astype(info.dtype))
            except (LinkError, TargetError) as exc:
                links[tried] = {"refused": str(exc)}
                facts = facts or {**model_facts(classifier, None, labels), "link": tried, "notes": list(info.sentences)}
                several |= isinstance(exc, SeveralFindingsError)
                continue
            info = classifier.info  # the first answers may have decided how rows are sent
            if several and tried == "softmax" and len(info.notes) > notes_before:
                # More rows lie from 0 to 1 too: these are findings, and no link makes them one distribution.
                facts["several_findings"] = True
                break
            links[tried] = {"first": [_decision(row, labels, info) for row in answers]}
            columns = None if info.labels_only else answers.shape[1]
            facts |= _refused_labels(given, info, replace(labels, columns=labels.columns or columns))
            if facts.get("preflight") is None:
                notes = [*info.sentences, *seen.warnings()]
                if info.details.get("quantised_weights"):
                    notes += _optimisations(classifier, whole, target, tried, options)
                facts = {**facts, **model_facts(classifier, seen, labels), "link": tried, "notes": notes}
                facts |= _of_data(subject, info)
                kind = expected_kind(info.details.get("top_k"), seen)
                facts |= {} if kind == "local" else {"kind": kind}
            if identity:
                facts["identity"] = _identity(classifier, subject.x)
        finally:
            classifier.close()
        if tried == "auto":
            break
    return {**facts, "links": links}


def _look(classifier: Classifier, x: NDArray[Any]) -> Preflight:
    """The first questions, to labels or to probabilities."""
    meter, dtype = Meter(classifier), classifier.info.dtype
    if classifier.info.labels_only:
        return look_at_labels(meter, x, dtype)[0]
    return look(meter, x, dtype, thorough=True)


def _of_data(subject: AuditDataset, info: ModelInfo) -> dict[str, Any]:
    """What the inputs bring beside what the model says."""
    reference = subject.reference
    return {
        "data": {
            "inputs": len(subject),
            "shape": list(reference.x.shape[1:]),
            "dtype": str(reference.x.dtype),
            "feature_names": None if reference.names is None else list(reference.names),
            "held": [] if reference.names is None else [reference.names[i] for i in np.flatnonzero(subject.stated.frozen)],
            "spreads_differ": spreads_differ(reference.x, subject.stated.frozen) if reference.x.ndim == 2 else None,
        },
        "feature_names": None if info.feature_names is None else list(info.feature_names),
    }


def _refused_labels(given: Inputs, info: ModelInfo, labels: ClassLabels) -> dict[str, Any]:
    """Why an audit would refuse the labels, where it would."""
    if given.y is None:
        return {}
    try:
        open_subject(given, info, InputDomain(scale="raw"), (), labels)
    except DataError as exc:
        return {"labels": {"refused": str(exc)}}
    return {}


def _decision(row: NDArray[np.float64], labels: ClassLabels, info: ModelInfo) -> str:
    place = int(row[0] if info.labels_only else row.argmax())
    name = labels.shown[place] if labels.shown is not None and place < len(labels.shown) else f"class {place}"
    return name if info.labels_only else f"{name} {row[place]:.3f}"


def _command(target: str, data: str | None, facts: dict[str, Any], flags: list[str]) -> str | None:
    """What to type for an audit, where a link does."""
    does = next((name for name, found in facts["links"].items() if "first" in found), None)
    if facts.get("several_findings"):
        does, flags = "identity", [*flags, "--class", (facts["class_names"] or ["0"])[0]]
    if does is None or ("labels" in facts and not facts.get("several_findings")):
        return None
    words = ["fimaudit", "audit", target, "--data", str(data or "x.npz"), *flags]
    words += [] if does == "auto" else ["--link", does]
    if facts.get("data", {}).get("spreads_differ"):
        words += ["--scale", "std"]
    return shlex.join([*words, "--out", "runs/first"])


def _optimisations(
    classifier: Classifier, x: NDArray[Any], target: str, link: LinkName, options: dict[str, Any]
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


def _first_inputs(data: Inputs | Stream, info: ModelInfo) -> Inputs:
    """The inputs in memory; of data in several files those that stand for all."""
    if isinstance(data, Inputs):
        return data
    return look_at(data.for_model(info.input_shape, info.dtype), info.input_shape, labelled=False)[0]


def _random(shape: tuple[int | None, ...] | None, dtype: str) -> Inputs:
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
        "class names": ", ".join((facts["class_names"] or ["none"])[:SHOWN]),
        "link": facts["link"],
        **({} if seen is None else _of_answers(seen)),
        **({"norms will be": facts["kind"].replace("_", " ")} if "kind" in facts else {}),
        **_of_inputs(facts),
        **facts["details"],
    }
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)
    for name, found in facts["links"].items():
        said = f"first answers: {', '.join(found['first'])}" if "first" in found else found["refused"]
        print_line(console, f"--link {name}: {said}")
    if "identity" in facts:
        _show_identity(console, facts["identity"])
    for note in facts["notes"]:
        print_line(console, f"note: {note}", "yellow")
    if "labels" in facts:
        print_line(console, f"note: {facts['labels']['refused']}", "yellow")
    if facts["audit"] is not None:
        print_command(console, "audit it with: ", facts["audit"])


def _of_answers(seen: dict[str, Any]) -> dict[str, str]:
    apart, quantum = seen["batch_difference"], seen["output_quantum"]
    return {
        "repeated answers differ by": f"{seen['repeat_difference']:.3g}",
        "answers alone and in a batch differ by": f"{apart:.3g}" if apart else "nothing",
        "answers rounded to": f"{quantum:g}" if quantum else "not rounded",
    }


def _of_inputs(facts: dict[str, Any]) -> dict[str, str]:
    data, names = facts.get("data"), facts.get("feature_names")
    rows = {} if not names else {"the model's features": ", ".join(names[:SHOWN])}
    if data is not None and data["feature_names"]:
        rows["the data's columns"] = ", ".join(data["feature_names"][:SHOWN])
        rows["held columns"] = ", ".join(data["held"][:SHOWN]) or "none"
    return rows
