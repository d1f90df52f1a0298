"""The page's sections, one a question. What went against the method stands first in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks._study_failures import VARIANTS
from benchmarks._study_prediction import predicts_accuracy
from benchmarks._study_tables import FAILED_FIT, LOW, TARGETS
from benchmarks._study_words import WORDS, cost, interval, median_of, picture, spread_of, table
from fimaudit.baselines.clever import BATCHES, POOL, RADIUS, SAMPLES

__all__ = ["SECTIONS"]

Row = Mapping[str, Any]
Summary = Mapping[str, Any]


def orders_inputs(summary: Summary) -> str:
    """Within a network: every metric against the smallest perturbation."""
    low = [
        (
            one["network"],
            interval((one["spearman"], one["lower"], one["upper"])),
            median_of({"median": one["exact"]}),
            f"{one['narrow']:.2f}",
            one["why"],
        )
        for one in summary["low"]
    ]
    against = f"No unflagged network is below {LOW}."
    if low:
        head = ("network", "radius", "radius, derivatives", "third over first quartile of distances", "why")
        against = f"Unflagged networks below {LOW}:\n\n{table(head, low)}"
    above = [m for m in summary["metrics"] if m["resolved_above"]]
    resolved = "; ".join(f"{WORDS[m['metric']]}: {', '.join(m['resolved_above'])}" for m in above)
    better = [WORDS[m["metric"]] for m in summary["metrics"] if m["median"] > summary["headline"]["margin_radius"]["median"]]
    said = f"A larger median than the radius: {', '.join(better)}. " if better else "No metric has a larger median. "
    said += (
        f"Resolved differences above it within a network: {resolved}." if resolved else "No difference above it is resolved."
    )
    rows = [
        (
            WORDS[m["metric"]],
            spread_of(m),
            f"{m['width']:.2f}",
            f"{m['least']:.2f} ... {m['most']:.2f}",
            f"{m['above_ours']} ({len(m['resolved_above'])})",
            m["resolved_below"],
            m["cells"],
        )
        for m in summary["metrics"]
    ]
    head = (
        "metric",
        "median (95 % over networks)",
        "width of a network's 95 % interval over inputs",
        "range over networks",
        "above the radius in (resolved)",
        "resolved below it in",
        "networks",
    )
    count = summary["headline"]
    clever = (
        f"CLEVER is the library's `clever_u` (ball of radius {RADIUS:g}, {BATCHES} batches of {SAMPLES} from a pool of "
        f"{SAMPLES * POOL} gradients a class; the paper takes 500 batches of 1,024). Its Weibull fit fails on "
        f"{count['clever_failed_fits']} of {count['clever_scores']} scores (below {FAILED_FIT:g} of the exact radius). "
        f"Where it "
        f"succeeds: CLEVER {spread_of(count['clever_where_clever_fits'])}, the radius on the same inputs "
        f"{spread_of(count['margin_radius_where_clever_fits'])}; CLEVER orders better in {len(summary['worse'])} of "
        f"{count['cells']} networks, resolved in {sum(not w['why'].startswith('not') for w in summary['worse'])}."
    )
    return (
        f"## Does it order inputs?\n\n{against}\n\n{said}\n\n"
        "Rank correlation with the smallest perturbation over the inputs of "
        f"one network, norms by their reciprocal, over the networks that learned and are not flagged "
        f"({count['flagged']} of {count['cells']} are flagged).\n\n{table(head, rows)}\n\n{clever}\n\n"
        f"{picture('correlations', 'rank correlation of every network')}"
    )


def orders_networks(summary: Summary) -> str:
    """Across networks of one data set: medians against what attacks leave."""
    across = summary["across_networks"]
    if not across:
        few = "Too few networks of one data set."
        return f"## Does it order networks?\n\n{few}\n\n{picture('networks', 'inputs: perturbation against radius')}"
    against = [
        f"{WORDS[a['metric']]} on {a['dataset']} ({a['smallest_perturbation_median'][0]:.2f})"
        for a in across
        if a["smallest_perturbation_median"][1] is not None and a["smallest_perturbation_median"][1] <= 0
    ]
    open_ = (
        f"Not resolved from no order at all (the interval holds 0): {'; '.join(against)}."
        if against
        else ("Every metric orders the networks of every data set better than chance.")
    )
    rows = [(a["dataset"], WORDS[a["metric"]], *(interval(a[key]) for key in TARGETS), a["networks"]) for a in across]
    head = ("data", "metric", "median smallest perturbation", "robust accuracy", "accuracy under AutoAttack", "networks")
    return (
        f"## Does it order networks?\n\n{open_}\n\n"
        "Rank correlation of a metric's median over inputs with what attacks leave of "
        "the network, with a bootstrap interval over networks. Robust accuracy: right, and no attack changed the decision "
        "within the data set's eps; AutoAttack ran on fewer inputs.\n\n"
        f"{table(head, rows)}\n\n{picture('networks', 'inputs and networks: perturbation against radius')}"
    )


def families(summary: Summary) -> str:
    """Orders of the families, and the bound beside the measured values."""
    rows = [
        (
            f["dataset"],
            f["training"],
            *(" < ".join(f["orders"][q]) for q in f["orders"]),
            *(f"{f['kendall'][q]:+.2f}" for q in ("bound L_z", "lambda", "radius")),
        )
        for f in summary["families"]
    ]
    head = (
        "data",
        "training",
        "bound L_z",
        "lambda",
        "peak norm",
        "radius",
        "smallest perturbation",
        "Kendall: bound",
        "lambda",
        "radius",
    )
    agree = {q: [f["kendall"][q] for f in summary["families"]] for q in ("bound L_z", "lambda", "radius")}
    mean = ", ".join(f"{q} {sum(v) / len(v):+.2f}" for q, v in agree.items() if v)
    bounds = [
        (
            b["dataset"],
            *(interval(b[k]) for k in ("bound", "bound_within_families", "radius", "bound_given_radius")),
            b["networks"],
        )
        for b in summary["bounds"]
    ]
    informative = [b["dataset"] for b in summary["bounds"] if (b["bound_given_radius"][1] or -1) > 0]
    sentence = (
        f"Given the radius, the bound still tells something on {', '.join(informative)}."
        if informative
        else "Given the radius, the bound tells nothing that is resolved on any data set."
    )
    same = sum(f["orders"]["bound L_z"] == f["orders"]["smallest perturbation"] for f in summary["families"])
    return f"""## Do the families rank as the closed forms say, and do the bounds tell anything?

