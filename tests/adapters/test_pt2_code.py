"""A ``.pt2`` file is opened without running code that somebody put into it: not its pickles, guards or expressions."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fimaudit.bounds.importers.torch_export import load_program
from fimaudit.errors import UntrustedPickleError
from fimaudit.models.opening import open_classifier

torch = pytest.importorskip("torch")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, x):
            return torch.softmax(self.layer(x.reshape(x.shape[0] * 2, 2).reshape(-1, 4)), dim=1)

    rows = {0: torch.export.Dim("rows", min=1, max=64)}
    program = torch.export.export(Network().eval(), (torch.zeros(2, 4),), dynamic_shapes={"x": rows})
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    torch.export.save(program, path)
    return path


def spoiled(exported: Path, to: Path, change) -> Path:
    """The same archive with members changed."""
    with zipfile.ZipFile(exported) as before, zipfile.ZipFile(to, "w") as after:
        for info in before.infolist():
            after.writestr(info, change(info.filename, before.read(info)))
    return to


def with_document(name: str, content: bytes, change) -> bytes:
    if not name.endswith("models/model.json"):
        return content
    document = json.loads(content)
    return json.dumps(change(document) or document).encode()


def test_as_it_was_saved_it_opens(exported):
    model = open_classifier(str(exported))
    assert model.probabilities(np.zeros((5, 4), np.float32)).shape == (5, 3)
    model.close()


def test_its_pickles_run_no_code(exported, tmp_path):
    trace = tmp_path / "ran"

    def change(name, content):
        if not name.endswith("sample_inputs/model.pt"):
            return content
        file = tmp_path / "inputs.pt"
        torch.save((Touch(trace),), file)
        return file.read_bytes()

    path = spoiled(exported, tmp_path / "bad.pt2", change)
    with pytest.raises(UntrustedPickleError, match="can run any code"):
        open_classifier(str(path))
    with pytest.raises(UntrustedPickleError, match="can run any code"):
        load_program(str(path))
    assert not trace.exists()
    assert pickle.loads(pickle.dumps(Touch(trace))) is None
    assert trace.exists()  # so the trap works


def test_its_guards_run_no_code(exported, tmp_path):
    trace = tmp_path / "ran"

    def guarded(document):
        document["guards_code"] = [f"__import__('pathlib').Path({str(trace)!r}).touch() is None"]

    path = spoiled(exported, tmp_path / "bad.pt2", lambda n, c: with_document(n, c, guarded))
    model = open_classifier(str(path))
    model.probabilities(np.zeros((2, 4), np.float32))
    model.close()
    assert not trace.exists()


@pytest.mark.parametrize(
    "code", ["__import__('pathlib').Path({!r}).touch()", "open({!r}, 'w')", "(lambda: open({!r}, 'w'))()"]
)
def test_its_expressions_run_no_code(exported, tmp_path, code):
    trace = tmp_path / "ran"

    def put(document):
        text = json.dumps(document)
        symbol = "Symbol('s77', positive=True, integer=True)"
        at = text.index('"expr_str": "') + len('"expr_str": "')
        end = text.index('"', at)
        assert "Symbol" in text[at:end], symbol
        return json.loads(text[:at] + json.dumps(code.format(str(trace)))[1:-1] + text[end:])

    path = spoiled(exported, tmp_path / "bad.pt2", lambda n, c: with_document(n, c, put))
    with pytest.raises(UntrustedPickleError, match="can run any code"):
        open_classifier(str(path))
    assert not trace.exists()
