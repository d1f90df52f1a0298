"""nginx as a gateway in front of KServe: what it refuses, delays, cuts and encrypts."""

from __future__ import annotations

import contextlib
import logging
import time

import numpy as np
import pytest

from fimaudit.errors import FimauditError, ModelFailure, TargetError
from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier
from fimaudit.perturbations.rows import PlainRows

INFER = "/v2/models/cancer/infer"
#: Nothing is asked before the first question, so that the fault falls on it.
SAID = {"protocol": "tensorflow_serving"}


def url(gateway, place):
    return f"{gateway.url}/{place}/v1/models/cancer:predict"


@pytest.mark.parametrize(
    ("place", "error", "match"),
    [
        ("401", TargetError, "HTTP 401.*header_env"),
        ("403", TargetError, "HTTP 403.*may not ask"),
        ("307", TargetError, "redirects.*final URL"),
        ("tiny", FimauditError, "HTTP 413"),
    ],
)
def test_refusals_end_before_the_measurement(gateway, cancer, connect, place, error, match):
    model = connect(url(gateway, place), **SAID)
    meter = Meter(model)
    with pytest.raises(error, match=match) as raised:
        meter.ask([PlainRows(cancer.rows[:5])])
    assert raised.value.exit_code == 2
    assert meter.usage.requests == 1
    assert "sk-test" not in str(raised.value)


def test_a_redirect_is_no_protocol_to_discover(gateway, connect):
    with pytest.raises(TargetError, match="redirects"):
        connect(f"{gateway.url}/307{INFER}")


@pytest.mark.parametrize(("place", "match"), [("502", "HTTP 502: 502 Bad Gateway"), ("504", "HTTP 504")])
def test_a_broken_upstream_is_the_endpoints_failure(gateway, cancer, connect, place, match):
    model = connect(url(gateway, place), attempts=3, **SAID)
    meter = Meter(model)
    with pytest.raises(ModelFailure, match=match) as raised:
        meter.ask([PlainRows(cancer.rows[:5])])
    assert raised.value.exit_code == 3
    assert "rows 0 to 0" in str(raised.value)
    assert "resume=True" in str(raised.value)
    assert (meter.usage.requests, meter.usage.rows) == (3, 3)


def test_batch_is_learned_from_413_and_kept(gateway, cancer, connect):
    model = connect(url(gateway, "small"), **SAID)
    meter = Meter(model)
    (got,) = meter.ask([PlainRows(cancer.rows[:120])])
    assert np.allclose(got, cancer.truth(cancer.rows[:120]), atol=1e-12)
    assert model.info.preferred_batch == 12  # 100, 50, 25, 12: 12k hold about 19 rows.
    before = meter.usage.rows
    meter.ask([PlainRows(cancer.rows[120:240])])
    assert meter.usage.rows - before == 120


def test_too_many_requests_are_waited_for(gateway, cancer, connect):
    model = connect(url(gateway, "limited"), batch=8, concurrency=8, attempts=50, **SAID)
    meter = Meter(model)
    (got,) = meter.ask([PlainRows(cancer.rows[:160])])
    assert np.allclose(got, cancer.truth(cancer.rows[:160]), atol=1e-12)
    # 20 requests, one of the preflight, and those that were refused: the gateway takes one in a tenth of a second.
    assert meter.usage.requests > 21
    assert model._sender.pace.allowed < 8


def test_rate_is_kept(kserve, cancer, connect):
    model = connect(f"{kserve.url}/v1/models/cancer:predict", rate="20/s", batch=5)
    meter = Meter(model)
    started = time.monotonic()
    meter.ask([PlainRows(cancer.rows[:50])])
    assert time.monotonic() - started >= (meter.usage.requests - 1) / 20  # a busy machine only takes longer


