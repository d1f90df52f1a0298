"""The graph readers: the same bound from torch and ONNX, exporters' leftovers at no cost, and a stop at the unknown."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from fimaudit.bounds import (
    LipschitzBound,
    UnboundedError,
    UnknownOperatorError,
    covariance_factor,
    lipschitz_bound,
    register_operator,
)
from fimaudit.bounds.families import DenseNet, ResNet, VisionTransformer, vgg
from fimaudit.bounds.graph.operators import REGISTERED
from fimaudit.errors import TargetError, UsageError

IMAGE = (3, 16, 16)


def disturbed(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, gains and running statistics away from their start values, where mistakes would cancel."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.is_floating_point():
                value += 0.1 * torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(value.abs() + 0.3)
    return network.eval()


class Spelled(nn.Module):
    """Layer norm, GELU, SiLU, Mish and hard-swish written out, a channel shuffle, a permuting gather and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 12), nn.Linear(12, 4)
        self.register_buffer("order", torch.arange(12).flip(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (self.first(x) - 0.5) * 2.0 / 4.0
        x = x - x.mean(dim=-1, keepdim=True)
        x = x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-3).sqrt()
        x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        x = x * torch.sigmoid(x)
        x = x * torch.tanh(functional.softplus(x))
        x = x * functional.relu6(x + 3) / 6
        x = x.reshape(-1, 3, 4).transpose(1, 2).reshape(-1, 12)[:, self.order].unsqueeze(1).squeeze(1)
        return self.last(x).clamp(-50.0, 50.0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vgg": (lambda: vgg([[4, 4], [8]], [16], 10, size=16), IMAGE),
    "resnet": (lambda: ResNet([1, 1], 8, 10), IMAGE),
    "bottleneck": (lambda: ResNet([1, 1], 8, 10, bottleneck=True, large=True), IMAGE),
    "densenet": (lambda: DenseNet([2, 2], 4, 10), IMAGE),
    "vit": (lambda: VisionTransformer(16, 4, 12, 2, 3, 10), IMAGE),
    "spelled": (Spelled, (12,)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), (5, 8)),
    "attention": (lambda: SelfAttention(), (5, 8)),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"), nn.GroupNorm(2, 6), nn.Hardswish(),
            nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3), nn.InstanceNorm2d(6, affine=True), nn.PReLU(),
            nn.ConvTranspose2d(6, 4, 2, 2), nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 3), nn.Softmax(dim=1),
        ), IMAGE,
    ),
}  # fmt: skip


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return (x + self.attention(y, y, y)[0]).mean(dim=1)


def exported(network: nn.Module, shape: tuple[int, ...], path: Path, **options: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.randn(1, *shape),), str(path), verbose=False, **options)
    return str(path)


#: Families whose layers the others have too; each export takes seconds.
AT_LENGTH = ("vgg", "bottleneck", "densenet")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.coverage if name in AT_LENGTH else ()) for name in NETWORKS]
)
def test_onnx_and_torch_give_the_same_bound(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = disturbed(make())
    bound = lipschitz_bound(network, input_shape=shape).lipschitz
    new = exported(network, shape, tmp_path / "new.onnx", dynamo=True)
    assert lipschitz_bound(new).lipschitz == pytest.approx(bound, rel=1e-4)
    if name == "encoder":
        return  # torch's older exporter fails on this layer
    old = exported(network, shape, tmp_path / "old.onnx", dynamo=False)
    assert lipschitz_bound(old).lipschitz == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("name", [pytest.param("resnet", marks=pytest.mark.coverage), "vit"])
def test_exported_programs_decomposed_or_not_give_the_same_bound(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    network = disturbed(make())
    bound = lipschitz_bound(network, input_shape=shape).lipschitz
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (torch.randn(2, *shape),), strict=False)
        torch.export.save(program, tmp_path / "saved.pt2")
        decomposed = program.run_decompositions()
    assert lipschitz_bound(tmp_path / "saved.pt2").lipschitz == pytest.approx(bound, rel=1e-6)
    assert lipschitz_bound(decomposed).lipschitz == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("name", ["vgg", "vit", "spelled"])
def test_old_opsets_with_layer_norms_and_gelus_in_pieces(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    network = disturbed(make())
    old = exported(network, shape, tmp_path / "old.onnx", dynamo=False, opset_version=14)
    bound = lipschitz_bound(network, input_shape=shape).lipschitz
    assert lipschitz_bound(old).lipschitz == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "groups"])
