"""The attacks on a linear softmax model, where the smallest perturbation is known: log-odds over the gradient's norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fimaudit import open_classifier
from fimaudit.domain import InputDomain
from fimaudit.errors import BudgetExhausted, UsageError
from fimaudit.models.classifier import Classifier
from fimaudit.models.counted_passes import CountedModel, logs
from fimaudit.models.meter import Meter
from fimaudit.space import Space
from fimaudit.validation.coordinates import Coordinates
from fimaudit.validation.smallest_perturbation import choose_attacks, smallest_perturbation

SIDE, CLASSES = 16, 4
#: How far above the exact distance each attack may end. PGD's ladder ends at 2 %; HopSkipJump and Square see no gradient.
EXCESS = {"deepfool": 0.002, "carlini-wagner": 0.02, "pgd": 0.02, "hopskipjump": 0.35, "square": 3.0}


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES)).eval()


def exact(network: nn.Module, x: np.ndarray, free: np.ndarray | None = None) -> float:
    """min over k of (z_c - z_k) / |w_c - w_k| over the free features."""
    layer = network[1]
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    z = weight @ x.ravel().astype(float) + bias
    c = int(z.argmax())
    rows = weight if free is None else weight[:, free.ravel()]
    return min(float((z[c] - z[k]) / np.linalg.norm(rows[c] - rows[k])) for k in range(CLASSES) if k != c)


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 1, SIDE, SIDE)).astype(np.float32)


def unbounded(x: np.ndarray, **domain: object) -> Space:
    return InputDomain(**domain).resolve(x, "float32")  # type: ignore[arg-type]


@pytest.mark.parametrize("attack", list(EXCESS))
@pytest.mark.parametrize("factor", [1.0, 1000.0], ids=["unit inputs", "inputs in thousands"])
def test_each_attack_finds_the_known_distance_in_any_unit(linear: nn.Module, attack: str, factor: float) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return linear(x / factor)

    x = factor * inputs(6)
    classifier = open_classifier(Scaled().eval(), "softmax")
    decisions = classifier.probabilities(x).argmax(axis=1)
    assert len(set(decisions)) > 1  # so that a boundary attack has a start
    truth = factor * exact(linear, x[0] / factor)
    passes = CountedModel(Meter(classifier))
    # The unit is off on purpose: it sets a scale, not an answer.
    found = smallest_perturbation(
        passes, x[0], unbounded(x), 1.7 * truth, [attack], seed=0, others=(x, decisions), most=30_000
    )
    assert found.distance is not None
    assert truth * (1 - 1e-4) <= found.distance <= truth * (1 + EXCESS[attack])
    assert found.attack == attack
    assert found.row is not None
    assert classifier.probabilities(found.row[None]).argmax() == found.changed_to != found.decision
    assert np.linalg.norm((found.row.astype(float) - x[0]).ravel()) == pytest.approx(found.distance, rel=1e-9)


def test_normalised_inputs_are_not_clipped_to_0_1(linear: nn.Module) -> None:
    x = inputs(2) - 3.0
    passes = CountedModel(Meter(open_classifier(linear, "softmax")))
    found = smallest_perturbation(passes, x[0], unbounded(x), 1.0, ["deepfool", "pgd"], seed=0)
    assert found.row is not None
    assert found.row.min() < -1.0
    assert found.distance == pytest.approx(exact(linear, x[0]), rel=0.01)


def test_bounds_frozen_features_and_scale_hold_for_every_row(linear: nn.Module) -> None:
    x = np.clip(0.5 + 0.3 * inputs(2), 0.0, 1.0)
    frozen = np.zeros(x.shape[1:], dtype=bool)
    frozen[0, :4] = True
    scale = np.full(x.shape[1:], 2.0)
    space = unbounded(x, lower=0.0, upper=1.0, frozen=frozen, scale=scale)
    asked: list[np.ndarray] = []

    class Watched(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            asked.append(rows.detach().numpy().copy())
            return 3.0 * linear(rows)

    passes = CountedModel(Meter(open_classifier(Watched().eval(), "softmax")))
    truth = exact(linear, x[0], ~frozen) / 2.0
    names = ["deepfool", "carlini-wagner", "pgd", "hopskipjump", "square"]
    found = smallest_perturbation(passes, x[0], space, truth, names, seed=0, most=20_000)
    rows = np.concatenate(asked)
    assert rows.min() >= 0.0
    assert rows.max() <= 1.0
    assert (rows[:, frozen] == x[0][frozen]).all()
    assert found.distance is not None
    assert found.distance >= truth * (1 - 1e-4)  # the box can only make it longer
    assert found.distance <= 1.25 * truth
    moved = (found.row.astype(float) - x[0])[~frozen] / 2.0  # type: ignore[union-attr]
    assert np.linalg.norm(moved) == pytest.approx(found.distance, rel=1e-9)


def test_whole_levels_are_sent(linear: nn.Module) -> None:
    levels = np.random.default_rng(2).integers(0, 256, (2, 1, SIDE, SIDE)).astype(np.float32)
    space = unbounded(levels, lower=0.0, upper=255.0, quantum=1.0)
    rows = Coordinates(levels[0], space, 1.0).rows(np.random.default_rng(0).standard_normal((5, 1, SIDE, SIDE)) * 9)
    assert (rows == np.round(rows)).all()
    assert rows.min() >= 0
    assert rows.max() <= 255


def test_no_success_is_no_distance() -> None:
    class Constant:
        def __call__(self, x: np.ndarray) -> np.ndarray:
            return np.tile([0.9, 0.1], (len(x), 1))

    x = inputs(2)
    passes = CountedModel(Meter(open_classifier(Constant(), "identity")))
    found = smallest_perturbation(passes, x[0], unbounded(x), 1.0, ["hopskipjump", "square"], seed=0, most=1000)
    assert found.distance is None
    assert found.attack is None
    assert found.distances == {"hopskipjump": None, "square": None}


def test_rows_are_counted_and_capped(linear: nn.Module) -> None:
    x = inputs(2)
    meter = Meter(open_classifier(linear, "softmax"))
    passes = CountedModel(meter)
    found = smallest_perturbation(passes, x[0], unbounded(x), 1.0, ["pgd", "deepfool"], seed=0, most=120)
    assert found.forward + found.backward == meter.usage.rows
    assert meter.usage.rows <= 122  # the decision and the check at the end are no attack's
    assert found.unfinished
    short = CountedModel(Meter(open_classifier(linear, "softmax"), budget=50))
    with pytest.raises(BudgetExhausted):
        smallest_perturbation(short, x[0], unbounded(x), 1.0, ["pgd"], seed=0)


def test_the_same_seed_finds_the_same(linear: nn.Module) -> None:
    x = inputs(2)
    classifier = open_classifier(linear, "softmax")
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    runs = [
        smallest_perturbation(
            CountedModel(Meter(classifier)), x[0], unbounded(x), 1.0, ["hopskipjump", "pgd"], seed=s, most=4000
        )
        for s in (1, 1, 2)
    ]
    assert runs[0].distances == runs[1].distances
    assert runs[0].distances["hopskipjump"] != runs[2].distances["hopskipjump"]
    assert (np.random.get_state()[1] == state).all()  # the global generator is as it was  # type: ignore[index]


def test_attacks_are_chosen_by_what_the_model_offers() -> None:
    assert choose_attacks("auto", True, (1, 28, 28)) == ["deepfool", "carlini-wagner", "pgd"]
    assert choose_attacks("auto", False, (3, 32, 32)) == ["hopskipjump", "square"]
    assert choose_attacks("auto", False, (30,)) == ["hopskipjump"]
    assert choose_attacks(["pgd", "deepfool"], True, (30,)) == ["deepfool", "pgd"]
    with pytest.raises(UsageError, match="needs derivatives"):
        choose_attacks(["pgd"], False, (30,))
    with pytest.raises(UsageError, match="expected attacks among"):
        choose_attacks(["autoattack"], True, (30,))
    with pytest.raises(UsageError, match="square images"):
        choose_attacks(["square"], False, (30,))


def test_saturated_answers_keep_their_logits() -> None:
    p = np.array([[1.0, 1e-20, 0.0], [0.2, 0.5, 0.3]])
    out = logs(p)
    assert out[0, 0] == pytest.approx(-1e-20)
    assert out[0, 1] == pytest.approx(np.log(1e-20))
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[1], np.log(p[1]))


def test_a_classifier_is_all_that_is_needed(linear: nn.Module) -> None:
    torch_one = open_classifier(linear, "softmax")

    class Plain:
        info = torch_one.info

        def probabilities(self, batch: np.ndarray) -> np.ndarray:
            assert batch.dtype == np.float32
            return torch_one.probabilities(batch)

        def close(self) -> None: ...

    assert isinstance(Plain(), Classifier)
    passes = CountedModel(Meter(Plain()))
    assert not passes.differentiable
    x = inputs(2)
    found = smallest_perturbation(passes, x[0], unbounded(x), 1.0, ["hopskipjump"], seed=0, most=8000)
    assert found.distance is not None
    assert found.backward == 0
