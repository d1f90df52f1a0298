"""``fimaudit validate``: what it writes, resume, budget, bad input, models without derivatives, a missing extra."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import fimaudit.cli
from benchmarks._study_together import run_together
from fimaudit.domain import InputDomain
from fimaudit.errors import BudgetExhausted, RunFolderError, UsageError
from fimaudit.models.counted_passes import CountedModel
from fimaudit.validation import Validation, validate

MODEL = """
import numpy as np, torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).eval()

def function():
    net = network()
    def answer(batch):
        assert batch.dtype == np.float32  # the data's own
        with torch.no_grad():
            return net(torch.tensor(batch, dtype=torch.float32)).softmax(1).double().numpy()
    return answer

def stubborn():
    return lambda x: np.tile([0.7, 0.2, 0.1], (len(x), 1)) + 1e-3 * np.tanh(x[:, :1]) * [1.0, -1.0, 0.0]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validate")
    (folder / "made.py").write_text(MODEL)
    x = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    np.savez(folder / "x.npz", x=x, y=np.arange(8) % 3)
    return folder


def process(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fimaudit", "validate", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True)


@pytest.fixture
def cli(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process: an interpreter that imports torch and the library anew takes seconds."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["fimaudit", "validate", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            fimaudit.cli.main()
        said = capsys.readouterr()
        return Done(int(stop.value.code or 0), said.out, said.err)

    return run


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).eval()


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


X = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)


