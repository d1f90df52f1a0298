"""``fimaudit bounds`` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from fimaudit.bounds import lipschitz_bound
from fimaudit.bounds.graph.operators import REGISTERED
from fimaudit.cli.bounds import bounds
from fimaudit.cli.command import Command
from fimaudit.errors import FimauditError, TargetError, UsageError

app = typer.Typer()
app.command(cls=Command)(bounds)

FACTORY = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))

def image():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))

class Sum(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, dim=1)

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "bounded_nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with mock.patch.dict(REGISTERED):
        yield tmp_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))


def test_table_and_the_sentence_at_the_end(folder: Path) -> None:
    said = run("bounded_nets:small")
    bound = lipschitz_bound(small())
    assert f"L_z <= {bound.lipschitz:.6g}" in said
    assert "dense" in said
    assert said.strip().splitlines()[-1] == bound.advice
    assert bound.advice.startswith("Regularise ")


def test_json_is_all_that_stands_on_standard_output(folder: Path) -> None:
    document = json.loads(run("bounded_nets:small", "--json"))
    bound = lipschitz_bound(small())
    assert document["lipschitz"] == pytest.approx(bound.lipschitz)
    assert document["spectral_norm_bound"] == pytest.approx(bound.lipschitz**2 / 2)
    assert [layer["kind"] for layer in document["layers"]] == ["dense", "relu", "dense"]
    assert sum(layer["share"] for layer in document["layers"]) == pytest.approx(1.0)
    assert {"name", "kind", "shape", "norm", "product", "share", "elasticity", "trainable"} == set(document["layers"][0])


def test_data_brings_measured_values_and_radii(folder: Path) -> None:
    x = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    document = json.loads(run("bounded_nets:small", "--data", "x.npz", "--link", "softmax", "--json"))
    net, bound = small().double(), lipschitz_bound(small())
    for row, one in zip(document["inputs"], torch.as_tensor(x, dtype=torch.float64), strict=True):
        p = net(one).softmax(0).detach()
        jacobian = torch.autograd.functional.jacobian(net, one)
        fisher = jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
        truth = torch.linalg.eigvalsh(fisher)[-1].item()
        assert row["spectral_norm"]["value"] == pytest.approx(truth, rel=1e-3)
        assert row["local_bound"] == pytest.approx(row["covariance_factor"] * bound.lipschitz**2)
        assert row["local_bound"] >= truth
        assert row["ratio"] == pytest.approx(row["local_bound"] / row["spectral_norm"]["value"])
        top = net(one).detach().sort(descending=True).values
        assert row["certified_radius"] == pytest.approx((top[0] - top[1]).item() / (2**0.5 * bound.lipschitz), rel=1e-4)
    said = run("bounded_nets:small", "--data", "x.npz", "--link", "softmax")
    assert "certified radius" in said
    assert said.strip().splitlines()[-1] == bound.advice


def test_shapes_and_constants_from_flags(folder: Path) -> None:
    with pytest.raises(UsageError, match="--input-shape"):
        run("bounded_nets:image")
    with pytest.raises(FimauditError, match="register_operator"):
        run("bounded_nets:Sum", "--input-shape", "4")
    document = json.loads(run("bounded_nets:Sum", "--input-shape", "4", "--constant", "aten.cumsum=4", "--json"))
    assert document["lipschitz"] == 4.0


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("missing.onnx",), TargetError, "there is none at"),
        (("model.joblib",), TargetError, "expected a .onnx or .pt2 file"),
        (("bounded_nets:nothing",), TargetError, "has no attribute 'nothing'"),
        (("bounded_nets:number",), TargetError, "to make a torch module"),
        (("no_such_module_at_all:net",), TargetError, "expected an importable module"),
        (("bounded_nets:small", "--input-shape", "a,b"), UsageError, "expected --input-shape like"),
        (("bounded_nets:small", "--constant", "x"), UsageError, "expected --constant NAME=number"),
        (("bounded_nets:small", "--constant", "x=y"), UsageError, "expected --constant NAME=number"),
        (("m.onnx", "--weights", "w.pt"), UsageError, "--weights goes with"),
        (("bounded_nets:small", "--data", "none.npz"), UsageError, "no such data file"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...], error: type[FimauditError], says: str, folder: Path
) -> None:
    with pytest.raises(error) as raised:
        run(*arguments)
    assert says in str(raised.value)
    assert raised.value.exit_code == 2
