"""Rows on the decision boundary of models whose last digits depend on the call: stepped outwards until they hold."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from batch_sensitive import batch_sensitive
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from benchmarks._study_together import run_together
from fimaudit import audit, open_classifier
from fimaudit.cli import app
from fimaudit.domain import InputDomain
from fimaudit.errors import BudgetExhausted
from fimaudit.measurement.boundary import ALLOWANCE, CHECK_ROWS, HOLD_ROWS, Held, NotHeld, hold_row
from fimaudit.models.counted_passes import CountedModel
from fimaudit.models.meter import Meter
from fimaudit.space import Space
from fimaudit.storage.counterexamples import WITNESS_FILE, recheck_witnesses
from fimaudit.validation import validate
from fimaudit.validation.smallest_perturbation import smallest_perturbation

#: Rows of calls in which a row that holds is asked once more.
OTHER_CALLS = (1, 2, 3, 5, 7, 16, 40, 64)


class Case(NamedTuple):
    """A family of models: a module or function, its link, inputs, and their domain."""

    model: Any
    link: str
    x: np.ndarray
    domain: InputDomain


def linear(seed: int) -> Case:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    x = np.random.default_rng(seed).standard_normal((3, 1, 8, 8)).astype(np.float32)
    return Case(network, "softmax", x, InputDomain())


def small_net(seed: int) -> Case:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    x = np.random.default_rng(seed).standard_normal((3, 6)).astype(np.float32)
    return Case(network, "softmax", x, InputDomain(scale=np.array([1.0, 2.0, 1.0, 0.5, 1.0, 1.0])))


def table(seed: int) -> Case:
    """Two continuous columns, two of whole numbers, one held."""
    weights = np.random.default_rng(seed).standard_normal((5, 3))

    def answer(rows: np.ndarray) -> np.ndarray:
        z = (rows @ weights).astype(np.float32)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True), dtype=np.float64)

    x = np.random.default_rng(seed + 1).standard_normal((3, 5)) * 0.7
    x[:, 2:4] = np.round(5 * x[:, 2:4])
    return Case(answer, "identity", x, InputDomain(-9.0, 9.0, quantum=[0.0, 0.0, 1.0, 1.0, 0.0], frozen=[4]))


def images(seed: int) -> Case:
    """Whole levels from 0 to 255."""
    torch.manual_seed(seed)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layers(rows / 255.0)
            return out

    x = np.random.default_rng(seed).integers(0, 256, (3, 1, 8, 8)).astype(np.float32)
    return Case(Scaled().eval(), "softmax", x, InputDomain(0.0, 255.0, quantum=1.0))


FAMILY: dict[str, Callable[[int], Case]] = {"linear": linear, "net": small_net, "table": table, "images": images}


def resolved(case: Case) -> Space:
    return case.domain.resolve(case.x, open_classifier(case.model, case.link).info.dtype)


def holds(model: Any, link: str, row: np.ndarray, decision: int) -> bool:
    """Whether a row is decided otherwise in calls of many sizes, whichever place it has."""
    classifier = open_classifier(model, link)
    return all(
        (classifier.probabilities(np.repeat(row[None], rows, axis=0)).argmax(axis=1) != decision).all()
        for rows in OTHER_CALLS
    )


def on_domain(row: np.ndarray, x: np.ndarray, space: Space) -> bool:
    moved = (row.astype(float) - x.astype(space.dtype))[space.quantum > 0] / space.quantum[space.quantum > 0]
    within = (row >= space.lower) & (row <= space.upper)
    held = row[space.frozen] == x.astype(space.dtype)[space.frozen]
    return bool(within.all() and held.all() and np.allclose(moved, np.round(moved), atol=1e-9))


def drive(flow: Generator[Any, Any, Any], meter: Meter) -> Any:
    try:
        rows = next(flow)
        while True:
            rows = flow.send(meter.ask([rows])[0])
    except StopIteration as end:
        return end.value


def bisected(classifier: Any, x: np.ndarray, space: Space, decision: int, rng: np.random.Generator) -> np.ndarray | None:
    """A row on the boundary as a call of one row sees it, along a random line without levels."""
    move = np.where(space.frozen | (space.quantum > 0), 0.0, rng.standard_normal(x.shape))
    base = x.astype(space.dtype).astype(float)

    def row(length: float) -> np.ndarray:
        return np.asarray(np.clip(base + length * move, space.lower, space.upper).astype(space.dtype))

    def otherwise(length: float) -> bool:
        return bool(classifier.probabilities(row(length)[None]).argmax() != decision)

    low, high = 0.0, 30.0
    if not otherwise(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if otherwise(middle) else (middle, high)
    return row(high)


@given(st.sampled_from(["linear", "net", "table"]), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_row_on_the_boundary_is_stepped_out_until_it_holds(name: str, seed: int) -> None:
    case = FAMILY[name](seed % 7)
    model = batch_sensitive(case.model)
    classifier, space = open_classifier(model, case.link), resolved(case)
    x = case.x[seed % 3]
    decision = int(classifier.probabilities(x[None].astype(space.dtype)).argmax())
    row = bisected(classifier, x, space, decision, np.random.default_rng(seed))
    if row is None:
        return
    meter = Meter(classifier)
    held = drive(hold_row(x, row, space, decision), meter)
    assert isinstance(held, Held)
    assert holds(model, case.link, held.row, decision)
    assert on_domain(held.row, x, space)
    away = ((held.row.astype(float) - x.astype(space.dtype)) / space.scale)[~space.frozen]
    assert held.distance == pytest.approx(float(np.linalg.norm(away)), rel=1e-12)
    before = np.linalg.norm(((row.astype(float) - x.astype(space.dtype)) / space.scale)[~space.frozen])
    assert held.distance <= (1 + ALLOWANCE) * before + 1e-5
    assert meter.usage.rows <= HOLD_ROWS


@pytest.mark.parametrize("rows", [CHECK_ROWS, 12, 25, HOLD_ROWS])
def test_rows_are_counted_and_capped(rows: int) -> None:
    case = linear(0)
    classifier = open_classifier(batch_sensitive(case.model), case.link)
    space, x = resolved(case), case.x[0]
    decision = int(classifier.probabilities(x[None]).argmax())
    row = bisected(classifier, x, space, decision, np.random.default_rng(3))
    assert row is not None
    meter = Meter(classifier)
    held = drive(hold_row(x, row, space, decision, rows), meter)
    assert 0 < meter.usage.rows <= rows
    assert isinstance(held, Held) == (rows > CHECK_ROWS)


def test_a_row_that_holds_is_left_where_it_is() -> None:
    case = linear(1)
    classifier, space, x = open_classifier(batch_sensitive(case.model), case.link), resolved(case), case.x[0]
    decision = int(classifier.probabilities(x[None]).argmax())
    row = bisected(classifier, x, space, decision, np.random.default_rng(3))
    assert row is not None
    beyond = (x + 1.01 * (row - x)).astype(np.float32)
    meter = Meter(classifier)
    held = drive(hold_row(x, beyond, space, decision), meter)
    np.testing.assert_array_equal(held.row, beyond)
    assert meter.usage.rows == CHECK_ROWS


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_levels_move_by_one_the_feature_that_moved_most(scale: float) -> None:
    """A tie at whole levels that one more level breaks; a feature at its bound, and a held one, stay."""

    def answer(rows: np.ndarray) -> np.ndarray:
        ahead = rows[:, :4].sum(axis=1) / 100.0 - 0.1 + (0.5e-3 if len(rows) > 1 else -0.5e-3)
        return np.stack([0.5 - ahead / 2, 0.5 + ahead / 2], axis=1)

    x = np.zeros((2, 5))
    domain = InputDomain(0.0, [4.0, 9.0, 9.0, 9.0, 9.0], quantum=1.0, frozen=[4], scale=np.full(5, scale))
    space = domain.resolve(x, "float64")
    row = np.array([4.0, 3.0, 2.0, 1.0, 0.0])  # class 1 among others, class 0 alone
    held = drive(hold_row(x[0], row, space, 0), Meter(open_classifier(answer, "identity")))
    assert held.row.tolist() == [4.0, 4.0, 2.0, 1.0, 0.0]
    assert held.distance == pytest.approx(np.sqrt(16 + 16 + 4 + 1) / scale)


def by_parity(rows: np.ndarray) -> np.ndarray:
    """Calls of an odd number of rows never leave class 0: no row can hold."""
    flat = rows.reshape(len(rows), -1)
    ahead = np.tanh(flat.sum(axis=1)) * (0.4 if len(rows) % 2 == 0 else 0.0) - 0.1
    return np.stack([0.5 - ahead / 2, 0.5 + ahead / 2], axis=1)


def test_what_never_holds_is_dropped_with_the_reason() -> None:
    x, row = np.zeros(3), np.array([0.2, 0.2, 0.2])
    space = InputDomain().resolve(x[None], "float64")
    meter = Meter(open_classifier(by_parity, "identity"))
    held = drive(hold_row(x, row, space, 0), meter)
    assert isinstance(held, NotHeld)
    assert held.reason.startswith("the decision changed at a distance of 0.346, but no row asked from there to 0.353")
    assert meter.usage.rows <= HOLD_ROWS


@pytest.mark.parametrize("rows", [CHECK_ROWS, 15, 25])
@pytest.mark.parametrize("noise", [0.03, 1.0])
@pytest.mark.parametrize("quantum", [0.0, 0.25])
def test_of_random_answers_a_row_holds_whose_mean_does(rows: int, noise: float, quantum: float) -> None:
    """From rows a deviation of the noise before the boundary: at most one in a hundred is kept that lies before it."""
    rng, x = np.random.default_rng(rows), np.zeros((1, 4))
    space = InputDomain(quantum=quantum).resolve(x, "float64")

    def answer(asked: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(asked.sum(axis=1) - 4.0 + noise * rng.standard_normal(len(asked))))
        return np.stack([p, 1 - p], axis=1)

    row = np.full(4, 1.0 - noise / 4) if quantum == 0 else np.array([1.0, 1.0, 1.0, 0.75])
    meter, held = Meter(open_classifier(answer, "identity")), []
    for _ in range(200):
        before = meter.usage.rows
        held.append(drive(hold_row(x[0], row, space, 0, rows, random=True), meter))
        assert CHECK_ROWS <= meter.usage.rows - before <= rows
    kept = [one for one in held if isinstance(one, Held)]
    assert sum(one.row.sum() < 4.0 for one in kept) <= 7  # more once in 1,000 times
    assert all(one.distance <= 1.5 * np.linalg.norm(row) + 1e-9 for one in kept)
    assert all("by more than the noise" in one.reason for one in held if isinstance(one, NotHeld))
    if rows == 25 and noise < 1 and quantum == 0:
        assert len(kept) >= 190


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("relative", [1e-7, 1e-6])
def test_the_attacks_result_holds_in_every_call(name: str, relative: float) -> None:
    case = FAMILY[name](2)
    model = batch_sensitive(case.model, relative)
    classifier, space = open_classifier(model, case.link), resolved(case)
    names = ["deepfool", "pgd"] if isinstance(case.model, nn.Module) else ["hopskipjump"]
    x = case.x.astype(space.dtype)
    others = (x, classifier.probabilities(x).argmax(axis=1))
    for i in range(2 if names == ["hopskipjump"] else 1):
        meter = Meter(classifier)
        found = smallest_perturbation(CountedModel(meter), x[i], space, 0.5, names, seed=i, others=others, most=3000)
        assert found.distance is not None, found.reason
        assert found.row is not None
        assert holds(model, case.link, found.row, found.decision)
        assert on_domain(found.row, x[i], space)
        assert found.distance == min(d for d in found.distances.values() if d is not None)
        assert found.forward + found.backward == meter.usage.rows <= 3000


@pytest.mark.parametrize("nearness", [1e-3, 1e-4, 1e-5])
def test_inputs_that_lie_by_the_boundary_keep_their_distance(nearness: float) -> None:
    """The failure that this began with: a boundary that attacks found was thrown away, as another call said otherwise."""
    case = linear(0)
    model = batch_sensitive(case.model)
    classifier, space = open_classifier(model, case.link), resolved(case)
    weight, bias = (one.detach().double().numpy() for one in (case.model[1].weight, case.model[1].bias))

    def nearest(x: np.ndarray) -> tuple[int, float, np.ndarray]:
        """Decision, distance to the boundary, and the direction there."""
        z = weight @ x.ravel().astype(float) + bias
        decision = int(z.argmax())
        ways = [(z[decision] - z[k]) / np.linalg.norm(weight[decision] - weight[k]) for k in range(4) if k != decision]
        rival = [k for k in range(4) if k != decision][int(np.argmin(ways))]
        way = weight[rival] - weight[decision]
        return decision, float(min(ways)), (way / np.linalg.norm(way)).reshape(x.shape)

    _, whole, way = nearest(case.x[0])
    x = (case.x[0] + (whole - nearness) * way).astype(np.float32)
    decision, truth, _ = nearest(x)
    names = ["deepfool", "carlini-wagner", "pgd"]
    found = smallest_perturbation(CountedModel(Meter(classifier)), x, space, truth, names, seed=0)
    assert found.decision == decision
    assert found.distance is not None, found.reason
    assert truth * (1 - 1e-3) <= found.distance <= 1.01 * truth + 8e-6
    assert found.row is not None
    assert holds(model, case.link, found.row, decision)


def test_side_by_side_the_last_check_is_alone_too() -> None:
    """Tasks share calls, but for the rows of that check: the parity of a shared call is not their own."""
    case = small_net(0)
    sizes: list[int] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = batch_sensitive(case.model)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            sizes.append(len(rows))
            out: torch.Tensor = self.inner(rows)
            return out

    classifier, space = open_classifier(Watched().eval(), "softmax"), resolved(case)
    tasks = [
        lambda own, i=i: smallest_perturbation(own, case.x[i], space, 0.5, ["deepfool"], seed=i)  # type: ignore[misc]
        for i in range(3)
    ]
    found = run_together(CountedModel(Meter(classifier)), tasks)
    assert sorted(sizes[-6:]) == [1, 1, 1, 4, 4, 4]
    for one in found:
        assert one.row is not None
        assert holds(batch_sensitive(case.model), "softmax", one.row, one.decision)


def test_validate_records_why_an_input_was_dropped() -> None:
    class AloneOnly(nn.Module):
        """Leaves class 0 in calls of one row only."""

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            ahead = rows.sum(dim=1)
            return torch.stack([torch.zeros_like(ahead), ahead if len(rows) == 1 else ahead.clamp(max=-0.05)], dim=1)

    x = np.random.default_rng(0).uniform(-1.0, -0.2, (3, 3)).astype(np.float32)
    found = validate(AloneOnly().eval(), x, link="softmax", attacks="deepfool", attack_rows=500, queries=20)
    assert found.censored == 3
    for s in found.inputs:
        assert (s.status, s.smallest_perturbation, s.attack) == ("censored", None, None)
        assert s.attacks == {"deepfool": None}
        assert s.reason is not None
        assert "both alone and among others" in s.reason
    assert any("not both alone and among other rows" in warning for warning in found.warnings)
    assert not any("no attack changed" in warning for warning in found.warnings)


def test_a_spent_budget_ends_the_check_too() -> None:
    case = linear(0)
    classifier, space = open_classifier(case.model, case.link), resolved(case)
    whole = Meter(classifier)
    smallest_perturbation(CountedModel(whole), case.x[0], space, 0.5, ["deepfool"], seed=0)
    short = CountedModel(Meter(classifier, budget=whole.usage.rows - 1))
    with pytest.raises(BudgetExhausted):
        smallest_perturbation(short, case.x[0], space, 0.5, ["deepfool"], seed=0)


@pytest.mark.parametrize("name", list(FAMILY))
def test_witnesses_hold_in_every_call_and_verify_agrees(name: str, tmp_path: Path) -> None:
    case = FAMILY[name](3)
    model = batch_sensitive(case.model)
    d = case.domain
    report = audit(
        model, case.x, link=case.link, mode="black-box", queries=120, witness=True, out=tmp_path / "run",
        lower=d.lower, upper=d.upper, quantum=d.quantum, frozen=d.frozen, scale=d.scale,
    )  # fmt: skip
    found = [s for s in report.inputs if s.witness is not None]
    assert len(found) >= 2
    space = resolved(case)
    with np.load(tmp_path / "run" / WITNESS_FILE) as archive:
        for i, row, before, distance in zip(*(archive[n] for n in ("index", "x", "before", "distance")), strict=True):
            assert holds(model, case.link, row, int(before))
            assert on_domain(row, case.x[i], space)
            away = ((row.astype(float) - case.x[i].astype(space.dtype)) / space.scale)[~space.frozen]
            assert distance == pytest.approx(float(np.linalg.norm(away)), rel=1e-9)
    check = recheck_witnesses(tmp_path / "run", open_classifier(model, case.link))
    assert check.failed.size == 0
    assert (check.now != check.before).all()
    assert (check.among != check.before).all()


def test_a_witness_that_never_holds_is_not_kept(tmp_path: Path) -> None:
    """A model that leaves its class in calls of several rows alone."""

    def answer(rows: np.ndarray) -> np.ndarray:
        ahead = np.tanh(0.3 * rows.reshape(len(rows), -1).sum(axis=1))
        ahead = ahead if len(rows) > 1 else np.minimum(ahead, -1e-3)
        return np.stack([0.5 - ahead / 2, 0.5 + ahead / 2], axis=1)

    x = np.random.default_rng(0).uniform(-0.6, -0.3, (4, 3))
    report = audit(answer, x, witness=True, queries=40, out=tmp_path / "run")
    assert all(s.witness is None for s in report.inputs)
    said = [
        s.reason for s in report.inputs if s.reason is not None and "no witness is kept: the decision changed" in s.reason
    ]
    assert len(said) == 4
    assert all("both alone and among others" in reason for reason in said)
    assert not (tmp_path / "run" / WITNESS_FILE).exists()


MODEL = """
import numpy as np
from batch_sensitive import batch_sensitive