The order of the bounds is that of the attacks in {same} of {len(rows)} cases; mean Kendall correlation with the attacks'
order of the four families: {mean or "-"}. {sentence}
The closed forms for equal layers of norm 1 put VGG first, ResNet and DenseNet equal, the transformer last; with the trained
norms they are the bound L_z below (the recursion of `fimaudit bounds`), and the global constant of a layer norm alone makes
a transformer's bound the largest by orders of magnitude.

Families from least to most vulnerable, by the geometric mean over seeds:

{table(head, rows)}

Rank correlation over networks with the smallest perturbation (+1: a large bound, or a small radius, goes with a small one):

{table(("data", "bound", "bound, within families", "radius", "bound, given the radius", "networks"), bounds)}

{picture("bounds", "bound against measured lambda and against the smallest perturbation")}"""


def stable(summary: Summary) -> str:
    """Over seeds of training, queries and steps."""

    def rows(kind: str) -> list[tuple[Any, ...]]:
        return [
            (r["value"], spread_of(r["error"], ".3f"), spread_of(r["rank"]), f"{r['lost']:.0%}")
            for r in summary["stability"]
            if r["kind"] == kind and r["lost"] is not None
        ]

    seeds = summary["seeds"]
    trained = "No pair of networks that differ by their seed alone is finished."
    if seeds["pairs"]:
        lines = [
            (
                name,
                spread_of(seeds[key]["ratio"], ".2f"),
                "-" if seeds[key]["order"] is None else f"{seeds[key]['order']:.2f}",
            )
            for name, key in (("radius", "radius"), ("smallest perturbation", "perturbation"), ("lambda", "lambda"))
        ]
        trained = table(
            (f"median over inputs, {seeds['pairs']} pairs", "larger over smaller", "rank correlation of the seeds"), lines
        )
    head = ("median error, natural log", "rank correlation with the exact radius", "inputs without a radius")
    return f"""## How stable is it?

Two networks of one kind that differ by their seed alone differ in truth: their ratio below is not noise of the measurement.

{trained}

Queries, with another seed of the audit than the one in the other tables; against the exact first-order radius:

{table(("queries", *head), rows("queries"))}

Steps: forward differences of one fixed displacement, in multiples of the one that the audit chose, 100 directions:

{table(("multiple", *head), rows("steps"))}

{picture("stability", "error by queries and by step")}"""


def costs(summary: Summary) -> str:
    """Rows and seconds."""
    rows = [(WORDS[r["name"]], cost(r), spread_of(r["milliseconds"], ".3g")) for r in summary["costs"] if r["name"] in WORDS]
    head = ("metric or attack", "rows an input, forward + backward", "CPU milliseconds an input (95 % over networks)")
    return f"""## What does it cost?

From derivatives the same numbers take a fraction of the black-box audit's rows. Networks here answer a row in about 0.05 ms,
so much of the time of metrics of few rows is their own arithmetic; for a model that takes 10 ms a row, count rows.

{table(head, rows)}

{picture("costs", "rank correlation against CPU time")}"""


def where_it_fails(summary: Summary) -> str:
    """Variants of the networks, and what the report says."""
    rows = [
        (
            f["kind"],
            VARIANTS[f["kind"]],
            spread_of(f["spearman"], ".2f"),
            median_of(f["ratio"]),
            median_of(f["peak_spearman"]),
            median_of(f["norm_spearman"]),
            f"{f['local']:.0%}",
            f"{f['flagged']:.0%}",
            f"{f['said']:.0%}",
            f"{f['silent']} of {f['networks']}",
        )
        for f in summary["failures"]
    ]
    silent = [f"{f['kind']} ({f['silent']} of {f['networks']})" for f in summary["failures"] if f["silent"]]
    head = (
        "surface",
        "what was done",
        "radius: rank correlation",
        "radius / perturbation",
        "peak: rank",
        "lambda: rank",
        "inputs ok and local",
        "inputs flagged",
        "networks where the report says so",
        "off by a third and silent",
    )
    against = (
        "**The radius is off by more than a third (in the median over inputs) and the report is silent**, on so many "
        f"networks: {', '.join(silent)}."
        if silent
        else "Nowhere is the radius off by more than a third in the median over inputs while the report is silent."
    )
    warned = "\n".join(f"- {f['kind']}: {f['warnings'][0]}" for f in summary["failures"] if f["warnings"])
    return f"""## Where does it fail, and does the product say so?

{against}

The plainly trained networks again, with what they show changed and their decisions unchanged (`levels` rounds inputs), so
that the smallest perturbations are known. *The report says so*: it refuses or warns, flags a quarter of the inputs, or a
quarter is not `ok` and `local`.

{table(head, rows)}

The warnings:

{warned or "- none"}

{picture("failures", "radius over perturbation on each surface")}"""


SECTIONS = (orders_inputs, orders_networks, predicts_accuracy, families, stable, costs, where_it_fails)
