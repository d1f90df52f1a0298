"""Torch modules and files: state put back, outputs and inputs chosen, files distinguished, memory that runs out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fimaudit_adapters.pytorch.device_signs import displaced_on_device
from safetensors.torch import save_file
from torch import nn

from fimaudit import audit
from fimaudit.errors import DataError, ModelFailure, OutputError, TargetError, UntrustedPickleError
from fimaudit.models.classifier import DeviceClassifier
from fimaudit.models.opening import open_classifier
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.perturbations.sign_rows import displaced_bounds, displaced_rows
from fimaudit.space import Box

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3)).eval()


def state(module: nn.Module) -> list[object]:
    tensors = [(k, v.clone(), v.requires_grad) for k, v in (*module.named_parameters(), *module.named_buffers())]
    return [*tensors, *[(name, part.training) for name, part in module.named_modules()]]


def same(a: list[Any], b: list[Any]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(x[0] == y[0] and torch.equal(*map(torch.as_tensor, (x[1], y[1]))) and x[2:] == y[2:] for x, y in pairs)


def test_answers_are_the_softmax_of_the_logits() -> None:
    module = network()
    with torch.no_grad():
        expected = module(torch.from_numpy(X)).double().softmax(1).numpy()
    np.testing.assert_allclose(open_classifier(module, "softmax", device="cpu").probabilities(X), expected, rtol=1e-12)


def test_training_mode_is_left_with_a_note_and_put_back() -> None:
    module = network().train()
    module[1].eval()
    before = state(module)
    model = open_classifier(module, "softmax", device="cpu")
    assert "was in training mode" in model.info.notes[0]
    assert not any(part.training for part in module.modules())
    np.testing.assert_array_equal(model.probabilities(X), model.probabilities(X))
    model.close()
    assert same(before, state(module))
    module.train()
    model.close()
    assert module.training, "a second close must not undo what the user did since"


def test_eval_mode_leaves_no_note_and_no_gradient() -> None:
    module = network()
    model = open_classifier(module, "softmax", device="cpu")
    model.probabilities(X)
    assert model.info.notes == ()
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_info_describes_the_module() -> None:
    info = open_classifier(network(), device="cpu").info
    assert (info.name, info.adapter, info.dtype, info.device, info.input_shape) == (
        "Sequential",
        "pytorch",
        "float32",
        "cpu",
        None,
    )
    assert info.details["parameters"] == 4 * 6 + 6 + 12 + 18 + 3
    assert info.details["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("dtype", "fed"),
    [(torch.float16, "float16"), (torch.float32, "float32"), (torch.float64, "float64"), (torch.bfloat16, "float32")],
)
def test_dtype_comes_from_the_parameters(dtype: torch.dtype, fed: str) -> None:
    model = open_classifier(nn.Linear(4, 3).to(dtype), "softmax", device="cpu")
    assert model.info.dtype == fed
    assert model.probabilities(X).dtype == np.float64
    assert any("bfloat16" in note for note in model.info.notes) == (dtype == torch.bfloat16)


def test_bfloat16_probabilities_pass_as_distributions() -> None:
    module = nn.Sequential(nn.Linear(4, 50), nn.Softmax(1)).bfloat16()
    np.testing.assert_allclose(open_classifier(module, device="cpu").probabilities(X).sum(1), 1, atol=1e-12)


class Pair(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor
    loss: None = None


class Shaped(nn.Module):
    """Answers in the shape that ``form`` builds from logits and something else."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return self.form(x[:, :3], x)


@pytest.mark.parametrize(
    ("form", "output"),
    [
        (lambda z, h: z, None),
        (lambda z, h: z, 0),
        (lambda z, h: (z,), None),
        (lambda z, h: (h, z), 1),
        (lambda z, h: [h, z], "1"),
        (lambda z, h: (h, z), -1),
        (lambda z, h: {"logits": z, "hidden": h}, None),
        (lambda z, h: {"scores": z}, None),
        (lambda z, h: {"scores": z, "hidden": h}, "scores"),
        (lambda z, h: Pair(h, z), None),
        (lambda z, h: Pair(z, h), "features"),
        (lambda z, h: Answer(z, h), None),
        (lambda z, h: Answer(h, z), "hidden"),
    ],
)
def test_output_is_found(form: Any, output: Any) -> None:
    p = open_classifier(Shaped(form), "softmax", output=output, device="cpu").probabilities(X)
    np.testing.assert_allclose(p, torch.from_numpy(X[:, :3]).double().softmax(1).numpy())


