"""The ONNX adapter: opening, choosing inputs and outputs, batches, and sentences for everything that is no model."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fimaudit_adapters.onnx_runtime import ADAPTER, OnnxClassifier
from fimaudit_adapters.onnx_runtime import batch_axis as onnx_batch
from fimaudit_adapters.onnx_runtime import session as onnx_session
from fimaudit_adapters.onnx_runtime.graph_rewrite import reshape_target, with_free_batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from fimaudit.bounds.importers import onnx_folding
from fimaudit.errors import DataError, LinkError, MissingExtraError, ModelFailure, OutputError, TargetError
from fimaudit.models.classifier import Classifier, Options
from fimaudit.models.meter import Meter

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT

RNG = np.random.default_rng(7)
W = RNG.standard_normal((4, 3)).astype("f")
X = RNG.standard_normal((6, 4)).astype("f")


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def constant(name: str, value: Any, dtype: Any = None) -> Any:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def build(
    nodes: Any, inputs: Any, outputs: Any, constants: Any = (), *, opset: int = 13, ir: int = 8, listed: bool = False
) -> Any:
    """A model from (name, type, shape) triples; ``listed`` puts the initializers among the inputs, as IR 3 wants it."""
    make = helper.make_tensor_value_info
    takes = [make(*i) for i in inputs]
    if listed:
        takes += [make(c.name, c.data_type, list(c.dims)) for c in constants]
    graph = helper.make_graph(nodes, "small", takes, [make(*o) for o in outputs], list(constants))
    return helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)], producer_name="test")


def linear(batch: Any = "N", **how: Any) -> Any:
    nodes = [helper.make_node("MatMul", ["x", "W"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    return build(nodes, [("x", FLOAT, [batch, 4])], [("p", FLOAT, [batch, 3])], [constant("W", W)], **how)


def opened(target: Any, **options: Any) -> OnnxClassifier:
    model = ADAPTER.open(target, Options(**options))
    assert isinstance(model, Classifier)
    return model


def saved(folder: Path, model: Any, name: str = "m.onnx") -> str:
    onnx.save(model, folder / name)
    return str(folder / name)


# --- opening -----------------------------------------------------------------------------------------------------------


def test_accepts() -> None:
    assert ADAPTER.accepts("a/model.ONNX")
    assert ADAPTER.accepts(linear())
    assert not ADAPTER.accepts("model.pt2")
    assert not ADAPTER.accepts(linear().graph)
    assert not ADAPTER.accepts(object())


def test_a_file_is_opened_and_described(tmp_path: Path) -> None:
    path = saved(tmp_path, linear())
    model = opened(path)
    assert_allclose(model.probabilities(X), softmax(X @ W), rtol=1e-5)
    info = model.info
    assert (info.name, info.adapter, info.input_shape, info.dtype, info.classes) == (
        "m.onnx",
        "onnx_runtime",
        (4,),
        "float32",
        3,
    )
    assert (info.preferred_batch, info.notes) == (None, ())
    details = dict(info.details)
    assert len(details.pop("sha256")) == 64
    provider = details.pop("provider")
    assert (provider == "CUDAExecutionProvider") == info.device.startswith("cuda")
    assert details == {
        "opset": 13,
        "ir_version": 8,
        "producer": "test",
        "onnxruntime": ort.__version__,
        "input": "x",
        "output": "p",
        "batch": "dynamic",
    }
    assert sorted(os.listdir(tmp_path)) == ["m.onnx"]


def test_a_model_in_memory_and_close() -> None:
    model = opened(linear())
    assert_allclose(model.probabilities(X), softmax(X @ W), rtol=1e-5)
    assert model.info.name == "small"
    model.close()
    model.close()
    with pytest.raises(ModelFailure, match="closed"):
        model.probabilities(X)


def test_nothing_is_written_and_nothing_loaded_early(tmp_path: Path) -> None:
    saved(tmp_path, linear())
    (tmp_path / "bad.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:-9])
    script = """
import sys
import fimaudit_adapters.onnx_runtime as adapter
from fimaudit.models.classifier import Options
from fimaudit.errors import FimauditError
assert not {"onnx", "onnxruntime", "torch"} & set(sys.modules)
import numpy as np
model = adapter.ADAPTER.open("m.onnx", Options())
model.probabilities(np.ones((3, 4), "f"))
for target, options in ("bad.onnx", Options()), ("m.onnx", Options(output="nothing")):
    try:
        adapter.ADAPTER.open(target, options)
    except FimauditError:
        continue
    raise SystemExit("opened")
try:
    model._choice.batching(np.ones((3, 5), "f"))
