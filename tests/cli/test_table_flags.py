"""Tables on the command line: every command that takes inputs reads them as ``audit`` does."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from typer.testing import CliRunner

from fimaudit.cli import app

RNG = np.random.default_rng(0)
FINDINGS = """
import torch

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Sigmoid()).eval()
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A folder with a model and its table, whole and in parts; the current folder of the test."""
    monkeypatch.chdir(tmp_path)
    people = pd.DataFrame({"age": RNG.normal(50, 10, 80), "sex": RNG.choice(["f", "m"], 80)})
    sick = np.where(people.age > 50, "sick", "well")
    columns = ColumnTransformer([("n", StandardScaler(), ["age"]), ("w", OneHotEncoder(), ["sex"])])
    skops.io.dump(make_pipeline(columns, LogisticRegression()).fit(people, sick), "m.skops")
    table = people[:9].assign(outcome=sick[:9], number=range(9))
    table.to_csv("t.csv", index=False, sep=";")
    for k in range(3):
        table[3 * k : 3 * k + 3].to_csv(f"part-{k}.csv", index=False, sep=";")
    return table


def shown(*words: str) -> Any:
    ran = CliRunner().invoke(app, [*words, "--json"])
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


FLAGS = ["--sep", ";", "--label", "outcome", "--index", "number"]


@pytest.mark.parametrize("data", ["t.csv", "part-*.csv"])
def test_plan_counts_what_an_audit_will_send(table: pd.DataFrame, data: str) -> None:
    planned = shown("plan", "--data", data, *FLAGS)
    assert planned["inputs"] == 9
    assert planned["cost"] == shown("plan", "--inputs", "9", "--features", "2")["cost"]


def test_plan_leaves_out_what_is_held(table: pd.DataFrame) -> None:
    planned = shown("plan", "--data", "t.csv", *FLAGS, "--hold", "x=column:sex")
    assert planned["cost"] == shown("plan", "--inputs", "9", "--features", "1")["cost"]
    refused = CliRunner().invoke(app, ["plan", "--data", "t.csv", "--sep", ";", "--label", "outcom"])
    assert "names the column 'outcom'" in str(refused.exception or refused.output)


@pytest.mark.parametrize("data", ["t.csv", "part-*.csv"])
def test_inspect_says_what_to_type_with_the_flags_it_was_given(table: pd.DataFrame, data: str) -> None:
    found = shown("inspect", "m.skops", "--data", data, *FLAGS)
    assert found["data"]["held"] == ["sex"]
    words = shlex.split(found["audit"])
    assert words == ["fimaudit", "audit", "m.skops", "--data", data, *FLAGS[2:], *FLAGS[:2], "--out", "runs/first"]
    ran = CliRunner().invoke(app, [*words[1:], "--queries", "12"])
    assert ran.exit_code == 0, ran.output


def test_inspect_says_that_labels_match_no_class_and_shows_labels_alone(table: pd.DataFrame) -> None:
    x, y = table[["age", "number"]].to_numpy(), np.array(["no", "yes"])[np.arange(len(table)) % 2]
    skops.io.dump(LinearSVC().fit(x, y), "labels.skops")
    np.savez("x.npz", x=x[:4], y=np.array(["no", "y", "no", "y"]))
    found = shown("inspect", "labels.skops", "--data", "x.npz", "--link", "labels")
    assert set(found["links"]["labels"]["first"]) <= {"no", "yes"}
    assert "the labels hold y, which matches no class of the model (no, yes)" in found["labels"]["refused"]
    assert found["audit"] is None


def test_inspect_advises_no_link_that_makes_a_distribution_of_findings(table: pd.DataFrame) -> None:
    Path("several.py").write_text(FINDINGS)
    np.savez("x.npz", x=RNG.normal(size=(6, 2)).astype(np.float32))
    found = shown("inspect", "several:model", "--data", "x.npz")
    assert found["several_findings"]
    assert "softmax" not in found["links"]
    assert shlex.split(found["audit"])[5:9] == ["--class", "0", "--link", "identity"]
    ran = CliRunner().invoke(app, [*shlex.split(found["audit"])[1:], "--queries", "12"])
    assert ran.exit_code == 0, ran.output


def test_inspect_does_not_take_logits_for_findings_where_the_first_lie_from_0_to_1(table: pd.DataFrame) -> None:
    Path("small.py").write_text("import torch\ndef model(): return torch.nn.Identity()")
    np.savez("x.npz", x=np.array([[0.2, 0.3], [2.0, -1.0], [0.5, 1.5], [-1.0, 0.0], [3.0, 2.0]], np.float32))
    found = shown("inspect", "small:model", "--data", "x.npz")
    assert "several_findings" not in found
    assert "first" in found["links"]["softmax"]
    assert "softmax" in shlex.split(found["audit"])


def test_settings_reach_a_model_that_a_factory_makes(table: pd.DataFrame) -> None:
    Path("settable.py").write_text(FINDINGS)
    words = ["inspect", "settable:model", "--set", "input_shape=[2]", "--class", "1", "--link", "identity"]
    assert "--set 'input_shape=[2]'" in shown(*words)["audit"]
