"""Directions from surrogates or the first inputs: better where they catch something, off where not, the same on resume."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.audit_report import Report
from fimaudit.data.arrays import Inputs
from fimaudit.domain import InputDomain
from fimaudit.engines.work import Work, measure_inputs
from fimaudit.errors import RunFolderError, TargetError, UsageError
from fimaudit.measurement.deflation_trial import DeflationPlan, JacobianLearner, prefix
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.settings import Settings
from fimaudit.measurement.surrogates import choose_surrogates, leading, open_surrogates
from fimaudit.models.classifier import ModelInfo
from fimaudit.models.meter import Meter
from fimaudit.storage.journal import LEARNED
from tests.cases import SoftmaxModel, linear, tanh_network, truth_of

D = 120


class Counted:
    """A classifier on a model of the tests that counts the rows it is asked."""

    def __init__(self, model: SoftmaxModel, shape: tuple[int, ...] = (D,), name: str = "tanh", decimals: int = 12) -> None:
        self.model, self.decimals, self.rows, self.closed = model, decimals, 0, 0
        self.info = ModelInfo(name, "tests", shape, "float64", classes=len(model.b))

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        self.rows += len(batch)
        return np.asarray(np.round(self.model(batch), self.decimals))

    def close(self) -> None:
        self.closed += 1


class Undeclared(Counted):
    """Takes so many features and does not say so; from ``later`` rows on nothing at all."""

    def __init__(self, features: int, later: float = np.inf) -> None:
        super().__init__(linear(0, 3, features))
        self.info = ModelInfo("undeclared", "tests", None, "float64")
        self.features, self.later = features, later

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        if batch[0].size != self.features or self.rows > self.later:
            raise ValueError(f"{batch[0].size} is not {self.features}")
        return super().probabilities(batch)


TARGET = tanh_network(1, 4, D)


def near(seed: int = 5, share: float = 0.3) -> SoftmaxModel:
    """A network like the target, every weight off by so much."""
    rng = np.random.default_rng(seed)
    off = [w * (1 + share * rng.standard_normal(w.shape)) for w in (TARGET.V, TARGET.b, TARGET.U, TARGET.c)]
    return SoftmaxModel(*off)


INPUTS = np.random.default_rng(2).standard_normal((64, D))
TRUTH = np.array([truth_of(TARGET.jacobian(x), TARGET.logits(x[None])[0]).spectral for x in INPUTS])


def run(surrogate: object = None, model: SoftmaxModel = TARGET, x: np.ndarray = INPUTS, **options: Any) -> Report:
    options = {"queries": 60, "profile": "off", **options}
    return audit(Counted(model), x, surrogate=surrogate, **options)


def errors(report: Report) -> np.ndarray:
    return np.array([s.spectral_norm.value for s in report.inputs]) / TRUTH - 1


def covered(report: Report) -> float:
    pairs = zip(report.inputs, TRUTH, strict=True)
    return float(np.mean([s.spectral_norm.lower <= t <= s.spectral_norm.upper for s, t in pairs]))


def numbers(report: Report) -> list[dict[str, Any]]:
    return [s.model_dump(mode="json") for s in report.inputs]


PLAIN = run()


def test_a_near_surrogate_halves_the_error_and_its_rows_are_not_the_audits() -> None:
    target, surrogate = Counted(TARGET), Counted(near())
    report = audit(target, INPUTS, queries=60, profile="off", surrogate=surrogate)
    assert {s.method for s in report.inputs} == {"deflated"}
    assert np.median(abs(errors(report))) < 0.5 * np.median(abs(errors(PLAIN)))
    assert covered(report) >= 0.9
    assert report.summary.queries == target.rows <= 1.1 * 60 * len(INPUTS) + 10
    assert surrogate.rows > 2 * D * len(INPUTS)
    assert surrogate.closed == 0  # whoever opened it closes it
    facts = report.settings["surrogate"]
    assert facts["source"] == "surrogate"
    assert facts["models"][0]["name"] == "tanh"
    assert 1 <= facts["directions"] <= 3  # four classes have three
    assert 0.6 < facts["caught"] <= 1
    assert facts["expected_width"] < 0.7
    assert PLAIN.settings["surrogate"] is None
    radii = [truth_of(TARGET.jacobian(x), TARGET.logits(x[None])[0]).radius for x in INPUTS]
    held = [s.margin_radius.lower <= r <= s.margin_radius.upper for s, r in zip(report.inputs, radii, strict=True)]
    assert np.mean(held) >= 0.9


def test_an_input_alone_has_the_numbers_of_its_place() -> None:
    """The order in which inputs are measured changes nothing: here one pass over all, and one over some, pickled."""
    surrogates = open_surrogates([Counted(near())], INPUTS[0])
    space = InputDomain().resolve(INPUTS, "float64")
    steps = Steps(0.1, [], 1)
    work = Work(Inputs(INPUTS[:12]), space, Settings(60, profile="off"), steps)
    planned = DeflationPlan(3, surrogates, None, 0, 0.1, 30, 12)
    with_plane = Work(work.source, space, work.settings, steps, structure=planned)
    meter = Meter(Counted(TARGET))
    whole = [outcome.result for outcome in measure_inputs(range(12), with_plane, meter)]
    again = pickle.loads(pickle.dumps(Work(work.source, space, work.settings, steps, structure=planned)))
    some = [outcome.result for outcome in measure_inputs([3, 7], again, meter)]
    assert some == [whole[3], whole[7]]
    assert {r.method for r in whole} == {"deflated"}


@pytest.mark.parametrize("useless", [tanh_network(99, 4, D), linear(98, 4, D)])
def test_a_useless_surrogate_is_switched_off_with_the_figure(useless: SoftmaxModel) -> None:
    report = run(Counted(useless))
    assert report.settings["surrogate"]["directions"] == 0
    assert {s.method for s in report.inputs} == {s.method for s in PLAIN.inputs}
    (warning,) = [w for w in report.warnings if w.startswith("surrogate= is off")]
    assert f"{report.settings['surrogate']['caught']:.0%}".replace("%", " %") in warning
    assert np.median(abs(errors(report))) < 1.15 * np.median(abs(errors(PLAIN)))


def test_directions_learned_from_the_first_inputs_narrow_the_rest() -> None:
    """A network whose gradients all lie in the span of six features' mixtures."""
    rng = np.random.default_rng(0)
    U = rng.standard_normal((6, D)) / np.sqrt(D)
    model = SoftmaxModel(2 * rng.standard_normal((4, 6)), rng.standard_normal(4), 2 * U, rng.standard_normal(6))
    truth = np.array([truth_of(model.jacobian(x), model.logits(x[None])[0]).spectral for x in INPUTS])
    first = prefix(len(INPUTS))
    assert first == 16
    errors: tuple[list[float], list[float]] = ([], [])
    for seed in range(4):
        plain, learned = run(model=model, seed=seed), run("learned", model=model, seed=seed)
        assert numbers(learned)[:first] == numbers(plain)[:first]
        assert {s.method for s in learned.inputs[first:]} == {"deflated"}
        for report, pooled in zip((plain, learned), errors, strict=True):
            pooled += abs(np.array([s.spectral_norm.value for s in report.inputs]) / truth - 1)[first:].tolist()
        inside = [s.spectral_norm.lower <= t <= s.spectral_norm.upper for s, t in zip(learned.inputs, truth, strict=True)]
        assert np.mean(inside) >= 0.9
    assert np.median(errors[1]) < 0.5 * np.median(errors[0])
    assert learned.settings["surrogate"]["source"] == "learned"
    assert learned.settings["surrogate"]["first"] == first


