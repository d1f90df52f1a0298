"""The white-box measurement against float64 dense Jacobians, on networks of four styles and on models solved by hand."""

from __future__ import annotations

import copy
import functools
import resource
import weakref
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from fimaudit_adapters.pytorch.jacobian_products import JacobianProducts
from scipy.sparse.linalg import eigsh
from torch import nn
from zoo import STYLES, zoo_network

from fimaudit.errors import ModelFailure, TargetError, UsageError
from fimaudit.models.linearization import Linearizable, RootLinearization, linearize
from fimaudit.models.opening import open_classifier
from fimaudit.results import Contrast
from fimaudit.whitebox.fisher_operator import FisherOperator
from fimaudit.whitebox.identity import check_identity
from fimaudit.whitebox.measure import CROSSOVER, WhiteBox, exact_reference, measure, obstacle

pytestmark = pytest.mark.usefixtures("one_torch_thread")

X = np.random.default_rng(0).random((5, 3, 16, 16)).astype(np.float32)
FEW, MANY = 10, CROSSOVER + 8
CASES = [(style, classes) for style in STYLES for classes in (FEW, MANY)]
network = functools.cache(zoo_network)


def opened(module: nn.Module, link: str = "softmax") -> Any:
    return open_classifier(module, link, device="cpu")  # type: ignore[arg-type]