@pytest.mark.parametrize(
    ("form", "output", "sentence"),
    [
        (lambda z, h: (h, z), None, r"returns 2 outputs; choose one with output= \(0 to 1\)"),
        (lambda z, h: {"a": z, "b": h}, None, r"choose one with output= \(a, b\)"),
        (lambda z, h: {"a": z, "b": h}, "c", "no output 'c'; expected one of a, b"),
        (lambda z, h: (h, z), 2, "no output 2; expected one of 0 to 1"),
        (lambda z, h: z, "logits", "single tensor, so there is no output 'logits'"),
        (lambda z, h: "cat", None, "expected a tensor as the model's output, got str"),
        (lambda z, h: None, None, "got NoneType"),
        (lambda z, h: {"logits": 3}, None, "got int"),
    ],
)
def test_output_refusals(form: Any, output: Any, sentence: str) -> None:
    model = open_classifier(Shaped(form), "softmax", output=output, device="cpu")
    with pytest.raises(OutputError, match=sentence):
        model.probabilities(X)


class TwoInputs(nn.Module):
    def forward(self, ids: torch.Tensor, x: torch.Tensor, scale: float = 1.0, *, shift: torch.Tensor) -> torch.Tensor:
        assert ids.shape == (len(x), 2)
        assert ids.dtype == torch.int64
        return x[:, :3] * scale + shift


def test_other_inputs_are_held() -> None:
    hold = {"ids": [1, 2], "shift": [1.0, 0.0, 0.0]}
    p = open_classifier(TwoInputs(), "softmax", input="x", hold=hold, device="cpu").probabilities(X)
    expected = torch.from_numpy(X[:, :3] + np.array([1, 0, 0], np.float32)).double().softmax(1).numpy()
    np.testing.assert_allclose(p, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "forward also needs x, shift: give each a constant with hold="),
        ({"input": "y"}, "no argument 'y'; its arguments: ids, x, scale, shift"),
        ({"input": "x", "hold": {"mask": 1.0}}, "no argument 'mask'"),
        ({"input": "x", "hold": {"x": 1.0}}, "'x' is the audited input and cannot be held"),
        ({"input": "x", "hold": {"ids": "one", "shift": 0.0}}, "expected numbers to hold 'ids' at"),
        ({"colour": 1}, "does not know the option 'colour'"),
    ],
)
def test_input_refusals(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        open_classifier(TwoInputs(), "softmax", device="cpu", **options)


def save_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network()).save(str(path))


def test_files_give_the_module_s_answers(tmp_path: Path) -> None:
    expected = open_classifier(network(), "softmax", device="cpu").probabilities(X)
    program = torch.export.export(network(), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "m.pt2")
    save_script(tmp_path / "m.pt")
    torch.save(network(), tmp_path / "whole.pth")
    for name, options in {"m.pt2": {}, "m.pt": {}, "whole.pth": {"trust_pickle": True}}.items():
        model = open_classifier(tmp_path / name, "softmax", device="cpu", **options)
        np.testing.assert_allclose(model.probabilities(X), expected, rtol=1e-5)
        assert model.info.name == name
        assert len(model.info.details["sha256"]) == 64
    np.testing.assert_allclose(open_classifier(program, "softmax", device="cpu").probabilities(X), expected, rtol=1e-5)
    assert open_classifier(tmp_path / "m.pt2", device="cpu").info.input_shape == (4,)