@pytest.mark.parametrize("source", ["learned", "model"])
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(source: str, tmp_path: Path) -> None:
    """Stopped while it learns (nothing is kept), just after, and later; the subspace lies in the run folder."""

    def given() -> object:
        return "learned" if source == "learned" else Counted(near())

    whole = run(given(), out=tmp_path / "whole")
    how = "learned from the first 16" if source == "learned" else "of tanh"
    assert f"directions of each input, {how}; they cover" in (tmp_path / "whole" / "report.html").read_text()
    folder = tmp_path / "stopped"
    for budget in (900, 2400, 4400, None):
        part = run(given(), out=folder, budget=budget, resume=folder.exists())
        if budget == 900 and source == "learned":
            assert part.data["measured"] == 0
    assert numbers(part) == numbers(whole)
    assert part.settings["surrogate"] == whole.settings["surrogate"]
    if source == "learned":
        with np.load(folder / LEARNED) as held:
            np.testing.assert_allclose(held["directions"] @ held["directions"].T, np.eye(len(held["directions"])), atol=1e-9)
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        assert sum("structure" in line for line in lines) == 1
        (folder / LEARNED).write_bytes(b"broken")
        with pytest.raises(RunFolderError, match=r"subspace\.npz is damaged"):
            run(given(), out=folder, resume=True)
    with pytest.raises(RunFolderError, match="another run"):
        run(None, out=folder, resume=True)


