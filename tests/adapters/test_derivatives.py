"""What differentiation leaves behind (nothing), what it runs under, and how it copes with what an operator lacks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from fimaudit_adapters.pytorch.derivatives import _AS_WRITTEN
from fimaudit_adapters.pytorch.jacobian_products import JacobianProducts, forward_products
from fimaudit_adapters.pytorch.linearization import LinkDerivative
from fimaudit_adapters.pytorch.numerics import exact_numerics, module_untouched
from fimaudit_adapters.pytorch.operator_rewrites import CheaperDerivatives
from torch import nn
from zoo import STYLES, zoo_network

from fimaudit.errors import FimauditError, ModelFailure, TargetError
from fimaudit.models.classifier import Differentiable
from fimaudit.models.opening import open_classifier
from fimaudit.whitebox.fisher_operator import FisherOperator
from fimaudit.whitebox.identity import check_identity
from fimaudit.whitebox.measure import exact_reference, measure, obstacle

pytestmark = pytest.mark.usefixtures("one_torch_thread")

X = np.random.default_rng(0).random((3, 3, 16, 16)).astype(np.float32)
CPU = torch.device("cpu")


def switches() -> list[object]:
    """Everything global that a measurement touches."""
    backends: Any = torch.backends
    parts = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    parts += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    return [
        *(part.fp32_precision for part in parts),
        torch.get_float32_matmul_precision(),
        backends.cuda.flash_sdp_enabled(),
        backends.cuda.mem_efficient_sdp_enabled(),
        backends.cuda.math_sdp_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.random.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
    ]


def everything(module: nn.Module) -> list[object]:
    """All that the module is made of."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return [
        [(n, t.clone(), t.requires_grad, t.dtype, id(t), t.data_ptr(), t._version) for n, t in tensors],
        [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        [(n, id(part), part.training) for n, part in module.named_modules()],
        [
            [list(part.__dict__[k]) for k in ("_forward_hooks", "_backward_hooks", "_forward_pre_hooks")]
            for part in module.modules()
        ],
    ]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


class Raises(nn.Module):
    """A network that raises on the ``turn``-th call with gradients on."""

    def __init__(self, turn: int = 1) -> None:
        super().__init__()
        self.inner, self.turn = zoo_network("resnet"), turn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.turn -= 1
            torch.rand(3)
            if self.turn == 0:
                raise ValueError("the sensor is gone")
        out: torch.Tensor = self.inner(x)
        return out


USES: dict[str, Callable[[Any], object]] = {
    "gram": lambda m: measure(m, X, method="gram", worst_direction=True, together=2),
    "lanczos": lambda m: measure(m, X, method="lanczos", worst_direction=True, together=2),
    "vjp": lambda m: m.vjp(torch.from_numpy(X), torch.ones(3, 2, 10)),
    "jvp": lambda m: m.jvp(torch.from_numpy(X), torch.ones(3, 2, 3, 16, 16)),
    "operator": lambda m: FisherOperator(m, X[0]) @ np.ones(768),
    "reference": lambda m: exact_reference(m, X),
    "identity": lambda m: check_identity(m, X[:1], tolerance=1e-3),
    "probabilities": lambda m: m.probabilities(X),
}


