"""Inputs as they really are: levels, edges, frozen columns, scales, steps of the model, odd shapes, and what lies beyond."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fimaudit import InputDomain, audit, sensitivity
from fimaudit.errors import DataError, DomainError, UsageError
from fimaudit.measurement.counterexample import WITNESS_ROWS
from fimaudit.measurement.query_split import OWN_RUNGS, PROFILE_DIRECTIONS, PROFILE_RUNGS
from fimaudit.measurement.scale_profile import flips_upper, overstatement
from fimaudit.models.opening import open_classifier
from fimaudit.perturbations.quantised_rows import LevelRows
from fimaudit.perturbations.random_signs import packed_signs
from fimaudit.results import ScaleRung
from fimaudit.runs.cost import START
from fimaudit.space import sparsest_step
from fimaudit.storage.counterexamples import WITNESS_FILE, recheck_witnesses


def regression(features: int, classes: int = 4, gain: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    """A softmax regression and its exact spectral norm at x, over the features that ``free`` keeps."""
    weights = gain * np.random.default_rng(seed).standard_normal((features, classes)) / np.sqrt(features)

    def answer(rows: np.ndarray) -> np.ndarray:
        z = np.asarray(rows, dtype=float).reshape(len(rows), -1) @ weights
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def norm(x: np.ndarray, scale: np.ndarray | float = 1.0) -> float:
        p = answer(x[None])[0]
        slopes = np.sqrt(p)[:, None] * (weights.T - p @ weights.T) * scale
        return float(np.linalg.eigvalsh(slopes @ slopes.T)[-1])

    return answer, norm


def level_rows(x: np.ndarray, step: float, quantum: Any, lower: float, upper: float, count: int = 4000) -> LevelRows:
    d = x.size
    rng = np.random.default_rng(2)
    full = lambda v: np.broadcast_to(np.asarray(v, float), x.shape).copy()  # noqa: E731
    signs = packed_signs(rng, count, d)
    return LevelRows(
        x, signs, np.arange(count), rng.random(d), full(step), full(quantum), full(lower), full(upper), "float64"
    )


@given(
    step=st.floats(0.3, 4.0),
    seed=st.integers(0, 10**6),
    bounded=st.booleans(),
)
@settings(max_examples=25)
def test_levels_are_whole_within_the_box_and_of_the_size_they_say(step: float, seed: int, bounded: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, 24).astype(float)
    x[:6] = [0, 255, 1, 254, 2, 253]
    lower, upper = (0.0, 255.0) if bounded else (-np.inf, np.inf)
    rows = level_rows(x, step, 1.0, lower, upper)
    built = rows.build(0, len(rows))
    assert np.array_equal(built, np.round(built))
    assert built.min() >= lower
    assert built.max() <= upper
    np.testing.assert_allclose(built.std(axis=0), rows.sent(), rtol=0.15)
    np.testing.assert_allclose(rows.sent(), step, rtol=1e-9)


@pytest.mark.parametrize("step", [0.25, 0.6, 1.0, 2.5])
def test_level_directions_are_isotropic_whatever_the_mix(step: float) -> None:
    x = np.random.default_rng(1).integers(0, 9, 12).astype(float)
    quantum = np.array([1.0] * 6 + [0.0] * 3 + [0.5] * 3)
    rows = level_rows(x, step, quantum, -np.inf, np.inf, 20000)
    moved = rows.build(0, len(rows)) - x
    np.testing.assert_allclose(moved.T @ moved / len(moved) / step**2, np.eye(12), atol=0.08)


def test_the_sparsest_directions_still_move_eight_features() -> None:
    assert sparsest_step(np.full(100, 1.0)) == pytest.approx(np.sqrt(0.08))
    assert sparsest_step(np.full(10_000, 1.0)) == pytest.approx(np.sqrt(0.04))
    assert sparsest_step(np.full(4, 2.0)) == 2.0


def test_eight_bit_images_are_measured_on_their_own_levels() -> None:
    answer, norm = regression(400, gain=12)
    asked: list[np.ndarray] = []

    def endpoint(rows: np.ndarray) -> np.ndarray:
        asked.append(rows.copy())
        return answer(rows / 255)

    x = np.random.default_rng(1).integers(0, 256, (8, 400)).astype(np.uint8)
    report = audit(endpoint, x, dtype="uint8", input_shape=(400,), queries=200)
    rows = np.concatenate(asked)
    assert rows.dtype == np.uint8
    assert report.domain["quantum"] == 1.0
    assert (report.domain["lower"], report.domain["upper"]) == (0.0, 255.0)
    ratio = [s.spectral_norm.value / (norm(x[s.index] / 255) / 255**2) for s in report.inputs]
    assert abs(np.median(ratio) - 1) < 0.2
    assert {s.method for s in report.inputs} == {"levels"}


def test_levels_that_are_too_coarse_name_their_scale() -> None:
    answer, _ = regression(60, gain=60)
    x = np.random.default_rng(1).integers(0, 4, (6, 60)).astype(np.uint8)
    report = audit(answer, x, dtype="uint8", input_shape=(60,), queries=40)
    named = [s for s in report.inputs if s.kind == "finite_scale"]
    assert named
    assert all("levels" in (s.reason or "") for s in named)


def test_few_features_with_levels_are_measured_one_by_one() -> None:
    answer, norm = regression(12)
    x = np.round(np.random.default_rng(1).standard_normal((5, 12)) / 0.01) * 0.01
    report = audit(answer, x, input_shape=(12,), quantum=0.01, queries=200)
    for s in report.inputs:
        assert s.method == "basis-central"
        assert s.spectral_norm.value == pytest.approx(norm(x[s.index]), rel=2e-3)


@pytest.mark.parametrize("edge", [0.0, 0.5, 1.0])
def test_inputs_on_the_edge_of_the_box_are_unbiased_and_never_leave_it(edge: float) -> None:
    answer, norm = regression(300, gain=4)
    seen: list[tuple[float, float]] = []

    def endpoint(rows: np.ndarray) -> np.ndarray:
        seen.append((float(rows.min()), float(rows.max())))
        return answer(rows)

    x = np.clip(np.random.default_rng(1).random((12, 300)) * (1 + 2 * edge) - edge, 0, 1)
    x[:, : int(edge * 300)] = np.round(x[:, : int(edge * 300)])
    report = audit(endpoint, x, input_shape=(300,), lower=0, upper=1, queries=200)
    assert min(low for low, _ in seen) >= 0
    assert max(high for _, high in seen) <= 1
    log_ratio = [np.log(s.spectral_norm.value / norm(x[s.index])) for s in report.inputs]
    assert abs(np.mean(log_ratio)) < 4 * 0.06 / np.sqrt(len(x))


def test_float_error_at_the_bounds_is_clipped_and_more_is_refused() -> None:
    answer, _ = regression(4)
    x = np.array([[0.0, 1.0 + 1e-9, 0.5, 0.5]])
    assert audit(answer, x, input_shape=(4,), lower=0, upper=1).inputs[0].status == "ok"
    with pytest.raises(DataError, match="expected inputs within the bounds"):
        audit(answer, x + 0.1, input_shape=(4,), lower=0, upper=1)


def test_whole_number_models_refuse_fractions() -> None:
    answer, _ = regression(4)
    with pytest.raises(DataError, match="give whole numbers"):
        audit(answer, np.array([[0.5, 1.0, 2.0, 3.0]]), dtype="uint8", input_shape=(4,))


def write_table(path: Path, wide: bool = False) -> np.ndarray:
    rng = np.random.default_rng(4)
    x = np.column_stack([rng.integers(18, 80, 30), rng.standard_normal(30), rng.standard_normal(30)])
    x[:, 2] *= 1000 if wide else 1
    lines = ["age,height,income", *(f"{int(a)},{b!r},{c!r}" for a, b, c in x.tolist())]
    path.write_text("\n".join(lines))
    return x


def test_whole_number_columns_are_held_and_named_until_they_are_freed(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    x = write_table(path)
    answer, norm = regression(3)
    held = audit(answer, path, input_shape=(3,), scale="raw")
    assert held.domain["frozen"] == [0]
    assert any("age" in w and "free=" in w for w in held.warnings)
    free = audit(answer, path, input_shape=(3,), scale="raw", free=["age"])
    assert free.domain["frozen"] == []
    assert free.domain["quantum"] == [1.0, 0.0, 0.0]
    for s in held.inputs[:5]:
        assert s.spectral_norm.value == pytest.approx(norm(x[s.index], np.array([0.0, 1.0, 1.0])), rel=5e-3)


def test_tables_of_unlike_columns_need_a_scale_arrays_only_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    x = write_table(path, wide=True)
    answer, norm = regression(3)
    with pytest.raises(DomainError, match="choose scale='std' or range"):
        audit(answer, path, input_shape=(3,))
    report = audit(answer, path, input_shape=(3,), scale="std")
    assert report.domain["unit"] == "standard deviation of the feature"
    scale = np.where([False, True, True], x.std(axis=0), 0.0)
    values = [(s.spectral_norm.value, norm(x[s.index], scale)) for s in report.inputs if s.status == "ok"]
    assert values
    assert any("spreads differ" in w for w in audit(answer, x, input_shape=(3,)).warnings)
    assert not any("spreads differ" in w for w in audit(answer, x, input_shape=(3,), scale="raw").warnings)


@pytest.mark.parametrize("frozen", [["height"], ["1"], [1], np.array([False, True, False])])
def test_frozen_features_by_name_position_or_mask(tmp_path: Path, frozen: Any) -> None:
    path = tmp_path / "people.csv"
    write_table(path)
    answer, _ = regression(3)
    report = audit(answer, path, input_shape=(3,), scale="raw", frozen=frozen, free=["all"])
    assert report.domain["frozen"] == [1]
    with pytest.raises(DomainError, match="no feature is called"):
        audit(answer, path, input_shape=(3,), scale="raw", frozen=["weight"], free=["all"])


def test_what_the_adapter_declares_of_its_inputs_is_the_default() -> None:
    domain = InputDomain(upper=2.0).with_defaults({"lower": 0.0, "upper": 1.0, "quantum": 0.5})
    assert (domain.lower, domain.upper, domain.quantum) == (0.0, 2.0, 0.5)


def forest(rows: np.ndarray) -> np.ndarray:
    """A piecewise-constant model: forty stumps on random features, the answers no round decimals."""
    rng = np.random.default_rng(6)
    feature, place = rng.integers(0, 20, 40), rng.standard_normal(40)
    votes = (np.asarray(rows)[:, feature] > place) @ rng.random(40)
    p = 1 / (1 + np.exp(-(votes - votes.mean() * 0 - 10) / 3))
    return np.column_stack([1 - p, p])


def test_piecewise_constant_models_have_no_local_value_and_say_so() -> None:
    x = np.random.default_rng(1).standard_normal((10, 20))
    report = audit(forest, x, input_shape=(20,), queries=200)
    assert all(s.kind == "finite_scale" for s in report.inputs if s.status == "ok")
    assert any(s.status == "ok" for s in report.inputs)
    assert any("piecewise constant" in w for w in report.warnings)
    assert all(s.profile for s in report.inputs if s.status == "ok")


def test_a_saturated_model_is_flagged() -> None:
    def saturating(rows: np.ndarray) -> np.ndarray:
        z = np.asarray(rows).sum(axis=1) / np.sqrt(rows.shape[1])
        margin = 3 + 0.02 * z - 6 * np.tanh(np.abs(z)) ** 4
        p = 1 / (1 + np.exp(-margin))
        return np.column_stack([1 - p, p])

    x = np.zeros((4, 400)) + 1e-3 * np.random.default_rng(1).standard_normal((4, 400))
    report = audit(saturating, x, input_shape=(400,), lower=-1, upper=1, profile="full", queries=300)
    flagged = [s for s in report.inputs if "local_radius_overstates" in s.flags]
    assert flagged
    by_slope = [s for s in flagged if "counterexample_within_radius" not in s.flags]  # else its value is the real change
    assert all(s.smallest_radius < s.margin_radius.value for s in by_slope)
    assert all(s.margin_radius.value == s.margin_radius.upper for s in flagged if s not in by_slope)
    assert all("overstates" in (s.reason or "") for s in flagged)


def test_the_profile_comes_out_of_the_queries() -> None:
    """The full one as far as the measurement keeps half of them."""
    answer, _ = regression(300)
    x = np.random.default_rng(1).standard_normal((10, 300))
    full = 100 + PROFILE_DIRECTIONS["full"] * (len(PROFILE_RUNGS["full"]) + len(OWN_RUNGS)) + WITNESS_ROWS
    for profile, most in (("off", 200), ("cheap", 200), ("full", full)):
        for seed in (0, 3):
            report = audit(answer, x, input_shape=(300,), profile=profile, queries=200, integrity=False, seed=seed)
            assert report.summary.queries <= 1.1 * most * len(x) + START
            assert bool(report.inputs[0].profile) == (profile != "off")


@pytest.mark.parametrize(("features", "rungs"), [(30, 3), (300, 2)])
def test_the_rung_at_half_the_radius_is_spared_only_for_main_directions(features: int, rungs: int) -> None:
    """Beside a whole Jacobian its rows would serve nothing else."""
    answer, _ = regression(features)
    x = np.random.default_rng(1).standard_normal((3, features))
    with_witness, without = (
        audit(answer, x, input_shape=(features,), queries=200, integrity=False, witness=witness).inputs
        for witness in (True, False)
    )
    assert [len(one.profile) for one in with_witness] == [rungs] * 3
    assert [len(one.profile) for one in without] == [3] * 3


def test_flips_have_their_clopper_pearson_limit() -> None:
    assert flips_upper(0, 16, 0.95) == pytest.approx(1 - 0.05 ** (1 / 16))
    assert flips_upper(16, 16, 0.95) == 1.0
    rungs = [
        ScaleRung(displacement=d, radius=r, flips=0, flips_upper=0.2, directions=16) for d, r in ((0.1, 2.0), (1.0, 1.0))
    ]
    assert overstatement(rungs) == (0.5, 1.0)
    assert overstatement(rungs[:1]) is None


def test_witnesses_really_change_the_decision_and_can_be_asked_again(tmp_path: Path) -> None:
    answer, _ = regression(200, gain=3)
    x = np.random.default_rng(1).standard_normal((8, 200))
    out = tmp_path / "run"
    report = audit(answer, x, input_shape=(200,), witness=True, out=out, queries=200)
    found = [s for s in report.inputs if s.witness is not None]
    assert len(found) >= 7
    for s in found:
        assert s.witness.distance > 0.9 * s.margin_radius.value
        assert s.witness.predicted_class != s.predicted_class
    with np.load(out / WITNESS_FILE) as archive:
        moved = answer(archive["x"]).argmax(axis=1)
        assert np.array_equal(moved, archive["after"])
        distance = np.linalg.norm(archive["x"] - x[archive["index"]], axis=1)
        np.testing.assert_allclose(distance, archive["distance"])
    check = recheck_witnesses(out, open_classifier(answer, input_shape=(200,)))
    assert check.failed.size == 0


def test_verify_asks_a_run_folder_again(tmp_path: Path) -> None:
    from fimaudit.cli import app

    said = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert said.exit_code != 0
    with pytest.raises(DataError, match="witness=True"):
        recheck_witnesses(tmp_path, open_classifier(regression(3)[0], input_shape=(3,)))


@pytest.mark.parametrize("shape", [(1,), (2, 500), (1, 16000)])
def test_one_feature_and_time_series(shape: tuple[int, ...]) -> None:
    """Of 40 intervals of 95 % six or more miss once in 70 times; inputs of its own, whatever ran before."""
    answer, norm = regression(int(np.prod(shape)), gain=3)
    x = np.random.default_rng(0).standard_normal((40, *shape))
    found = audit(answer, x, input_shape=shape, queries=100).inputs
    assert sum(s.spectral_norm.lower <= norm(x[s.index]) <= s.spectral_norm.upper for s in found) >= 35


def test_a_million_features() -> None:
    answer, norm = regression(1_000_000, classes=3, gain=3)
    x = np.random.default_rng(1).standard_normal(1_000_000)
    result = sensitivity(answer, x, input_shape=(1_000_000,), queries=40, batch=8)
    assert result.spectral_norm.lower <= norm(x) <= result.spectral_norm.upper


@pytest.mark.parametrize("kind", ["function", "torch", "onnx"])
def test_one_step_of_a_per_step_output(kind: str, tmp_path: Path) -> None:
    """A tagger answers (rows, steps, classes): the chosen step alone is audited, whatever the adapter."""
    torch = pytest.importorskip("torch")

    class Tagger(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.layer(x).softmax(-1)

    torch.manual_seed(0)
    network = Tagger().eval()
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype("f")
    target: Any = network
    if kind == "function":
        target = lambda rows: network(torch.from_numpy(rows.astype("f"))).detach().numpy()  # noqa: E731
    if kind == "onnx":
        target = str(tmp_path / "tagger.onnx")
        dynamic = {"x": {0: torch.export.Dim("n")}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter calls deprecated parts of torch
            torch.onnx.export(network, (torch.from_numpy(x),), target, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    report = audit(target, x, output_step=2, mode="black-box", queries=100)
    step = audit(lambda rows: network(torch.from_numpy(rows.astype("f"))).detach().numpy(), x[:, 2], queries=100)
    for whole, alone in zip(report.inputs, step.inputs, strict=True):
        assert whole.spectral_norm.value == pytest.approx(alone.spectral_norm.value, rel=1e-2)
    with pytest.raises(UsageError, match="one of several steps with output_step="):
        audit(target, x, mode="black-box")
