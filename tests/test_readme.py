"""The README's commands and code run as they stand."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fimaudit.cli
from fimaudit.audit_report import Report
from scripts.readme import excerpt

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if line.startswith("fimaudit ")
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the README supposes: model.onnx, x.npz and policy.yaml."""
    (tmp_path / "policy.yaml").write_text("rules: [{rule: not_ok, at_most: 0.5}]")
    x = np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    axes = {"x": {0: "n"}, "z": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated: see fimaudit/demo.py
        torch.onnx.export(
            network,
            (torch.from_numpy(x[:1]),),
            tmp_path / "model.onnx",
            dynamo=False,
            input_names=["x"],
            output_names=["z"],
            dynamic_axes=axes,
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) >= 2
    for command in COMMANDS:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            fimaudit.cli.main()
        assert not stop.value.code, capsys.readouterr().err
    assert len(Report.read(folder / "runs/first").inputs) == 6


def test_targets_of_make_exist() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    for name in set(re.findall(r"make ([a-z]+)`", README)) | {"demo", "test"}:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_the_pasted_run_is_of_this_demo(demo_text: str) -> None:
    """Words and layout, not digits: those differ in the last places between machines."""

    def skeleton(text: str) -> list[str]:
        return [re.sub(r"[-+\d.,e]+", "#", " ".join(line.split())) for line in text.splitlines() if "runs/" not in line]

    pasted = next(text for language, text in BLOCKS if language == "text")
    assert skeleton(pasted) == skeleton(excerpt(demo_text))