@pytest.mark.parametrize(("batch", "how"), [(1, "row by row"), (3, "3 rows at a time")])
def test_exported_program_with_a_fixed_batch(batch: int, how: str) -> None:
    program = torch.export.export(network(), (torch.zeros(batch, 4),))
    model = open_classifier(program, "softmax", device="cpu")
    assert model.info.preferred_batch == batch
    assert how in model.info.notes[0]
    expected = open_classifier(network(), "softmax", device="cpu").probabilities(X)
    np.testing.assert_allclose(model.probabilities(X), expected, rtol=1e-5)
    with pytest.raises(DataError, match=r"expected inputs of shape \(4,\), got a batch of shape \(2, 5\)"):
        model.probabilities(np.zeros((2, 5)))


def test_program_exported_in_training_mode_is_noted() -> None:
    program = torch.export.export(network().train(), (torch.zeros(2, 4),))
    assert "exported in training mode" in open_classifier(program, device="cpu").info.notes[-1]


def test_files_that_hold_no_network(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "state.pt")
    with pytest.raises(TargetError, match=r"holds a state dict and no network.*package\.module:factory.*weights="):
        open_classifier(tmp_path / "state.pt")
    torch.save({"epoch": 3, "state_dict": network().state_dict()}, tmp_path / "checkpoint.pt")
    with pytest.raises(TargetError, match="holds a dict of epoch, state_dict"):
        open_classifier(tmp_path / "checkpoint.pt")
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(UntrustedPickleError, match=r"pickled module.*trust_pickle=True.*torch\.export\.save"):
        open_classifier(tmp_path / "whole.pt")
    torch.save(TwoInputs, tmp_path / "class.pt")
    with pytest.raises(TargetError, match="expected a torch module"):
        open_classifier(tmp_path / "class.pt", trust_pickle=True)


