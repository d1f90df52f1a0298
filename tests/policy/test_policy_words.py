"""A policy from a baseline run and in sentences; what its file refuses, with the nearest word; every example of its page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import yaml
from synthetic_runs import made_run, picture_run
from typer.testing import CliRunner

from fimaudit.audit_report import IntegrityCheck
from fimaudit.cli import app
from fimaudit.errors import UsageError
from fimaudit.policy.baseline_policy import policy_from_run
from fimaudit.policy.formats import markdown_summary
from fimaudit.policy.gate import decide, gate
from fimaudit.policy.rules import FLAGS, AccuracyRule, Policy, Rule, parse_policy
from fimaudit.policy.words import explain_policy, explain_rule
from fimaudit.results import FLAG_WORDS
from fimaudit.storage.run_folder import RunFolder, read_run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
RULES = [cls.model_fields["rule"].annotation for union in get_args(Rule)[:1] for cls in get_args(union)]
NAMES = {name for literal in RULES for name in get_args(literal)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 200 inputs: a base, the same model again, and one that is half as robust."""
    folder = tmp_path_factory.mktemp("policies")
    check = IntegrityCheck(name="history", outcome="ok", notices="n", finding="f", rows=10)
    template = picture_run(folder / "template", count=12, queries=30).model_copy(update={"integrity": [check]})
    base = made_run(folder / "base", template, 200)
    made_run(folder / "again", template, 200)
    weaker = []
    for s in base.inputs:
        halved = {end: None if v is None else v / 2 for end, v in s.margin_radius.model_dump().items()}
        weaker.append(s.model_copy(update={"margin_radius": s.margin_radius.model_copy(update=halved)}))
    worse = made_run(folder / "worse", template, 200)
    text = worse.model_copy(update={"inputs": weaker, "inputs_file": None}).to_json()
    (folder / "worse" / "report.json").write_text(text)
    return folder


UNKNOWN = {
    "rules: [{rule: not_ok, at_mots: 0.1}]": "rule 1: unknown key 'at_mots'; did you mean 'at_most'?",
    "ruls: []": "unknown key 'ruls'; did you mean 'rules'?",
    "rules: [{rule: not_ok, at_most: 0.1}, {rule: quantil}]": "rule 2: unknown rule 'quantil'; did you mean 'quantile'?",
    "rules: [{rul: not_ok, at_most: 1}]": "rule 1: expected rule: and its name; did you mean rule: in place of 'rul'?",
    "rules: [{rule: flag, flag: kinkd, at_most: 0}]": "rule 1: flag: no such flag 'kinkd'; did you mean 'kinked'?",
    "rules: [{rule: zzz}]": "unknown rule 'zzz'; rules are accuracy, flag, integrity,",
    "rules: [{rule: not_ok}]": "rule 1: it needs the key 'at_most'",
    "rules: [{rule: quantile, metric: margin, statistic: median, at_most: 1}]": "'margin_radius', got 'margin'",
    "rules: [3]": "rule 1: expected a valid dictionary or object to extract fields from, got 3",
}