except FimauditError:
    pass
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fimaudit\[onnx\]'"):
        opened("m.onnx")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(linear(), device="cpu").info.device == "cpu"
    for wrong in ("tpu", "cuda:x", "cuda:", "cpu:"):
        with pytest.raises(TargetError, match="expected device='cpu', cuda or cuda:N"):
            opened(linear(), device=wrong)
    monkeypatch.setattr(onnx_session, "cuda_problem", lambda *_: "there is no driver")
    assert opened(linear()).info.device == "cpu"
    with pytest.raises(TargetError, match=r"device='cuda:1' was asked for, but there is no driver; .*device='cpu'"):
        opened(linear(), device="cuda:1")


def test_why_there_is_no_cuda(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    without = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"], __version__="1")
    assert "no CUDA provider" in str(onnx_session.cuda_problem(without))
    everything = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider"], __version__="1")
    monkeypatch.setattr(onnx_session.ctypes, "CDLL", missing)
    assert "no NVIDIA driver" in str(onnx_session.cuda_problem(everything))
    driver = SimpleNamespace(cuInit=lambda _: 0, cuDeviceGetCount=lambda count: setattr(count._obj, "value", 1) or 0)
    monkeypatch.setattr(onnx_session.ctypes, "CDLL", lambda name: driver if "cuda.so" in name else missing(name))
    monkeypatch.setattr(onnx_session, "_cuda_major", lambda: 13)
    monkeypatch.setattr(onnx_session.sys, "platform", "linux")
    assert "1 GPU(s), numbered from 0" in str(onnx_session.cuda_problem(everything, 1))
    assert "libcudart.so.13 does not load" in str(onnx_session.cuda_problem(everything))
    assert capfd.readouterr() == ("", "")


def test_options_of_other_adapters_are_refused() -> None:
    with pytest.raises(TargetError, match=r"no use for weights='w\.pt'; leave it out"):
        opened(linear(), weights="w.pt")
    with pytest.raises(TargetError, match="does not know the option 'header'"):
        opened(linear(), extra={"header": "x"})


def test_the_cuda_path_gives_the_same_answers_on_the_cpu() -> None:
    model = opened(linear(), device="cpu")
    session = model._choice.batching.ask.session  # type: ignore[union-attr,attr-defined]
    answer = onnx_session.run_bound(ort, session, {"x": X}, "p", "cpu")
    assert np.array_equal(answer, session.run(None, {"x": X})[0])


# --- batches -----------------------------------------------------------------------------------------------------------


def reshaping(shapes: Any, batch: int = 1, *, how: str = "initializer", **options: Any) -> Any:
    """x (batch, 2, 2) through one Reshape a shape, the last one to (batch, 4), then a linear layer and softmax."""
    nodes, constants, last = [], [constant("W", W)], "x"
    for i, shape in enumerate(shapes):
        target = constant(f"s{i}", shape, np.int64)
        if how == "node":
            nodes.append(helper.make_node("Constant", [], [f"s{i}"], value=target))
        elif how == "ints":
            nodes.append(helper.make_node("Constant", [], [f"s{i}"], value_ints=shape))
        elif how == "identity":
            target.name = f"t{i}"
            nodes.append(helper.make_node("Identity", [f"t{i}"], [f"s{i}"]))
        if how in ("initializer", "identity"):
            constants.append(target)
        nodes += [helper.make_node("Reshape", [last, f"s{i}"], [f"r{i}"]), helper.make_node("Relu", [f"r{i}"], [f"h{i}"])]
        last = f"h{i}"
    nodes += [helper.make_node("MatMul", [last, "W"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    return build(nodes, [("x", FLOAT, [batch, 2, 2])], [("p", FLOAT, [batch, 3])], constants, **options)


@pytest.mark.parametrize("how", ["initializer", "node", "ints", "identity"])
@pytest.mark.parametrize(
    "shapes", [[[1, 4]], [[1, 4, 1], [1, 2, 2], [1, 4]], [[1, -1]], [[0, 4]], [[4], [1, 4]], [[-1, 1, 2], [1, -1]]]
)
def test_a_fixed_axis_is_made_dynamic(shapes: Any, how: str) -> None:
    model = opened(reshaping(shapes, how=how))
    assert (model.info.details["batch"], model.info.input_shape, model.info.notes) == ("made dynamic", (2, 2), ())
    truth = softmax(np.maximum(X, 0) @ W)
    for rows in (6, 1, 3):
        assert_allclose(model.probabilities(X[:rows].reshape(rows, 2, 2)), truth[:rows], rtol=1e-5)


@pytest.mark.parametrize(("batch", "shapes"), [(8, [[8, 4]]), (2, [[4, 2], [2, 4]]), (2, [[2, -1, 1], [-1, 4]])])
def test_other_fixed_batches_are_made_dynamic(batch: int, shapes: Any) -> None:
    model = opened(reshaping(shapes, batch))
    assert model.info.details["batch"] == "made dynamic"
    assert_allclose(model.probabilities(X.reshape(6, 2, 2)), softmax(np.maximum(X, 0) @ W), rtol=1e-5)


def test_a_free_axis_with_a_constant_inside_is_made_dynamic() -> None:
    proto = reshaping([[1, 4]])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert opened(proto).info.details["batch"] == "made dynamic"


def test_old_ir_with_initializers_among_the_inputs() -> None:
    model = opened(reshaping([[1, 4], [0, -1]], ir=3, opset=8, listed=True))
    assert (model.info.details["batch"], model.info.details["ir_version"]) == ("made dynamic", 3)
    assert_allclose(model.probabilities(X.reshape(6, 2, 2)), softmax(np.maximum(X, 0) @ W), rtol=1e-5)


def test_operator_sets_older_than_onnxruntime_are_converted() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("MatMul", ["r", "W"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["z"], broadcast=1),
        helper.make_node("Softmax", ["z"], ["p"]),
    ]
    bias = np.array([[0.5, 0.0, -0.5]], "f")
    constants = [constant("W", W), constant("b", bias), constant("s", [1, 4], np.int64)]
    for opset in (5, 6):
        model = opened(
            build(nodes, [("x", FLOAT, [1, 2, 2])], [("p", FLOAT, [1, 3])], constants, opset=opset, ir=3, listed=True)
        )
        assert (model.info.details["opset"], model.info.details["converted_to_opset"]) == (opset, 7)
        assert model.info.details["batch"] == "made dynamic"
        assert_allclose(model.probabilities(X.reshape(6, 2, 2)), softmax(X @ W + bias), rtol=1e-5)


def test_an_old_reshape_keeps_its_shape_as_an_attribute() -> None:
    nodes = [helper.make_node("Reshape", ["x"], ["r"], shape=[1, 4]), helper.make_node("MatMul", ["r", "W"], ["z"])]
    proto = build(nodes, [("x", FLOAT, [1, 2, 2])], [("z", FLOAT, [1, 3])], [constant("W", W)], opset=1, ir=3, listed=True)
    model = opened(proto, link="softmax")
    assert model.info.details["batch"] == "made dynamic"
    assert_allclose(model.probabilities(X.reshape(6, 2, 2)), softmax(X @ W), rtol=1e-5)


def test_allowzero() -> None:
    proto = reshaping([[1, 4]], opset=14)
    proto.graph.node[0].attribute.append(helper.make_attribute("allowzero", 1))
    assert opened(proto).info.details["batch"] == "made dynamic"


@pytest.mark.parametrize(
    ("lengths", "axis", "target", "batch", "new"),
    [
        ([1, 64, 7, 7], 0, [1, 3136], 1, [-1, 3136]),
        ([1, 64, 7, 7], 0, [1, -1], 1, [-1, 3136]),
        ([1, 64, 7, 7], 0, [-1, 3136], 1, [-1, 3136]),
        ([28, 8, 64], 1, [28, 8, 4, 16], 8, [28, -1, 4, 16]),
        ([28, 8, 64], 1, [28, 32, 16], 8, [28, -1, 16]),
        ([28, 8, 64], 1, [224, 64], 8, [-1, 64]),
        ([1, 12, 5, 3], 0, [12, 5, 3], 1, [-1, 5, 3]),
        ([12, 5, 3], 0, [1, 12, 5, 3], 1, [-1, 12, 5, 3]),
        ([9, 1, 2, 2], 1, [9, 4], 1, [-1, 4]),
        ([9, 1, 4], 1, [9, 2, 2], 1, [9, -1, 2]),
        ([9, 4], 0, [9, 1, 4], 1, [9, -1, 4]),
        ([1, 1, 6], 1, [1, 1, 6], 1, [1, -1, 6]),
        (None, None, [1, 10], 1, [-1, 10]),
        (None, None, [1, -1], 1, [0, -1]),
        (None, None, [5, 2], 1, [5, 2]),
        ([1, 20], None, [1, -1], 1, [-1, 20]),
        ([4, 5], None, [2, 10], 1, [2, 10]),
        ([1, 4], 0, [3, 7], 1, [3, 7]),
        ([1], 0, [], 1, []),
    ],
)
def test_reshape_targets(lengths: Any, axis: Any, target: Any, batch: int, new: Any) -> None:
    assert reshape_target(lengths, axis, target, batch) == new


def computed_target(*others: Any) -> Any:
    """One row of (2, 3) made flat by a target that is the sum of two constants; ``others`` compute from these, too."""
    nodes = [helper.make_node("Add", ["one", "rest"], ["target"]), helper.make_node("Reshape", ["x", "target"], ["y"])]
    constants = [
        constant("one", [1, 0]),
        constant("rest", [0, 6]),
        constant("three", [1, 2, 3]),
        constant("table", [[1, 2], [3, 4]]),
    ]
    return build([*others, *nodes], [("x", FLOAT, [1, 2, 3])], [("y", FLOAT, [1, 6])], constants)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Nonsense", ["one"], ["z"]),
        helper.make_node("Add", ["one", "three"], ["z"]),
        helper.make_node("Concat", ["one"], ["z"]),
        helper.make_node("Resize", ["one", "", "three"], ["z"]),
        helper.make_node("Gather", ["one", "three"], ["z"], axis=7),
        helper.make_node("GatherElements", ["one", "rest"], ["z"], axis=7),
        helper.make_node("GatherElements", ["one", "rest"], ["z"]),
        helper.make_node("GatherElements", ["one"], ["z"]),
        helper.make_node("GatherElements", ["table", "one"], ["z"], axis=1),
        helper.make_node("Neg", ["one"], [""]),
        helper.make_node("Einsum", ["one", "three"], ["z"], equation="ij->"),
        helper.make_node("Einsum", ["one"], ["z"], equation="ij->"),
        helper.make_node("ConstantOfShape", ["three"], ["z"], value=constant("many", [1, 2])),
        helper.make_node("RandomNormalLike", ["one"], ["z"]),
    ],
)  # fmt: skip
def test_constants_that_cannot_be_computed_leave_the_others(node: Any) -> None:
    graph = with_free_batch(computed_target(node), ["x"], 1).graph
    targets = [numpy_helper.to_array(a.t).tolist() for n in graph.node for a in n.attribute if n.op_type == "Constant"]
    assert [-1, 6] in targets or [0, 6] in targets


def test_an_error_of_ours_while_constants_are_computed_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for an operator that onnx cannot do, and its graph was silently not rewritten."""

    def broken(*_: Any) -> float:
        raise AttributeError("an error of ours")

    monkeypatch.setattr(onnx_folding, "seconds", broken)
    with pytest.raises(AttributeError, match="an error of ours"):
        with_free_batch(computed_target(), ["x"], 1)


def centred(batch: Any) -> Any:
    """Subtracts the mean over the batch, so that rows influence each other."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["mean", "half"], ["part"]),
        helper.make_node("Sub", ["x", "part"], ["c"]),
        helper.make_node("MatMul", ["c", "W"], ["z"]),
    ]
    constants = [constant("W", W), constant("half", 0.5, "f")]
    return build(nodes, [("x", FLOAT, [batch, 4])], [("z", FLOAT, [batch, 3])], constants)


@pytest.mark.parametrize("batch", ["N", 1])
def test_rows_that_influence_each_other_go_one_by_one(batch: Any) -> None:
    model = opened(centred(batch), link="softmax")
    assert (model.info.details["batch"], model.info.preferred_batch) == ("row by row", 1)
    assert any("rows go one by one, which takes longer" in note for note in model.info.notes)
    assert_allclose(model.probabilities(X), softmax(0.5 * X @ W), rtol=1e-5)


def test_fixed_rows_that_influence_each_other_go_alone() -> None:
    model = opened(centred(4), link="softmax")
    assert (model.info.details["batch"], model.info.preferred_batch) == ("row by row", 1)
    assert any("each row is sent alone, 4 times over" in note for note in model.info.notes)
    assert_allclose(model.probabilities(X), softmax(0.5 * X @ W), rtol=1e-5)


def test_a_batch_that_cannot_be_freed_is_padded() -> None:
    token = np.zeros((4, 1), "f")
    nodes = [helper.make_node("Concat", ["x", "token"], ["c"], axis=1), helper.make_node("MatMul", ["c", "V"], ["z"])]
    V = np.vstack([W, np.ones((1, 3), "f")])
    for batch in (4, 1):
        constants = [constant("token", token[:batch]), constant("V", V)]
        model = opened(build(nodes, [("x", FLOAT, [batch, 4])], [("z", FLOAT, [batch, 3])], constants), link="softmax")
        assert model.info.preferred_batch == batch
        assert model.info.details["batch"] == ("fixed 4" if batch == 4 else "row by row")
        assert any("could not be made dynamic" in note for note in model.info.notes)
        for rows in (6, 4, 1):
            assert_allclose(model.probabilities(X[:rows]), softmax(X[:rows] @ W), rtol=1e-5)


def test_real_rows_decide_where_random_ones_cannot() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["c"]),
        helper.make_node("Concat", ["x", "c"], ["z"], axis=1),
    ]
    model = opened(build(nodes, [("x", FLOAT, ["N", "D"])], [("z", FLOAT, ["N", "E"])]), link="softmax")
    assert (model.info.details["batch"], model.info.preferred_batch, model.info.input_shape) == ("dynamic", None, (None,))
    truth = softmax(np.hstack([X, np.zeros_like(X)]))
    assert_allclose(model.probabilities(X), truth, rtol=1e-5)
    assert (model.info.details["batch"], model.info.preferred_batch) == ("row by row", 1)
    assert any("not answered like its rows alone" in note for note in model.info.notes)
    assert_allclose(model.probabilities(X), truth, rtol=1e-5)


