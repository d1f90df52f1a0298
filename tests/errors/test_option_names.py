"""The same message with flags on the command line and with keyword arguments in Python."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fimaudit
from fimaudit.cli import app, load_command
from fimaudit.errors import FimauditError, MissingExtraError, ModelFailure, UsageError
from fimaudit.errors.option_names import KEYWORDS, SWITCHES, flags_in_messages, with_keywords
from fimaudit.report.page import render
from fimaudit.runs.options import AuditOptions

SAID = {
    "use --link softmax for logits": "use link='softmax' for logits",
    "expected one of --resume and --overwrite, got both": "expected one of resume=True and overwrite=True, got both",
    "give each a value with --hold NAME=VALUE": "give each a value with hold={'NAME': VALUE}",
    "choose one with --class NAME.": "choose one with finding=NAME.",
    "--no-header if the file has none": "header=False if the file has none",
    "add --set optimisation=off": "add optimisation='off'",
    "leave --hold out": "leave hold= out",
    "expected --mean and --std together": "expected mean= and std= together",
    "a larger --budget": "a larger budget=",
    "--weights /tmp/a.pt": "weights='/tmp/a.pt'",
    "expected --focus top:K, got 'top'": "expected focus='top:K', got 'top'",
    "take a class with --classes a,b,c": "take a class with classes='a,b,c'",
    "start one with: ray start --head --port 1": "start one with: ray start --head --port 1",
    "or --constant 'Op=1.0' on the command line": "or --constant 'Op=1.0' on the command line",
    "no flag here - or -- there": "no flag here - or -- there",
}


@pytest.mark.parametrize(("flags", "keywords"), SAID.items())
def test_flags_become_keywords_once(flags: str, keywords: str) -> None:
    assert with_keywords(flags) == keywords
    assert with_keywords(keywords) == keywords
    assert str(UsageError(flags)) == keywords
    with flags_in_messages():
        error = UsageError(flags)
    assert str(error) == flags


def test_errors_of_every_shape_keep_what_they_carry() -> None:
    failed = ModelFailure("go on with --resume", kept="kept --resume")
    assert (str(failed), failed.kept) == ("go on with resume=True", "kept --resume")
    missing = MissingExtraError("--engine ray", "ray", "ray")
    assert str(missing).startswith("engine='ray' needs the package 'ray'")
    again = pickle.loads(pickle.dumps(UsageError("use --link softmax")))
    assert isinstance(again, FimauditError)
    assert str(again) == "use link='softmax'"


def test_one_mistake_is_named_in_the_words_of_its_caller(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)))
    with pytest.raises(UsageError) as python:
        fimaudit.audit(lambda batch: batch * 9, np.ones((3, 2)))
    assert "link='softmax'" in str(python.value)
    assert "--" not in str(python.value)
    (tmp_path / "logits_model.py").write_text("def logits():\n    return lambda batch: batch * 9\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(str(tmp_path))
        line = CliRunner().invoke(app, ["audit", "logits_model:logits", "--data", "x.npz", "--out", "run"])
    assert "--link softmax" in str(line.exception)
    assert "link=" not in str(line.exception)


def test_a_report_names_options_as_its_reader_would_type_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same warning from Python and from the command line; the page is the same for both and keeps the run's words."""
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(6, 3)))
    (tmp_path / "shares_model.py").write_text(
        "import numpy as np\n\n\ndef shares():\n    return lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = {"link": "softmax", "queries": 30, "lower": None, "upper": None}
    python = fimaudit.audit("shares_model:shares", "x.npz", out="python", **asked)
    words = "audit", "shares_model:shares", "--data", "x.npz", "--link", "softmax", "--queries", "30", "--out", "line"
    printed = CliRunner().invoke(app, words).output
    line = fimaudit.Report.read("line")
    said = next(w for w in python.warnings if "as probabilities do" in w)
    assert "use link='identity'" in said
    assert said in line.warnings
    assert "use --link identity" in " ".join(printed.split())
    assert "fimaudit.compare(" in str(line)
    assert "fimaudit compare line OTHER_RUN" in " ".join(printed.split())
    assert (python.environment["called_from"], line.environment["called_from"]) == ("Python", "command line")
    for folder, words in (("python", "link=&#39;identity&#39;"), ("line", "--link identity")):
        page = Path(folder, "report.html").read_text()
        assert words in page
        with flags_in_messages():
            assert render(folder).read_text() == page == fimaudit.Report.read(folder).html()
        assert render(folder).read_text() == page


def test_what_is_missing_is_asked_for_as_the_run_was_made() -> None:
    report = fimaudit.audit(lambda x: np.full((len(x), 2), 0.5), np.ones((3, 2)), queries=20)
    data, model = {**report.data, "inputs": 9}, {**report.model, "adapter": "http"}
    cut = report.model_copy(update={"data": data, "model": model})
    assert "resume=True" in str(cut)
    assert "integrity=True, overwrite=True" in str(cut)
    assert "--resume" not in str(cut)
    assert "resume=True" in cut.html()
    line = cut.model_copy(update={"environment": {**cut.environment, "called_from": "command line"}})
    assert "<span>--integrity</span> <span>--overwrite</span>" in line.html()


def test_every_keyword_that_a_message_may_name_exists() -> None:
    """A flag of ``fimaudit audit`` becomes a keyword that ``fimaudit.audit`` takes."""
    known = {*AuditOptions.model_fields, *inspect.signature(fimaudit.audit).parameters, "endpoint", "price_per_row"}
    of_the_line = "data target yes verbose settings policy config save-config json quiet help columns rate patience protocol"
    for parameter in load_command("audit").params:
        for flag in (name[2:] for name in parameter.opts if name.startswith("--")):
            if flag in of_the_line.split() or flag in ("set", "header-env", "bearer-env"):
                continue
            found = re.match(r"\w+", with_keywords(f"--{flag}"))
            assert found is not None
            assert found[0] in known, flag
            assert getattr(parameter, "is_flag", False) == (flag in SWITCHES), flag
    assert set(KEYWORDS.values()) <= known | {"purpose"}