@contextmanager
def unusual_settings() -> Iterator[None]:
    """A user's own settings, the opposite of what a measurement wants."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("style", STYLES)
def test_the_module_and_the_process_stay_as_they_were(style: str, use: str) -> None:
    module = zoo_network(style)
    first = next(module.parameters())
    first.requires_grad_(False)
    first_grad = list(module.parameters())[-1]
    first_grad.grad = torch.ones_like(first_grad)
    fired: list[str] = []
    part = [p for p in module.modules() if isinstance(p, nn.Linear)][-1]
    part.register_forward_hook(lambda *_: fired.append("forward"))
    model = open_classifier(module, "softmax", device="cpu")
    inner, outer = everything(module), switches()
    USES[use](model)
    assert same(inner, everything(module))
    assert same(outer, switches())
    assert fired, "the user's own hooks run"


@pytest.mark.parametrize("use", [name for name in USES if name != "probabilities"])
@pytest.mark.parametrize("turn", [1, 2])
def test_also_when_the_forward_pass_raises(use: str, turn: int) -> None:
    if turn == 2 and use in ("vjp", "jvp", "operator"):
        pytest.skip("calls the network once")
    module = Raises(turn)
    model = open_classifier(module, "softmax", device="cpu")
    with unusual_settings():
        inner, outer = everything(module), switches()
        raised = (ModelFailure, ValueError)
        with pytest.raises(raised, match="the sensor is gone"):
            USES[use](model)
        assert same(inner, everything(module))
        assert same(outer, switches())


def test_also_when_the_backward_pass_raises() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            raise ValueError("no way back")

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = Broken.apply(self.linear(x))  # type: ignore[no-untyped-call]
            return out

    module = Module()
    model = open_classifier(module, "softmax", device="cpu")
    inner, outer = everything(module), switches()
    with pytest.raises((ValueError, FimauditError), match="no way back"):
        measure(model, np.ones((2, 4)))  # type: ignore[arg-type]
    assert same(inner, everything(module))
    assert same(outer, switches())
    assert "no way back" in (obstacle(model, np.ones(4)) or "")


def test_random_forward_passes_leave_the_generator_alone() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] + 0 * torch.randn(3)

    state = torch.random.get_rng_state()
    measure(open_classifier(Noisy(), "softmax", device="cpu"), np.ones((2, 4)))  # type: ignore[arg-type]
    assert torch.equal(state, torch.random.get_rng_state())


def test_user_settings_do_not_change_the_answer() -> None:
    model: Any = open_classifier(zoo_network("vit"), "softmax", device="cpu")
    plain = measure(model, X)
    with unusual_settings():
        there = measure(model, X)
    with torch.inference_mode():
        inside = measure(model, X)
    for a, b, c in zip(plain, there, inside, strict=True):
        assert a.spectral_norm == b.spectral_norm == c.spectral_norm


def test_training_mode_switched_on_meanwhile_does_not_matter() -> None:
    module = zoo_network("vgg")
    model: Any = open_classifier(module, "softmax", device="cpu")
    before = measure(model, X)
    module.train()
    assert [one.spectral_norm for one in measure(model, X)] == [one.spectral_norm for one in before]
    assert all(part.training for part in module.modules())


def test_backward_hooks_of_the_user_do_no_harm() -> None:
    module = zoo_network("resnet")
    same_order = copy.deepcopy(module)
    _AS_WRITTEN.add(same_order)  # as where a hook may ask for a view
    plain = measure(open_classifier(same_order, "softmax", device="cpu"), X)  # type: ignore[arg-type]
    fired: list[int] = []
    module.stem.register_full_backward_hook(lambda *_: fired.append(1))  # type: ignore[union-attr, operator]
    for a, b in zip(measure(open_classifier(module, "softmax", device="cpu"), X), plain, strict=True):  # type: ignore[arg-type]
        assert a.spectral_norm == pytest.approx(b.spectral_norm, rel=1e-6)
    assert fired


def test_numerics_are_off_inside_and_back_outside() -> None:
    outside = switches()
    with unusual_settings(), exact_numerics(CPU):
        inside = switches()
        assert inside[:6] == ["ieee"] * 6
        assert not torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert same(outside, switches())
    with pytest.raises(KeyError), exact_numerics(CPU):
        raise KeyError
    assert same(outside, switches())
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    with module_untouched(module, CPU):
        assert not module[1].training
        assert not module[0].weight.requires_grad
    assert module[1].training
    assert module[0].weight.requires_grad


def test_a_module_that_two_threads_measure_is_put_back_when_the_last_leaves() -> None:
    shared = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    wrapper = nn.Sequential(shared, nn.Softmax(1)).train()
    first, second = module_untouched(shared, CPU), module_untouched(wrapper, CPU)
    before = torch.get_rng_state()
    first.__enter__()
    torch.rand(3)
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(part.training for part in wrapper.modules())
    assert not any(of.requires_grad for of in wrapper.parameters())
    second.__exit__(None, None, None)
    assert all(part.training for part in wrapper.modules())
    assert all(of.requires_grad for of in wrapper.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyError), module_untouched(shared, CPU), module_untouched(shared, CPU):
        raise KeyError
    assert shared.training
    assert shared[0].weight.requires_grad


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "plain": (nn.Conv2d(3, 5, 3), (2, 3, 9, 8)),
    "stride that does not divide": (nn.Conv2d(3, 5, 3, stride=3, padding=1), (2, 3, 10, 11)),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=2, padding=2, stride=2), (2, 3, 9, 9)),
    "groups": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 7, 7)),
    "same": (nn.Conv2d(3, 4, 5, padding="same"), (2, 3, 7, 7)),
    "reflected": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 7, 7)),
    "oblong": (nn.Conv2d(3, 4, (1, 5), stride=(1, 2), padding=(0, 2)), (2, 3, 7, 8)),
    "one dimension": (nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 10)),
    "three dimensions": (nn.Conv3d(2, 3, 2, stride=2), (2, 2, 5, 4, 6)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 5, 5)),
    "batch norm": (nn.BatchNorm2d(3), (2, 3, 4, 4)),
    "batch norm without weights": (nn.BatchNorm1d(3, affine=False), (2, 3)),
    "batch norm without statistics": (nn.BatchNorm2d(3, track_running_stats=False), (2, 3, 4, 4)),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_rewritten_operators_have_torch_s_values_and_derivatives(case: str) -> None:
    module, shape = CONVOLUTIONS[case]
    module = copy.deepcopy(module).double().eval()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + (0.5 if "var" in name else 0.0)
        tensor.requires_grad_(False)
    x = torch.randn(shape, dtype=torch.float64)

    def rewritten(v: torch.Tensor) -> torch.Tensor:
        with CheaperDerivatives():
            return torch.sin(module(v)).flatten(1)

    def plain(v: torch.Tensor) -> torch.Tensor:
        return torch.sin(module(v)).flatten(1)

    a, b = JacobianProducts(plain, x), JacobianProducts(plain, x, rewritten)
    torch.testing.assert_close(a.output, b.output)
    w, v = torch.randn_like(a.output), torch.randn_like(x)
    torch.testing.assert_close(a.pull(w), b.pull(w))
    torch.testing.assert_close(a.push(v), b.push(v))
    torch.testing.assert_close(a.push(v), forward_products(plain, x, v))
    several = torch.stack([w, 2 * w, w + 1])
    torch.testing.assert_close(a.pull(several), b.pull(several))
    torch.testing.assert_close(b.pull(several)[2], b.pull(w + 1))


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_channels_last_change_nothing_but_the_order(case: str) -> None:
    module, shape = CONVOLUTIONS[case]
    module = copy.deepcopy(module).eval().requires_grad_(False)
    x = torch.randn(shape)

    def rewritten(v: torch.Tensor) -> torch.Tensor:
        with CheaperDerivatives(unrestricted=True):
            return torch.sin(module(v)).flatten(1)

    a, b = JacobianProducts(lambda v: torch.sin(module(v)).flatten(1), x), JacobianProducts(rewritten, x)
    torch.testing.assert_close(a.output, b.output)
    w, v = torch.randn_like(a.output), torch.randn_like(x)
    torch.testing.assert_close(a.pull(w), b.pull(w))
    torch.testing.assert_close(a.push(v), b.push(v))
    assert b.pull(w).shape == x.shape


def only_contiguous(maps: torch.Tensor) -> torch.Tensor:
    try:
        return maps.view(maps.shape[0] * maps.shape[1], *maps.shape[2:]).view(maps.shape)
    except RuntimeError:
        raise AssertionError("not contiguous") from None


class BackwardByView(torch.autograd.Function):
    """Twice its input; its backward asks for a view of the gradient."""

    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor) -> torch.Tensor:
        return 2 * maps

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return (2 * grads[0].view(len(grads[0]), -1)).view(grads[0].shape)


class ByMemory(nn.Module):
    """Reads the map of a convolution in a way that depends on its place in memory."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.convolution, self.linear = how, nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 40)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.convolution(x))
        if self.how == "view":
            flat = maps.view(len(x), -1)
        elif self.how == "as_strided":
            flat = maps.as_strided((len(x), 4 * 36), (4 * 36, 1))
        elif self.how == "branch":
            flat = (maps if maps.is_contiguous() else 3 * maps).flatten(1)
        elif self.how == "refusal":
            flat = only_contiguous(maps).flatten(1)
        elif self.how == "backward":
            flat = self.second(BackwardByView.apply(maps)).flatten(1)
        elif self.how == "hook":
            if maps.requires_grad:
                maps.register_hook(lambda grad: grad.view(len(grad), -1).clone().view(grad.shape))
            flat = self.second(maps).flatten(1)
        else:
            flat = maps.flatten(1)
        return self.linear(flat)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["view", "as_strided", "flatten", "branch", "refusal", "backward", "hook"])
