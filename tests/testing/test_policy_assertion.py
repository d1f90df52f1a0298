"""A policy in a test suite: the function, and the pytest plugin as a pytest run of its own sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from fimaudit.errors import UsageError
from fimaudit.testing import assert_policy

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
X = np.linspace(-1, 1, 24).reshape(8, 3)

SUITE = """
import sys

import numpy as np

X = np.linspace(-1, 1, 24).reshape(8, 3)

def model(batch):
    p = 1 / (1 + np.exp(-batch[:, :1]))
    return np.hstack([p, 1 - p])

def rules(limit):
    rule = {"rule": "quantile", "metric": "margin_radius", "statistic": "min", "at_least": limit, "name": "nearest"}
    return {"name": "release", "rules": [rule, {"rule": "not_ok", "at_most": 0}]}

def test_kept(assert_policy):
    verdict = assert_policy(model, X, rules(0.001), queries=50)
    assert verdict.outcome == "pass"

def test_broken(assert_policy, tmp_path):
    try:
        assert_policy(model, X, rules(5), queries=50)
    finally:
        assert (tmp_path / "fimaudit-1" / "report.json").exists()

def test_that_uses_nothing():
    assert OURS == {"fimaudit", "fimaudit.pytest_plugin"}

OURS = {name for name in sys.modules if name.partition(".")[0] in ("fimaudit", "fimaudit_adapters")}
"""


def logistic(batch: Any) -> Any:
    p = 1 / (1 + np.exp(-batch[:, :1]))
    return np.hstack([p, 1 - p])


def rules(limit: float, **more: Any) -> dict[str, Any]:
    return {
        "name": "release",
        "rules": [{"rule": "quantile", "metric": "margin_radius", "statistic": "min", **more, "at_least": limit}],
    }


def test_a_kept_policy_gives_its_verdict(tmp_path: Path) -> None:
    verdict = assert_policy(logistic, X, rules(0.001), queries=50, out=tmp_path / "run")
    assert verdict.outcome == "pass"
    assert (tmp_path / "run" / "report.json").exists()


def test_a_broken_policy_fails_with_its_lines() -> None:
    with pytest.raises(AssertionError) as failed:
        assert_policy(logistic, X, rules(5, name="far enough"), queries=50)
    first, *lines = str(failed.value).splitlines()
    assert first == "policy 'release': outside the policy; 0 of 1 rules pass"
    assert lines[0].startswith("  far enough: smallest margin radius of these inputs: ")
    assert lines[0].endswith("required at least 5: fail")


def test_a_wrong_policy_is_refused_before_anything_is_asked() -> None:
    def never(batch: Any) -> Any:
        raise AssertionError("asked")

    with pytest.raises(UsageError, match="did you mean 'statistic'"):
        assert_policy(never, X, {"rules": [{**rules(1)["rules"][0], "statistics": "min"}]})
    with pytest.raises(UsageError, match="baseline="):
        assert_policy(
            never, X, {"rules": [{"rule": "ratio", "metric": "margin_radius", "statistic": "median", "at_least": 1}]}
        )


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A pytest run with the plugin and nothing else, over a suite of its own."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_release.py").write_text(SUITE)
    plugin = PROJECT["entry-points"]["pytest11"]["fimaudit"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "pytest", "-p", plugin, "-p", "no:cacheprovider", "--junit-xml", "junit.xml", "-q"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment), folder / "junit.xml"


def test_the_plugin_fails_a_test_with_the_rules_that_do_not_pass(
    suite: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = suite
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "nearest: smallest margin radius of these inputs: " in done.stdout
    assert "required at least 5: fail" in done.stdout
    assert "require_pass(verdict" not in done.stdout  # the traceback ends in the test


def test_rules_are_properties_of_the_test_case(suite: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    cases = ElementTree.parse(suite[1]).iter("testcase")
    found = {case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
    assert found["test_kept"]["fimaudit.outcome"] == "pass"
    assert found["test_broken"]["fimaudit.outcome"] == "fail"
    assert found["test_broken"]["fimaudit.policy"] == "release"
    assert "required at least 5: fail" in str(found["test_broken"]["fimaudit.rule.nearest"])
    assert (
        found["test_kept"]["fimaudit.rule.rule 2"]
        == "share of inputs without a full measurement: 0; required at most 0: pass"
    )
    assert found["test_that_uses_nothing"] == {}
