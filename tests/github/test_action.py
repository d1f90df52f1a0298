"""``action.yml`` and the example workflow: their shell lines, run as GitHub does, with a ``gh`` that keeps its calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_runs import made_run, picture_run

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
RULE = "rules:\n  - {rule: quantile, metric: margin_radius, statistic: median, at_least: %s, name: typical}\n"
#: A stand-in for GitHub's program: it keeps its words and the body that it was given, and says which comments there are.
GH = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$GH_LOG"
for word in "$@"; do case "$word" in body=@*) cp "${word#body=@}" "$GH_BODY";; esac; done
case "$*" in *--paginate*) printf '%s' "$GH_COMMENTS";; esac
exit "${GH_CODE:-0}"
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("action")
    made_run(place / "run", picture_run(place / "template", count=12, queries=30), 100)
    return place / "run"


@pytest.fixture
def github(tmp_path: Path) -> dict[str, str]:
    """The environment that GitHub gives a step."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gh").write_text(GH)
    (programs / "gh").chmod(0o755)
    (programs / "python").write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    (programs / "python").chmod(0o755)
    files = {"GITHUB_OUTPUT": "output", "GITHUB_STEP_SUMMARY": "summary", "GH_LOG": "gh.log", "GH_BODY": "gh.body"}
    return {
        **os.environ,
        **{name: str(tmp_path / file) for name, file in files.items()},
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")]),
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GITHUB_ACTION_PATH": str(ROOT),
        "GH_COMMENTS": "",
    }


def step(name: str, github: dict[str, str], **values: str) -> subprocess.CompletedProcess[str]:
    """Run a step's lines as GitHub does, its expressions replaced by the values of the test."""
    assert set(values) == set(STEPS[name].get("env", {})), "the test names what the step reads"
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
    return subprocess.run(command, env={**github, **values}, capture_output=True, text=True)


def outputs(github: dict[str, str]) -> dict[str, str]:
    lines = Path(github["GITHUB_OUTPUT"]).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize(("limit", "outcome", "code"), [(0.01, "pass", 0), (5, "fail", 1)])
def test_the_gate_step_decides_and_goes_on_to_the_comment(
    limit: float, outcome: str, code: int, run_folder: Path, github: dict[str, str], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(RULE % limit)
    done = step("gate", github, RUN=str(run_folder), POLICY=str(policy), BASELINE="", NAME="release gate")
    assert done.returncode == 0, done.stderr
    found = outputs(github)
    assert (found["outcome"], found["code"]) == (outcome, str(code))
    assert Path(found["junit"]).exists()
    summary = Path(github["GITHUB_STEP_SUMMARY"]).read_text()
    assert summary == Path(found["markdown"]).read_text()
    assert summary.startswith(f"## fimaudit: {outcome.upper()}")
    assert step("outcome", github, CODE=found["code"]).returncode == code


def test_a_policy_that_is_refused_ends_the_step(run_folder: Path, github: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("ruls: []")
    done = step("gate", github, RUN=str(run_folder), POLICY=str(tmp_path / "policy.yaml"), BASELINE="", NAME="gate")
    assert done.returncode == 2
    assert "did you mean 'rules'?" in done.stderr
    assert not Path(github["GITHUB_OUTPUT"]).exists()


@pytest.mark.parametrize(
    ("comments", "method"),
    [("", "--method POST repos/o/r/issues/7/comments"), ("41\n42\n", "--method PATCH repos/o/r/issues/comments/41")],
)
def test_one_comment_is_made_and_later_changed(comments: str, method: str, github: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "s.md").write_text("## fimaudit: PASS\n")
    github["GH_COMMENTS"] = comments
    places = {"COMMENTS": "repos/o/r/issues/7/comments", "ONE_COMMENT": "repos/o/r/issues/comments"}
    done = step("comment", github, GH_TOKEN="t", NAME="a $(touch evil) `b`", SUMMARY=str(tmp_path / "s.md"), **places)
    assert done.returncode == 0, done.stderr
    asked, sent = Path(github["GH_LOG"]).read_text().splitlines()
    assert asked.startswith("api --paginate repos/o/r/issues/7/comments")
    assert f"{method} " in sent
    assert Path(github["GH_BODY"]).read_text() == "<!-- fimaudit a __touch evil_ _b_ -->\n## fimaudit: PASS\n"


def test_a_comment_that_may_not_be_written_is_a_warning(github: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "s.md").write_text("## fimaudit: PASS\n")
    done = step(
        "comment",
        {**github, "GH_CODE": "1"},
        GH_TOKEN="t",
        NAME="gate",
        SUMMARY=str(tmp_path / "s.md"),
        COMMENTS="c",
        ONE_COMMENT="o",
    )
    assert done.returncode == 0
    assert "::warning::" in done.stdout


def test_nothing_from_outside_is_pasted_into_a_shell_line() -> None:
    for name, found in STEPS.items():
        assert "${{" not in found["run"], name
    inputs = set(re.findall(r"inputs\.(\w+)", (ROOT / "action.yml").read_text()))
    assert inputs == set(ACTION["inputs"])


@pytest.mark.parametrize("checkout", [True, False])
def test_the_example_installs_from_a_checkout_or_from_an_index(
    checkout: bool, github: dict[str, str], tmp_path: Path
) -> None:
    workflow = yaml.safe_load((ROOT / "examples" / "ci_gate" / "workflow.yml").read_text())
    (line,) = [s["run"] for s in workflow["jobs"]["gate"]["steps"] if "pip install" in s.get("run", "")]
    pip = tmp_path / "bin" / "pip"
    pip.write_text('#!/usr/bin/env bash\necho "$@"\n')
    pip.chmod(0o755)
    if checkout:
        (tmp_path / "fimaudit").mkdir()
        shutil.copy(ROOT / "pyproject.toml", tmp_path / "fimaudit")
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", line], env=github, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == ("install ./fimaudit[onnx,sign]" if checkout else "install fimaudit[onnx,sign]")