@pytest.mark.parametrize(("text", "says"), UNKNOWN.items())
def test_a_wrong_word_is_refused_with_the_nearest_right_one(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_policy(text, "p.yaml")
    assert str(refused.value).startswith("p.yaml is refused: ")
    assert says in str(refused.value)


def test_an_empty_policy_is_refused_in_plain_words() -> None:
    with pytest.raises(UsageError, match=r"expected p\.yaml to hold a mapping with rules, got nothing"):
        parse_policy("", "p.yaml")


def test_the_table_of_a_pull_request_shows_the_bound_that_decided(place: Path) -> None:
    """Seen: of a broken rule the bound that it would have passed on, beside a sentence that named the other."""
    run = read_run(place / "base")
    rule = {"rule": "quantile", "metric": "margin_radius", "statistic": "median", "at_least": 99}
    verdict = decide(run, Policy.model_validate({"rules": [rule]}))
    (decision,) = verdict.decisions
    assert decision.outcome == "fail"
    assert f"| {decision.upper:.4g} | at least 99 |" in markdown_summary(verdict, run)
    assert f"below {decision.upper:.4g} (95 % bound)" in decision.sentence


def test_every_flag_that_a_run_may_carry_is_known() -> None:
    """Beside its words in ``results.py``."""
    code = "\n".join(p.read_text() for p in (ROOT / "fimaudit").rglob("*.py") if p.parent.name != "policy")
    assert set(FLAG_WORDS) == set(FLAGS)
    assert [flag for flag in FLAGS if code.count(f'"{flag}"') < 2 and not flag.endswith("_threshold")] == []


def test_the_baseline_passes_its_own_policy_and_a_weaker_model_does_not(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(policy_from_run(read_run(place / "base")))
    outcomes = {name: gate(place / name, file).outcome for name in ("base", "again", "worse")}
    assert outcomes == {"base": "pass", "again": "pass", "worse": "fail"}


def test_limits_stand_a_tenth_beyond_what_the_baseline_is_known_to_keep(place: Path) -> None:
    run = read_run(place / "base")
    text = policy_from_run(run)
    policy = parse_policy(text)
    verdict = decide(run, policy)
    bounds = {d.name: d.bound for d in verdict.decisions}
    limits = {d.name: d.limit for d in verdict.decisions}
    assert policy.unit == run.report.domain["unit"]
    assert 0.895 * bounds["typical input"] < limits["typical input"] <= 0.9 * bounds["typical input"]
    assert 1.1 * bounds["typical sensitivity"] <= limits["typical sensitivity"] < 1.106 * bounds["typical sensitivity"]
    wrong = 1 - bounds["right answers"]
    assert 1 - limits["right answers"] == pytest.approx(1.1 * wrong, abs=1e-3)
    assert limits["everything measured"] == 0.05
    for rule, decision in zip(policy.rules, verdict.decisions, strict=True):
        said = re.sub(r"\n +# ", " ", text)
        assert explain_rule(rule, policy.unit) in said
        assert decision.value is None or f"{decision.value:.4g}" in said
    assert parse_policy(policy_from_run(run, 0.5)).rules[0].at_least < 0.6 * limits["typical input"]  # type: ignore[union-attr]


def test_what_is_known_too_roughly_is_left_out_and_nothing_is_refused(place: Path) -> None:
    run = read_run(place / "base")
    data = {**run.report.data, "inputs": 20, "measured": 20}
    failed = run.inputs[19].model_copy(update={"status": "failed"})
    few = RunFolder(run.folder, run.report.model_copy(update={"data": data}), (*run.inputs[:19], failed))
    text = policy_from_run(few)
    assert "# Left out, because it is known too roughly: 5th percentile" in text
    assert "weakest inputs" not in text
    assert decide(few, parse_policy(text)).outcome == "pass"
    unmeasured = tuple(s.model_copy(update={"status": "below_detection"}) for s in run.inputs)
    with pytest.raises(UsageError, match="too few measured inputs"):
        policy_from_run(RunFolder(run.folder, run.report, unmeasured))
    with pytest.raises(UsageError, match="worse_by= from 0 to below 1"):
        policy_from_run(run, 1.0)


def test_names_from_outside_cannot_leave_their_comment(place: Path) -> None:
    run = read_run(place / "base")
    evil = "m\nrules: []\u2028- x: \x00 &a *b"
    report = run.report.model_copy(update={"model": {**run.report.model, "name": evil}})
    named = RunFolder(Path("runs\nconfidence: 0.5"), report, run.inputs)
    policy = parse_policy(policy_from_run(named))
    assert policy.confidence == 0.95
    assert policy.name == f"no worse than {evil}"


def test_commands_make_and_explain_a_policy(place: Path, tmp_path: Path) -> None:
    shell, file = CliRunner(), tmp_path / "policy.yaml"
    made = shell.invoke(app, ["gate", "--init", str(place / "base"), "--quiet"])
    assert made.exit_code == 0
    file.write_text(made.stdout)
    explained = shell.invoke(app, ["gate", "--explain", str(file)])
    assert explained.stdout.splitlines() == explain_policy(parse_policy(made.stdout))
    as_json = json.loads(shell.invoke(app, ["gate", "--explain", str(file), "--json"]).stdout)
    assert as_json["sentences"] == explained.stdout.splitlines()
    assert as_json["policy"]["rules"][0]["metric"] == "margin_radius"
    verdict = json.loads(shell.invoke(app, ["gate", str(place / "base"), "--policy", str(file), "--json"]).stdout)
    assert verdict["outcome"] == "pass"
    for arguments, says in ((["gate"], "--explain FILE"), (["gate", str(place / "base")], f"--init {place / 'base'} > p")):
        refused = shell.invoke(app, arguments)
        assert isinstance(refused.exception, UsageError)
        assert says in str(refused.exception)


def test_an_accuracy_rule_speaks_of_the_population_or_says_that_it_does_not(place: Path) -> None:
    run = read_run(place / "base")
    rules = [AccuracyRule(rule="accuracy", at_least=0.905), AccuracyRule(rule="accuracy", at_least=0.905, of="population")]
    alone, population = decide(run, Policy(rules=rules)).decisions
    assert (alone.outcome, population.outcome) == ("pass", "undecided")
    assert "on these 200 inputs alone" in alone.sentence
    assert "on the population" in population.sentence
    assert population.bound is not None
    assert population.bound < 0.87
    assert "on these 200 inputs alone" in markdown_summary(decide(run, Policy(rules=rules)), run)
    assert "which says nothing of others" in explain_rule(rules[0])
    assert "which says nothing of others" not in explain_rule(rules[1])


@pytest.mark.parametrize("at", [0.2, 0.37, 0.9])
def test_no_line_is_surer_than_its_bound(at: float, place: Path) -> None:
    rule = {"rule": "quantile", "metric": "margin_radius", "statistic": "median", "at_least": at}
    run = read_run(place / "base")
    verdict = decide(run, Policy.model_validate({"rules": [rule, {**rule, "of": "population"}]}))
    said = [
        *(d.sentence for d in verdict.decisions),
        markdown_summary(verdict, run),
        *explain_policy(Policy.model_validate({"rules": [rule]})),
    ]
    assert not [line for line in said if re.search(r"\bsure|certain|guarante", line)]
    assert all("95 % bound" in d.sentence for d in verdict.decisions)


def test_the_page_shows_every_rule_and_names_every_flag() -> None:
    shown = {rule["rule"] for text in EXAMPLES for rule in yaml.safe_load(text)["rules"]}
    assert shown == NAMES
    assert [flag for flag in FLAGS if f"`{flag}`" not in PAGE] == []
    assert [name for name in NAMES if f"\n### {name}\n" not in PAGE] == []


@pytest.mark.parametrize("text", EXAMPLES, ids=[" ".join(re.findall(r"rule: (\w+)", e)) for e in EXAMPLES])
def test_examples_of_the_page_are_decided(text: str, place: Path, tmp_path: Path) -> None:
    file = place / "example.yaml"
    file.write_text(text)
    policy = parse_policy(text)
    named = {"baseline": place / "base"} if policy.needs_baseline() else {}
    verdict = gate(place / "again", file, **named)
    assert verdict.outcome in ("pass", "fail"), [d.sentence for d in verdict.decisions]
    assert len(explain_policy(policy)) >= len(policy.rules) + 2


def test_the_sentences_of_the_page_are_those_of_the_command(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.M | re.S)
    rule: dict[str, Any] = {"rule": "quantile", "metric": "margin_radius", "statistic": "median", "at_least": 0.05}
    policy = Policy.model_validate({"name": "release", "unit": "full grey range", "rules": [rule]})
    assert block.splitlines() == explain_policy(policy)[:2]


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    """The example of a test suite, as it stands, with a model and a policy beside it."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "test_release.py").write_text(block)
    node = onnx.helper.make_node("Softmax", ["x"], ["p"], axis=1)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in ("x", "p")]
    graph = onnx.helper.make_graph([node], "softmax", [ends[0]], [ends[1]])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=np.eye(4, dtype=np.float32))
    paths = f"{ROOT}:{ROOT / 'adapters'}"
    environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    rule = "{rule: quantile, metric: margin_radius, statistic: median, at_least: 1.0e-6}"
    (tmp_path / "policy.yaml").write_text(f"rules: [{rule}]")
    command = [sys.executable, "-m", "pytest", "-p", "fimaudit.pytest_plugin", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
