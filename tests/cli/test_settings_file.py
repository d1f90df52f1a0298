"""Settings in a file: what it may hold, that flags go before it, and that a saved file gives the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import fimaudit.cli
from fimaudit.audit_report import Report
from fimaudit.errors import UsageError

AUDIT = fimaudit.cli.load_command("audit")
MODEL = """
import numpy as np

def logistic():
    return lambda batch: np.hstack([p := 1 / (1 + np.exp(-batch[:, :1] * batch[:, 1:2])), 1 - p])
"""
SETTINGS = """
target: settings_model:logistic
data: x.npz
queries: 20
lower: -2
upper: 2.0
profile: off
witness: false
frozen: [2]
unit: metre
batch: 20
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "settings_model.py").write_text(MODEL)
    np.savez(tmp_path / "x.npz", x=np.linspace(-1, 1, 12).reshape(4, 3))
    (tmp_path / "audit.yaml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def audit(*words: str) -> int:
    done = CliRunner().invoke(fimaudit.cli.app, ["audit", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code


def test_a_file_says_what_flags_say(place: Path) -> None:
    assert audit("--config", "audit.yaml", "--out", "file") == 0
    words = ["--queries", "20", "--lower", "-2", "--upper", "2.0", "--profile", "off", "--no-witness", "--batch", "20"]
    flags = [*words, "--frozen", "2", "--unit", "metre"]
    assert audit("settings_model:logistic", "--data", "x.npz", "--out", "flags", *flags) == 0
    file, plain = Report.read("file"), Report.read("flags")
    assert file.inputs == plain.inputs
    assert (file.settings, file.domain) == (plain.settings, plain.domain)
    assert file.domain["unit"] == "metre"
    assert not any(rung for s in file.inputs for rung in s.profile)


def test_a_flag_goes_before_the_file(place: Path) -> None:
    assert audit("--config", "audit.yaml", "--out", "run", "--queries", "30", "--unit", "inch", "--witness") == 0
    report = Report.read("run")
    assert (report.settings["queries"], report.domain["unit"], report.settings["witness"]) == (30, "inch", True)


def test_a_saved_file_gives_the_same_run(place: Path) -> None:
    assert audit("--config", "audit.yaml", "--out", "first", "--seed", "3", "--save-config", "saved.yaml") == 0
    saved = yaml.safe_load((place / "saved.yaml").read_text())
    assert saved["target"] == "settings_model:logistic"
    assert (saved["seed"], saved["frozen"], saved["witness"], saved["profile"]) == (3, 2, False, "off")  # numbers as numbers
    assert not {"config", "save-config", "overwrite"} & set(saved)
    assert audit("--config", "saved.yaml", "--out", "second") == 0
    assert Report.read("first").inputs == Report.read("second").inputs
    assert (
        audit("--config", "audit.yaml", "--out", "first", "--seed", "3", "--save-config", "saved.yaml", "--overwrite") == 0
    )
    with pytest.raises(UsageError, match=r"another file at saved\.yaml"):
        audit("--config", "audit.yaml", "--out", "third", "--save-config", "saved.yaml")
    assert not (place / "third").exists()


WRONG = {
    "unknown": ("querys: 3", "unknown setting 'querys'; did you mean 'queries'?"),
    "of one call": ("overwrite: true", "--overwrite belongs to one call"),
    "no switch": ("witness: 3", "witness is a switch; expected true or false, got 3"),
    "twice": ("queries: 3\nqueries: 4", "'queries' is given twice"),
    "mapping": ("unit: {a: b}", "unit: expected one value"),
    "no mapping": ("- queries", "mapping with settings"),
    "no YAML": ("queries: [", "no valid YAML"),
    "no choice": ("mode: grey", "expected --mode auto, black-box or white-box, got 'grey'"),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG.keys())
def test_wrong_settings_are_one_sentence(text: str, says: str, place: Path) -> None:
    (place / "wrong.yaml").write_text(text)
    with pytest.raises(UsageError) as refused:
        audit("settings_model:logistic", "--data", "x.npz", "--out", "run", "--config", "wrong.yaml")
    assert says in str(refused.value)
    assert not (place / "run").exists()
    with pytest.raises(UsageError, match="no such settings file"):
        audit("--config", "nowhere.yaml")


def test_every_flag_can_stand_in_a_file(place: Path) -> None:
    """Each by its own name; pairs and lists as YAML has them."""
    from fimaudit.cli.settings_file import OF_ONE_CALL, read_settings

    values: dict[str, object] = {}
    for parameter in AUDIT.params:
        if parameter.name in OF_ONE_CALL:
            continue
        flags = [name for name in parameter.opts if name.startswith("--")]
        several = getattr(parameter, "multiple", False)
        values[flags[0][2:] if flags else parameter.name] = (
            True if getattr(parameter, "is_flag", False) else {"a": 1} if several else "1"
        )
    (place / "all.yaml").write_text(yaml.safe_dump(values))
    found = read_settings(place / "all.yaml", AUDIT)
    assert set(found) == {p.name for p in AUDIT.params} - set(OF_ONE_CALL)
    assert found["hold"] == ["a=1"]
    assert found["settings"] == ["a=1"]


def test_settings_of_an_endpoint_are_words_of_its_file(place: Path) -> None:
    from fimaudit.cli.settings_file import read_settings

    (place / "e.yaml").write_text(
        "set: {trust_env: false, rate: 20/s}\nheader_env: {X-Key: VARIABLE}\nclass: 3\nsurrogate: learned\n"
    )
    assert read_settings(place / "e.yaml", AUDIT) == {
        "settings": ["trust_env=false", "rate=20/s"],
        "header_env": ["X-Key=VARIABLE"],
        "finding": "3",
        "surrogate": ["learned"],
    }


def test_validate_takes_a_file_too(place: Path) -> None:
    (place / "v.yaml").write_text("attack-rows: many\n")
    done = CliRunner().invoke(fimaudit.cli.app, ["validate", "m", "--data", "x.npz", "--out", "o", "--config", "v.yaml"])
    assert str(done.exception) == "expected --attack-rows as a whole number; --help says what it is"
