"""The study as a page: docs/study.md with its tables and two pictures, all of it from the cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._study_cell import FLAG, FLAGGED_SHARE
from benchmarks._study_tables import FAILED_FIT, name_of, on_fitted
from fimaudit.baselines.clever import BATCHES, POOL, RADIUS, SAMPLES

__all__ = ["write_page"]

Row = Mapping[str, Any]
FOLDER = "study"
WORDS = {
    "margin_radius": "margin radius",
    "smallest_radius": "shortest radius of the profile",
    "peak_spectral_norm": "peak norm",
    "spectral_norm": "spectral norm (lambda)",
    "margin_radius_white": "margin radius, derivatives",
    "peak_spectral_norm_white": "peak norm, derivatives",
    "spectral_norm_white": "spectral norm, derivatives",
    "rayleigh_max": "rayleigh_max, black box",
    "rayleigh_max_white": "rayleigh_max, white box",
    "clever": "CLEVER",
    "great_score": "GREAT score",
    "local_lipschitz": "local Lipschitz of the probabilities",
    "loss_gradient": "loss gradient norm",
    "trace": "trace of F",
}


def write_page(
    cells: Sequence[Row],
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    machine: Mapping[str, str],
    command: str,
    planned: int,
    folder: Path | None,
) -> str:
    """The page's text; with ``folder``, it and its pictures are written there as ``study.md`` and ``study/*.svg``."""
    own = [cell for cell in cells if cell["dataset"] != "given"]
    given = [cell for cell in cells if cell["dataset"] == "given"]
    parts = [_opening(own, command, planned)]
    if own:
        parts += [
            _headline(summary),
            _worse(summary["worse"]),
            _metrics(summary["metrics"]),
            _paper(summary["networks"]),
            _across(summary["across_networks"], summary["learned"]),
            _side_by_side(summary["networks"]),
            _cells(rows, own),
            _truth(summary["attacks"]),
        ]
    if given:
        parts.append(_given(given, rows))
    parts.append("## Machine\n\n" + _table(("", ""), [(key, value) for key, value in machine.items()]))
    page = "\n\n".join(parts) + "\n"
    if folder is not None:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        if own:
            _draw(own, rows, folder / FOLDER)
        (folder / "study.md").write_text(page, encoding="utf-8")
    return page


def _opening(cells: Sequence[Row], command: str, planned: int) -> str:
    sizes = cells[0]["settings"] if cells else {"inputs": 0, "queries": 0}
    missing = ": the others were not finished when this page was written, and the same command goes on with them"
    return f"""# Does it predict vulnerability?

    {command}

This page is written by that command. It trains small networks on data that ship with scikit-learn (digits scaled up to
28 x 28, pixels in [0, 1]; breast cancer, standardised), plainly, on PGD examples, on Carlini-Wagner examples and with
`fisher_penalty`; measures {sizes["inputs"]} test inputs of each from {sizes["queries"]} queries an input; and attacks the
same inputs with PGD, DeepFool and Carlini-Wagner of adversarial-robustness-toolbox. *Smallest perturbation* is the least
l2 length of a displacement within the input's bounds after which the network decides otherwise, over all three attacks,
asked again. A correlation is Spearman's, over the inputs of one network, with a 95 % bootstrap interval over inputs; norms
enter by their reciprocal, so that +1 is the right order. Cost is in rows through the network an input: forward + backward.

**The flag, fixed before the first run.** A network is set aside when more than {FLAGGED_SHARE:.0%} of its inputs carry
`{FLAG}`, which the scale profile raises from the same queries, without any attack.

{len(cells)} of the {planned} networks of this command are in the tables below{"" if len(cells) == planned else missing}.

`fimaudit validate` (docs/validate.md) does the same for your own model and inputs."""


