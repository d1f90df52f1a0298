"""``open_classifier``: which adapter takes a target, what is refused, and that the core imports no framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from fimaudit.errors import (
    DataError,
    LinkError,
    MissingExtraError,
    OutputError,
    TargetError,
    UntrustedPickleError,
    UsageError,
)
from fimaudit.models.classifier import Classifier, DeviceClassifier, ModelInfo, NetworkClassifier
from fimaudit.models.opening import adapters, open_classifier

FRAMEWORKS = ("torch", "onnx", "onnxruntime", "sklearn", "httpx", "ray", "matplotlib", "pandas")


def even(batch: np.ndarray) -> np.ndarray:
    return np.full((len(batch), 2), 0.5)


@pytest.mark.parametrize(
    "statement",
    [
        "import fimaudit",
        "import fimaudit.models.classifier, fimaudit.testing",
        "from fimaudit.models.opening import adapters; adapters()",
        "from fimaudit.models.opening import open_classifier; open_classifier(len)",
    ],
)
def test_core_loads_no_framework(statement: str) -> None:
    code = f"{statement}; import sys; print(*[m for m in {FRAMEWORKS} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "", f"{statement} loads {done.stdout.strip()}"
    assert done.stderr == ""


def test_registry_lists_our_adapters_with_function_last() -> None:
    names = list(adapters())
    assert {"function", "onnx_runtime", "pytorch", "scikit_learn"} <= set(names)
    assert names[-1] == "function"


@pytest.mark.parametrize(
    ("target", "adapter"),
    [
        (nn.Linear(2, 2), "pytorch"),
        ("model.pt2", "pytorch"),
        ("MODEL.PT", "pytorch"),
        ("a.torchscript", "pytorch"),
        (LogisticRegression(), "scikit_learn"),
        ("model.skops", "scikit_learn"),
        ("model.pkl", "scikit_learn"),
        ("model.onnx", "onnx_runtime"),
        (even, "function"),
        (np.mean, "function"),
    ],
)
def test_target_goes_to_its_adapter(target: object, adapter: str) -> None:
    takers = [name for name, candidate in adapters().items() if candidate.accepts(target)]
    assert takers[0] == adapter


@pytest.mark.parametrize("target", [nn.Linear, LogisticRegression, 3, None])
def test_classes_and_values_are_no_targets(target: object) -> None:
    with pytest.raises(TargetError, match="expected a torch module, an estimator, a callable or a string"):
        open_classifier(target)


def test_open_classifier_passes_an_open_one_through() -> None:
    model = open_classifier(even)
    assert open_classifier(model) is model


def test_adapter_by_name() -> None:
    assert open_classifier(nn.Identity(), adapter="pytorch").info.adapter == "pytorch"
    with pytest.raises(TargetError, match="expected an adapter among"):
        open_classifier(even, adapter="tensorflow")


def test_unknown_ending() -> None:
    with pytest.raises(TargetError, match=r"ending '\.h5'\); expected \.onnx"):
        open_classifier("model.h5")


@pytest.mark.parametrize("name", ["m.pt2", "m.pt", "m.skops", "m.joblib", "m.onnx"])
def test_missing_and_empty_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(TargetError, match=name):
        open_classifier(path, trust_pickle=True)
    path.touch()
    with pytest.raises(TargetError, match=name):
        open_classifier(path, trust_pickle=True)
    path.write_bytes(b"no model at all, but some bytes")
    with pytest.raises(TargetError, match=name):
        open_classifier(path, trust_pickle=True)


FACTORIES = """
import torch
from sklearn.linear_model import LogisticRegression
def network(): return torch.nn.Linear(3, 2)
class Network(torch.nn.Linear):
    def __init__(self): super().__init__(3, 2)
ready = torch.nn.Linear(3, 2)
def broken(): raise ValueError("no weights here")
def wrong(): return 3
def needs(argument, other): return ready
def answers(batch): return [[0.25, 0.75]] * len(batch)
estimator = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"factories_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_bad.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("attribute", ["network", "Network", "ready"])
def test_factory_of_a_torch_module(factories: str, attribute: str) -> None:
    model = open_classifier(f"{factories}:{attribute}", "softmax", device="cpu")
    assert model.info.adapter == "pytorch"
    assert model.probabilities(np.zeros((2, 3))).shape == (2, 2)


