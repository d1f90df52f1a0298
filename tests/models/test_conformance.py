"""The public conformance suite, run on each of our adapters: a registry of (model, inputs) crossed with every check."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from fimaudit import testing
from fimaudit.models.classifier import Classifier, ModelInfo
from fimaudit.models.opening import open_classifier

RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 1, 8, 8))
ROWS = RNG.normal(size=(6, 5))
IRIS = load_iris()
IRIS_ROWS = IRIS.data[::25].copy()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)).eval()


def one_logit() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).eval()


def exported(tmp_path: Path, batch: int | None) -> str:
    path, axis = tmp_path / "m.pt2", torch.export.Dim("batch")
    example = torch.zeros(batch or 2, 1, 8, 8)
    program = torch.export.export(network(), (example,), dynamic_shapes=None if batch else ({0: axis},))
    torch.export.save(program, path)
    return str(path)


def scripted(tmp_path: Path) -> str:
    path = tmp_path / "m.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network()).save(str(path))
    return str(path)


def estimator() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS.data, IRIS.target)


def named_estimator() -> Any:
    import pandas as pd

    columns = ["a", "b", "c", "d"]
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(pd.DataFrame(IRIS.data, columns=columns), IRIS.target)


def skops_file(tmp_path: Path) -> str:
    import skops.io

    skops.io.dump(estimator(), tmp_path / "m.skops")
    return str(tmp_path / "m.skops")


def onnx_from_torch(tmp_path: Path, batch: int | None) -> str:
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            nn.Sequential(network(), nn.Softmax(1)).eval(),
            (torch.zeros(batch or 2, 1, 8, 8),),
            str(path),
            dynamo=False,
            input_names=["x"],
            output_names=["p"],
            dynamic_axes=None if batch else {"x": {0: "n"}, "p": {0: "n"}},
        )
    return str(path)


def onnx_from_estimator(tmp_path: Path) -> str:
    from skl2onnx import to_onnx

    path = tmp_path / "e.onnx"
    path.write_bytes(to_onnx(estimator(), IRIS.data[:1].astype(np.float32)).SerializeToString())
    return str(path)


def softmax_rows(batch: np.ndarray) -> np.ndarray:
    z = batch @ np.linspace(-1, 1, 15).reshape(5, 3)
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


Opener = Callable[[Path], Classifier]
CASES: dict[str, tuple[Opener, np.ndarray]] = {
    "torch float32": (lambda p: open_classifier(network(), "softmax", device="cpu"), IMAGES),
    "torch float64": (lambda p: open_classifier(network().double(), "softmax", device="cpu"), IMAGES),
    "torch float16": (lambda p: open_classifier(network().half(), "softmax", device="cpu"), IMAGES),
    "torch bfloat16": (lambda p: open_classifier(network().bfloat16(), "softmax", device="cpu"), IMAGES),
    "torch one logit": (lambda p: open_classifier(one_logit(), "sigmoid", device="cpu"), ROWS),
    "torch probabilities": (
        lambda p: open_classifier(nn.Sequential(network(), nn.Softmax(1)).eval(), device="cpu"),
        IMAGES,
    ),
    "torch.export": (lambda p: open_classifier(exported(p, None), "softmax", device="cpu"), IMAGES),
    "torch.export one row": (lambda p: open_classifier(exported(p, 1), "softmax", device="cpu"), IMAGES),
    "torch.export four rows": (lambda p: open_classifier(exported(p, 4), "softmax", device="cpu"), IMAGES),
    "torchscript": (lambda p: open_classifier(scripted(p), "softmax", device="cpu"), IMAGES),
    "estimator": (lambda p: open_classifier(estimator()), IRIS_ROWS),
    "estimator with column names": (lambda p: open_classifier(named_estimator()), IRIS_ROWS),
    "skops": (lambda p: open_classifier(skops_file(p)), IRIS_ROWS),
    "onnx from torch": (lambda p: open_classifier(onnx_from_torch(p, None)), IMAGES),
    "onnx from torch, one row": (lambda p: open_classifier(onnx_from_torch(p, 1)), IMAGES),
    "onnx from an estimator": (lambda p: open_classifier(onnx_from_estimator(p)), IRIS_ROWS),
    "function": (lambda p: open_classifier(softmax_rows, input_shape=(5,)), ROWS),
    "function float32": (lambda p: open_classifier(softmax_rows, dtype="float32"), ROWS),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, np.ndarray]:
    opener, x = CASES[request.param]
    return opener(tmp_path_factory.mktemp("model")), x


@pytest.mark.parametrize(
    "check", [*testing.CHECKS[:-1], *testing.DEVICE_CHECKS, *testing.DIFFERENTIABLE_CHECKS], ids=lambda c: c.__name__
)
def test_adapter_conforms(case: tuple[Classifier, np.ndarray], check: testing.Check) -> None:
    model, x = case
    if check in testing.checks_for(model):
        check(model, x)


def test_adapter_closes(case: tuple[Classifier, np.ndarray]) -> None:
    testing.check_close(*case)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_torch_conforms_on_the_gpu() -> None:
    testing.check_classifier(open_classifier(network(), "softmax", device="cuda"), IMAGES)


class Broken:
    """A linear classifier with one fault, named at construction."""

    info = ModelInfo("broken", "broken", (5,), "float64", classes=3)

    def __init__(self, fault: str) -> None:
        self.fault, self.calls = fault, 0
        if fault == "info":
            self.info = ModelInfo("broken", "broken", (4,), "float64")

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        self.calls += 1
        p = softmax_rows(batch)
        match self.fault:
            case "float32":
                return p.astype(np.float32)
            case "logits":
                return np.log(p)
            case "order":
                return p[np.argsort(p[:, 0])]
            case "neighbours":
                return softmax_rows(batch - batch.mean(0))
            case "random":
                return softmax_rows(batch + 0.01 * self.calls)
            case "in place":
                batch += 1.0
            case "lost row":
                return p[:-1]
            case "empty" if len(batch) == 0:
                raise ZeroDivisionError
            case "memory":
                return softmax_rows(np.asarray(batch).ravel(order="K").reshape(batch.shape))
        return p

    def displaced(self, x: Any, packed: Any, step: Any, lower: Any, upper: Any) -> np.ndarray:
        bits = np.unpackbits(packed, axis=1, count=x.size)
        return softmax_rows(x + np.where(bits, step, -step))

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("info", "declares inputs of shape"),
        ("float32", "expected float64"),
        ("logits", "0 and more"),
        ("order", "reverse order"),
        ("neighbours", "answers differ"),
        ("random", "answers differ"),
        ("in place", "the model changed it"),
        ("lost row", "for 6 inputs, got 5"),
        ("empty", "ZeroDivisionError"),
        ("memory", "Fortran order"),
        ("bounds", "lower bound"),
    ],
)
def test_suite_finds_the_fault(fault: str, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        testing.check_classifier(Broken(fault), ROWS)


def test_suite_names_what_it_checked() -> None:
    names = testing.check_classifier(open_classifier(softmax_rows), ROWS)
    assert names == [check.__name__ for check in testing.CHECKS]