def dense(module: nn.Module, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(log p, J_L) of each input by torch's dense Jacobian in float64, on a copy."""
    wide = copy.deepcopy(module).double()
    found = []
    for one in torch.from_numpy(x).double():
        logs = wide(one[None])[0].log_softmax(0).detach().numpy()
        rows = torch.autograd.functional.jacobian(lambda v: wide(v[None])[0].log_softmax(0), one)
        found.append((logs, rows.flatten(1).numpy()))
    return found


def truth(log_p: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Every quantity by its definition."""

    def norm_at(temperature: float) -> float:
        q = np.exp((log_p - log_p.max()) / temperature)
        q /= q.sum()
        z = np.sqrt(q)[:, None] * (rows - q @ rows) / temperature
        return float(np.linalg.eigvalsh(z.T @ z if len(z) > z.shape[1] else z @ z.T)[-1])

    scan = np.exp(np.linspace(-5, 4, 61))
    best = scan[np.argmax([norm_at(t) for t in scan])]
    refined = scipy.optimize.minimize_scalar(
        lambda t: -norm_at(np.exp(t)), bounds=(np.log(best) - 0.15, np.log(best) + 0.15), method="bounded"
    )
    top = int(np.argmax(log_p))
    others = np.arange(len(log_p)) != top
    radii = (log_p[top] - log_p)[others] / np.linalg.norm(rows[top] - rows, axis=1)[others]
    return {
        "spectral_norm": norm_at(1.0),
        "peak_spectral_norm": -refined.fun,
        "trace": float((np.exp(log_p)[:, None] * rows**2).sum()),
        "margin_radius": radii.min(),
    }


@functools.cache
def reference(style: str, classes: int) -> list[dict[str, float]]:
    return [truth(*one) for one in dense(network(style, classes), X)]


@pytest.mark.parametrize(("style", "classes"), CASES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-5), (torch.float32, 1e-3)])
def test_every_input_matches_the_dense_jacobian(style: str, classes: int, dtype: torch.dtype, allowed: float) -> None:
    found = measure(opened(copy.deepcopy(network(style, classes)).to(dtype)), X)
    for one, exact in zip(found, reference(style, classes), strict=True):
        assert one.method == ("gram" if classes <= CROSSOVER else "lanczos")
        assert one.residual <= 1e-4
        for name in ("spectral_norm", "peak_spectral_norm", "margin_radius"):
            assert getattr(one, name) == pytest.approx(exact[name], rel=allowed), name
        slack = 0.0 if one.method == "gram" else max(5 * (one.trace_error or 0), 0.1 * exact["trace"])
        assert one.trace == pytest.approx(exact["trace"], rel=allowed, abs=slack)
        assert one.margin_slack == 0


@pytest.mark.parametrize("style", STYLES)
def test_methods_agree_and_count_their_passes(style: str) -> None:
    model = opened(network(style, MANY))
    gram, lanczos = measure(model, X, method="gram"), measure(model, X, method="lanczos", tolerance=1e-5)
    for a, b in zip(gram, lanczos, strict=True):
        assert a.spectral_norm == pytest.approx(b.spectral_norm, rel=1e-4)
        assert a.peak_spectral_norm == pytest.approx(b.peak_spectral_norm, rel=1e-4)
        assert a.peak_temperature == pytest.approx(b.peak_temperature, rel=0.02)
        assert a.rival == b.rival
        assert a.contrast == b.contrast
        assert a.effective_rank == pytest.approx(b.effective_rank, rel=0.1)
        assert a.passes == MANY + 1


def test_to_know_the_number_of_classes_takes_no_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(network("vgg", FEW))
    assert model.info.classes is None
    rows: list[int] = []
    linearized = type(model).linearize
    monkeypatch.setattr(type(model), "linearize", lambda self, x, **k: rows.append(len(x)) or linearized(self, x, **k))
    measure(model, X, together=2)
    assert rows == [2, 2, 1]


def test_reference_is_the_dense_jacobian() -> None:
    for one, exact in zip(exact_reference(opened(network("vit", FEW)), X), reference("vit", FEW), strict=True):
        assert one.spectral_norm == pytest.approx(exact["spectral_norm"], rel=1e-9)
        assert one.method == "reference"


def test_norm_alone_takes_fewer_passes() -> None:
    model = opened(network("resnet", MANY))
    alone, all_of_it = measure(model, X, norm_only=True), measure(model, X)
    for a, b in zip(alone, all_of_it, strict=True):
        assert a.spectral_norm == pytest.approx(b.spectral_norm, rel=1e-6)  # by fewer steps
        assert a.passes < b.passes
        assert (a.trace, a.margin_radius, a.peak_spectral_norm) == (None, None, None)


def test_results_do_not_depend_on_the_batch() -> None:
    model = opened(copy.deepcopy(network("resnet", MANY)).double())
    together = measure(model, X)
    for i in (0, 3):
        (alone,) = measure(model, X[i : i + 1], indices=[i])
        assert alone.spectral_norm == pytest.approx(together[i].spectral_norm, rel=1e-9)
        assert alone.trace == pytest.approx(together[i].trace, rel=1e-6)
    assert measure(model, X[:0]) == []


def test_traces_are_unbiased() -> None:
    model = opened(network("vgg", FEW))
    exact = reference("vgg", FEW)[2]["trace"]
    found = [measure(model, X[2:3], method="lanczos", seed=seed)[0].trace for seed in range(20)]
    assert abs(np.mean(found) - exact) <= 4 * np.std(found, ddof=1) / np.sqrt(20) + 1e-3 * exact


@pytest.mark.parametrize(("classes", "method"), [(FEW, "gram"), (MANY, "lanczos")])
def test_worst_direction_spends_probability_as_predicted(classes: int, method: str) -> None:
    model = opened(copy.deepcopy(network("densenet", classes)).double())
    for x, one in zip(X, measure(model, X, worst_direction=True, tolerance=1e-8), strict=True):
        assert one.direction is not None
        assert one.contrast is not None
        assert one.direction.shape == x.shape
        assert np.linalg.norm(one.direction) == pytest.approx(1.0)
        eps = 1e-4 / np.sqrt(one.spectral_norm)
        p = one.probabilities
        there = model.probabilities((x + eps * one.direction)[None])[0]
        back = model.probabilities((x - eps * one.direction)[None])[0]
        divergence = (np.sum(p * np.log(p / there)) + np.sum(p * np.log(p / back))) / 2
        assert divergence == pytest.approx(one.spectral_norm * eps**2 / 2, rel=1e-3)
        change = there - back
        assert (one.contrast.from_, one.contrast.to) == (change.argmin(), change.argmax())
        assert p[one.contrast.from_] >= p[one.contrast.to]


class Affine(nn.Module):
    """z = W x + b, solved by hand."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, last: nn.Module | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0])
        self.linear.weight = nn.Parameter(torch.from_numpy(weight).float())
        self.linear.bias = nn.Parameter(torch.from_numpy(bias).float())
        self.last = last or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.linear(x))
        return out


def affine_truth(weight: np.ndarray, bias: np.ndarray) -> dict[str, float]:
    """At x = 0, with gradients of log p formed without subtracting nearly equal numbers."""
    w, z = weight.astype(np.float32).astype(np.float64), bias.astype(np.float32).astype(np.float64)
    top = int(np.argmax(z))
    log_p = (z - z[top]) - np.log1p(np.exp(np.delete(z, top) - z[top]).sum())
    rest = w - w[top]
    rows = rest - np.delete(np.exp(log_p), top) @ np.delete(rest, top, axis=0)
    return truth(log_p, rows)


@pytest.mark.parametrize("gap", [2.0, 27.6, 69.0, 160.0])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("method", ["gram", "lanczos"])
def test_saturated_answers(gap: float, inside: bool, method: str) -> None:
    """p = 1 - 1e-12 and p_k = 1e-30 in float32, from logits and from probabilities."""
    if inside and gap > 80:
        pytest.skip("float32 probabilities of 1e-70 are 0: see the next test")
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((6, 40)), np.array([gap, 0.0, 0.0, -1.0, -2.0, -gap / 10])
    exact = affine_truth(weight, bias)
    model = opened(Affine(weight, bias, nn.Softmax(1) if inside else None), "identity" if inside else "softmax")
    (one,) = measure(model, np.zeros((1, 40)), method=method)  # type: ignore[arg-type]
    for name in ("spectral_norm", "peak_spectral_norm", "margin_radius"):
        assert getattr(one, name) == pytest.approx(exact[name], rel=1e-3), name
    assert one.hidden_classes == 0


def test_probabilities_of_zero_are_resolved_in_float64_or_counted() -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((3, 20))
    for gap, hidden in ((150.0, 0), (900.0, 1)):
        bias = np.array([gap, gap - 1.0, 0.0])
        for method in ("gram", "lanczos"):
            (one,) = measure(opened(Affine(weight, bias, nn.Softmax(1)), "identity"), np.zeros((1, 20)), method=method)  # type: ignore[arg-type]
            assert one.hidden_classes == hidden
            assert one.spectral_norm == pytest.approx(affine_truth(weight, bias)["spectral_norm"], rel=1e-3)
            assert np.isfinite([one.peak_spectral_norm, one.margin_radius, one.trace]).all()


@pytest.mark.parametrize("z", [0.3, -4.0, 30.0, -80.0])
@pytest.mark.parametrize("form", ["sigmoid", "identity"])
def test_two_classes_from_one_column(z: float, form: str) -> None:
    weight = np.random.default_rng(3).standard_normal((1, 30))
    module = Affine(weight, np.array([z]), nn.Sigmoid() if form == "identity" else None)
    if form == "identity" and z > 36:
        pytest.skip("1 - 1e-35 is 1 in float64 too")
    (one,) = measure(opened(module, form), np.zeros((1, 30)))
    wide = weight.astype(np.float32).astype(np.float64)
    z = float(np.float32(z))
    variance = np.exp(-abs(z)) / (1 + np.exp(-abs(z))) ** 2
    assert one.spectral_norm == pytest.approx(variance * (wide**2).sum(), rel=1e-3)
    assert one.margin_radius == pytest.approx(abs(z) / np.linalg.norm(wide), rel=1e-3)
    assert one.peak_spectral_norm == pytest.approx(0.439229 / one.margin_radius**2, rel=1e-3)
    assert one.effective_rank == pytest.approx(1.0, rel=1e-5)
    assert one.contrast == (Contrast(from_=1, to=0) if z > 0 else Contrast(from_=0, to=1))


def test_thirty_two_thousand_classes() -> None:
    rng = np.random.default_rng(4)
    weight, bias = rng.standard_normal((32_000, 48)) / 4, rng.standard_normal(32_000) * 2
    bias[7] += 9
    exact = affine_truth(weight, bias)
    (one,) = measure(opened(Affine(weight, bias)), np.zeros((1, 48)))
    for name in ("spectral_norm", "peak_spectral_norm", "margin_radius"):
        assert getattr(one, name) == pytest.approx(exact[name], rel=1e-3), name
    assert one.trace == pytest.approx(exact["trace"], rel=0.05)
    assert one.margin_slack == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_at_the_function_its_parameters_define(dtype: torch.dtype) -> None:
    half = copy.deepcopy(network("resnet", FEW)).to(dtype)
    wide = copy.deepcopy(half).float()
    rounded = torch.from_numpy(X).to(dtype).float().numpy()
    for a, b in zip(measure(opened(half), X), measure(opened(wide), rounded), strict=True):
        assert a.spectral_norm == pytest.approx(b.spectral_norm, rel=1e-6)
    assert half[0].weight.dtype == dtype if isinstance(half, nn.Sequential) else True


def test_a_constant_input_direction_has_no_norm() -> None:
    (one,) = measure(opened(Affine(np.zeros((3, 4)), np.array([1.0, 0.0, 0.0]))), np.zeros((1, 4)))
    assert one.spectral_norm == 0
    assert (one.effective_rank, one.contrast, one.margin_radius, one.rival) == (None, None, None, None)
    (one,) = measure(opened(Affine(np.zeros((3, 4)), np.array([1.0, 0.0, 0.0]))), np.zeros((1, 4)), method="lanczos")
    assert (one.spectral_norm, one.residual, one.margin_radius) == (0, 0, None)


def test_memory_does_not_hold_k_times_d_times_the_batch() -> None:
    classes, shape = 400, (3, 64, 64)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.Flatten(), nn.Linear(4 * 16 * 16, classes)).eval()
    x = np.random.default_rng(0).random((32, *shape)).astype(np.float32)
    model = opened(module)
    measure(model, x[:2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measure(model, x)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 250, f"{grown:.0f} MB; all rows of the batch would take {32 * classes * 3 * 64 * 64 * 4 / 2**20:.0f}"


class OnlyProducts:
    """A ``Differentiable`` that does not linearise itself."""

    def __init__(self, model: Any) -> None:
        self.info, self.probabilities, self.close = model.info, model.probabilities, model.close
        self.vjp, self.jvp = model.vjp, model.jvp


@pytest.mark.parametrize("style", STYLES)
def test_products_of_the_root_alone_give_the_same(style: str) -> None:
    model = opened(copy.deepcopy(network(style, FEW)).double())
    plain: Any = OnlyProducts(model)
    assert not isinstance(plain, Linearizable)
    at = linearize(plain, X[:2])
    assert isinstance(at, RootLinearization)
    for method in ("gram", "lanczos"):
        found = measure(plain, X[:2], method=method, worst_direction=True)  # type: ignore[arg-type]
        for a, b in zip(found, measure(model, X[:2], method=method, worst_direction=True), strict=True):  # type: ignore[arg-type]
            assert a.spectral_norm == pytest.approx(b.spectral_norm, rel=1e-7)
            assert a.peak_spectral_norm == pytest.approx(b.peak_spectral_norm, rel=1e-6)
            assert a.margin_radius == pytest.approx(b.margin_radius, rel=1e-6)
            np.testing.assert_allclose(a.direction, b.direction, atol=1e-5)  # type: ignore[arg-type]
    v = np.random.default_rng(0).standard_normal(X[:2].shape)
    np.testing.assert_allclose(at.fisher_product(v), linearize(model, X[:2]).fisher_product(v), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("style", STYLES)
def test_fisher_operator(style: str) -> None:
    model = opened(copy.deepcopy(network(style, FEW)).double())
    operator = FisherOperator(model, X[0])
    log_p, rows = dense(network(style, FEW), X[:1])[0]
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, operator.shape[0]))
    fisher = rows.T @ (np.exp(log_p)[:, None] * rows)
    np.testing.assert_allclose(operator @ v, fisher @ v, rtol=1e-6, atol=1e-9 * np.abs(fisher @ v).max())
    assert u @ (operator @ v) == pytest.approx(v @ (operator @ u), rel=1e-9)
    assert u @ (operator.H @ v) == pytest.approx(u @ (operator @ v), rel=1e-12)
    np.testing.assert_allclose(operator @ (2 * u - v), 2 * (operator @ u) - operator @ v, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(operator @ np.stack([u, v], 1), np.stack([operator @ u, operator @ v], 1))
    assert eigsh(operator, k=1, return_eigenvectors=False)[0] == pytest.approx(reference(style, FEW)[0]["spectral_norm"])
    assert FisherOperator(opened(network(style, FEW)), X[0]).dtype == np.float32


@pytest.mark.parametrize("style", STYLES)
def test_three_forms_have_one_norm(style: str) -> None:
    for check, exact in zip(check_identity(opened(network(style, FEW)), X[:2]), reference(style, FEW), strict=False):
        assert check.difference < 1e-9
        assert check.gradient == pytest.approx(exact["spectral_norm"], rel=1e-9)
        assert check.covariance == pytest.approx(check.square_root, rel=1e-9)


@pytest.mark.parametrize(("link", "last"), [("sigmoid", None), ("identity", nn.Sigmoid())])
def test_three_forms_of_two_classes(link: str, last: nn.Module | None) -> None:
    module = Affine(np.ones((1, 5)), np.array([0.5]), last)
    (check,) = check_identity(opened(module, link), np.zeros((1, 5)))
    assert check.difference < 1e-9
    assert check.gradient == pytest.approx(5 * np.exp(0.5) / (1 + np.exp(0.5)) ** 2, rel=1e-9)


def test_identity_needs_derivatives() -> None:
    with pytest.raises(TargetError, match="the function adapter gives probabilities only"):
        check_identity(open_classifier(lambda b: np.full((len(b), 2), 0.5)), X)


class Argmax(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(x.argmax(1), x.shape[1]).float()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (Argmax(), "does not depend on its input through differentiable operations"),
        (lambda b: np.full((len(b), 2), 0.5), "the adapter gives no derivatives"),
    ],
)
def test_obstacles(target: object, sentence: str) -> None:
    assert sentence in (obstacle(open_classifier(target), np.ones(4)) or "")


def test_no_obstacle() -> None:
    assert obstacle(opened(network("vit", FEW)), X[0]) is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "arnoldi"}, "expected a method among auto, gram, lanczos"),
        ({"indices": [1, 2]}, "expected one index an input, got 2 for 5 inputs"),
    ],
)
def test_wrong_use(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        measure(opened(network("vgg", FEW)), X, **options)


class Tight(nn.Module):
    """Runs out of memory above ``most`` rows once gradients are on."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.linear = most, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        out: torch.Tensor = self.linear(x)
        return out


def test_memory_that_runs_out_halves_the_batch() -> None:
    rows = np.random.default_rng(0).random((11, 4))
    model = opened(Tight(3))
    together = measure(model, rows)
    assert len(together) == 11
    assert all(isinstance(one, WhiteBox) for one in together)
    with pytest.raises(ModelFailure, match="a single input do not fit the memory"):
        measure(opened(Tight(0)), rows)


def test_smaller_pieces_are_not_linearised_beside_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for as many inputs as the first piece has, in all that is alive: the rows of 400 classes go in pieces of less."""
    alive: weakref.WeakSet[JacobianProducts] = weakref.WeakSet()
    made = JacobianProducts.__init__

    def within(self: JacobianProducts, function: Any, x: torch.Tensor, *rest: Any, **options: Any) -> None:
        if len(x) + sum(len(one.input) for one in alive) > 16:
            raise torch.OutOfMemoryError("out of memory")
        made(self, function, x, *rest, **options)
        alive.add(self)

    monkeypatch.setattr(JacobianProducts, "__init__", within)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6000, 4), nn.Tanh(), nn.Linear(4, 400)).eval()
    rows = np.random.default_rng(0).standard_normal((16, 6000)).astype(np.float32)
    assert len(measure(opened(net), rows, method="gram")) == 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("style", "classes"), CASES)
def test_on_the_gpu(style: str, classes: int) -> None:
    found = measure(open_classifier(copy.deepcopy(network(style, classes)), "softmax", device="cuda"), X)  # type: ignore[arg-type]
    for one, exact in zip(found, reference(style, classes), strict=True):
        assert one.spectral_norm == pytest.approx(exact["spectral_norm"], rel=1e-3)


def test_gram_is_formed_by_columns_when_its_rows_would_not_fit() -> None:
    at = opened(copy.deepcopy(network("vgg", FEW)).double()).linearize(X[:2])
    rows = at.gram()
    before = at.passes
    columns = at.gram(rows_bytes=1)
    assert at.passes - before >= FEW  # one product a class
    np.testing.assert_allclose(columns, rows, rtol=1e-9, atol=1e-9 * np.abs(rows).max())