def test_factory_of_an_estimator(factories: str) -> None:
    assert open_classifier(f"{factories}:estimator").info.adapter == "scikit_learn"
    with pytest.raises(TargetError, match="has no use for weights"):
        open_classifier(f"{factories}:estimator", weights="w.safetensors")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("{}:broken", "raised ValueError: no weights here"),
        ("{}:needs", "called without arguments and raised TypeError"),
        ("{}:wrong", "returned int; expected a torch module"),
        ("{}:nothing", "has no attribute 'nothing', only LogisticRegression, network"),
        ("{}:netwrk", "did you mean 'network'?"),
        ("{}_bad:network", "expected an importable module"),
        ("nowhere_at_all:network", "expected an importable module 'nowhere_at_all'"),
    ],
)
def test_factory_refusals(factories: str, target: str, sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        open_classifier(target.format(factories))


def test_a_function_of_the_batch_is_the_model_and_no_factory(factories: str) -> None:
    np.testing.assert_allclose(open_classifier(f"{factories}:answers").probabilities(np.zeros((2, 3))), [[0.25, 0.75]] * 2)


@pytest.mark.parametrize("write", ["sub/tiny.py:model", "./sub/tiny.py:model", "{}/sub/tiny.py:model"])
def test_a_source_file_is_imported_from_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str, request: pytest.FixtureRequest
) -> None:
    beside = f"beside_{abs(hash(request.node.name))}"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / f"{beside}.py").write_text("ANSWER = [0.25, 0.75]")
    (tmp_path / "sub" / "tiny.py").write_text(f"from {beside} import ANSWER\ndef model(b): return [ANSWER] * len(b)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    for _ in range(2):  # opened again as often as asked
        model = open_classifier(write.format(tmp_path))
        np.testing.assert_allclose(model.probabilities(np.zeros((1, 3))), [[0.25, 0.75]])


def test_source_files_of_one_name_and_of_a_loaded_module_are_distinguished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    for place, first in (("a", 0.25), ("b", 0.5)):
        (tmp_path / place).mkdir()
        for name in ("tiny", "json"):
            (tmp_path / place / f"{name}.py").write_text(f"def model(b): return [[{first}, {1 - first}]] * len(b)\n")
            answer = open_classifier(str(tmp_path / place / f"{name}.py:model")).probabilities(np.zeros((1, 3)))
            assert answer[0, 0] == first
    assert json.dumps({}) == "{}"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("gone.py:model", "no such file; check the path"),
        ("leaves.py:model", "got SystemExit: 0"),
        ("leaves.py", "expected the name of the model in .* too: .*leaves.py:model"),
    ],
)
def test_source_file_refusals(tmp_path: Path, target: str, sentence: str) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    with pytest.raises(TargetError, match=sentence):
        open_classifier(str(tmp_path / target))


def test_function_options() -> None:
    seen: list[np.dtype] = []

    def spy(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.dtype)
        return even(batch)

    model = open_classifier(spy, name="mine", input_shape=(2, 3), dtype="float32", classes=2, batch=4)
    assert model.info == ModelInfo("mine", "function", (2, 3), "float32", 2, preferred_batch=4, details={"module": __name__})
    model.probabilities(np.zeros((1, 2, 3)))
    assert seen == [np.dtype("float32")]
    assert open_classifier(spy).info.dtype == "float64"
    assert not isinstance(model, DeviceClassifier | NetworkClassifier)
    assert isinstance(model, Classifier)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": "w.pt"}, "function adapter has no use for weights='w.pt'; leave it out"),
        ({"device": "cuda"}, "no use for device='cuda'"),
        ({"output": 1}, "no use for output=1"),
        ({"hold": {"mask": 1.0}}, "no use for hold"),
        ({"colour": "red"}, "does not know the option 'colour'; its own options: batch, classes, dtype"),
        ({"dtype": "float12"}, "expected the name of a numpy dtype, got dtype='float12'"),
    ],
)
def test_function_refusals(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        open_classifier(even, **options)  # type: ignore[arg-type]


def test_links_reach_the_function() -> None:
    with pytest.raises(LinkError, match="use link='softmax'"):
        open_classifier(lambda b: b * 3).probabilities(np.ones((1, 2)))
    np.testing.assert_allclose(open_classifier(lambda b: b, "softmax").probabilities(np.zeros((1, 2))), 0.5)
    with pytest.raises(DataError, match="at least one input"):
        open_classifier(even).probabilities(np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("package", "target", "command"),
    [
        ("torch", nn.Linear(2, 2), r"pip install 'fimaudit\[torch\]'"),
        ("sklearn", LogisticRegression().fit([[0.0], [1.0]], [0, 1]), r"pip install 'fimaudit\[sklearn\]'"),
    ],
)
def test_missing_extra_names_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, package: str, target: object, command: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=command):
        open_classifier(target)


def test_refusals_carry_exit_code_two() -> None:
    assert {TargetError.exit_code, UntrustedPickleError.exit_code, LinkError.exit_code, UsageError.exit_code} == {2}


def test_device_is_refused_when_it_is_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(TargetError, match="'cuda' is not available here"):
            open_classifier(nn.Linear(2, 2), device="cuda")
    with pytest.raises(TargetError, match="'abacus' is not available here"):
        open_classifier(nn.Linear(2, 2), device="abacus")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"probs": [[0.5, 0.5]]}, "got dict of probs; return the array of probabilities"),
        (([1], [[0.5, 0.5]]), "got tuple; return the array"),
        (None, "got NoneType"),
        ((row for row in [[0.5, 0.5]]), "got generator"),
    ],
)
def test_a_function_that_answers_no_array_is_refused(answer: object, sentence: str) -> None:
    with pytest.raises(OutputError, match=sentence):
        open_classifier(lambda batch: answer).probabilities(np.zeros((1, 2)))


@pytest.mark.parametrize(("link", "columns"), [("sigmoid", 1), ("softmax", 3)])
def test_logits_that_look_like_probabilities_give_a_warning(link: Any, columns: int) -> None:
    model = open_classifier(lambda batch: np.full((len(batch), columns), 0.3), link)
    model.probabilities(np.zeros((4, 2)))
    assert any(f"all outputs under --link {link} lie from 0 to 1" in note for note in model.info.notes)