def test_a_saturated_model_is_checked_until_rows_decide() -> None:
    model = opened(linear())
    assert model._checks == 1
    model.probabilities(np.repeat(X[:1], 5, axis=0))
    assert model._checks == 0
    flat = build([helper.make_node("Softmax", ["x"], ["p"], axis=1)], [("x", FLOAT, ["N", "D"])], [("p", FLOAT, ["N", "D"])])
    unsettled = opened(flat)
    for _ in range(12):
        unsettled.probabilities(np.repeat(X[:1], 5, axis=0))
    assert (unsettled._checks, unsettled.info.details["batch"]) == (0, "dynamic")


def test_random_answers_say_nothing_about_batches() -> None:
    nodes = [helper.make_node("RandomUniformLike", ["x"], ["u"]), helper.make_node("Softmax", ["u"], ["p"], axis=1)]
    model = opened(build(nodes, [("x", FLOAT, ["N", 4])], [("p", FLOAT, ["N", 4])]))
    model.probabilities(X)
    assert model.info.details["batch"] == "dynamic"


@pytest.mark.parametrize("shape", [[4], [2, 2]])
@pytest.mark.parametrize("rows", [True, False])
def test_inputs_without_a_batch_axis(shape: Any, rows: bool) -> None:
    flat = [1, 4] if rows else [4]
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"]), helper.make_node("MatMul", ["r", "W"], ["z"])]
    constants = [constant("W", W), constant("s", flat, np.int64)]
    proto = build(nodes, [("x", FLOAT, shape)], [("z", FLOAT, [1, 3] if rows else [3])], constants)
    model = opened(proto, link="softmax")
    assert (model.info.details["batch"], model.info.preferred_batch) == ("no batch axis", 1)
    assert (model.info.input_shape, model.info.classes) == (tuple(shape), 3)
    assert any("has no batch axis; rows go one by one" in note for note in model.info.notes)
    assert_allclose(model.probabilities(X.reshape(6, *shape)), softmax(X @ W), rtol=1e-5)