def test_bound_holds_for_these_networks(name: str) -> None:
    make, shape = NETWORKS[name]
    network = disturbed(make()).double()
    bound = lipschitz_bound(network, input_shape=shape)
    for scale in (1e-3, 0.1, 1.0, 10.0):
        x = scale * torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        jacobian = torch.autograd.functional.jacobian(lambda v: network(v)[0], x)
        assert torch.linalg.matrix_norm(jacobian.reshape(jacobian.shape[0], -1), 2).item() <= bound.lipschitz
    assert sum(layer.share for layer in bound.layers) == pytest.approx(1.0)
    assert bound.layers[-1].product == pytest.approx(bound.lipschitz)


def norm_of(network: nn.Module, *shape: int, **options: Any) -> LipschitzBound:
    return lipschitz_bound(network.eval(), input_shape=shape, **options)


class Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "constant"),
    [
        (lambda x: x.reshape(-1, 2, 6).permute(0, 2, 1).flatten(1), 1.0),
        (lambda x: torch.cat(x.chunk(3, dim=1)[::-1], dim=1), 1.0),
        (lambda x: torch.cat([x, x, x], dim=1), math.sqrt(3)),
        (lambda x: torch.stack([x, 2 * x], dim=1).flatten(1), math.sqrt(5)),
        (lambda x: x + x, 2.0),
        (lambda x: 3 * x - 1, 3.0),
        (lambda x: x[:, 2:8:2].expand(2, -1, 3) if x.ndim > 2 else x[:, 2:8:2], 1.0),
        (lambda x: x.unsqueeze(1).expand(-1, 4, -1).flatten(1), 2.0),
        (lambda x: x.mean(dim=1, keepdim=True), math.sqrt(1 / 12)),
        (lambda x: x.sum(dim=1, keepdim=True), math.sqrt(12)),
        (lambda x: functional.pad(x, (2, 1)), 1.0),
        (lambda x: functional.pad(x[:, None], (2, 2), mode="reflect").flatten(1), math.sqrt(2)),
        (lambda x: x.roll(3, 1).flip(1), 1.0),
        (lambda x: torch.maximum(x, -x), math.sqrt(2)),
        (lambda x: x @ torch.full((12, 2), 0.5), math.sqrt(6)),
        (lambda x: (x.reshape(-1, 3, 1, 4) @ torch.diag_embed(torch.arange(12.0).reshape(3, 4))).flatten(1), 11.0),
        (lambda x: (torch.ones(2, 3) @ x.reshape(-1, 3, 4)).flatten(1), math.sqrt(6)),
        (lambda x: functional.interpolate(x[:, None], scale_factor=2).flatten(1), math.sqrt(2)),
        (lambda x: functional.pixel_shuffle(x.reshape(-1, 4, 3, 1), 2).flatten(1), 1.0),
        (lambda x: torch.tanh(x) * torch.sigmoid(2 * x + 1), 1.0 + 0.5),
        (lambda x: torch.relu_(x * 2.0) + 1, 2.0),
        (lambda x: x.softmax(1) * 4, 2.0),
        (lambda x: x.softmax(1), 1.0),
        (lambda x: x.log_softmax(1), 1.0),
    ],
)
def test_leftovers_of_exporters_cost_what_they_must(function: Callable[[torch.Tensor], Any], constant: float) -> None:
    bound = norm_of(Function(function), 12)
    one = math.sqrt(2) if function(torch.randn(1, 12)).numel() == 1 else 1.0
    assert bound.lipschitz == pytest.approx(constant / one, rel=1e-4)


def test_residual_and_dense_blocks_fall_out() -> None:
    layer = nn.Linear(6, 6)
    s = lipschitz_bound(layer).lipschitz
    assert norm_of(Function(lambda x: x + layer(x)), 6).lipschitz == pytest.approx(1 + s)
    assert norm_of(Function(lambda x: torch.cat([x, layer(x)], 1)), 6).lipschitz == pytest.approx(math.sqrt(1 + s * s))


