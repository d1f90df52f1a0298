"""The presets of servers that pip installs, asked for real: their estimates are those of the served model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from fimaudit_adapters.http.shelf import preset

import fimaudit
from fimaudit.data.arrays import Inputs
from tests.servers import manager
from tests.servers.manager import Server

pytestmark = pytest.mark.servers
APPS = Path(manager.__file__).parent / "of_presets"
QUIET = {"DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "True", "GRADIO_ANALYTICS_ENABLED": "False"}
#: By preset: environment, app, path that answers once it is ready.
SERVERS = {
    "bentoml": ("bentoml", "bentoml_service.py", "/readyz"),
    "fastapi": ("fastapi", "fastapi_app.py", "/ready"),
    "fastapi-upload": ("fastapi", "fastapi_app.py", "/ready"),
    "gradio": ("gradio", "gradio_app.py", "/config"),
    "litserve": ("litserve", "litserve_server.py", "/health"),
    "mlserver": ("mlserver", None, "/v2/health/ready"),
    "ray-serve": ("ray", "ray_app.py", "/-/healthz"),
}


def started(name: str, folder: Path, model: Path) -> Server:
    environment, app, ready = SERVERS[name]
    binaries, port = manager.environment(environment) / "bin", manager.free_port()
    shutil.copy(model, folder / "model.joblib")
    if app is None:
        runtime = {"name": "m", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "model.joblib"}}
        (folder / "model-settings.json").write_text(json.dumps(runtime))
        ports = {"http_port": port, "grpc_port": manager.free_port(), "metrics_port": manager.free_port()}
        (folder / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "host": "127.0.0.1"}))
        command = [str(binaries / "mlserver"), "start", str(folder)]
    elif environment == "bentoml":
        shutil.copy(APPS / app, folder)
        serve = [str(binaries / "bentoml"), "serve", f"{app.removesuffix('.py')}:Classifier"]
        command = [*serve, "--port", str(port), "--host", "127.0.0.1"]
    else:
        command = [str(binaries / "python"), str(APPS / app), str(port)]
    env = {**QUIET, "MODEL": str(folder / "model.joblib"), "PYTHONPATH": ""}
    return manager.start(command, port, folder / "server.log", ready=ready, env=env)


def filled(name: str, url: str, folder: Path) -> Path:
    text = preset(name).text
    at = next(line for line in text.splitlines() if line.startswith("url: "))
    host = "/".join(at.removeprefix("url: ").split("/")[:3])
    path = folder / "endpoint.yaml"
    path.write_text(text.replace(host, url).replace("<model>", "m") + "trust_env: false\n")
    return path


def exact(weights, p):
    """lambda_max of W^T (diag p - p p^T) W."""
    return float(np.linalg.eigvalsh(weights.T @ (np.diag(p) - np.outer(p, p)) @ weights).max())


@pytest.mark.skipif(sys.platform == "win32", reason="the servers run where the tests' other servers do")
@pytest.mark.parametrize("name", sorted(SERVERS))
def test_a_preset_audits_the_server_that_it_is_for(name, cancer, digits, tmp_path):
    images = name == "fastapi-upload"
    known = digits if images else cancer
    rows = known.rows[:2]
    server = started(name, tmp_path, known.path)
    try:
        if images:  # of 17 levels, as pixels from 0 to 240
            x, options = 15.0 * rows.reshape(-1, 8, 8), {"lower": 0, "upper": 255, "quantum": 1}
            truths = [known.truth(x[i : i + 1] / 16.0)[0] for i in range(len(x))]
            data, weights = x, known.model.coef_ / 16.0
        else:
            data, options = Inputs(rows, names=tuple(f"f{i}" for i in range(30))), {"scale": "raw"}
            truths = list(known.truth(rows))
            weights = np.vstack([np.zeros(30), known.model.coef_])
        endpoint = filled(name, server.url, tmp_path)
        report = fimaudit.audit(str(endpoint), data, queries=160 if images else 80, profile="off", **options)
    finally:
        server.stop()
    for p, found in zip(truths, report.inputs, strict=True):
        norm, truth = found.spectral_norm, exact(weights, p)
        assert found.status != "failed", found.reason
        assert norm.lower * (1 - 1e-6) <= truth <= norm.upper * (1 + 1e-6)