def test_unknown_rank_and_undeclared_batch() -> None:
    proto = linear()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    model = opened(proto)
    assert model.info.input_shape is None
    assert_allclose(model.probabilities(X), softmax(X @ W), rtol=1e-5)
    zero = opened(linear(0))
    assert_allclose(zero.probabilities(X), softmax(X @ W), rtol=1e-5)


def test_a_network_exported_by_torch_with_one_row() -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 4, 3, stride=2)
            self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
            self.last = torch.nn.Linear(36, 5)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
            h = self.attention(h, h, h, need_weights=False)[0]
            return self.last(h.reshape(h.shape[0], -1))

    torch.manual_seed(0)
    net = Net().eval()
    x = torch.rand(7, 1, 8, 8)
    with torch.no_grad():
        truth = torch.softmax(net(x), 1).numpy()
    for dynamo in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            proto = exported(torch, net, x[:1], dynamo)
        model = opened(proto, link="softmax")
        assert model.info.details["batch"] == "made dynamic"
        assert_allclose(model.probabilities(x.numpy()), truth, rtol=1e-4, atol=1e-6)


def exported(torch: Any, net: Any, x: Any, dynamo: bool) -> Any:
    import io

    buffer = io.BytesIO()
    if dynamo:
        return torch.onnx.export(net, (x,), dynamo=True, verbose=False).model_proto
    torch.onnx.export(net, (x,), buffer, dynamo=False)
    return onnx.load_from_string(buffer.getvalue())