def test_networks_that_depend_on_the_order_of_channels_keep_theirs(how: str) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    module = ByMemory(how)
    model: Any = open_classifier(module, "softmax", device="cpu")
    for _ in range(2):
        for one, exact in zip(measure(model, rows, method="lanczos"), exact_reference(model, rows), strict=True):
            assert one.spectral_norm == pytest.approx(exact.spectral_norm, rel=1e-4)
    assert (module in _AS_WRITTEN) == (how != "flatten")


class ChannelsLast(nn.Module):
    """Keeps its channels last itself, and asks for a view that only this order allows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.convolution(x.contiguous(memory_format=torch.channels_last))
        return self.linear(maps.permute(0, 2, 3, 1).view(len(x), -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_with_channels_last_keeps_that_order(dtype: torch.dtype) -> None:
    rows = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(str(dtype).removeprefix("torch."))
    model: Any = open_classifier(ChannelsLast().to(dtype), "softmax", device="cpu")
    for one, exact in zip(measure(model, rows, method="lanczos"), exact_reference(model, rows), strict=True):
        assert one.spectral_norm == pytest.approx(exact.spectral_norm, rel=1e-4)


@pytest.mark.parametrize("part", ["whole", "convolution"])
def test_a_compiled_network_is_differentiated_as_it_was_written(part: str) -> None:
    """A compiled backward serves once, and has no second one."""
    rows = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    module = ByMemory("flatten")
    (module if part == "whole" else module.convolution).compile(backend="aot_eager")
    model: Any = open_classifier(module, "softmax", device="cpu")
    plain: Any = open_classifier(ByMemory("flatten"), "softmax", device="cpu")
    for one, exact in zip(measure(model, rows, method="lanczos"), measure(plain, rows, method="lanczos"), strict=True):
        assert one.spectral_norm == exact.spectral_norm


def test_a_product_is_its_own_check_of_the_double_vjp() -> None:
    x = torch.randn(2, 6)
    weight = torch.randn(6, 5)
    told, untold = (JacobianProducts(lambda v: torch.sin(v @ weight), x) for _ in range(2))
    w = torch.randn(2, 5)
    torch.testing.assert_close(told.push(told.pull(w), w), untold.push(untold.pull(w)))
    assert untold.passes == told.passes + 2
    halves = JacobianProducts(lambda v: branched(v @ weight), x)
    torch.testing.assert_close(halves.push(halves.pull(w), w), told.push(told.pull(w)))
    assert halves.fallback == "forward mode"
    rounding = JacobianProducts(lambda v: torch.sin(v @ weight), x)  # a w that J^T brings to next to nothing
    null = 1e-12 * torch.linalg.svd(weight.T * torch.cos(x @ weight)[0][:, None])[0][:, -1]
    rounding.push(rounding.pull(null.expand(2, 5)), null.expand(2, 5))
    assert rounding.fallback is None


def test_a_pull_records_what_the_pushes_need() -> None:
    x, weight = torch.randn(2, 6), torch.randn(6, 5)
    w, v = torch.randn(2, 5), torch.randn(2, 6)
    on_the_way, apart = (JacobianProducts(lambda v: torch.sin(v @ weight), x) for _ in range(2))
    back = on_the_way.pull_recorded(w)
    torch.testing.assert_close(back, apart.pull(w))
    assert not back.requires_grad
    torch.testing.assert_close(on_the_way.push(back, w), apart.push(back, w))
    torch.testing.assert_close(on_the_way.push(v), apart.push(v))
    assert on_the_way.passes == apart.passes - 1
    by_code = JacobianProducts(lambda v: NoForwardMode.apply(v @ weight), x)  # may not be linear: recorded at 0
    by_code.push(by_code.pull_recorded(w), w)
    assert not by_code._seed.any()  # type: ignore[union-attr]


def test_rewritten_operators_record_the_cheaper_graph() -> None:
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    norm, convolution = nn.BatchNorm2d(3).eval().requires_grad_(False), nn.Conv2d(3, 4, 3).requires_grad_(False)
    with CheaperDerivatives():
        recorded = [str(module(x).grad_fn.name()) for module in (norm, convolution)]
    assert recorded == ["AddcmulBackward0", "_ConvolutionBackward"]


class OnceDifferentiable(torch.autograd.Function):
    """sin, whose backward pass has no derivative but which has a forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * torch.cos(x)

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return tangents[0] * torch.cos(x)


