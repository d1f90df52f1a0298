"""Every preset against a server of its format: the estimates are those of the served model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fimaudit_adapters.http.shelf import preset, presets
from typer.testing import CliRunner

import fimaudit
from fimaudit.audit_report import Report
from fimaudit.cli import app
from fimaudit.errors import TargetError
from tests.servers import vendors

TOKENS = {"tokens": lambda asked: {"access_token": "token-1", "expires_in": 3600, "token_type": "Bearer"}}
ROWS = np.random.default_rng(0)
TABLE_ROWS = ROWS.standard_normal((1, vendors.FEATURES)).round(3)
PIXEL_ROWS = ROWS.integers(60, 190, (1, vendors.SIDE, vendors.SIDE)).astype(np.float64)


@pytest.fixture(scope="module")
def shop() -> Iterator[vendors.LoopbackServer]:
    services = {name: service for name, (service, _) in vendors.SERVICES.items()}
    with vendors.serving({**services, **TOKENS}) as server:
        yield server


def run(*words: object) -> str:
    """One command, in this process; what it printed."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def filled(name: str, text: str, url: str) -> str:
    """The preset with a loopback server in place of the vendor's, every blank filled and cloud credentials left out."""
    text = re.sub(r"<[a-z]+>", "x", text)
    text = re.sub(r"(?m)^url: https?://[^/\n]+", f"url: {url}/{name}", text)
    text = re.sub(r"(?m)^(aws|google): .*\n", "", text)
    text = re.sub(r"token_url: .*", f"token_url: {url}/tokens", text)
    text = text.replace('url: "/gradio_api', f'url: "/{name}/gradio_api').replace("interval: 1s", "interval: 0.01")
    return text + "trust_env: false\n"


@pytest.mark.parametrize("name", sorted(vendors.SERVICES))
def test_three_commands_from_nothing_to_the_numbers_of_the_served_model(name, shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = vendors.SERVICES[name][1]
    if images:
        np.savez("x.npz", x=PIXEL_ROWS)
    else:
        header = ",".join(f"f{i}" for i in range(vendors.FEATURES))
        np.savetxt("x.csv", TABLE_ROWS, delimiter=",", header=header, comments="", fmt="%.3f")
    x, weights, data = (PIXEL_ROWS, vendors.PIXELS, "x.npz") if images else (TABLE_ROWS, vendors.TABLE, "x.csv")
    shop.errors.clear()
    text = run("endpoint", "new", name)
    for variable in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text):
        monkeypatch.setenv(variable, "key-1234")
    Path("endpoint.yaml").write_text(filled(name, text, shop.url))
    assert "one row was sent" in run("endpoint", "try", "endpoint.yaml", "--data", data)
    bounds = ["--lower", 0, "--upper", 255, "--quantum", 1, "--scale", "raw"] if images else []
    run("audit", "endpoint.yaml", "--data", data, "--out", "run", "--queries", 24, "--profile", "off", *bounds)
    assert not shop.errors
    for row, found in zip(x, Report.read("run").inputs, strict=True):
        assert found.status != "failed", found.reason
        truth = one_score(row) if name == "perspective" else vendors.exact(weights, row)
        interval = found.spectral_norm
        assert interval.lower is not None
        assert interval.lower * 0.999 <= truth <= (interval.upper or np.inf) * 1.001
        if found.kind == "lower_bound":  # of tokens, the rest is not resolved
            assert 0.5 * truth < interval.value <= 1.001 * truth
            continue
        # Images lie on levels, and few rows tell of so many pixels.
        assert interval.value == pytest.approx(truth, rel=0.5 if images else 0.01)


def one_score(row: np.ndarray) -> float:
    """Of (1 - s, s) with s the first probability: |ds|^2 / (s (1 - s))."""
    p = vendors.softmax(row.reshape(1, -1) @ vendors.TABLE.T)[0]
    slope = p[0] * (vendors.TABLE[0] - p @ vendors.TABLE)
    return float(slope @ slope / (p[0] * (1 - p[0])))


def test_every_preset_is_tested_and_names_its_page():
    shelf = presets()
    assert {one.name for one in shelf} == set(vendors.SERVICES)
    assert len(shelf) >= 20
    for one in shelf:
        assert one.page.startswith("https://")
        assert "# Fill in: " in one.text
        assert one.checked.endswith(".")
    with pytest.raises(TargetError, match="did you mean azure-ml"):
        preset("azureml")


def test_blanks_that_are_left_are_named():
    with pytest.raises(TargetError, match="still holds <resource>"):
        fimaudit.audit("https://<resource>.example/x", TABLE_ROWS)