def test_what_is_learned_is_the_same_from_pieces_of_any_order() -> None:
    learner, other = JacobianLearner(), JacobianLearner()
    rng = np.random.default_rng(3)
    for index in (2, 0, 1):
        other.rows[index] = learner.rows.setdefault(index, rng.standard_normal((2, 30)).astype(np.float32))
    other.rows = dict(sorted(other.rows.items()))
    np.testing.assert_array_equal(learner.directions(3), other.directions(3))
    assert JacobianLearner().directions(3).shape[0] == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"queries": 200}, "the whole Jacobian of 120 features fits 200 queries"),
        ({"quantum": 0.1}, "the inputs have levels"),
        ({"precision": 0.2}, "inputs stop early"),
    ],
)
def test_where_it_cannot_serve_it_is_off_and_says_why(options: dict[str, Any], reason: str) -> None:
    x = np.round(INPUTS[:16], 1)
    report = run(Counted(near()), x=x, **options)
    assert [w for w in report.warnings if w.startswith("surrogate= is off") and reason in w]
    assert "deflated" not in {s.method for s in report.inputs}
    assert numbers(report) == numbers(run(x=x, **options))


def test_too_few_inputs_teach_nothing() -> None:
    report = run("learned", x=INPUTS[:10])
    assert "10 inputs are too few to learn directions from" in report.warnings[-1]
    assert numbers(report) == numbers(run(x=INPUTS[:10]))


def test_rounded_answers_and_inputs_at_the_edge_keep_their_intervals() -> None:
    x = np.clip(INPUTS, -0.8, 0.8)
    truth = np.array([truth_of(TARGET.jacobian(one), TARGET.logits(one[None])[0]).spectral for one in x])
    report = audit(
        Counted(TARGET, decimals=6), x, queries=60, profile="off", lower=-0.8, upper=0.8, surrogate=Counted(near())
    )
    assert sum(s.method == "deflated" for s in report.inputs) > 50
    inside = [s.spectral_norm.lower <= t <= s.spectral_norm.upper for s, t in zip(report.inputs, truth, strict=True)]
    assert np.mean(inside) >= 0.9
    assert np.median([abs(s.spectral_norm.value / t - 1) for s, t in zip(report.inputs, truth, strict=True)]) < 0.08


def test_profile_and_witness_go_with_it() -> None:
    report = run(Counted(near()), x=INPUTS[:12], profile="cheap", witness=True, queries=110)
    assert {s.method for s in report.inputs} == {"deflated"}
    assert all(s.profile for s in report.inputs)
    assert sum(s.witness is not None for s in report.inputs) >= 10
    for s in report.inputs:
        strongest = np.abs(TARGET.jacobian(INPUTS[s.index])).max()
        assert strongest > 0
        assert all(0 <= share.feature < D for share in s.carried_by)