def honest():
    return batch_sensitive(answer)

def alone_only():
    return lambda rows: answer(rows) if len(rows) == 1 else answer(rows - 9.0)

def other():
    return lambda rows: answer(rows - 1e-3)

def answer(rows):
    ahead = np.tanh(0.3 * rows.sum(axis=1))
    return np.stack([0.5 - ahead / 2, 0.5 + ahead / 2], axis=1)
"""


def test_verify_fails_a_witness_that_holds_alone_only_and_one_that_is_false(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "callable_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    import callable_model  # type: ignore[import-not-found]

    x = np.random.default_rng(0).uniform(-0.6, -0.3, (4, 3))
    out = tmp_path / "run"
    audit(callable_model.honest(), x, witness=True, queries=40, out=out)

    def verify(name: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["verify", str(out), "--model", f"callable_model:{name}"])
        return done.exit_code, done.output

    code, said = verify("honest")
    assert code == 0
    assert "4 of 4 witnesses" in said
    code, said = verify("alone_only")
    assert code == 1
    assert "inputs 0, 1, 2, 3 keep their class" in said
    with np.load(out / WITNESS_FILE) as archive:
        kept = dict(archive)
    kept["x"][2] = x[2]  # a lie: the input itself
    np.savez(out / WITNESS_FILE, **kept)
    code, said = verify("honest")
    assert code == 1
    assert "inputs 2 keep" in said
    kept["x"][2] = x[2] + (0.999999 * -x[2].sum()) / 3  # a lie by a millionth of the way, which more than digits move
    np.savez(out / WITNESS_FILE, **kept)
    assert verify("honest")[0] == 1