def test_batch_norm_is_folded_into_the_layer_before_it() -> None:
    network = disturbed(nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7)))
    norm = network[1]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    truth = torch.linalg.matrix_norm((scale[:, None] * network[0].weight).double(), 2).item()
    assert lipschitz_bound(network).lipschitz == pytest.approx(truth, rel=2e-3)
    assert len(lipschitz_bound(network).layers) == 1


def test_one_logit_is_read_as_a_pair() -> None:
    network = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Sigmoid())
    bound = lipschitz_bound(network)
    size = network[0].weight.detach().double().norm().item()
    assert bound.lipschitz == pytest.approx(size / math.sqrt(2), rel=2e-3)
    assert "pair (z/2, -z/2)" in bound.notes[0]
    x = torch.zeros(1, 4)
    p = network(x).item()
    measured = p * (1 - p) * size**2  # lambda of a Bernoulli
    assert measured <= bound.local_spectral_norm_bound([1 - p, p]) <= bound.spectral_norm_bound * (1 + 1e-12)


def test_local_bound_holds_and_factor_is_the_least_of_three() -> None:
    rng = np.random.default_rng(0)
    for classes in (2, 3, 10):
        p = rng.dirichlet(np.full(classes, 0.3), size=200)
        tops = np.array([np.linalg.eigvalsh(np.diag(row) - np.outer(row, row))[-1] for row in p])
        assert (tops <= covariance_factor(p) * (1 + 1e-9) + 1e-300).all()
        assert covariance_factor(p).max() <= 0.5
    assert covariance_factor([1.0, 1e-30]) == pytest.approx(2e-30)


def test_certified_radius_is_never_crossed() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    bound = lipschitz_bound(network)
    x = torch.randn(20, 3, dtype=torch.float64)
    p = network(x).softmax(1).detach()
    radius = torch.as_tensor(bound.certified_radius(p.numpy()))
    top = network(x).argmax(1)
    for seed in range(50):
        step = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        moved = x + radius[:, None] * step / step.norm(dim=1, keepdim=True)
        assert (network(moved).argmax(1) == top).all()


def test_unknown_operator_stops_with_its_name_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Function(lambda x: torch.cumsum(x, dim=1))
    with pytest.raises(UnknownOperatorError, match=r"'aten\.cumsum'.*register_operator\('aten.cumsum', constant\)"):
        norm_of(network, 4)
    monkeypatch.setitem(REGISTERED, "aten.cumsum", 5.0)
    bound = norm_of(network, 4)
    assert bound.lipschitz == 5.0
    assert "caller's word: the constant of aten.cumsum" in bound.notes[0]
    monkeypatch.setitem(REGISTERED, "aten.cumsum", lambda node: float(node.shape[-1]))
    assert norm_of(network, 4).lipschitz == 4.0
    with pytest.raises(UsageError, match="finite Lipschitz constant"):
        register_operator("aten.cumsum", -1.0)


def test_what_has_no_global_constant_is_refused_and_bounded_locally() -> None:
    square = Function(lambda x: x * x)
    with pytest.raises(UnboundedError, match="input_bound="):
        norm_of(square, 4)
    bound = norm_of(square, 4, input_bound=1.5)
    assert bound.lipschitz == pytest.approx(3.0, rel=1e-5)
    assert bound.scope == "inputs with every |feature| <= 1.5"
    assert "local" in bound.notes[0]
    bare = Function(lambda x: functional.scaled_dot_product_attention(x, x, x).flatten(1))
    with pytest.raises(UnboundedError, match="layer norm before it"):
        norm_of(bare, 3, 4)
    network = bare.double()
    local = lipschitz_bound(network, input_shape=(3, 4), input_bound=1.0)
    x = torch.rand(1, 3, 4, dtype=torch.float64) * 2 - 1
    jacobian = torch.autograd.functional.jacobian(lambda v: network(v)[0], x).reshape(12, 12)
    assert torch.linalg.matrix_norm(jacobian, 2).item() <= local.lipschitz
    with pytest.raises(UnknownOperatorError, match="'divide'"):
        norm_of(Function(lambda x: x / x.sum(1, keepdim=True)), 4)
    with pytest.raises(UnknownOperatorError, match=r"'aten\.batch_norm'"):
        norm_of(nn.BatchNorm1d(4, track_running_stats=False), 4, 5)