def test_command_on_a_network(place: Path, cli: Callable[..., Done]) -> None:
    done = cli("made:network", "--data", "x.npz", "--link", "softmax", "--out", "white", "--eps", "0.1", "--eps", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for word in ("margin radius", "Spearman", "Kendall", "flipped within", "deepfool", "carlini-wagner", "pgd"):
        assert word in done.stdout
    found = Validation.read(place / "white")
    assert [c.metric for c in found.correlations] == ["margin_radius", "peak_spectral_norm", "spectral_norm"]
    radius = found.correlations[0]
    assert radius.spearman.value is not None
    assert radius.spearman.value > 0.8
    assert radius.ratio.value == pytest.approx(1.0, abs=0.3)
    assert [f.eps for f in found.flipped] == [0.1, 1.0]
    assert found.forward_rows == sum(s.forward_rows for s in found.inputs) > 0
    assert found.backward_rows > 0
    assert found.settings["mode"] == "black-box"
    for s in found.inputs:
        assert s.status == "found"
        assert s.smallest_perturbation == min(d for d in s.attacks.values() if d is not None)
        assert s.changed_to != s.predicted_class
        assert s.label == s.index % 3
    assert {p.name for p in (place / "white").iterdir()} >= {"report.json", "validation.json", "calibration.svg"}
    refused = cli("made:network", "--data", "x.npz", "--link", "softmax", "--out", "white")
    assert refused.returncode == 2
    assert "already holds a run" in refused.stderr


def test_command_on_a_function(place: Path, cli: Callable[..., Done]) -> None:
    done = cli("made:function", "--data", "x.npz", "--out", "black", "--attack-rows", "2000")
    assert done.returncode == 0, done.stderr
    found = Validation.read(place / "black")
    assert found.settings["attacks"] == ["hopskipjump"]
    assert found.backward_rows == 0
    assert found.forward_rows <= 8 * 2002
    white = validate(small_network(), X, link="softmax", attacks=["deepfool", "pgd"])
    ratio = [b.smallest_perturbation / w.smallest_perturbation for b, w in zip(found.inputs, white.inputs, strict=True)]  # type: ignore[operator]
    assert 0.97 <= np.median(ratio) <= 1.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--attacks", "autoattack"], "expected attacks among"),
        (["--attacks", "square"], "square images"),
        (["--eps", "-1"], "above 0"),
        (["--attack-rows", "5"], "at least 100 rows"),
        (["--mode", "grey-box"], "--mode"),
        (["--resume", "--overwrite"], "got both"),
        (["--queries", "1"], "at least 2 queries"),
    ],
)
def test_bad_input_is_one_sentence(place: Path, cli: Callable[..., Done], arguments: list[str], said: str) -> None:
    done = cli("made:network", "--data", "x.npz", "--link", "softmax", "--out", "bad", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (place / "bad").exists()


def test_attacks_that_need_derivatives_are_refused_for_a_function(cli: Callable[..., Done]) -> None:
    done = cli("made:function", "--data", "x.npz", "--out", "bad", "--attacks", "pgd")
    assert done.returncode == 2
    assert "needs derivatives" in done.stderr


def test_a_decision_that_no_attack_changes_is_censored(place: Path, cli: Callable[..., Done]) -> None:
    done = cli("made:stubborn", "--data", "x.npz", "--out", "stubborn", "--attack-rows", "500", "--eps", "1")
    assert done.returncode == 0, done.stderr
    assert "censored" in done.stdout
    found = Validation.read(place / "stubborn")
    assert found.censored == found.attacked == 8
    for s in found.inputs:
        assert (s.status, s.smallest_perturbation, s.attack) == ("censored", None, None)
    for c in found.correlations:
        assert (c.inputs, c.censored, c.spearman.value) == (0, 8, None)
    assert (found.flipped[0].flipped, found.flipped[0].not_flipped) == (0, 8)


def test_a_spent_budget_is_resumed_to_the_same_numbers(place: Path, tmp_path: Path, cli: Callable[..., Done]) -> None:
    arguments = ("made:function", "--data", str(place / "x.npz"), "--attack-rows", "1000")
    whole = cli(*arguments, "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    part = cli(*arguments, "--out", str(tmp_path / "part"), "--budget", "6000")
    assert part.returncode == 3
    assert "inputs were attacked" in part.stdout
    half = Validation.read(tmp_path / "part")
    assert 0 < len(half.inputs) < 8
    assert half.measured_rows + half.forward_rows + half.backward_rows <= 6000
    again = cli(*arguments, "--out", str(tmp_path / "part"), "--resume")
    assert again.returncode == 0, again.stderr
    one, two = Validation.read(tmp_path / "whole"), Validation.read(tmp_path / "part")
    assert one.inputs == two.inputs
    assert one.correlations == two.correlations
    other = cli(*arguments[:-1], "1500", "--out", str(tmp_path / "part"), "--resume")
    assert other.returncode == 2
    assert "holds other attacks" in other.stderr


def test_rows_that_a_kill_cut_off_stay_counted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    domain = InputDomain(unit="u")
    first = validate(small_network(), X, link="softmax", out=folder, attacks="deepfool", domain=domain)
    lines = (folder / "attacks.jsonl").read_text().splitlines()
    cut = next(i for i, line in enumerate(lines) if '"input"' in line)  # killed in the second input, its line half written
    asked = json.loads(lines[cut + 3])["asked"][0]
    (folder / "attacks.jsonl").write_text("\n".join(lines[: cut + 4]) + '\n{"inp')
    again = validate(
        small_network(), X, link="softmax", out=folder, attacks="deepfool", domain=domain, resume=True,
        budget=first.measured_rows + asked + 40,
    )  # fmt: skip
    assert again.inputs[0] == first.inputs[0]
    assert len(again.inputs) < 8  # 40 rows more are not enough for all
    (folder / "attacks.jsonl").write_text(lines[0] + "\n" + "{nonsense}\n")
    with pytest.raises(RunFolderError, match="damaged"):
        validate(small_network(), X, link="softmax", out=folder, attacks="deepfool", domain=domain, resume=True)


def test_overwrite_replaces_the_attacks(tmp_path: Path) -> None:
    one = validate(small_network(), X[:3], link="softmax", out=tmp_path / "run", attacks="pgd")
    two = validate(small_network(), X[:3], link="softmax", out=tmp_path / "run", attacks="deepfool", overwrite=True)
    assert one.settings["attacks"] != two.settings["attacks"]
    assert Validation.read(tmp_path / "run") == two
    assert all(list(s.attacks) == ["deepfool"] for s in two.inputs)


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int, int, int]] = []
    validate(small_network(), X[:3], link="softmax", attacks="deepfool", progress=lambda *now: seen.append(now))
    assert {now[3] for now in seen} == {3}
    ends = [now for now in seen if now[2] == 3]
    assert len(ends) >= 2  # of the measurement, and of the attacks
    assert seen[-1][2] == 3
    assert seen[-1][0] > 0