def test_derivatives_of_a_torch_surrogate_are_those_of_differences(tmp_path: Path) -> None:
    """As a module, as an ONNX file and by hand; logits are distinguished from probabilities."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(D, 10), torch.nn.Tanh(), torch.nn.Linear(10, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated: see fimaudit/demo.py
        torch.onnx.export(
            network, (torch.zeros(1, D),), tmp_path / "near.onnx", dynamo=False, input_names=["x"], output_names=["z"],
            dynamic_axes={"x": {0: "n"}, "z": {0: "n"}},
        )  # fmt: skip
    x = INPUTS[0].astype(np.float32)
    scale, frozen = np.linspace(0.5, 2, D), np.arange(D) < 7
    space = InputDomain(scale=scale, frozen=frozen).resolve(x[None], "float32")
    one = torch.from_numpy(x)
    jacobian = torch.autograd.functional.jacobian(lambda v: 2 * network(v).softmax(-1).sqrt(), one).numpy()
    truth = leading((jacobian * scale)[:, ~frozen].astype(np.float64), 3)
    for target in (network, tmp_path / "near.onnx"):
        surrogates = open_surrogates([target], x)
        assert surrogates.facts()[0]["link"] == "softmax"
        found = surrogates.directions(x, space, 0.02, 3)
        assert found.shape == (3, D - 7)
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(found @ truth.T, axis=0), 1, atol=2e-2)
        elsewhere = pickle.loads(pickle.dumps(surrogates.portable()))
        np.testing.assert_allclose(elsewhere.directions(x, space, 0.02, 3), found, atol=1e-6)
        surrogates.close()
        elsewhere.close()


def test_several_surrogates_are_stacked() -> None:
    x = INPUTS[0]
    space = InputDomain().resolve(x[None], "float64")
    two = [linear(1, 2, D), linear(2, 2, D)]
    found = open_surrogates([Counted(m) for m in two], x).directions(x, space, 0.1, 8)
    assert len(found) == 2  # two classes have one direction each
    normals = np.stack([m.V[0] - m.V[1] for m in two])
    np.testing.assert_allclose(np.linalg.norm(found @ normals.T, axis=0), np.linalg.norm(normals, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (
            Counted(linear(0, 3, 7), (7,), "seven"),
            TargetError,
            r"seven takes inputs of shape \(7,\), the data have \(120,\)",
        ),
        ("https://models.example/predict", TargetError, "expected a local model"),
        ("missing.onnx", TargetError, "missing.onnx"),
        (Undeclared(7), TargetError, r"undeclared does not answer inputs of shape \(120,\): ValueError: 120 is not 7"),
        (["learned", "near.onnx"], UsageError, "surrogate='learned' alone"),
        ([], UsageError, "got none"),
    ],
)
def test_refusals_come_before_the_first_row(given: object, error: type[Exception], match: str) -> None:
    target = Counted(TARGET)
    with pytest.raises(error, match=match):
        audit(target, INPUTS, queries=60, surrogate=given)
    assert target.rows == 0


def test_an_input_that_the_surrogate_does_not_answer_is_measured_without() -> None:
    surrogate = Undeclared(D, later=12 * D)
    surrogate.model = near()
    report = run(surrogate, x=INPUTS[:16])
    methods = [s.method for s in report.inputs]
    assert methods[0] == "deflated"
    assert methods[-1] == PLAIN.inputs[15].method
    assert all(s.status == "ok" for s in report.inputs)


def test_focus_screens_first_and_does_not_learn() -> None:
    with pytest.raises(UsageError, match="surrogate='learned' measures the first inputs before focus="):
        run("learned", focus="top:3")
    report = run(Counted(near()), focus="top:3", queries=100)
    assert "deflated" in {s.method for s in report.inputs}


def test_too_many_features_without_derivatives_are_refused() -> None:
    wide = Counted(linear(0, 2, 9000), (9000,), "wide")
    with pytest.raises(TargetError, match="wide gives no derivatives, and 9,000 features are too many"):
        choose_surrogates(wide, np.zeros(9000), {})
