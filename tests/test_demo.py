"""``fimaudit demo``: estimates beside exact values on two trained networks."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fimaudit.audit_report import Report
from fimaudit.demo import DemoComparison, run_demo
from fimaudit.errors import MissingExtraError
from fimaudit.results import Interval


def covered(intervals: list[Interval], exact: np.ndarray) -> float:
    inside = [
        (i.lower or 0.0) <= e <= (np.inf if i.upper is None else i.upper) for i, e in zip(intervals, exact, strict=True)
    ]
    return float(np.mean(inside))


def error(intervals: list[Interval], exact: np.ndarray) -> float:
    return float(np.median([abs(i.value / e - 1) for i, e in zip(intervals, exact, strict=True) if i.value is not None]))


def test_networks_are_trained_and_audited(demo: list[DemoComparison]) -> None:
    assert [one.name for one in demo] == ["digits", "breast_cancer"]
    for one in demo:
        assert one.accuracy > 0.9
        assert len(one.report.inputs) == 100
        assert one.report.model["adapter"] == "onnx_runtime"
        assert one.report.settings["mode"] == "black-box"
        assert one.report.summary.queries <= 1.1 * 100 * 200
        assert Report.read(one.folder) == one.report


@pytest.mark.parametrize("name", ["spectral_norm", "peak_spectral_norm", "margin_radius"])
@pytest.mark.parametrize(("place", "most"), [(0, 0.085), (1, 0.01)])
def test_estimates_agree_with_the_exact_values(demo: list[DemoComparison], place: int, most: float, name: str) -> None:
    # A radius that something contradicted was cut to that, and is no longer the slope's.
    kept = [s for s in demo[place].report.inputs if name != "margin_radius" or "local_radius_overstates" not in s.flags]
    intervals, exact = [getattr(s, name) for s in kept], getattr(demo[place], name)[[s.index for s in kept]]
    assert len(kept) >= 20
    assert error(intervals, exact) <= most
    assert covered(intervals, exact) >= 0.90


def test_published_estimator_reads_far_less(demo: list[DemoComparison]) -> None:
    shares = [float(np.median(one.rayleigh_max / one.spectral_norm)) for one in demo]
    assert shares[0] < 0.03
    assert shares[0] < shares[1] < 0.6


def test_printed(demo: list[DemoComparison], demo_text: str) -> None:
    lines = demo_text.splitlines()
    assert max(map(len, lines[:-2])) <= 80
    assert lines[-2:] == [f"  {one.folder}" for one in demo]
    assert demo_text.count("intervals hold the exact value") == 6


def test_again_gives_the_same(demo: list[DemoComparison]) -> None:
    again = run_demo(demo[0].folder.parent, Console(file=io.StringIO()))
    for one, other in zip(demo, again, strict=True):
        assert one.report.inputs == other.report.inputs
        np.testing.assert_array_equal(one.spectral_norm, other.spectral_norm)


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxruntime", "sklearn"])
def test_missing_extra(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[str], object] = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingExtraError, match="pip install 'fimaudit"):
        run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_honest_networks_are_not_accused(demo: list[DemoComparison]) -> None:
    """Seen: decisions that change before the limit of the slope alone, where the rows along it had said so."""
    for compared in demo:
        assert compared.report.contradicted == []
