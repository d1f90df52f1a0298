"""The page of a ranking: which model may stand where, and how sure that is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from fimaudit.comparison.ranking import RankedModel, Ranking
from fimaudit.errors.option_names import COMMAND_LINE, caller
from fimaudit.report.answer import Headline, NextStep
from fimaudit.report.page import _common, _environment
from fimaudit.report.screen import Screen
from fimaudit.report.wording import interval_text, number

__all__ = ["ranking_html", "ranking_screen"]

#: What each quantity is, and whether much of it is good.
QUANTITIES = {
    "margin_radius": (
        "margin radius",
        "the distance, to first order, to an input that is answered otherwise: large is robust",
    ),
    "peak_spectral_norm": (
        "peak norm",
        "how violently the answer can change, however confident the model is: small is robust",
    ),
    "spectral_norm": ("spectral norm", "how violently the answer can change at the model's own confidence: small is robust"),
}


def ranking_html(ranking: Ranking, environment: dict[str, Any]) -> str:
    """The page as text; everything from outside is escaped, and nothing is loaded.

    Args:
        ranking: of models on the same inputs.
        environment: of the first run's report, for the footer.
    """
    quantity, meaning = QUANTITIES[ranking.metric]
    return (
        _environment()
        .get_template("ranking.html.j2")
        .render(
            ranking=ranking,
            title=f"{len(ranking.models)} models by {quantity}",
            quantity=quantity,
            meaning=meaning,
            found=_found(ranking.models),
            ties=_ties(ranking.models),
            unit=f"{'in' if ranking.metric == 'margin_radius' else 'in 1 / unit², unit:'} {ranking.unit}",
            compare=_compare(ranking.models),
            environment=environment,
            **_common(),
        )
    )


def ranking_screen(ranking: Ranking) -> Screen:
    """What ``print`` and a notebook show of it."""
    quantity, meaning = QUANTITIES[ranking.metric]
    rows = [
        Headline(
            f"{m.rank}. {m.name}",
            number(m.median.value),
            f"place {_places(m)}; interval {interval_text(m.median)}{_beside_first(m)}",
        )
        for m in ranking.models
    ]
    folders = [m.folder for m in ranking.models[:2]]
    shell = caller() == COMMAND_LINE
    compare = _compare(ranking.models) if shell else f'fimaudit.compare("{folders[0]}", "{folders[1]}")'
    return Screen(
        title=f"{len(ranking.models)} models on {ranking.inputs:,} inputs, by the median of the {quantity}",
        sentences=[f"The {quantity} is {meaning}.", f"{_found(ranking.models)} {_ties(ranking.models)}"],
        rows=rows,
        notes=[("warning", w) for w in ranking.warnings],
        steps=[NextStep("see the first two side by side", compare)],
    )


def _places(m: RankedModel) -> str:
    return str(m.best) if m.best == m.worst else f"{m.best} to {m.worst}"


def _beside_first(m: RankedModel) -> str:
    ratio = m.ratio_to_first
    return "" if m.rank == 1 or ratio.value is None else f"; {number(ratio.value)} × the first ({interval_text(ratio)})"


def _found(models: Sequence[RankedModel]) -> str:
    """Who may be the most robust, in a sentence."""
    first = [m.name for m in models if m.best == 1]
    if len(first) == 1:
        return f"{first[0]} is the most robust of them."
    if len(first) == len(models):
        return "Any of them may be the most robust: these inputs and queries do not tell."
    return f"{_listed(first)} may each be the most robust of them: these inputs and queries do not tell."


def _ties(models: Sequence[RankedModel]) -> str:
    """How many places are certain."""
    certain = sum(m.best == m.worst for m in models)
    return f"{certain} of {len(models)} places are settled; the confidence holds for all of them at once."


def _compare(models: Sequence[RankedModel]) -> str:
    """What to type to see the first two side by side."""
    first, second = (shlex.quote(m.folder) for m in models[:2])
    return f"fimaudit compare {first} {second} --out comparison"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