@pytest.mark.parametrize("name", ["m.pt2", "m.pt", "whole.pt"])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "m.pt2":
        torch.export.save(torch.export.export(network(), (torch.zeros(2, 4),)), path)
    elif name == "m.pt":
        save_script(path)
    else:
        torch.save(network(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TargetError, match=name):
            open_classifier(path)


def test_weights_of_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = network()
    nn.init.constant_(trained[0].weight, 0.3)
    expected = open_classifier(trained, "softmax", device="cpu").probabilities(X)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    torch.save({"epoch": 1, "state_dict": trained.state_dict()}, tmp_path / "checkpoint.pt")
    for name in ("w.safetensors", "w.pt", "checkpoint.pt"):
        model = open_classifier("test_pytorch:network", "softmax", device="cpu", weights=tmp_path / name)
        np.testing.assert_array_equal(model.probabilities(X), expected)
        assert len(model.info.details["weights_sha256"]) == 64


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    wrong = {f"module.{k}": v for k, v in network().state_dict().items()}
    save_file(wrong, tmp_path / "w.safetensors")
    with pytest.raises(TargetError, match=r"it lacks 0\.bias, 0\.weight, 1\.bias and 6 more and holds module\.0\.bias"):
        open_classifier(network(), weights=tmp_path / "w.safetensors")
    reshaped = network().state_dict() | {"0.weight": torch.zeros(6, 5)}
    save_file(reshaped, tmp_path / "w.safetensors")
    with pytest.raises(TargetError, match=r"0\.weight has shape \(6, 5\), expected \(6, 4\)"):
        open_classifier(network(), weights=tmp_path / "w.safetensors")
    torch.save(network(), tmp_path / "w.pt")
    with pytest.raises(UntrustedPickleError, match="holds more than tensors"):
        open_classifier(network(), weights=tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(TargetError, match="expected a state dict"):
        open_classifier(network(), weights=tmp_path / "w.pt")
    with pytest.raises(TargetError, match="no such file"):
        open_classifier(network(), weights=tmp_path / "nothing.pt")
    (tmp_path / "w.safetensors").write_bytes(b"garbage")
    with pytest.raises(TargetError, match="expected safetensors weights"):
        open_classifier(network(), weights=tmp_path / "w.safetensors")
    save_script(tmp_path / "m.pt")
    with pytest.raises(TargetError, match="brings its own"):
        open_classifier(tmp_path / "m.pt", weights=tmp_path / "w.pt")


class SmallMemory(nn.Module):
    """Runs out of memory above ``most`` rows."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return x[:, :3]


def test_memory_that_runs_out_halves_the_batch() -> None:
    module = SmallMemory(3)
    model = open_classifier(module, "softmax", device="cpu")
    rows = np.repeat(X, 4, axis=0)
    expected = torch.from_numpy(rows[:, :3]).double().softmax(1).numpy()
    np.testing.assert_allclose(model.probabilities(rows), expected)
    assert module.sizes == [20, 10, 5] + [2] * 10
    np.testing.assert_allclose(model.probabilities(rows), expected)
    assert max(module.sizes[13:]) == 2, "the size that fitted is remembered"
    with pytest.raises(ModelFailure, match="ran out of memory on a single call of 1 rows"):
        open_classifier(SmallMemory(0), "softmax", device="cpu").probabilities(X)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 7), (16,)])
def test_displaced_rows_are_the_reference_bit_for_bit(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.random(shape).astype(np.float32)
    step = rng.random(shape) * 0.1 * (rng.random(shape) > 0.2)
    packed = packed_signs(generator(0, 0), 9, x.size)
    low, high = displaced_bounds(x, step, Box(np.zeros(shape), np.ones(shape)), "float32")
    got = displaced_on_device(packed, torch.from_numpy(low), torch.from_numpy(high)).numpy()
    np.testing.assert_array_equal(got, displaced_rows(x, packed, step, np.zeros(shape), np.ones(shape), "float32"))
    assert isinstance(open_classifier(network(), device="cpu"), DeviceClassifier)


class Recurrent(nn.Module):
    """Begins in a state of (layers, batch, units)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.out = nn.GRU(4, 6, num_layers=layers, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.cell(x, state)[0][:, -1])
        return out


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", ["(layers, 1, units)", "(layers, units)"])
@pytest.mark.parametrize("mode", ["white-box", "black-box"])
def test_a_held_state_has_its_batch_second(layers: int, shape: str, mode: Any) -> None:
    net, rng = Recurrent(layers).eval(), np.random.default_rng(0)
    x, state = rng.normal(size=(3, 5, 4)).astype(np.float32), rng.normal(size=(layers, 1, 6)).astype(np.float32)
    held = state if "1" in shape else state[:, 0]
    report = audit(net, x, link="softmax", hold={"state": held}, mode=mode, queries=40)
    with torch.no_grad():
        alone = [torch.softmax(net(torch.from_numpy(one[None]), torch.from_numpy(state)), 1).max() for one in x]
    np.testing.assert_allclose([one.probability for one in report.inputs], alone, rtol=1e-5)


def test_as_many_rows_as_layers_are_not_mistaken_for_them() -> None:
    net, rng = Recurrent(2).eval(), np.random.default_rng(0)
    x, state = rng.normal(size=(2, 5, 4)).astype(np.float32), rng.normal(size=(2, 6)).astype(np.float32)
    both = open_classifier(net, "softmax", hold={"state": state}).probabilities(x)
    one = open_classifier(net, "softmax", hold={"state": state})
    np.testing.assert_allclose(both, np.concatenate([one.probabilities(x[:1]), one.probabilities(x[1:])]), rtol=1e-5)


def test_a_state_for_each_input_has_its_batch_second() -> None:
    net, rng = Recurrent(2).eval(), np.random.default_rng(0)
    x, states = rng.normal(size=(4, 5, 4)).astype(np.float32), rng.normal(size=(4, 2, 6)).astype(np.float32)
    report = audit(net, x, link="softmax", hold={"state": states}, queries=40)
    with torch.no_grad():
        p = torch.softmax(net(torch.from_numpy(x), torch.from_numpy(states).movedim(0, 1).contiguous()), 1).max(1).values
    np.testing.assert_allclose([one.probability for one in report.inputs], p, rtol=1e-5)