def _headline(summary: Mapping[str, Any]) -> str:
    head = summary["headline"]
    ours, clever = head["margin_radius"], head["clever"]
    rows = [
        ("margin radius, black box", *_spread(ours), _cost(ours)),
        ("CLEVER", *_spread(clever), _cost(clever)),
        *(
            (f"{name}, where CLEVER's fit succeeded", *_spread(head[key]), _cost(head[key]))
            for name, key in (
                ("margin radius", "margin_radius_where_clever_fits"),
                ("CLEVER", "clever_where_clever_fits"),
            )
        ),
    ]
    table = _table(("", "median correlation", "95 % interval over networks", "rows an input"), rows)
    flagged = f"{head['flagged']} of {head['cells']} networks are flagged and left out of the medians."
    count = f"{len(summary['worse'])} of {head['cells']} networks"
    behind = f"Where its fit succeeds, CLEVER orders the inputs better in {count} (next table)."
    learned = summary["learned"]
    if learned["not"]:
        radius, score = learned["headline"]["margin_radius"], learned["headline"]["clever_where_clever_fits"]
        behind += (
            f" {', '.join(learned['not'])} did not learn (at most half right); they stand in every table. Without them "
            f"the medians are {radius['median']:.3f} (radius) and {score['median']:.3f} (CLEVER where its fit succeeded)."
        )
    pictures = (
        f"![correlations]({FOLDER}/correlations.svg)\n\n"
        f"![smallest perturbation against margin radius]({FOLDER}/calibration.svg)"
    )
    text = (
        f"CLEVER: the library's `clever_u`, an l2 ball of radius {RADIUS:g} as published, {BATCHES} batches of {SAMPLES} "
        f"from a pool of {SAMPLES * POOL} gradients a class. The paper takes 500 batches of 1024 fresh ones. The library's "
        f"Weibull fit fails on {head['clever_failed_fits']} of {head['clever_scores']} scores (below {FAILED_FIT:g} of the "
        "exact first-order radius, which would mean gradients a thousand times as long as at the input). So CLEVER stands "
        "here twice: as the library gives it, and on the inputs where its fit succeeded, the radius on the same ones."
    )
    return f"## The radius and CLEVER\n\n{table}\n\n{flagged} {behind}\n\n{text}\n\n{pictures}"


def _worse(worse: Sequence[Row]) -> str:
    title = "## Where CLEVER does better"
    if not worse:
        return f"{title}\n\nIn no network."
    rows = [
        (w["cell"], w["ours"], w["clever"], w["exact_radius"], _limits(w["difference"]), w["inputs"], w["why"])
        for w in worse
    ]
    head = ("network", "radius", "CLEVER", "radius, derivatives", "CLEVER - radius", "inputs", "why")
    resolved = sum(not w["why"].startswith("not resolved") for w in worse)
    text = f"Over the inputs where CLEVER's fit succeeded. {resolved} of {len(worse)} differences are resolved at 95 %."
    return f"{title}\n\n{_table(head, rows)}\n\n{text}"


def _metrics(metrics: Sequence[Row]) -> str:
    rows = [
        (
            WORDS[m["metric"]],
            *_spread(m),
            f"{m['least']:.2f} ... {m['most']:.2f}",
            f"{m['above_ours']} ({len(m['resolved_above'])})",
            m["resolved_below"],
            _cost(m),
        )
        for m in metrics
    ]
    head = ("metric", "median", "95 % interval", "range over networks", "above the radius in (resolved)",
            "resolved below it in", "rows an input")  # fmt: skip
    text = (
        "Over the networks that are not flagged; CLEVER as the library gives it. *Above the radius*: networks in which the "
        "metric orders the inputs better than the black-box radius does, and in how many of them the difference is resolved "
        "(its 95 % bootstrap interval over inputs lies above 0)."
    )
    named = [f"{WORDS[m['metric']]}: {', '.join(m['resolved_above'])}" for m in metrics if m["resolved_above"]]
    resolved = "No metric is above the radius by a resolved difference in any network."
    if named:
        resolved = "Above the radius by a resolved difference: " + "; ".join(named) + "."
    why = (
        "Within one network a metric of confidence and slope orders inputs much as the distance does, because there both "
        "follow the margin of the logits: that is why lambda, its published estimators and the trace do well in this table. "
        "It says nothing about networks of other scale or sharpness; for those see *Across networks* below."
    )
    return f"## Every metric across inputs\n\n{text}\n\n{_table(head, rows)}\n\n{resolved} {why}"


def _paper(networks: Sequence[Row]) -> str:
    """The paper's own tables: lambda by architecture and training, with what PGD and Carlini-Wagner leave."""
    rows = [
        (
            *(n[key] for key in ("dataset", "model", "training", "seed")),
            f"{n['accuracy']:.1%}",
            f"{n['pgd_accuracy']:.0%}",
            f"{n['cw_accuracy']:.0%}",
            f"{n['spectral_norm_mean']:.3g}",
            f"{n['spectral_norm_median']:.3g}",
        )
        for n in networks
    ]
    head = ("data", "network", "training", "seed", "accuracy", "under PGD", "under CW", "mean lambda", "median lambda")
    eps = ", ".join(f"{name}: {value:g}" for name, value in {n["dataset"]: n["eps"] for n in networks}.items())
    text = f"lambda from derivatives. Accuracy under an attack: right, and not flipped by it alone within eps ({eps})."
    return f"## The paper's metric by architecture and training\n\n{text}\n\n{_table(head, rows)}"