def onnx_model(nodes: list[Any], weights: dict[str, Any], shape: list[Any], **extra: Any) -> Any:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape if name == "x" else None) for name in ("x", "z")]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    inputs = [ends[0], *extra.get("inputs", [])]
    graph = helper.make_graph(nodes, "g", inputs, [ends[1]], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", extra.get("opset", 17))], ir_version=9)


def test_onnx_alone(tmp_path: Path) -> None:
    weight = np.array([[3.0, 0.0], [0.0, 4.0]], dtype=np.float32)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["x", "order"], ["g"], axis=1),
        helper.make_node("Sub", ["g", "mean"], ["c"]),
        helper.make_node("Gemm", ["c", "w", "b"], ["y"], alpha=2.0, beta=0.5, transB=1),
        helper.make_node("Dropout", ["y"], ["d"]),
        helper.make_node("Cast", ["d"], ["e"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["e", "s"], ["r"]),
        helper.make_node("Softmax", ["r"], ["z"], axis=1),
    ]
    weights = {"order": np.array([1, 0]), "mean": np.ones(2, np.float32), "w": weight, "b": np.ones(2, np.float32)}
    model = onnx_model(nodes, weights, ["n", 2])
    assert lipschitz_bound(model).lipschitz == pytest.approx(8.0, rel=2e-3)
    onnx.save(model, tmp_path / "m.onnx")
    assert lipschitz_bound(str(tmp_path / "m.onnx")).layers[-1].kind == "dense"


def test_onnx_with_an_unknown_operator_a_second_input_and_a_free_shape() -> None:
    lrn = onnx_model([helper.make_node("LRN", ["x"], ["z"], size=3)], {}, [1, 4, 5, 5])
    with pytest.raises(UnknownOperatorError, match="'LRN'"):
        lipschitz_bound(lrn)
    with pytest.raises(TargetError, match="is free"):
        lipschitz_bound(onnx_model([helper.make_node("Relu", ["x"], ["z"])], {}, ["n", "c"]))
    free = onnx_model([helper.make_node("Relu", ["x"], ["z"])], {}, ["n", "c"])
    assert lipschitz_bound(free, input_shape=(3,)).lipschitz == 1.0
    other = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 3])
    product = onnx_model([helper.make_node("Mul", ["x", "mask"], ["z"])], {}, [1, 3], inputs=[other])
    with pytest.raises(UnboundedError, match="not bounded"):
        lipschitz_bound(product)
    assert lipschitz_bound(product, hold={"mask": np.array([[1.0, 2.0, 0.0]])}).lipschitz == pytest.approx(2.0, rel=1e-5)
    total = onnx_model([helper.make_node("Add", ["x", "mask"], ["z"])], {}, [1, 3], inputs=[other])
    assert lipschitz_bound(total).lipschitz == pytest.approx(1.0)


def test_targets_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="there is none at"):
        lipschitz_bound(tmp_path / "no.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(TargetError, match="onnx cannot read"):
        lipschitz_bound(tmp_path / "bad.onnx")
    (tmp_path / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(TargetError, match="torch cannot load"):
        lipschitz_bound(tmp_path / "bad.pt2")
    with pytest.raises(TargetError, match=r"expected a \.onnx or \.pt2 file"):
        lipschitz_bound("model.skops")
    with pytest.raises(TargetError, match="expected a torch module"):
        lipschitz_bound(3)
    with pytest.raises(UsageError, match="input_shape="):
        lipschitz_bound(nn.Conv2d(1, 1, 3))
    with pytest.raises(TargetError, match="could not trace"):
        lipschitz_bound(nn.Conv2d(1, 1, 3), input_shape=(2, 8, 8))
    with pytest.raises(UsageError, match="positive whole numbers"):
        lipschitz_bound(nn.ReLU(), input_shape=(0,))
    with pytest.raises(UsageError, match="finite bound"):
        lipschitz_bound(nn.ReLU(), input_shape=(2,), input_bound=-1)
    with pytest.raises(TargetError, match="does not depend"):
        norm_of(Function(lambda x: torch.ones(1, 3)), 3)


def test_the_training_flag_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    network[1].eval()
    lipschitz_bound(network)
    assert [part.training for part in network.modules()] == [True, True, False, True]
