"""The command line as a user meets it: help, exit codes, one sentence for each refusal, and nothing left behind."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

import fimaudit.cli
from fimaudit.audit_report import Report
from fimaudit.storage.journal import JOURNAL

ROOT = Path(__file__).parents[2]
COMMANDS = {name: fimaudit.cli.load_command(name) for name in fimaudit.cli.COMMANDS}

MODELS = """
import os
import threading
from pathlib import Path
import numpy as np

def factory(function):
    return lambda: function

@factory
def good(batch):
    p = 1 / (1 + np.exp(-batch[:, :1] - 0.5 * batch[:, 1:2]))
    return np.hstack([p, 1 - p])

@factory
def few_rows(batch):
    return np.full((1, 3), 1 / 3) if len(batch) > 1 else np.full((2, 3), 1 / 3)

@factory
def raises(batch):
    raise ValueError("no such feature")

@factory
def held(batch):
    journal = Path(os.environ.get("HELD_JOURNAL", os.devnull))
    if journal.is_file() and journal.read_text().count('"input": ') >= int(os.environ["HELD_INPUTS"]):
        print("held", flush=True)
        threading.Event().wait()  # a signal ends it
    return good()(batch)

@factory
def late(batch):
    if (np.abs(batch - np.load("x.npz")["x"][3]).max(axis=1) < 0.05).any():
        raise RuntimeError("gone")
    return good()(batch)