def test_deadline_ends_the_run(kserve, cancer, connect):
    model = connect(f"{kserve.url}/v1/models/cancer:predict", rate="10/s", batch=5, deadline=0.5)
    with pytest.raises(ModelFailure, match=r"deadline of 0\.5 s"):
        model.probabilities(cancer.rows[:200])


def test_private_authority(gateway, cancer, connect):
    target = f"https://127.0.0.1:{gateway.tls_port}{INFER}"
    with pytest.raises(TargetError, match=r"not trusted.*ca_file"):
        connect(target)
    model = connect(target, ca_file=str(gateway.ca_file))
    assert np.allclose(model.probabilities(cancer.rows[:5]), cancer.truth(cancer.rows[:5]), atol=1e-6)
    with pytest.raises(TargetError, match="PEM"):
        connect(target, ca_file=__file__)


def test_key_from_the_environment(gateway, cancer, connect, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("VENDOR_KEY", "sk-test-12345678")
    model = connect(url(gateway, "key"), header_env={"X-API-Key": "VENDOR_KEY"}, **SAID)
    assert model.probabilities(cancer.rows[:3]).shape == (3, 2)
    assert "sk-test" not in repr(model.info) + repr(model.endpoint) + caplog.text
    monkeypatch.setenv("VENDOR_KEY", "sk-wrong-999999")
    wrong = connect(url(gateway, "key"), header_env={"X-API-Key": "VENDOR_KEY"}, **SAID)
    with pytest.raises(TargetError, match="HTTP 401") as raised:
        wrong.probabilities(cancer.rows[:3])
    assert "sk-wrong" not in str(raised.value)
    assert "[secret]" in str(raised.value)
    assert "sk-wrong" not in caplog.text


def test_key_from_a_file_and_bearer(gateway, cancer, connect, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("sk-test-12345678\n")
    model = connect(url(gateway, "key"), header_file={"X-API-Key": str(tmp_path / "key")}, **SAID)
    assert model.probabilities(cancer.rows[:3]).shape == (3, 2)
    monkeypatch.setenv("TOKEN", "tok-test-1234")
    model = connect(url(gateway, "bearer"), bearer_env="TOKEN", **SAID)
    assert model.probabilities(cancer.rows[:3]).shape == (3, 2)


def test_auth_plugin_and_its_second_send_is_counted(gateway, cancer, connect, tmp_path, monkeypatch):
    (tmp_path / "vendor_auth.py").write_text(
        "import httpx\n"
        "class Challenge(httpx.Auth):\n"
        "    def auth_flow(self, request):\n"
        "        response = yield request\n"
        "        if response.status_code == 401:\n"
        "            request.headers['Authorization'] = 'Bearer tok-test-1234'\n"
        "            yield request\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = connect(url(gateway, "bearer"), auth="vendor_auth:Challenge", **SAID)
    meter = Meter(model)
    meter.ask([PlainRows(cancer.rows[:3])])
    assert meter.usage.requests == 2 * 2
    assert (meter.usage.rows, meter.usage.refused) == (1 + 3, 1 + 3)


def test_nothing_listens(cancer, connect):
    with pytest.raises(TargetError, match="nothing accepts connections"):
        connect("http://127.0.0.1:9/v2/models/m/infer")
    model = connect("http://127.0.0.1:9/v1/models/m:predict", attempts=2)
    with pytest.raises(TargetError, match="nothing accepts connections"):
        model.probabilities(cancer.rows[:2])


def test_a_proxy_of_the_environment_is_an_option(kserve, cancer, connect, monkeypatch):
    target = f"{kserve.url}/v1/models/cancer:predict"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert connect(target).probabilities(cancer.rows[:2]).shape == (2, 2)
    with open_classifier_with_environment(target) as model, pytest.raises(TargetError, match="nothing accepts"):
        model.probabilities(cancer.rows[:2])


@contextlib.contextmanager
def open_classifier_with_environment(target):
    model = open_classifier(target, adapter="http", attempts=1)
    try:
        yield model
    finally:
        model.close()