class NoForwardMode(OnceDifferentiable):
    """sin without a forward mode, but twice differentiable."""

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * torch.cos(x)

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no forward mode")


class Neither(OnceDifferentiable):
    """sin with a first derivative only."""

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no forward mode")


def branched(x: torch.Tensor) -> torch.Tensor:
    """Half of it has no second derivative; torch drops that half in silence."""
    out: torch.Tensor = OnceDifferentiable.apply(x) / 2 + torch.sin(x) / 2  # type: ignore[no-untyped-call]
    return out


class Unlikely(nn.Module):
    """Half of its classes are unlikely, steep, and have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.likely, self.unlikely = nn.Linear(20, 20), nn.Linear(20, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steep = 30 * OnceDifferentiable.apply(self.unlikely(x)) - 35  # type: ignore[no-untyped-call]
        return torch.cat([self.likely(x), steep], dim=1)


def test_a_branch_to_unlikely_classes_is_not_dropped_unseen() -> None:
    model: Any = open_classifier(Unlikely(), "softmax", device="cpu")
    rows = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    exact = measure(model, rows, method="gram")
    for one, whole in zip(measure(model, rows, method="lanczos"), exact, strict=True):
        assert one.peak_spectral_norm == pytest.approx(whole.peak_spectral_norm, rel=1e-3)


class Waves(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.linear = function, nn.Linear(6, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.function(self.linear(x)) * 4
        return out


@pytest.mark.parametrize(
    ("function", "how"),
    [
        (OnceDifferentiable.apply, "forward mode"),
        (branched, "forward mode"),
        (NoForwardMode.apply, "double vjp"),
        (torch.sin, "double vjp"),
    ],
)
def test_missing_derivatives_are_worked_around_and_recorded(function: Any, how: str) -> None:
    rows = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    model: Any = open_classifier(Waves(function), "softmax", device="cpu")
    expected = exact_reference(open_classifier(Waves(torch.sin), "softmax", device="cpu"), rows)
    for one, exact in zip(measure(model, rows), expected, strict=True):
        assert one.method == "lanczos"
        assert one.spectral_norm == pytest.approx(exact.spectral_norm, rel=1e-4)
    along = model.jvp(rows, np.ones((2, 1, 6), np.float32))
    assert model.info.details["jvp"] == how
    torch.testing.assert_close(
        along, open_classifier(Waves(torch.sin), "softmax", device="cpu").jvp(rows, np.ones((2, 1, 6), np.float32))
    )  # type: ignore[attr-defined]


def test_first_derivatives_alone_suffice_for_the_gram() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    model: Any = open_classifier(Waves(Neither.apply), "softmax", device="cpu")
    expected = exact_reference(open_classifier(Waves(torch.sin), "softmax", device="cpu"), rows)
    for one, exact in zip(measure(model, rows), expected, strict=True):
        assert one.method == "gram"
        assert one.spectral_norm == pytest.approx(exact.spectral_norm, rel=1e-4)


def test_integer_inputs_have_no_derivative() -> None:
    class Bytes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float()[:, :3]

    program = torch.export.export(Bytes(), (torch.zeros(2, 4, dtype=torch.uint8),))
    model: Any = open_classifier(program, "softmax", device="cpu")
    assert isinstance(model, Differentiable)
    with pytest.raises(TargetError, match=r"takes torch\.uint8 inputs, which have no derivative; use mode='black-box'"):
        model.linearize(np.zeros((2, 4)))


@pytest.mark.parametrize("batch", [1, 2, None])
def test_exported_programs_are_differentiated_in_the_batches_they_allow(batch: int | None) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).eval()
    axes = None if batch else ({0: torch.export.Dim("n")},)
    program = torch.export.export(module, (torch.zeros(batch or 2, 4),), dynamic_shapes=axes)
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    expected = measure(open_classifier(module, "softmax", device="cpu"), rows)  # type: ignore[arg-type]
    for method in ("gram", "lanczos"):
        found = measure(open_classifier(program, "softmax", device="cpu"), rows, method=method)  # type: ignore[arg-type]
        for a, b in zip(found, expected, strict=True):
            assert a.spectral_norm == pytest.approx(b.spectral_norm, rel=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "identity", "column"])
def test_link_derivatives_match_differences_and_are_adjoint(kind: str) -> None:
    rng = np.random.default_rng(1)
    raw = rng.standard_normal((4, 1 if kind in ("sigmoid", "column") else 5))
    if kind == "identity":
        raw = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    if kind == "column":
        raw = 1 / (1 + np.exp(-raw))
    link = "identity" if kind == "column" else kind
    at = LinkDerivative(raw, link)
    assert at.kind == kind
    np.testing.assert_allclose(np.exp(at.log_probabilities), at.probabilities, rtol=1e-12)
    along = rng.standard_normal(raw.shape)
    if kind == "identity":
        along -= along.mean(1, keepdims=True)  # rows stay distributions
    h = 1e-6
    up, down = (LinkDerivative(raw + sign * h * along, link).log_probabilities for sign in (1, -1))
    np.testing.assert_allclose(at.push(along), (up - down) / (2 * h), rtol=1e-6, atol=1e-8)
    w = rng.standard_normal((4, at.probabilities.shape[1]))
    np.testing.assert_allclose((at.pull(w) * along).sum(1), (w * at.push(along)).sum(1), rtol=1e-9)


class Normed(nn.Module):
    """A convolution and the batch norm behind it, with something in between that keeps them apart, or looks there."""

    def __init__(self, how: str, rank: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolution, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[rank - 1]
        self.how = how
        self.convolution, self.norm = convolution(4, 6, 3, stride=2, padding=1, groups=2), norm(6)
        self.linear = nn.Linear(6 * 4**rank, 40)
        for tensor in (self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias):
            assert tensor is not None
            tensor.data = torch.rand_like(tensor) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "constant":
            with torch.no_grad():
                fixed = self.convolution(x)
            return self.linear((self.norm(fixed) + self.norm(self.convolution(x))).flatten(1))  # type: ignore[no-any-return]
        if self.how == "inference":
            with torch.inference_mode():
                fixed = self.norm(self.convolution(torch.ones_like(x)))
            return self.linear((fixed.clone() + self.norm(self.convolution(x))).flatten(1))  # type: ignore[no-any-return]
        if self.how == "input in place":
            x = x * 1.0
        maps = self.convolution(x)
        if self.how == "output in place":
            maps.mul_(3.0)
        elif self.how == "input in place":
            x.mul_(3.0)
        elif self.how == "hook before" and maps.requires_grad:
            maps.register_hook(lambda grad: 3.0 * grad)
        normed = self.norm(maps)
        if self.how == "hook behind" and maps.requires_grad:
            maps.register_hook(lambda grad: 3.0 * grad)
        elif self.how == "used twice":
            normed = normed + maps.sin()
        elif self.how == "slope within" and maps.requires_grad:
            (slope,) = torch.autograd.grad(normed.sin().sum(), maps, create_graph=True)
            normed = normed + slope
        return self.linear(torch.sin(normed).flatten(1))  # type: ignore[no-any-return]


HOWS = ["plain", "constant", "output in place", "hook before", "hook behind", "used twice", "slope within", "inference"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_convolution_takes_its_batch_norm_along_where_that_shows_nowhere(how: str, dtype: torch.dtype) -> None:
    module = Normed(how).to(dtype).eval().requires_grad_(False)
    x = torch.randn(3, 4, 8, 8, dtype=dtype)
    model: Any = open_classifier(module, "softmax", device="cpu")
    at = model.linearize(x.numpy())
    y = x.clone().requires_grad_(True)
    written = module(y)
    w = torch.randn_like(written).requires_grad_(True)
    (back,) = torch.autograd.grad(written, y, w, create_graph=True)
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(at._products.output, written.detach(), **near)
    torch.testing.assert_close(at._products.pull(w.detach()), back.detach(), **near)
    v = torch.randn_like(x)
    torch.testing.assert_close(at._products.push(v), torch.autograd.grad(back, w, v)[0], **near)


@pytest.mark.parametrize(
    ("how", "joined"), [("plain", True), ("used twice", True), ("output in place", False), ("input in place", False)]
)
def test_the_derivative_goes_past_the_output_of_a_convolution(how: str, joined: bool) -> None:
    module = Normed(how, rank=1).double().eval().requires_grad_(False)
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    with CheaperDerivatives(unrestricted=True) as derivatives:
        module(x)
    assert derivatives.joined == joined
    with CheaperDerivatives() as derivatives:
        module(x)
    assert not derivatives.joined
