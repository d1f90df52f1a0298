"""``fimaudit validate``: attack the inputs of an audit and see whether the metric predicted it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape

from fimaudit.cli import options as o
from fimaudit.cli.console import limits_text, number_text, plain_table, progress_bar, resumable
from fimaudit.cli.plan import confirm, per_second
from fimaudit.data.arrays import read_inputs
from fimaudit.domain import InputDomain
from fimaudit.errors import UsageError
from fimaudit.results import Interval
from fimaudit.runs.planning import cost_of
from fimaudit.validation import Validation
from fimaudit.validation import validate as run_validate
from fimaudit.validation.validating import ATTACK_ROWS

__all__ = ["validate"]

NAMES = {"margin_radius": "margin radius", "peak_spectral_norm": "1 / peak norm", "spectral_norm": "1 / spectral norm"}


def validate(
    target: o.Target,
    data: o.Data,
    out: Annotated[Path, typer.Option("--out", help="Run folder: the audit's files, validation.json, calibration.svg.")],
    attacks: Annotated[
        str, typer.Option(help="auto, or names between commas: deepfool,carlini-wagner,pgd,hopskipjump,square.")
    ] = "auto",
    attack_rows: Annotated[
        int, typer.Option(help="Rows, forward and backward, that the attacks on one input may take.")
    ] = ATTACK_ROWS,
    eps: Annotated[
        list[float] | None,
        typer.Option("--eps", help="Say how well inputs flipped within it are recognised. Repeatable."),
    ] = None,
    queries: Annotated[int, typer.Option(help="Rows an input of the measurement, base row included.")] = 200,
    mode: Annotated[str, typer.Option(help="Of the measurement: black-box, white-box or auto.")] = "black-box",
    link: o.LinkName = "auto",
    lower: Annotated[str | None, typer.Option(help="Lower bound of the inputs: a number or a .npy file.")] = None,
    upper: Annotated[str | None, typer.Option(help="Upper bound of the inputs: a number or a .npy file.")] = None,
    quantum: Annotated[str | None, typer.Option(help="Distance of neighbouring input values: 0.00392157, 1.")] = None,
    unit: Annotated[str | None, typer.Option(help="Name of the input unit, for the report.")] = None,
    scale: Annotated[str | None, typer.Option(help="Scale of lengths: raw, std, range, or a .npy file.")] = None,
    frozen: Annotated[str | None, typer.Option(help="Features that are held: names, positions, or a mask .npy.")] = None,
    free: Annotated[str | None, typer.Option(help="Whole-number columns that may change: names, or all.")] = None,
    confidence: Annotated[float, typer.Option(help="Confidence of each interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of directions, attacks and bootstrap.")] = 0,
    budget: Annotated[int | None, typer.Option(help="Most rows that may be sent in all.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a call.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    weights: o.Weights = None,
    trust_pickle: o.TrustPickle = False,
    device: o.Device = None,
    adapter: o.Adapter = None,
    input: o.Input = None,
    output: o.Output = None,
    hold: o.Hold = None,
    yes: Annotated[bool, typer.Option("--yes", help="Endpoint: do not ask on a terminal before rows are sent.")] = False,
    endpoint: o.EndpointFile = None,
    settings: o.EndpointSet = None,
    header_env: o.HeaderEnv = None,
    bearer_env: o.BearerEnv = None,
    protocol: o.Protocol = None,
    rate: o.Rate = None,
) -> None:
    """Check on your own model whether the metric predicts vulnerability: attack each input and correlate.

    Attacks are those of adversarial-robustness-toolbox: fimaudit's extra "attacks". Every row counts.
    """
    if resume and overwrite:
        raise UsageError("expected one of --resume and --overwrite, got both")
    if mode not in ("auto", "black-box", "white-box"):
        raise UsageError(f"expected --mode auto, black-box or white-box, got {mode!r}")
    names = "auto" if attacks == "auto" else [name.strip() for name in attacks.split(",") if name.strip()]
    inputs = read_inputs(data)
    if o.is_endpoint(target):
        features = max(1, int(inputs.x[0].size)) if inputs.x.ndim > 1 and len(inputs) else 1
        pace = per_second(rate)
        cost = cost_of(max(1, len(inputs)), queries + attack_rows, features=features, batch=batch or 100, rate=pace)
        if not confirm(cost, yes=yes or resume):
            raise typer.Exit(2)
    domain = InputDomain(
        o.number_or_file(lower, "--lower"),
        o.number_or_file(upper, "--upper"),
        o.number_or_file(quantum, "--quantum"),
        cast(Any, o.names_or_mask(frozen, "--frozen")),
        o.scale_choice(scale),
        unit,
    )
    with resumable(out, o.resume_command()), progress_bar() as progress:
        validation = run_validate(
            target,
            inputs,
            out=out,
            link=cast(Any, link),
            queries=queries,
            mode=cast(Any, mode),
            attacks=names,
            attack_rows=attack_rows,
            eps=eps or (),
            confidence=confidence,
            seed=seed,
            budget=budget,
            domain=domain,
            free=cast(Any, o.names_or_mask(free, "--free")) or (),
            batch=batch,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            weights=weights,
            trust_pickle=trust_pickle,
            device=device,
            adapter=adapter,
            input=input,
            output=o.output_choice(output),
            hold=o.held(hold),
            **o.endpoint_options(endpoint, settings, header_env, bearer_env, protocol=protocol, rate=rate),
        )
    _show(Console(), validation)
    Console().print(f"run folder: {out}", highlight=False, soft_wrap=True)
    if len(validation.inputs) < validation.data["inputs"] or validation.attacked == 0:
        raise typer.Exit(3)


def _show(console: Console, v: Validation) -> None:
    """What was found, how the metric follows it, and how the attacks did."""
    rows = f"{v.measured_rows:,} rows to measure, {v.forward_rows:,} forward and {v.backward_rows:,} backward to attack"
    console.print(f"[bold]{escape(str(v.model['name']))}[/bold]", highlight=False)
    console.print(f"{v.attacked} of {v.data['inputs']} inputs attacked; {rows}", highlight=False)
    percent = f"{100 * v.settings['confidence']:g} % interval"
    table = plain_table(None, "against the smallest perturbation", "Spearman", percent, "Kendall", "inputs")
    for c in v.correlations:
        cells = (number_text(c.spearman.value), _limits(c.spearman), number_text(c.kendall.value), str(c.inputs))
        table.add_row(NAMES.get(c.metric, c.metric), *cells)
    console.print(table)
    ratio = next((c.ratio for c in v.correlations if c.metric == "margin_radius"), Interval())
    console.print(
        f"margin radius over smallest perturbation, median: {number_text(ratio.value)} {limits_text(ratio)}; "
        f"unit: {escape(v.unit)}",
        highlight=False,
    )
    if v.flipped:
        table = plain_table(None, "flipped within", "AUC", percent, "flipped", "not")
        for f in v.flipped:
            cells = (number_text(f.auc.value), _limits(f.auc), str(f.flipped), str(f.not_flipped))
            table.add_row(f"{f.eps:g}", *cells)
        console.print(table)
    table = plain_table(None, "attack", "succeeded", "smallest", "median excess")
    for a in v.attacks:
        excess = "-" if a.median_excess is None else f"{100 * a.median_excess:.1f} %"
        table.add_row(a.name, str(a.succeeded), str(a.smallest), excess)
    console.print(table)
    for warning in v.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)


def _limits(interval: Interval) -> str:
    return "" if interval.value is None else limits_text(interval)