nan = factory(lambda batch: np.full((len(batch), 3), np.nan))
inf = factory(lambda batch: np.full((len(batch), 3), np.inf))
many_axes = factory(lambda batch: np.full((len(batch), 2, 3), 1 / 6))
other_columns = factory(lambda batch: np.full((len(batch), 2 + len(batch)), 1 / (2 + len(batch))))
half = factory(lambda batch: np.full((len(batch), 3), 0.25))
logits = factory(lambda batch: np.hstack([batch, 5 - batch]))
single = factory(lambda batch: batch[:, :1])
one_class = factory(lambda batch: np.ones((len(batch), 1)))
labels = factory(lambda batch: np.zeros(len(batch), dtype=np.int64))
words = factory(lambda batch: np.array([["cat", "dog"]] * len(batch)))
nothing = factory(lambda batch: None)
ready = np.ones(3)
"""


def save_onnx(path: Path, *, softmax: bool) -> Path:
    """A linear network on three features, with or without its softmax."""
    weights = np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["z"], ["p"], axis=1))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("p" if softmax else "z", TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and data, good and bad."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "cli_models.py").write_text(MODELS)
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    np.savez(folder / "x.npz", x=x, y=np.arange(4) % 2)
    np.save(folder / "x.npy", x)
    np.savez(folder / "blocks.npz", x=np.linspace(-1, 1, 240, dtype=np.float32).reshape(80, 3))  # two blocks of inputs
    save_onnx(folder / "good.onnx", softmax=True)
    save_onnx(folder / "logits.onnx", softmax=False)
    whole = (folder / "good.onnx").read_bytes()
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("This is a note about a model, and no model.\n")
    (folder / "model.h5").write_bytes(b"\x89HDF\r\n")
    (folder / "estimator.pkl").write_bytes(pickle.dumps(LogisticRegression().fit(x, [0, 1, 0, 1])))
    (folder / "bad.pkl").write_bytes(b"\x80\x04not a pickle")
    archive = (folder / "x.npz").read_bytes()
    (folder / "archive.npy").write_bytes(archive)
    (folder / "truncated.npz").write_bytes(archive[: len(archive) // 2])
    np.savez(folder / "no_x.npz", images=x)
    np.savez(folder / "wide.npz", x=np.zeros((4, 7), np.float32))
    np.savez(folder / "flat.npz", x=np.zeros(4, np.float32))
    np.savez(folder / "empty.npz", x=np.zeros((0, 3), np.float32))
    np.savez(folder / "complex.npz", x=x.astype(np.complex64))
    np.savez(folder / "words.npz", x=np.array([["a", "b", "c"]]))
    np.savez(folder / "objects.npz", x=np.array([[1, None, 2]], dtype=object), allow_pickle=True)
    np.savez(folder / "nan.npz", x=np.where(x > 0.9, np.nan, x))
    np.savez(folder / "inf.npz", x=np.where(x > 0.9, np.inf, x))
    np.savez(folder / "labels.npz", x=x, y=np.arange(3))
    np.savez(folder / "groups.npz", x=x, group=np.array(["a", "b"]))
    (folder / "x.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    (folder / "words.csv").write_text("a,b,c\n1,2,red\n4,5,blue\n")
    (folder / "x.txt").write_text("1 2 3\n")
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command line in this process and return its exit code; what escapes it fails the test."""

    def invoke(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fimaudit", *arguments])
        try:
            fimaudit.cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return invoke


@dataclass(frozen=True)
class Refusal:
    """A command that is refused, and a part of the sentence that says why."""

    says: str
    target: str = "good.onnx"
    data: str = "x.npz"
    flags: tuple[str, ...] = field(default=())


REFUSALS = {
    "missing model": Refusal("no such", "nowhere.onnx"),
    "truncated model": Refusal("truncated.onnx", "truncated.onnx"),
    "not a model": Refusal("text.onnx", "text.onnx"),
    "folder for a model": Refusal("got the folder '.'; give the file in it", "."),
    "unknown extension": Refusal("ending '.h5'", "model.h5"),
    "no such module": Refusal("importable module", "nowhere_at_all:model"),
    "no such attribute": Refusal("no attribute", "cli_models:absent"),
    "factory of something else": Refusal("", "cli_models:ready"),
    "pickle without trust": Refusal("--trust-pickle", "estimator.pkl"),
    "bad pickle": Refusal("bad.pkl", "bad.pkl", flags=("--trust-pickle",)),
    "archive called an array": Refusal("give it that ending", data="archive.npy"),
    "missing data": Refusal("no such data file", data="nowhere.npz"),
    "truncated data": Refusal("could not read truncated.npz", data="truncated.npz"),
    "unknown data": Refusal(".npz, .npy, .csv", data="x.txt"),
    "no x": Refusal("an array called x", data="no_x.npz"),
    "wrong shape": Refusal("inputs of shape (3)", data="wide.npz"),
    "no axis of inputs": Refusal("axis of inputs", data="flat.npz"),
    "empty data": Refusal("at least one input", data="empty.npz"),
    "complex data": Refusal("real numbers", data="complex.npz"),
    "words": Refusal("real numbers", data="words.npz"),
    "objects": Refusal("could not read objects.npz", data="objects.npz"),
    "words in a table": Refusal("column 'c'", data="words.csv"),
    "infinite": Refusal("finite inputs", data="inf.npz"),
    "labels of another length": Refusal("one label for each", data="labels.npz"),
    "groups of another length": Refusal("one group for each", data="groups.npz"),
    "logits in a file": Refusal("--link softmax", "logits.onnx"),
    "logits from a function": Refusal("--link softmax", "cli_models:logits"),
    "single column": Refusal("--link", "cli_models:single"),
    "one class": Refusal("--link", "cli_models:one_class"),
    "single column under softmax": Refusal("at least two columns", "cli_models:single", flags=("--link", "softmax")),
    "not P(class 1)": Refusal("--link sigmoid", "cli_models:single", flags=("--link", "identity")),
    "three columns under sigmoid": Refusal("needs one column", "logits.onnx", flags=("--link", "sigmoid")),
    "rows that do not sum to 1": Refusal("sum to 1", "cli_models:half"),
    "NaN answers": Refusal("finite numbers", "cli_models:nan"),
    "infinite answers": Refusal("finite numbers", "cli_models:inf"),
    "wrong number of rows": Refusal("rows", "cli_models:few_rows"),
    "too many axes": Refusal("shape", "cli_models:many_axes"),
    "wrong number of columns": Refusal("classes", "cli_models:other_columns"),
    "a model that raises": Refusal("no such feature", "cli_models:raises"),
    "class labels": Refusal("class labels", "cli_models:labels"),
    "answers in words": Refusal("numbers", "cli_models:words"),
    "no answers": Refusal("", "cli_models:nothing"),
    "one query": Refusal("at least 2 queries", flags=("--queries", "1")),
    "confidence of one": Refusal("confidence", flags=("--confidence", "1")),
    "no budget": Refusal("at least one row", flags=("--budget", "0")),
    "no batch": Refusal("batch", flags=("--batch", "0")),
    "unknown mode": Refusal("--mode", flags=("--mode", "grey-box")),
    "unknown link": Refusal("link among", flags=("--link", "logit")),
    "unknown adapter": Refusal("adapter among", flags=("--adapter", "keras")),
    "unknown input": Refusal("pixels", flags=("--input", "pixels")),
    "unknown output": Refusal("scores", flags=("--output", "scores")),
    "bad hold": Refusal("--hold", flags=("--hold", "length")),
    "bad bounds": Refusal("lower < upper", flags=("--lower", "1", "--upper", "0")),
    "bound that is no number": Refusal("--lower", flags=("--lower", "low")),
    "data outside the bounds": Refusal("within the bounds", flags=("--lower", "0", "--upper", "1")),
    "unknown scale": Refusal(
        "--scale expects raw, std, range, a number or an existing .npy file", flags=("--scale", "minmax")
    ),
    "negative quantum": Refusal("quantum", flags=("--quantum", "-1")),
    "resume and overwrite": Refusal("--resume and --overwrite", flags=("--resume", "--overwrite")),
    "unknown profile": Refusal("expected --profile off, cheap or full, got 'dear'", flags=("--profile", "dear")),
    "unknown flag": Refusal("no such option --querys; did you mean --queries?", flags=("--querys", "400")),
    "unknown flag with =": Refusal("no such option --trust; did you mean --trust-pickle?", flags=("--trust=1",)),
    "unknown flag near to none": Refusal("no such option --zzz; --help lists the known ones", flags=("--zzz",)),
    "unknown endpoint setting": Refusal("unknown option 'timeot'; did you mean 'timeout'?", flags=("--set", "timeot=3")),
    "missing weights": Refusal("weights", "cli_models:good", flags=("--weights", "nowhere.safetensors")),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(
    case: Refusal, inside: Path, run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    code = run("audit", case.target, "--data", case.data, "--out", str(out), *case.flags)
    shown = capfd.readouterr()
    assert code == 2, shown.err
    assert shown.err.startswith("fimaudit: ")
    assert shown.err.count("\n") == 1, shown.err
    assert case.says in shown.err
    assert shown.out == ""
    assert not out.exists()


def test_folder_that_holds_another_run(
    inside: Path, run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ("audit", "good.onnx", "--data", "x.npz", "--out", str(out), "--queries", "20")
    assert run(*command) == 0
    before = contents(out)
    refused = [
        (command, "--resume to go on"),
        ((*command[:1], "logits.onnx", *command[2:], "--link", "softmax", "--resume"), "holds another run"),
        ((*command, "--seed", "1", "--resume"), "holds another run"),
        ((*command[:1], "logits.onnx", *command[2:], "--overwrite"), "--link softmax"),
    ]
    for arguments, says in refused:
        capfd.readouterr()
        assert run(*arguments) == 2
        shown = capfd.readouterr().err
        assert says in shown
        assert shown.count("\n") == 1
        assert contents(out) == before
    assert run(*command, "--overwrite") == 0


def test_folder_that_cannot_hold_a_run(
    inside: Path, run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    for out, says in (
        (tmp_path, "not empty"),
        (tmp_path / "note.txt", "got a file"),
        (tmp_path / "note.txt" / "a", "got a file"),
    ):
        assert run("audit", "good.onnx", "--data", "x.npz", "--out", str(out)) == 2
        shown = capfd.readouterr().err
        assert says in shown
        assert shown.count("\n") == 1
    assert contents(tmp_path) == {"note.txt": b"mine"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("module", "target", "extra"),
    [("onnxruntime", "good.onnx", "onnx"), ("sklearn", "estimator.pkl", "sklearn"), ("torch", "model.pt2", "torch")],
)
def test_missing_extra(
    module: str,
    target: str,
    extra: str,
    inside: Path,
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """An extra that is not installed: the sentence holds the pip command."""
    (inside / "model.pt2").write_bytes(b"")
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert run("audit", target, "--data", "x.npz", "--out", str(tmp_path / "run"), "--trust-pickle") == 2
    shown = capfd.readouterr().err
    assert f"pip install 'fimaudit[{extra}]'" in shown
    assert shown.count("\n") == 1


def test_audit_and_inspect_of_a_good_model(
    inside: Path, run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "run"
    assert run("audit", "good.onnx", "--data", "x.npz", "--out", str(out), "--queries", "20") == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "spectral norm" in shown.out
    assert str(out) in shown.out.replace("\n", "")
    commands = "    fimaudit ", f"    {out}"  # to be pasted, so they are not broken
    assert max(len(line) for line in shown.out.splitlines()[:-1] if not line.startswith(commands)) <= 80
    assert {"report.json", "inputs.parquet"} <= set(contents(out))
    assert Report.read(out).summary.statuses == {"ok": 4}
    assert run("inspect", "good.onnx") == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "good.onnx" in shown.out


@pytest.mark.parametrize("target", ["nowhere.onnx", "text.onnx", "cli_models:nan", "estimator.pkl"])
def test_inspect_refuses_alike(
    target: str, inside: Path, run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", target, "--data", "x.npz") == 2
    shown = capfd.readouterr().err
    assert shown.startswith("fimaudit: ")
    assert shown.count("\n") == 1


def test_inspect_does_not_stop_on_a_link(inside: Path, run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "logits.onnx", "--data", "x.npz") == 0
    shown = capfd.readouterr().out
    assert "--link auto: expected probabilities" in shown
    assert "--link softmax: first answers: class " in shown
    assert "audit it with: fimaudit audit logits.onnx --data x.npz --link softmax --out runs/first" in shown
    assert run("inspect", "logits.onnx", "--data", "x.npz", "--link", "sigmoid", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert "needs one column" in document["links"]["sigmoid"]["refused"]
    assert document["audit"] is None
    assert document["preflight"] is None


def test_budget_ends_with_a_partial_report_that_can_be_resumed(
    inside: Path, run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ("audit", "good.onnx", "--data", "x.npz", "--out", str(out), "--queries", "20")
    assert run(*command, "--budget", "110") == 3
    partial = Report.read(out)
    assert 0 < len(partial.inputs) < 4
    assert partial.summary.queries <= 110
    assert run(*command, "--resume") == 0
    assert run(*command[:5], str(tmp_path / "whole"), *command[6:]) == 0
    resumed, whole = Report.read(out), Report.read(tmp_path / "whole")
    assert resumed.inputs == whole.inputs
    assert resumed.summary.queries >= whole.summary.queries  # rows that the budget cut off are asked again and counted
    counts = {"queries": 0, "requests": 0}
    assert resumed.summary.model_copy(update=counts) == whole.summary.model_copy(update=counts)


def test_budget_too_small_for_the_first_questions(inside: Path, run: Callable[..., int], tmp_path: Path) -> None:
    assert run("audit", "good.onnx", "--data", "x.npz", "--out", str(tmp_path / "run"), "--budget", "1") == 3
    assert Report.read(tmp_path / "run").inputs == []


def test_model_that_fails_under_way(inside: Path, run: Callable[..., int], tmp_path: Path) -> None:
    """Inputs that fail later are failed with their reason, and the run goes on."""
    out = tmp_path / "run"
    run("audit", "cli_models:late", "--data", "x.npz", "--out", str(out), "--queries", "20", "--batch", "20")
    assert [s.status for s in Report.read(out).inputs] == ["ok", "ok", "ok", "failed"]
    assert all("gone" in str(s.reason) for s in Report.read(out).inputs if s.status == "failed")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert " ".join(command.help.split("\n\n")[0].split()) == fimaudit.cli.COMMANDS[name]  # as the list of commands says it
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


def test_help_shows_first_what_everybody_needs() -> None:
    panels: dict[str | None, list[str]] = {}
    for parameter in COMMANDS["audit"].params:
        panels.setdefault(parameter.rich_help_panel, []).append(parameter.opts[0])
    first = ["target", "--data", "--out", "--link", "--queries", "--budget", "--seed", "--policy", "--resume", "--overwrite"]
    assert sorted(panels.pop(None)) == sorted(first)
    later = [
        "Measurement",
        "Tables and classes",
        "Input domain",
        "Model",
        "Endpoint",
        "Many processes and machines",
        "White box",
        "Compared with",
        "Settings file",
        "What is printed",
    ]
    assert list(panels) == later
    assert panels["White box"] == ["--tolerance", "--worst-direction"]
    assert {"--rate", "--header-env", "--yes"} <= set(panels["Endpoint"])


def fimaudit_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "fimaudit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, stdin=subprocess.DEVNULL)


def test_process_with_a_good_model(folder: Path, tmp_path: Path) -> None:
    done = fimaudit_process("audit", "good.onnx", "--data", "x.npz", "--out", str(tmp_path / "run"), cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "margin radius" in done.stdout


@contextlib.contextmanager
def held_process(*command: str, out: Path, inputs: int, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A run whose model answers no more once so many inputs are kept; it stands there until it gets a signal."""
    environment = {**os.environ, "HELD_JOURNAL": str(out / JOURNAL), "HELD_INPUTS": str(inputs)}
    words = [sys.executable, "-m", "fimaudit", *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    interruptible = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(words, cwd=cwd, env=environment, text=True, preexec_fn=interruptible, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_killed_run_goes_on_to_the_same_report(inside: Path, run: Callable[..., int], tmp_path: Path) -> None:
    command = ("audit", "cli_models:held", "--data", "blocks.npz", "--queries", "20", "--batch", "20", "--out")
    out, whole = tmp_path / "run", tmp_path / "whole"
    with held_process(*command, str(out), out=out, inputs=1, cwd=inside) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 0 < (out / JOURNAL).read_text().count('"input": ') < 80
    assert not (out / "report.json").exists()
    assert run(*command, str(out), "--resume") == 0
    assert run(*command, str(whole)) == 0
    resumed, once = Report.read(out), Report.read(whole)
    assert resumed.inputs == once.inputs
    assert resumed.summary.requests == once.summary.requests + 1  # the call that the kill cut off is counted too
    counts = {"queries": 0, "requests": 0}
    assert resumed.summary.model_copy(update=counts) == once.summary.model_copy(update=counts)


def test_an_interrupted_run_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["audit", "cli_models:held", "--data", "x.npz", "--queries", "20", "--batch", "5", "--out", str(out)]
    with held_process(*command, out=out, inputs=0, cwd=folder) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == f"resume with: fimaudit {shlex.join(command)} --resume"
    assert "interrupted" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("target", ["text.onnx", "cli_models:raises"])
def test_process_with_a_bad_model(target: str, folder: Path, tmp_path: Path) -> None:
    done = fimaudit_process("audit", target, "--data", "x.npz", "--out", str(tmp_path / "run"), cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments", [("audit",), ("audit", "good.onnx"), ("audit", "good.onnx", "--seed", "x"), ("nothing",)]
)
def test_wrong_command_lines(arguments: tuple[str, ...], run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("fimaudit: ")
    assert shown.err.count("\n") == 1


def test_version(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capfd.readouterr().out.startswith("fimaudit 0.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audti"], "fimaudit: no such command 'audti'; did you mean 'audit'?"),
        (["audit"], "fimaudit: expected TARGET, which is missing; --help says what it is"),
        (["audit", "m.onnx", "--out", "run"], "fimaudit: expected --data, which is missing; --help says what it is"),
        (["gate", "run", "other"], "fimaudit: got unexpected extra argument(s) (other); --help lists what there is"),
        (["audit", "m.onnx", "--seed", "x"], "fimaudit: expected --seed as a whole number; --help says what it is"),
        (["plan", "m.onnx", "--lower", "0"], "fimaudit: no such option --lower; --help lists the known ones"),
        (
            ["plan", "m.onnx", "--inputs", "3", "--features", "4"],
            "fimaudit: expected a URL or an endpoint file, got 'm.onnx'; for a model on this machine leave it out",
        ),
        (["--foo"], "fimaudit: no such option --foo; --help lists the known ones"),
        (["endpoint", "shwo", "x"], "fimaudit: no such command 'shwo'; did you mean 'show'?"),
    ],
)
def test_words_that_are_missing_or_unknown_are_one_sentence(
    words: list[str], said: str, run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    """Seen: a box with a usage line around it."""
    assert run(*words) == 2
    assert capfd.readouterr().err.strip() == said