def _across(across: Sequence[Row], learned: Row) -> str:
    title = "## Across networks"
    if not across:
        return f"{title}\n\nToo few networks of one data set."
    rows = [
        (
            a["dataset"],
            WORDS[a["metric"]],
            *(_limits(a[key]) for key in ("smallest_perturbation_median", "pgd_accuracy", "cw_accuracy")),
            a["networks"],
        )
        for a in across
    ]
    head = ("data", "metric", "smallest perturbation", "accuracy under PGD", "accuracy under CW", "networks")
    text = "Rank correlation of a metric's median over inputs with what attacks leave of the network."
    chosen = ("margin_radius", "peak_spectral_norm", "spectral_norm_white", "rayleigh_max", "clever")
    stated = "\n".join(_statement(a) for a in across if a["metric"] in chosen)
    if learned["not"]:
        stated += f"\n\nWithout {', '.join(learned['not'])}, which did not learn:\n\n"
        stated += "\n".join(_statement(a) for a in learned["across_networks"] if a["metric"] in chosen)
    stated += "\n\n*Not at all for sure*: the interval holds 0."
    return f"{title}\n\n{text}\n\n{_table(head, rows)}\n\n{stated}"


def _statement(a: Row) -> str:
    """What correlates and what does not, in words, for each of the three targets."""
    targets = {"smallest_perturbation_median": "smallest perturbation", "pgd_accuracy": "PGD", "cw_accuracy": "CW"}
    said: dict[str, list[str]] = {}
    for key, name in targets.items():
        value, lower, upper = a[key]
        if value is None or lower is None:
            continue
        verdict = "as the attacks do" if lower > 0 else "**against** the attacks" if upper < 0 else "**not at all for sure**"
        said.setdefault(verdict, []).append(f"{name} {value:.2f}")
    verdicts = "; ".join(f"{verdict} ({', '.join(of)})" for verdict, of in said.items()) or "no order to speak of"
    return f"- {WORDS[a['metric']]} ({a['dataset']}) orders the {a['networks']} networks: {verdicts}."


def _side_by_side(networks: Sequence[Row]) -> str:
    keys = (
        "spectral_norm_median",
        "peak_spectral_norm_median",
        "margin_radius_median",
        "smallest_perturbation_median",
    )
    rows = [
        (
            f"{n['dataset']} {n['model']} {n['training']} {n['seed']}",
            *("-" if n[key] is None else f"{n[key]:.3g}" for key in keys),
            "flagged" if n["flagged"] else "",
        )
        for n in networks
    ]
    head = ("network", "lambda", "peak norm", "margin radius", "smallest perturbation", "")
    return f"## lambda, peak norm and radius side by side\n\nMedians over inputs.\n\n{_table(head, rows)}"


def _cells(rows: Sequence[Row], cells: Sequence[Row]) -> str:
    chosen = ("margin_radius", "peak_spectral_norm", "spectral_norm", "clever", "rayleigh_max")
    table = {(name_of(r), r["metric"]): r for r in rows}
    lines = [
        (name_of(cell), *(_interval(table[name_of(cell), metric]) for metric in chosen), _share(cell)) for cell in cells
    ]
    head = ("network", *(WORDS[metric] for metric in chosen), "inputs with the flag")
    return f"## Every network\n\n{_table(head, lines)}"


def _truth(attacks: Row) -> str:
    low, middle, high = attacks["over_ddn"]
    by = ", ".join(f"{name} {count}" for name, count in attacks["smallest_by"].items())
    return f"""## How good the truth is

{attacks["inputs"]} inputs attacked, {attacks["censored"]} censored (no attack changed the decision: left out of every
correlation, never 0). The smallest perturbation came from: {by}. {attacks["forward"]:,.0f} forward and
{attacks["backward"]:,.0f} backward rows an input. An independent attack (DDN, written in `benchmarks/_ddn.py`, 300 steps on
{attacks["checked"]} of the inputs) is the check: our perturbation over its, median {middle}, 5 % to 95 % {low} to {high}."""