# --- types, inputs, outputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int32", "int64"])
def test_input_types(dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), helper.make_node("MatMul", ["f", "W"], ["z"])]
    model = opened(build(nodes, [("x", kind, [1, 4])], [("z", FLOAT, [1, 3])], [constant("W", W)]), link="softmax")
    assert (model.info.dtype, model.info.details["batch"]) == (dtype, "made dynamic")
    rows = np.arange(24).reshape(6, 4) % 7
    assert_allclose(model.probabilities(rows.astype(dtype)), softmax(rows.astype("f") @ W), rtol=1e-4)
    assert_allclose(model.probabilities(rows.astype(float)), softmax(rows.astype("f") @ W), rtol=1e-4)


def test_half_precision_throughout() -> None:
    half = onnx.TensorProto.FLOAT16
    nodes = [helper.make_node("MatMul", ["x", "W"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    model = opened(build(nodes, [("x", half, [1, 4])], [("p", half, [1, 3])], [constant("W", W, np.float16)]))
    assert model.info.details["batch"] == "made dynamic"
    assert_allclose(model.probabilities(X.astype(np.float16)), softmax(X @ W), atol=5e-3)


def test_casts_that_would_change_the_inputs_are_refused() -> None:
    uint8 = onnx.TensorProto.UINT8
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), helper.make_node("MatMul", ["f", "W"], ["z"])]
    model = opened(build(nodes, [("x", uint8, ["N", 4])], [("z", FLOAT, ["N", 3])], [constant("W", W)]), link="softmax")
    for wrong in (-1.0, 256.0, np.nan):
        with pytest.raises(DataError, match="takes uint8, from 0 to 255"):
            model.probabilities(np.full((2, 4), wrong))
    with pytest.raises(DataError, match="expected inputs of numbers"):
        model.probabilities(np.full((2, 4), "a"))
    nearly = model.probabilities(np.full((2, 4), 2.9999999))
    assert_allclose(nearly, model.probabilities(np.full((2, 4), 3, np.uint8)))


def test_inputs_of_another_shape_are_refused() -> None:
    model = opened(linear())
    for wrong in (X[0], X[:0], X[:, :3], X[:, :, None]):
        with pytest.raises(DataError, match=r"expected inputs of shape \(rows, 4\), got an array of shape"):
            model.probabilities(wrong)
    assert_allclose(model.probabilities(np.asfortranarray(X)), softmax(X @ W), rtol=1e-5)


def two_inputs(batch: Any = "N") -> Any:
    nodes = [
        helper.make_node("Concat", ["x", "age"], ["c"], axis=1),
        helper.make_node("MatMul", ["c", "V"], ["z"]),
        helper.make_node("Mul", ["z", "sharpness"], ["s"]),
    ]
    inputs = [("x", FLOAT, [batch, 4]), ("age", FLOAT, [batch, 1]), ("sharpness", FLOAT, [])]
    return build(
        nodes, inputs, [("s", FLOAT, [batch, 3])], [constant("V", np.vstack([W, np.ones((1, 3), "f") * [1, 2, 3]]), "f")]
    )


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("named", [True, False])
def test_other_inputs_are_held(batch: Any, named: bool) -> None:
    model = opened(two_inputs(batch), link="softmax", input="x" if named else None, hold={"age": [0.5], "sharpness": 2.0})
    assert model.info.details["held"] == ["age", "sharpness"]
    assert model.info.details["batch"] == ("dynamic" if batch == "N" else "made dynamic")
    truth = softmax(2 * (X @ W + 0.5 * np.array([[1, 2, 3]])))
    for rows in (6, 2):
        assert_allclose(model.probabilities(X[:rows]), truth[:rows], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"has 3 inputs, 'x' .*'age' .*input=NAME .*hold={'NAME': VALUE}"),
        ({"input": "x"}, "further inputs, 'age'.*hold={'NAME': VALUE}"),
        ({"input": "y"}, "no input 'y'; input= takes one of 'x', 'age', 'sharpness'"),
        ({"input": "x", "hold": {"x": 1}}, "both audited and held"),
        ({"hold": {"x": 1, "age": 1, "sharpness": 1}}, "none of them is left to audit"),
        ({"input": "x", "hold": {"weight": 1}}, "hold= names 'weight', but the model's inputs are"),
        ({"input": "x", "hold": {"age": [1, 2], "sharpness": 1}}, r"'age' has shape \(2,\), expected \(1\)"),
        ({"input": "x", "hold": {"age": ["old"], "sharpness": 1}}, "'age' does not convert to float32"),
    ],
)
def test_wrong_inputs(options: Any, sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        opened(two_inputs(), **options)


def test_inputs_that_cannot_be_audited() -> None:
    string, boolean = onnx.TensorProto.STRING, onnx.TensorProto.BOOL
    for kind in (string, boolean):
        proto = build([helper.make_node("Identity", ["x"], ["y"])], [("x", kind, ["N", 2])], [("y", kind, ["N", 2])])
        with pytest.raises(TargetError, match="must be a tensor of numbers"):
            opened(proto)
    proto = build([helper.make_node("Identity", ["x"], ["y"])], [("x", FLOAT, [])], [("y", FLOAT, [])])
    with pytest.raises(TargetError, match="single number without axes"):
        opened(proto)
    proto = build([helper.make_node("Identity", ["W"], ["y"])], [], [("y", FLOAT, [4, 3])], [constant("W", W)])
    with pytest.raises(TargetError, match="no inputs"):
        opened(proto)


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("shape", [[3, 1, 1], [1], []])
def test_output_shapes(batch: Any, shape: Any) -> None:
    columns = 3 if shape == [3, 1, 1] else 1
    nodes = [helper.make_node("MatMul", ["x", "W"], ["z"])]
    constants = [constant("W", W[:, :columns])]
    if shape != [1]:
        name = "axes"
        constants.append(constant(name, [2, 3] if columns == 3 else [1], np.int64))
        nodes.append(helper.make_node("Unsqueeze" if columns == 3 else "Squeeze", ["z", name], ["y"]))
    proto = build(nodes, [("x", FLOAT, [batch, 4])], [(nodes[-1].output[0], FLOAT, [batch, *shape])], constants)
    model = opened(proto, link="softmax" if columns == 3 else "sigmoid")
    assert (model.info.classes, model.info.details["batch"]) == (
        max(2, columns),
        "dynamic" if batch == "N" else "made dynamic",
    )
    one = 1 / (1 + np.exp(-(X @ W[:, :1])))
    assert_allclose(model.probabilities(X), softmax(X @ W) if columns == 3 else np.hstack([1 - one, one]), rtol=1e-5)


def test_several_outputs() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["answer"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1),
        helper.make_node("Unsqueeze", ["x", "axes"], ["map"]),
    ]
    constants = [constant("W", W), constant("axes", [2], np.int64)]
    label = ("label", onnx.TensorProto.INT64, ["N", 1])
    two = [("logits", FLOAT, ["N", 3]), ("answer", FLOAT, ["N", 3])]
    proto = build(nodes, [("x", FLOAT, ["N", 4])], [label, *two], constants)
    with pytest.raises(TargetError, match=r"several outputs that could be read, 'logits' .*'answer' .*output=NAME"):
        opened(proto)
    for chosen in ("answer", 2, "2", -1):
        assert_allclose(opened(proto, output=chosen).probabilities(X), softmax(X @ W), rtol=1e-5)
    with pytest.raises(LinkError, match="link='softmax'"):
        opened(proto, output="logits").probabilities(X)
    with pytest.raises(
        TargetError, match=r"'label' is a tensor\(int64\), expected probabilities or logits; name one of 'logits'"
    ):
        opened(proto, output="label")
    for wrong in ("other", 3, "-4"):
        with pytest.raises(TargetError, match=r"no output .*'label', 'logits', 'answer' or a position, 0 to 2"):
            opened(proto, output=wrong)
    only = build(nodes, [("x", FLOAT, ["N", 4])], [label, two[1]], constants)
    assert opened(only).info.details["output"] == "answer"
    labels = build(nodes[:3], [("x", FLOAT, ["N", 4])], [label], constants[:1])
    with pytest.raises(TargetError, match="hold labels or the like; export the model with its probabilities"):
        opened(labels)
    with pytest.raises(TargetError, match="no output of this model holds any"):
        opened(labels, output="label")


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("labels", ["int", "str"])
def test_estimators_exported_by_skl2onnx(zipmap: bool, labels: str) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y] if labels == "str" else y
    estimator = LogisticRegression(max_iter=500).fit(x, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = skl2onnx.to_onnx(estimator, x[:1].astype("f"), options={"zipmap": zipmap})
    model = opened(proto)
    assert model.info.details["output"] == ("output_probability" if zipmap else "probabilities")
    assert (model.info.classes, model.info.details["batch"]) == (3, "dynamic")
    assert_allclose(model.probabilities(x.astype("f")), estimator.predict_proba(x), atol=1e-5)


@pytest.mark.parametrize("names", ["[2001-99-99]", "!!bool x", '"\\UFFFFFFFF"', "{0: !!float x}"])
def test_metadata_that_name_no_classes_are_passed_over(names: str) -> None:
    proto = linear()
    helper.set_model_props(proto, {"names": names})
    assert opened(proto).info.class_names is None


def test_maps_are_aligned_by_class() -> None:
    runner = opened(linear())._choice.batching.ask  # type: ignore[union-attr]
    assert isinstance(runner, onnx_session.Runner)
    assert_allclose(runner._from_maps([{"a": 0.25, "b": 0.75}, {"b": 0.5, "a": 0.5}]), [[0.25, 0.75], [0.5, 0.5]])
    assert runner.classes == ["a", "b"]
    with pytest.raises(OutputError, match="one row lacks 'b'"):
        runner._from_maps([{"a": 1.0, "c": 0.0}])
    with pytest.raises(OutputError, match="one row has others as well"):
        runner._from_maps([{"a": 1.0, "b": 0.0, "c": 0.0}])
    with pytest.raises(OutputError, match="expected an array or a list of maps"):
        runner._from_maps(["a"])


def test_answers_of_another_length_are_refused() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    proto = build(nodes, [("x", FLOAT, ["N", "D"])], [("y", FLOAT, None)], [constant("s", [-1, 2], np.int64)])
    model = opened(proto, link="softmax")
    with pytest.raises(OutputError, match=r"expected output of shape|rows of output"):
        model.probabilities(X)


def test_a_model_that_raises() -> None:
    proto = linear()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelFailure, match=r"raised on an input of shape \([12], 5\) and type float32"):
        opened(proto).probabilities(np.ones((2, 5), "f"))


