"""Screening first: the named inputs are the top ones as often as is said, on every way that results are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.audit_report import Report
from fimaudit.errors import UsageError
from fimaudit.results import QUANTITY_NAMES, SCREENED
from fimaudit.runs.auditing import audit_with_options
from fimaudit.runs.options import AuditOptions
from fimaudit.runs.screening import likely_top, read_focus, top_k_result
from fimaudit.runs.task import RunSizes
from fimaudit.statistics.columns import Columns, IntervalArray
from fimaudit.storage.run_folder import read_run

Z = 1.96
DRAWN = {
    "lognormal": lambda rng, n: rng.standard_normal(n),
    "heavy": lambda rng, n: rng.standard_t(3, n),
    "piled up at the top": lambda rng, n: -rng.exponential(1.0, n),
}


def seen(logs: np.ndarray, deviation: np.ndarray | float) -> Columns:
    """Columns of inputs whose log norms were measured so well."""
    n, wide = len(logs), np.broadcast_to(deviation, len(logs))
    limits = IntervalArray(np.exp(logs), np.exp(logs - Z * wide), np.exp(logs + Z * wide))
    names, nobody = np.array(["ok"] * n), np.full(n, -1, np.int32)
    each = dict.fromkeys(QUANTITY_NAMES, limits)
    return Columns(np.arange(n), names, np.full(n, 32), np.full(n, 20), each, nobody, (), nobody)


@pytest.mark.parametrize(
    "kind", [kind if place == 0 else pytest.param(kind, marks=pytest.mark.coverage) for place, kind in enumerate(DRAWN)]
)
def test_the_stated_confidence_is_not_too_high(kind: str) -> None:
    """40 screenings of 300 inputs: what is said is true as often or more, within 3 standard errors, and not far more."""
    rng, k, repeats = np.random.default_rng(0), 5, 40
    said, true, expected, right, measured = [], [], [], [], []
    for _ in range(repeats):
        truth = DRAWN[kind](rng, 300)
        chosen = likely_top(seen(truth + 0.33 * rng.standard_normal(300), 0.33), k, 0.95, 0)
        deviation = np.full(300, 0.33)
        deviation[chosen] = 0.1
        now = truth + deviation * rng.standard_normal(300)
        found = top_k_result(seen(now, deviation), chosen, chosen, k, 0.95, 1)
        top = set(np.argsort(-truth)[:k].tolist())
        said.append(found.confidence)
        true.append(set(found.named) == top)
        expected.append(found.expected_right)
        right.append(len(top & set(found.named)))
        measured.append(len(chosen))
    error = np.std(right) / np.sqrt(repeats)
    assert np.mean(right) - 0.2 * k <= np.mean(expected) <= np.mean(right) + 3 * error
    sure = float(np.mean(said))
    assert sure <= np.mean(true) + 3 * np.sqrt(max(sure * (1 - sure), 0.02) / repeats)
    assert np.mean(measured) < 200


def answer(rows: np.ndarray) -> np.ndarray:
    """Class scores whose steepness depends on the input's first feature."""
    rows = np.asarray(rows)
    weights = np.random.default_rng(0).standard_normal((60, 3))
    z = rows[:, 1:] @ weights[1:] * np.exp(rows[:, :1]) / 8
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


X = np.random.default_rng(5).standard_normal((120, 60)) * np.r_[1.0, np.full(59, 0.02)]
OPTIONS: dict[str, Any] = {"input_shape": (60,), "queries": 50, "profile": "off", "mode": "black-box"}


def test_all_are_screened_and_the_likely_ones_measured() -> None:
    report = audit(answer, X, focus="top:6", **OPTIONS)
    full = audit(answer, X, **{**OPTIONS, "queries": 400})
    top = sorted(range(120), key=lambda i: -(full.inputs[i].spectral_norm.value or 0.0))[:6]
    focus = report.data["focus"]
    assert len(set(focus["named"]) & set(top)) >= 5
    assert 0.0 < focus["confidence"] <= 1.0
    screened = [s.index for s in report.inputs if SCREENED in s.flags]
    assert len(screened) == focus["screened"] == 120 - focus["measured"]
    assert not set(screened) & set(focus["named"])
    assert focus["measured"] == focus["chosen"] < 60
    assert report.summary.queries < audit(answer, X, **OPTIONS).summary.queries
    for s, truth in zip(report.inputs, full.inputs, strict=True):
        assert (s.queries > 32) == (SCREENED not in s.flags)
        assert s.spectral_norm.lower * 0.7 <= truth.spectral_norm.value <= s.spectral_norm.upper * 1.5


class Switched:
    """Answers so many rows and then stops the process, as Ctrl-C would."""

    def __init__(self, rows: int) -> None:
        self.left = rows

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.left -= len(rows)
        if self.left < 0:
            raise KeyboardInterrupt
        return answer(rows)


@pytest.mark.parametrize("inline", [10_000, 10], ids=["in memory", "in parts"])
def test_interrupted_at_any_point_and_resumed_it_is_the_same(inline: int, tmp_path: Path) -> None:
    sizes = RunSizes(most_inline=inline, part_inputs=16)

    def audited(rows: int, out: Path, *, resume: bool = False) -> Report:
        options = AuditOptions(**OPTIONS, focus="top:4", name="switched", resume=resume)
        return audit_with_options(Switched(rows), (X, None, None), options, out, sizes=sizes)

    whole = audited(10**9, tmp_path / "whole")
    flags = [s.flags for s in read_run(tmp_path / "whole").inputs]
    screened = whole.data["focus"]["screened"] * 32
    for rows in (1500, screened, whole.summary.queries - 900, whole.summary.queries - 1):
        out = tmp_path / str(rows)
        with pytest.raises(KeyboardInterrupt):
            audited(rows, out)
        again = audited(10**9, out, resume=True)
        assert again.data["focus"] == whole.data["focus"]
        assert again.summary.model_copy(update={"queries": 0, "requests": 0}) == whole.summary.model_copy(
            update={"queries": 0, "requests": 0}
        )
        assert again.summary.queries >= whole.summary.queries
        assert [s.flags for s in read_run(out).inputs] == flags
    page = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    named = ", ".join(map(str, whole.data["focus"]["named"]))
    assert f"These are named: {named}." in page
    third = audited(0, tmp_path / "whole", resume=True)  # nothing is left to ask
    assert third.data["focus"] == whole.data["focus"]


def test_a_budget_goes_to_the_likeliest() -> None:
    report = audit(answer, X, focus="top:6", budget=4700, **OPTIONS)
    focus = report.data["focus"]
    assert report.summary.queries <= 4700
    assert 0 < focus["chosen"] < 20


@pytest.mark.parametrize("text", ["top", "top:", "top:0", "top:-1", "ten", "bottom:3", "top:1.5"])
def test_what_is_no_focus_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected focus='top:K'"):
        read_focus(text)