def test_too_many_inputs_and_bad_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 10000 inputs"):
        validate(small_network(), np.zeros((10_001, 6), dtype=np.float32), link="softmax")
    with pytest.raises(UsageError, match="length above 0"):
        validate(small_network(), X, link="softmax", eps=[float("nan")])


def test_without_the_library_the_command_names_pip(place: Path) -> None:
    code = (
        "import sys; sys.modules['art'] = None; sys.modules['art.estimators.classification.classifier'] = None\n"
        "import fimaudit.validation\n"
        "from fimaudit.cli import main\n"
        "sys.argv = ['fimaudit', 'validate', 'made:network', '--data', 'x.npz', '--link', 'softmax', '--out', 'none']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'fimaudit[attacks]'" in done.stderr
    assert not (place / "none").exists()


def test_side_by_side_is_as_alone_and_an_error_ends_all() -> None:
    from fimaudit import open_classifier
    from fimaudit.models.meter import Meter
    from fimaudit.validation.art_estimator import quiet
    from fimaudit.validation.smallest_perturbation import smallest_perturbation

    classifier = open_classifier(small_network(), "softmax")
    space = InputDomain().resolve(X, "float32")
    names = ["deepfool", "carlini-wagner", "pgd"]
    alone = [
        smallest_perturbation(CountedModel(Meter(classifier)), x, space, 0.5, names, seed=i) for i, x in enumerate(X[:4])
    ]
    tasks = [
        lambda own, i=i: smallest_perturbation(own, X[i], space, 0.5, names, seed=i)  # type: ignore[misc]
        for i in range(4)
    ]
    meter = Meter(classifier)
    with quiet(0):
        together = run_together(CountedModel(meter), tasks)
    # The same but for float32 rounding, which a batch's size changes and a chain of decisions can magnify a little.
    assert [t.distance for t in together] == pytest.approx([a.distance for a in alone], rel=0.03)
    assert meter.usage.requests < sum(a.forward + a.backward for a in alone) / 2
    with pytest.raises(BudgetExhausted), quiet(0):
        run_together(CountedModel(Meter(classifier, budget=100)), tasks)


class _Serving(BaseHTTPRequestHandler):
    """TensorFlow Serving's predict, for the network of these tests."""

    protocol_version = "HTTP/1.1"
    network = small_network()
    rows = 0

    def do_GET(self) -> None:
        self._send({"model_version_status": [{"state": "AVAILABLE"}]})

    def do_POST(self) -> None:
        instances = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        type(self).rows += len(instances)
        with torch.no_grad():
            answers = self.network(torch.tensor(instances, dtype=torch.float32)).softmax(1).double()
        self._send({"predictions": answers.tolist()})

    def log_message(self, format: str, *args: object) -> None: ...

    def _send(self, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_an_endpoint_is_attacked_within_its_budget_and_resumed(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Serving)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/models/m:predict"
        options = {"queries": 20, "attack_rows": 600, "out": tmp_path / "run", "trust_env": False}
        half = validate(url, X[:3].astype(float), budget=1000, **options)
        sent_first = _Serving.rows
        assert 0 < len(half.inputs) < 3
        assert sent_first <= 1000
        whole = validate(url, X[:3].astype(float), resume=True, **options)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [s.status for s in whole.inputs] == ["found"] * 3
    assert whole.inputs[: len(half.inputs)] == half.inputs
    assert whole.measured_rows >= half.measured_rows
    # What the cut-off input had asked was recalled from the ledger, not sent again; nor is a row that an attack repeats.
    cut_off = sent_first - half.measured_rows - half.forward_rows
    assert cut_off > 100
    assert 0 <= half.measured_rows + whole.forward_rows - _Serving.rows < 50
