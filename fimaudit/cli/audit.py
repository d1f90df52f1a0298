"""``fimaudit audit``: measure a model over many inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from fimaudit.cli import options as o
from fimaudit.cli.console import progress_bar, resumable, show_report
from fimaudit.cli.gate import apply_policy
from fimaudit.cli.plan import confirm, per_second
from fimaudit.data.arrays import Inputs
from fimaudit.data.streams import Stream, first_size, open_data
from fimaudit.errors import UsageError
from fimaudit.estimation.stopping import most_queries
from fimaudit.measurement.settings import ProfileChoice
from fimaudit.policy.rules import read_policy
from fimaudit.runs.auditing import audit as run_audit
from fimaudit.runs.planning import cost_of

__all__ = ["audit"]


def audit(
    target: o.Target,
    data: o.LargeData,
    out: Annotated[Path, typer.Option("--out", help="Run folder for report.json and inputs.parquet.")],
    queries: Annotated[
        str,
        typer.Option(help="Rows an input, base row and checks included (see fimaudit plan); auto with --precision."),
    ] = "200",
    mode: Annotated[str, typer.Option(help="auto (autograd where the model offers it), black-box or white-box.")] = "auto",
    link: o.LinkName = "auto",
    lower: Annotated[str | None, typer.Option(help="Lower bound of the inputs: a number or a .npy file.")] = None,
    upper: Annotated[str | None, typer.Option(help="Upper bound of the inputs: a number or a .npy file.")] = None,
    quantum: Annotated[str | None, typer.Option(help="Distance of neighbouring input values: 0.00392157, 1.")] = None,
    unit: Annotated[str | None, typer.Option(help="Name of the input unit, for the report.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="Scale of the metric: raw, std, range, or a .npy file; raw when left out.")
    ] = None,
    frozen: Annotated[str | None, typer.Option(help="Features that are held: names, positions, or a mask .npy.")] = None,
    free: Annotated[str | None, typer.Option(help="Whole-number columns that may change: names, or all.")] = None,
    profile: Annotated[str, typer.Option(help="Radius and flips at longer displacements: off, cheap or full.")] = "cheap",
    witness: Annotated[
        bool, typer.Option("--witness", help="Look for a displacement that really changes each decision; saved in --out.")
    ] = False,
    precision: Annotated[
        float | None, typer.Option(help="Stop an input when the norm's half-width is within this share of it: 0.1.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Stop an input when its norm is decided to be above or below this.")
    ] = None,
    focus: Annotated[
        str | None, typer.Option(help="top:K: screen all inputs, measure those that may be the K most sensitive.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Confidence of each interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Directions depend on the seed and the input's index alone.")] = 0,
    budget: Annotated[int | None, typer.Option(help="Most rows that may be sent in all.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a call.")] = None,
    tolerance: Annotated[float, typer.Option(help="White box: relative residual at which an iteration stops.")] = 1e-4,
    worst_direction: Annotated[
        bool, typer.Option("--worst-direction", help="White box: save each input's most sensitive direction.")
    ] = False,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            help="Local model whose directions are measured exactly, where that pays; or learned, from the first inputs. "
            "Repeatable."
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Rules decided at the end (fimaudit gate); exit 1 unless pass.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    max_failures: o.MaxFailures = None,
    engine: o.EngineChoice = "local",
    address: o.Address = None,
    workers: o.Workers = None,
    gpus_per_worker: o.GpusPerWorker = None,
    weights: o.Weights = None,
    trust_pickle: o.TrustPickle = False,
    device: o.Device = None,
    adapter: o.Adapter = None,
    input: o.Input = None,
    output: o.Output = None,
    output_step: o.OutputStep = None,
    hold: o.Hold = None,
    price_per_row: Annotated[float | None, typer.Option(help="Endpoint: price of one row, shown before the start.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Endpoint: do not ask on a terminal before rows are sent.")] = False,
    endpoint: o.EndpointFile = None,
    settings: o.EndpointSet = None,
    header_env: o.HeaderEnv = None,
    bearer_env: o.BearerEnv = None,
    protocol: o.Protocol = None,
    rate: o.Rate = None,
) -> None:
    """Measure how violently a model's answer can change when its input changes a little.

    Reads the model's probabilities only; writes report.json and inputs.parquet to --out and prints a summary.
    """
    if resume and overwrite:
        raise UsageError("expected one of --resume and --overwrite, got both")
    if mode not in ("auto", "black-box", "white-box"):
        raise UsageError(f"expected --mode auto, black-box or white-box, got {mode!r}")
    if profile not in ("off", "cheap", "full"):
        raise UsageError(f"expected --profile off, cheap or full, got {profile!r}")
    if policy is not None:
        read_policy(policy)  # refuse a bad one before the first query
    asked = o.query_count(queries)
    inputs: Inputs | Stream | str = data
    if o.is_endpoint(target):
        inputs = open_data(data)
        features = first_size(inputs)
        most = most_queries(precision, threshold, confidence, features) if asked == "auto" else asked
        pace = per_second(rate)
        cost = cost_of(
            max(1, len(inputs)),
            most,
            features=features,
            batch=batch or 100,
            rate=pace,
            price_per_row=price_per_row,
            profile=cast(ProfileChoice, profile),
            witness=witness,
        )
        if not confirm(cost, yes=yes or resume):
            raise typer.Exit(2)
    with resumable(out, o.resume_command()), progress_bar() as progress:
        report = run_audit(
            target,
            inputs,
            out=out,
            link=cast(Any, link),
            queries=asked,
            mode=cast(Any, mode),
            confidence=confidence,
            seed=seed,
            budget=budget,
            lower=o.number_or_file(lower, "--lower"),
            upper=o.number_or_file(upper, "--upper"),
            quantum=o.number_or_file(quantum, "--quantum"),
            unit=unit,
            scale=o.scale_choice(scale),
            frozen=cast(Any, o.names_or_mask(frozen, "--frozen")),
            free=cast(Any, o.names_or_mask(free, "--free")) or (),
            profile=cast(Any, profile),
            witness=witness,
            precision=precision,
            threshold=threshold,
            focus=focus,
            batch=batch,
            tolerance=tolerance,
            worst_direction=worst_direction,
            surrogate=surrogate or None,
            resume=resume,
            overwrite=overwrite,
            max_failures=max_failures,
            engine=cast(Any, engine),
            address=address,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            progress=progress,
            weights=weights,
            trust_pickle=trust_pickle,
            device=device,
            adapter=adapter,
            input=input,
            output=o.output_choice(output),
            output_step=output_step,
            hold=o.held(hold),
            **o.endpoint_options(endpoint, settings, header_env, bearer_env, protocol=protocol, rate=rate),
        )
    console = Console()
    show_report(console, report)
    console.print(f"run folder: {out}", highlight=False, soft_wrap=True)
    focused = report.data.get("focus") or {"measured": 0, "chosen": 0}
    if report.data["measured"] < report.data["inputs"] or focused["measured"] < focused["chosen"]:
        more = " (with a larger --budget)" if budget is not None else ""
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"resume with: {o.resume_command()}{more}", markup=False)
        raise typer.Exit(3)
    if policy is not None and apply_policy(out, policy) != "pass":
        raise typer.Exit(1)
