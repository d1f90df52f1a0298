"""Every preset against a server of its format: the estimates are those of the served model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fimaudit_adapters.http.shelf import Preset, preset, presets

import fimaudit
from fimaudit.errors import TargetError
from tests.servers import vendors

TOKENS = {"tokens": lambda asked: {"access_token": "token-1", "expires_in": 3600, "token_type": "Bearer"}}
ROWS = np.random.default_rng(0)
TABLE_ROWS = ROWS.standard_normal((3, vendors.FEATURES)).round(3)
PIXEL_ROWS = ROWS.integers(60, 190, (2, vendors.SIDE, vendors.SIDE)).astype(np.float64)


@pytest.fixture(scope="module")
def shop() -> Iterator[vendors.LoopbackServer]:
    services = {name: service for name, (service, _) in vendors.SERVICES.items()}
    with vendors.serving({**services, **TOKENS}) as server:
        yield server


def filled(one: Preset, url: str, folder: Path) -> Path:
    """The preset with a loopback server in place of the vendor's, every blank filled and cloud credentials left out."""
    text = re.sub(r"<[a-z]+>", "x", one.text)
    text = re.sub(r"(?m)^url: https?://[^/\n]+", f"url: {url}/{one.name}", text)
    text = re.sub(r"(?m)^(aws|google): .*\n", "", text)
    text = re.sub(r"token_url: .*", f"token_url: {url}/tokens", text)
    text = text.replace('url: "/gradio_api', f'url: "/{one.name}/gradio_api').replace("interval: 1s", "interval: 0.01")
    path = folder / f"{one.name}.yaml"
    path.write_text(text + "trust_env: false\n")
    return path


@pytest.mark.parametrize("name", sorted(vendors.SERVICES))
def test_each_preset_gives_the_numbers_of_the_served_model(name, shop, tmp_path, monkeypatch):
    one = preset(name)
    for variable in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", one.text):
        monkeypatch.setenv(variable, "key-1234")
    images = vendors.SERVICES[name][1]
    x, weights = (PIXEL_ROWS, vendors.PIXELS) if images else (TABLE_ROWS, vendors.TABLE)
    options = {"lower": 0, "upper": 255, "quantum": 1} if images else {}
    shop.errors.clear()
    endpoint = filled(one, shop.url, tmp_path)
    data = x if images else fimaudit_inputs(x)
    report = fimaudit.audit(str(endpoint), data, queries=40, profile="off", **options)
    assert not shop.errors
    assert [s.status for s in report.inputs if s.status == "failed"] == []
    for row, found in zip(x, report.inputs, strict=True):
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


def fimaudit_inputs(x: np.ndarray) -> object:
    """A table whose header names its columns."""
    from fimaudit.data.arrays import Inputs

    return Inputs(x, names=tuple(f"f{i}" for i in range(x.shape[1])))


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
