"""What commands print: one JSON document, nothing, or words that no terminal of 80 columns breaks within."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from synthetic_runs import made_run, picture_run
from typer.testing import CliRunner

import fimaudit.cli
from fimaudit.cli.output import print_command, print_line

COMMANDS: dict[str, Any] = {name: fimaudit.cli.load_command(name) for name in fimaudit.cli.COMMANDS if name != "endpoint"}
COMMANDS |= {f"endpoint {name}": command for name, command in fimaudit.cli.load_command("endpoint").commands.items()}
MODEL = """
import numpy as np

def logistic():
    return lambda batch: np.hstack([p := 1 / (1 + np.exp(-batch[:, :1] * batch[:, 1:2])), 1 - p])
"""
FLAG = re.compile(r"--[a-z][a-z-]*[a-z]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    template = picture_run(folder / "template", count=12, queries=30)
    for seed, name in enumerate(("a", "b", "c")):
        made_run(folder / name, template, 60, seed=seed)
    (folder / "policy.yaml").write_text(
        "rules: [{rule: quantile, metric: margin_radius, statistic: median, at_least: 5, name: far}]"
    )
    (folder / "output_model.py").write_text(MODEL)
    np.savez(folder / "x.npz", x=np.linspace(-1, 1, 12).reshape(4, 3))
    return folder


@pytest.fixture
def inside(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(runs)
    monkeypatch.syspath_prepend(str(runs))
    monkeypatch.setenv("COLUMNS", "80")
    return runs


#: A command, its exit code, and a key of what it tells as JSON.
CALLS = {
    "audit": ("audit output_model:logistic --data x.npz --out run --overwrite --queries 20", 0, "report"),
    "inspect": ("inspect output_model:logistic --data x.npz", 0, "preflight"),
    "plan": ("plan --inputs 10 --features 4", 0, "cost"),
    "compare two": ("compare a b", 0, "quantities"),
    "compare three": ("compare a b c", 0, "models"),
    "gate": ("gate a --policy policy.yaml", 1, "decisions"),
    "report": ("report a", 0, "page"),
    "plot": ("plot a -o figure.svg", 0, "figure"),
    "bundle": ("bundle a -o a.zip", 0, "archive"),
    "verify": ("verify a.zip", 0, "findings"),
    "endpoint list": ("endpoint list", 0, "presets"),
}


@pytest.mark.parametrize(("words", "code", "key"), CALLS.values(), ids=CALLS.keys())
def test_json_is_one_document_and_quiet_is_nothing(words: str, code: int, key: str, inside: Path) -> None:
    shell, arguments = CliRunner(), shlex.split(words)
    plain = shell.invoke(fimaudit.cli.app, arguments)
    assert plain.exit_code == code, plain.output
    assert plain.stdout.strip()
    with pytest.raises(json.JSONDecodeError):
        json.loads(plain.stdout)
    done = shell.invoke(fimaudit.cli.app, [*arguments, "--json"])
    assert done.exit_code == code, done.output
    assert key in json.loads(done.stdout)
    quiet = shell.invoke(fimaudit.cli.app, [*arguments, "--quiet"])
    assert (quiet.exit_code, quiet.stdout) == (code, "")


def test_audit_names_the_report_and_the_verdict(inside: Path) -> None:
    words = "audit output_model:logistic --data x.npz --out judged --overwrite --queries 20 --policy policy.yaml --json"
    done = CliRunner().invoke(fimaudit.cli.app, shlex.split(words))
    document = json.loads(done.stdout)
    assert done.exit_code == 1
    assert document["folder"] == "judged"
    report = json.loads((inside / "judged" / "report.json").read_text())
    assert document["report"] == {name: value for name, value in report.items() if name != "inputs"}
    assert document["verdict"] == json.loads((inside / "judged" / "verdict.json").read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_quiet(name: str) -> None:
    flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
    assert {"--json", "--quiet"} <= flags


@pytest.mark.parametrize("name", COMMANDS)
def test_help_breaks_no_flag_and_shows_every_choice(name: str, inside: Path) -> None:
    done = CliRunner().invoke(fimaudit.cli.app, [*name.split(), "--help"], terminal_width=80)
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    for parameter in COMMANDS[name].params:
        wanted = [*parameter.opts, *parameter.secondary_opts, *FLAG.findall(getattr(parameter, "help", "") or "")]
        lost = [flag for flag in wanted if flag.startswith("--") and not re.search(rf"{flag}(?![a-z-])", done.output)]
        assert lost == [], parameter.name


def test_help_names_the_exit_codes() -> None:
    said = " ".join(CliRunner().invoke(fimaudit.cli.app, ["--help"], terminal_width=80).output.split())
    assert "3 the model failed or the budget ran out" in said
    assert "130 interrupted" in said


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=True, width=width, color_system=None), text


def test_a_sentence_is_broken_between_words_on_a_terminal_alone() -> None:
    sentence = (
        "fimaudit: expected --gpus-per-worker of 0 or more, got -1; leave it out, or give --engine local to measure here"
    )
    console, text = terminal()
    print_line(console, sentence)
    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert [word for line in lines for word in line.split()] == sentence.split()
    piped = io.StringIO()
    print_line(Console(file=piped, width=80), sentence)
    assert piped.getvalue() == sentence + "\n"


def test_a_word_longer_than_a_line_stays_whole() -> None:
    console, text = terminal(30)
    path = "/a/path/without/a/single/space/" + "x" * 40
    print_line(console, f"run folder: {path}")
    assert text.getvalue() == f"run folder:\n{path}\n"


def test_a_folded_command_is_still_one_command() -> None:
    words = [
        "fimaudit",
        "audit",
        "model of mine.onnx",
        "--data",
        "x.npz",
        "--out",
        "runs/first",
        "--gpus-per-worker",
        "0.5",
        "--resume",
    ]
    console, text = terminal(60)
    print_command(console, "resume with: ", shlex.join(words), " (with a larger --budget)")
    said, *lines, after = text.getvalue().splitlines()
    assert said == "resume with:"
    assert after == "(with a larger --budget)"
    assert max(map(len, lines)) <= 60
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == words
    console, text = terminal(400)
    print_command(console, "resume with: ", shlex.join(words))
    assert text.getvalue() == f"resume with: {shlex.join(words)}\n"


def test_an_interruption_exits_with_130(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fimaudit.cli.plan"], "plan_audit", interrupted)
    assert CliRunner().invoke(fimaudit.cli.app, ["plan", "--inputs", "3", "--features", "4"]).exit_code == 130