def _given(cells: Sequence[Row], rows: Sequence[Row]) -> str:
    table = {(name_of(r), r["metric"]): r for r in rows}
    chosen = ("margin_radius", "margin_radius_white", "peak_spectral_norm", "spectral_norm", "rayleigh_max", "great_score",
              "local_lipschitz")  # fmt: skip
    lines = [
        (cell["model"], *(_interval(table[name_of(cell), metric]) for metric in chosen), _share(cell)) for cell in cells
    ]
    ratios = [
        (
            cell["model"],
            f"{table[name_of(cell), 'margin_radius']['ratio']:.3g}",
            ", ".join("-" if r is None else f"{r:.3g}" for r in cell["black_box_ratio"]),
        )
        for cell in cells
    ]
    return f"""## Real networks with known smallest perturbations

Networks that others trained, as ONNX files with 30 real inputs each and known smallest perturbations (`--models`):
measured from probabilities alone. CLEVER and the other baselines that need derivatives cannot be had from such a file.

{_table(("network", *(WORDS[m] for m in chosen), "inputs with the flag"), lines)}

{_table(("network", "radius over perturbation, median", "HopSkipJump and Square over the known one, two inputs"), ratios)}"""


def _share(cell: Row) -> str:
    return f"{sum(FLAG in of for of in cell['flags'])} of {len(cell['flags'])}{' (flagged)' if cell['flagged'] else ''}"


def _interval(row: Row) -> str:
    return _limits((row["spearman"], row["lower"], row["upper"]))


def _limits(values: Sequence[float | None]) -> str:
    value, lower, upper = values
    if value is None or lower is None or upper is None:
        return "-"
    return f"{value:.2f} [{lower:.2f}, {upper:.2f}]"


def _spread(row: Row) -> tuple[str, str]:
    if row["median"] is None:
        return "-", "-"
    return f"{row['median']:.3f}", f"{row['lower']:.3f} to {row['upper']:.3f}"


def _cost(row: Row) -> str:
    return "-" if row["forward"] is None else f"{row['forward']:,.0f} + {row['backward']:,.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _draw(cells: Sequence[Row], rows: Sequence[Row], folder: Path) -> None:
    """Correlation a network, ours and CLEVER's; perturbation against radius. The same cells give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "fimaudit", "svg.fonttype": "none", "font.size": 8}):
        table = {(name_of(r), r["metric"]): r for r in rows}
        names = [name_of(cell) for cell in cells]
        figure = Figure(figsize=(7.0, 1.2 + 0.19 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        for shift, metric, colour in ((0.15, "margin_radius", "#0969da"), (-0.15, "clever", "#bc4c00")):
            for place, name in enumerate(names):
                row = table[name, metric]
                if row["spearman"] is not None:
                    at = len(names) - 1 - place + shift
                    axes.plot([row["lower"], row["upper"]], [at, at], color=colour, linewidth=1, alpha=0.6)
                    axes.plot([row["spearman"]], [at], "o", color=colour, markersize=3.5)
            axes.plot([], [], "o", color=colour, markersize=3.5, label=WORDS[metric])
        for place, cell in enumerate(cells):
            value = on_fitted(cell, "clever")
            if value is not None:
                at = len(names) - 1 - place - 0.15
                axes.plot([value], [at], "o", color="#bc4c00", markerfacecolor="none", markersize=5)
        label = "CLEVER, where its fit succeeded"
        axes.plot([], [], "o", color="#bc4c00", markerfacecolor="none", markersize=5, label=label)
        axes.set(yticks=range(len(names)), yticklabels=names[::-1], xlabel="rank correlation with the smallest perturbation")
        axes.set_xlim(right=1.02)
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        figure.savefig(folder / "correlations.svg", metadata={"Date": None})
        figure = Figure(figsize=(5.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="margin radius, 200 queries", ylabel="smallest perturbation found")
        everything = []
        for training, colour in (("plain", "#0969da"), ("pgd", "#1a7f37"), ("cw", "#8250df"), ("fisher", "#bc4c00")):
            points = np.array(
                [
                    (radius, found)
                    for cell in cells
                    if cell["training"] == training
                    for radius, found in zip(cell["readings"]["margin_radius"], cell["attacks"]["distance"], strict=True)
                    if radius and found
                ]
            ).reshape(-1, 2)
            if len(points):
                axes.plot(*points.T, "o", color=colour, markersize=3, alpha=0.6, label=training)
                everything.append(points)
        ends = [np.concatenate(everything).min() / 1.2, np.concatenate(everything).max() * 1.2]
        axes.plot(ends, ends, "--", color="#6e7781", linewidth=1, label="equal")
        axes.legend(frameon=False)
        figure.savefig(folder / "calibration.svg", metadata={"Date": None})