def test_answers_that_are_not_finite() -> None:
    proto = build([helper.make_node("Log", ["x"], ["z"])], [("x", FLOAT, ["N", 4])], [("z", FLOAT, ["N", 4])])
    with pytest.raises(OutputError, match="finite"):
        opened(proto, link="softmax").probabilities(-np.abs(X))


def test_equal_answers_are_distinguished_from_unclear_ones() -> None:
    a = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert onnx_batch.same_answers(a, a) is onnx_batch.BatchAxisVerdict.SAME
    assert onnx_batch.same_answers(a[:1], a[:1]) is onnx_batch.BatchAxisVerdict.UNCLEAR
    assert onnx_batch.same_answers(a, a[::-1]) is onnx_batch.BatchAxisVerdict.DIFFERENT
    assert onnx_batch.same_answers(a, a[:1]) is onnx_batch.BatchAxisVerdict.DIFFERENT
    assert onnx_batch.same_answers(a * np.nan, a) is onnx_batch.BatchAxisVerdict.DIFFERENT
    assert onnx_batch.same_answers(a * np.nan, a * np.nan) is onnx_batch.BatchAxisVerdict.UNCLEAR


# --- files that are no models ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Path(saved(tmp_path_factory.mktemp("valid"), reshaping([[1, 4, 1], [1, 4]], how="node"))).read_bytes()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"hello, world\n", "text"),
        (b"<!doctype html><html></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"PK\x03\x04rest of a zip", "zip archive or a pickle"),
        (b"\x08\x07", "holds no ONNX graph"),
        (bytes(range(200, 256)), "truncated, or of another format"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(TargetError, match=sentence):
        opened(str(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"expected an ONNX file at .*check the path"):
        opened(str(tmp_path / "none.onnx"))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(TargetError, match="got the folder"):
        opened(str(tmp_path / "folder.onnx"))


def test_graphs_that_do_not_load(tmp_path: Path, valid: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(valid[: len(valid) // 2])
    with pytest.raises(TargetError, match="export or copy it again"):
        opened(str(path))
    proto = build([helper.make_node("Levitate", ["x"], ["p"])], [("x", FLOAT, ["N", 4])], [("p", FLOAT, ["N", 4])])
    with pytest.raises(TargetError, match=r"onnxruntime [\d.]+ cannot load m.onnx: .*Levitate"):
        opened(saved(tmp_path, proto))
    with pytest.raises(TargetError, match="cannot load small"):
        opened(linear(opset=999))


def test_external_data(tmp_path: Path) -> None:
    def save(model: Any) -> str:
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
        return str(tmp_path / "m.onnx")

    path = save(linear(1))
    model = opened(path)
    assert (model.info.details["batch"], list(model.info.details["external_data"])) == ("made dynamic", ["m.onnx.data"])
    assert_allclose(model.probabilities(X), softmax(X @ W), rtol=1e-5)
    with pytest.raises(TargetError, match="pass the path of the model"):
        opened(onnx.load(path, load_external_data=False))
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:8])
    with pytest.raises(TargetError, match=r"cannot load m\.onnx"):
        opened(path)
    data.unlink()
    with pytest.raises(
        TargetError, match=r"keeps weights in 'm\.onnx\.data', but .* has no such file; put it beside the model"
    ):
        opened(path)
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../elsewhere"
    with pytest.raises(TargetError, match="outside its own folder; refused"):
        opened(saved(tmp_path, proto))


def opens_or_says_why(folder: Path, content: bytes) -> None:
    path = folder / "m.onnx"
    path.write_bytes(content)
    try:
        opened(str(path))
    except TargetError as error:
        assert len(str(error)) > 20  # noqa: PT017


FUZZ = settings(
    max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], derandomize=True
)


@FUZZ
@given(data=st.data())
def test_any_beginning_of_a_file(tmp_path: Path, valid: bytes, data: st.DataObject) -> None:
    opens_or_says_why(tmp_path, valid[: data.draw(st.integers(0, len(valid) - 1))])


@FUZZ
@given(data=st.data())
def test_any_garbled_byte(tmp_path: Path, valid: bytes, data: st.DataObject) -> None:
    content = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    opens_or_says_why(tmp_path, bytes(content))


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_any_number_of_rows_is_answered_in_order(batch: Any) -> None:
    """In each kind of batch: row i gets the answer to row i."""
    rows = RNG.standard_normal((23, 4)).astype("f")
    model = opened(linear(batch))
    for count in (1, 2, 5, 23):
        np.testing.assert_allclose(model.probabilities(rows[:count]), softmax(rows[:count] @ W), rtol=1e-5)


def test_calls_stay_within_the_cache_on_the_cpu() -> None:
    model = opened(linear("N"))
    assert model.info.device == "cpu"
    assert Meter(model).batch_rows(2**18) == (model.info.call_bytes or 0) // 2**18 > 0
