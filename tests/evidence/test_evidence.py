"""Evidence: what goes in, what a signature covers, and that nothing can be changed unnoticed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from synthetic_runs import picture_run
from typer.testing import CliRunner

from fimaudit.audit_report import Report
from fimaudit.cli import app
from fimaudit.cli.gate import apply_policy
from fimaudit.errors import FimauditError, RunFolderError, UsageError
from fimaudit.evidence.bundle import build_statement, write_bundle
from fimaudit.evidence.verification import verify_bundle
from fimaudit.report.standards import filled_table
from fimaudit.report.wording import interval_text, number
from fimaudit.storage.run_folder import read_run
from fimaudit.storage.tables import write_inputs
from tests.parquet_footers import thrift_integer, with_footer

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
POLICY = """
name: release
rules:
  - {rule: quantile, metric: margin_radius, statistic: median, at_least: 0.001}
  - {rule: ratio, metric: peak_spectral_norm, statistic: median, at_most: 30}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a verdict, its baseline, a ledger and a page; two key pairs."""
    place = tmp_path_factory.mktemp("evidence")
    picture_run(place / "run", count=20, queries=40)
    picture_run(place / "base", count=20, queries=40, seed=1)
    (place / "policy.yaml").write_text(POLICY)
    assert apply_policy(place / "run", place / "policy.yaml", baseline=place / "base").outcome == "pass"
    (place / "run" / "ledger.sqlite").write_bytes(b"SQLite format 3\x00 and what was asked")
    for name in ("key", "other"):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (place / f"{name}.pem").write_bytes(private)
        (place / f"{name}.pub").write_bytes(public)
    return place


@pytest.fixture(scope="module")
def signed(folder: Path) -> Path:
    return write_bundle(folder / "run", folder / "signed.zip", key=folder / "key.pem", signer="A. Auditor", now=NOW)


@pytest.fixture(scope="module")
def unsigned(folder: Path) -> Path:
    return write_bundle(folder / "run", folder / "unsigned.zip", now=NOW)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def mismatch(path: Path, key: Path | None = None) -> str | None:
    last = verify_bundle(path, key)[-1]
    return None if last.fits else f"{last.check}: {last.sentence}"


def test_what_is_in_it(signed: Path, folder: Path) -> None:
    members = members_of(signed)
    assert set(members) >= {
        "report.json",
        "inputs.parquet",
        "report.html",
        "ledger.sqlite",
        "policy.yaml",
        "verdict.json",
        "baseline/report.json",
        "baseline/inputs.parquet",
        "bundle.json",
        "statement.json",
        "statement.dsse.json",
    }
    statement = json.loads(members["statement.json"])
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    for subject in statement["subject"]:
        assert subject["digest"]["sha256"] == hashlib.sha256(members[subject["name"]]).hexdigest()
    stated = statement["predicate"]
    assert stated["verdict"] == "pass"
    assert stated["bundle"] == {"created": NOW.isoformat(), "fimaudit": stated["bundle"]["fimaudit"], "signer": "A. Auditor"}
    assert stated["settings"]["seed"] == 0
    assert stated["environment"]["packages"]["numpy"]


def test_the_same_run_gives_the_same_bytes(unsigned: Path, folder: Path, tmp_path: Path) -> None:
    again = write_bundle(folder / "run", tmp_path / "again.zip", now=NOW)
    assert again.read_bytes() == unsigned.read_bytes()


def test_a_page_that_needs_no_change_is_left(folder: Path, tmp_path: Path) -> None:
    """A run may lie where nobody can write; a page that has changed is made anew."""
    run = shutil.copytree(folder / "run", tmp_path / "run")
    write_bundle(run, tmp_path / "first.zip", now=NOW)
    before = (run / "report.html").stat()
    write_bundle(run, tmp_path / "again.zip", now=NOW)
    after = (run / "report.html").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    text = (run / "report.html").read_text(encoding="utf-8")
    (run / "report.html").write_text(text + "<!-- more -->", encoding="utf-8")
    write_bundle(run, tmp_path / "third.zip", now=NOW)
    assert (run / "report.html").read_text(encoding="utf-8") == text


def test_untouched_evidence_fits(signed: Path, unsigned: Path, folder: Path) -> None:
    assert mismatch(unsigned) is None
    assert mismatch(signed) is None
    assert mismatch(signed, folder / "key.pub") is None
    said = {f.check: f.sentence for f in verify_bundle(signed, folder / "key.pub")}
    assert "A. Auditor" in said["signature"]
    assert said["verdict"].startswith("pass")
    assert "shows" in said["page"]


@pytest.mark.parametrize("kind", ["signed", "unsigned"])
def test_any_flipped_byte_of_any_member_is_noticed(kind: str, signed: Path, unsigned: Path, tmp_path: Path) -> None:
    members = members_of(signed if kind == "signed" else unsigned)
    for name, content in members.items():
        for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[place] ^= 1
            found = mismatch(packed(tmp_path / "changed.zip", {**members, name: bytes(changed)}))
            assert found is not None, (name, place)


def test_the_statement_follows_from_the_other_members(unsigned: Path) -> None:
    """So any byte changed in it is noticed, without a signature too."""
    members = members_of(unsigned)
    statement = members["statement.json"]
    assert build_statement(members) == statement
    assert build_statement({**members, "statement.json": b"", "statement.dsse.json": b""}) == statement


def test_a_flipped_byte_of_the_file_is_noticed_or_harmless(unsigned: Path, tmp_path: Path) -> None:
    whole, members = unsigned.read_bytes(), members_of(unsigned)
    for place in range(0, len(whole), len(whole) // 60):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        file = tmp_path / "changed.zip"
        file.write_bytes(bytes(changed))
        assert mismatch(file) is not None or members_of(file) == members


def resealed(members: dict[str, bytes], **changes: bytes) -> dict[str, bytes]:
    """Members changed by someone who also writes a new statement, but cannot sign."""
    kept = {**members, **changes}
    kept.pop("statement.dsse.json", None)
    return {**kept, "statement.json": build_statement(kept)}


def test_contents_that_contradict_each_other_are_noticed(unsigned: Path, tmp_path: Path, folder: Path) -> None:
    members = members_of(unsigned)
    verdict = members["verdict.json"].replace(b'"outcome": "pass"', b'"outcome": "fail"', 1)
    report = json.loads(members["report.json"])
    report["summary"]["margin_radius"]["median"]["value"] *= 2
    inputs = list(read_run(folder / "run").inputs)
    write_inputs(tmp_path / "fewer.parquet", inputs[:-1])
    softer = inputs[0].model_copy(update={"probability": 0.123})
    write_inputs(tmp_path / "other.parquet", [softer, *inputs[1:]])
    fewer = json.loads(members["report.json"])
    fewer["inputs"] = fewer["inputs"][:-1]
    cases = {
        "verdict": {"verdict.json": verdict},
        "summary": {"report.json": json.dumps(report).encode()},
        "inputs": {"inputs.parquet": (tmp_path / "fewer.parquet").read_bytes()},
        "inputs:": {"inputs.parquet": (tmp_path / "other.parquet").read_bytes()},
        "inputs: 19": {
            "inputs.parquet": (tmp_path / "fewer.parquet").read_bytes(),
            "report.json": json.dumps(fewer).encode(),
        },
        "page": {"report.html": members["report.html"].replace(b"PASS", b"FAIL")},
        "contents": {"inputs.parquet": b"PAR1"},
        "verdict:": {"policy.yaml": members["policy.yaml"].replace(b"0.001", b"100.0")},
    }
    for says, changes in cases.items():
        found = mismatch(packed(tmp_path / "x.zip", resealed(members, **changes)))
        assert found is not None, says
        assert found.startswith(says), found


def test_inputs_that_are_not_there_take_no_memory(unsigned: Path, tmp_path: Path, folder: Path) -> None:
    """Of a file that says it holds 60 billion inputs pyarrow made room for as many: minutes, or no memory."""
    members, inputs = members_of(unsigned), len(read_run(folder / "run").inputs)

    def more(footer: bytes) -> bytes:
        return footer.replace(thrift_integer(inputs), thrift_integer(60_000_000_000))

    changed = with_footer(members["inputs.parquet"], more)
    found = mismatch(packed(tmp_path / "x.zip", resealed(members, **{"inputs.parquet": changed})))
    assert found is not None
    assert f"it holds {inputs} rows where it says 60000000000" in found


def test_members_that_come_go_or_double_are_noticed(signed: Path, tmp_path: Path) -> None:
    members = members_of(signed)
    file = tmp_path / "x.zip"
    assert "extra.txt" in str(mismatch(packed(file, {**members, "extra.txt": b"hello"})))
    for name in members:
        found = mismatch(packed(file, {k: v for k, v in members.items() if k != name}))
        assert found is not None, name
    packed(file, members)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("report.json", members["report.json"])
    assert "twice" in str(mismatch(file))
    file.write_bytes(b"no archive")
    assert "damaged" in str(mismatch(file))


def test_signatures(signed: Path, unsigned: Path, folder: Path, tmp_path: Path) -> None:
    assert "does not fit the given key" in str(mismatch(signed, folder / "other.pub"))
    assert "not signed" in str(mismatch(unsigned, folder / "key.pub"))
    theirs = members_of(
        write_bundle(folder / "run", tmp_path / "t.zip", key=folder / "other.pem", signer="A. Auditor", now=NOW)
    )
    swapped = {**members_of(signed), "statement.dsse.json": theirs["statement.dsse.json"]}
    assert mismatch(packed(tmp_path / "s.zip", swapped), folder / "key.pub") is not None
    envelope = json.loads(members_of(signed)["statement.dsse.json"])
    for part, value in (("signatures", []), ("payload", "!!"), ("payloadType", "text/plain")):
        broken = json.dumps({**envelope, part: value}).encode()
        assert mismatch(packed(tmp_path / "s.zip", {**members_of(signed), "statement.dsse.json": broken})) is not None


def test_refusals(folder: Path, tmp_path: Path) -> None:
    other = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "x.pem").write_bytes(other)
    (tmp_path / "t.pem").write_text("no key")
    run, out = folder / "run", tmp_path / "e.zip"
    cases: list[tuple[dict[str, object], str]] = [
        ({"key": folder / "key.pem"}, "together"),
        ({"signer": "me"}, "together"),
        ({"key": tmp_path / "none.pem", "signer": "me"}, "no such key"),
        ({"key": tmp_path / "t.pem", "signer": "me"}, "Ed25519 private key"),
        ({"key": tmp_path / "x.pem", "signer": "me"}, "another kind"),
    ]
    for options, says in cases:
        with pytest.raises(UsageError, match=says):
            write_bundle(run, out, **options)  # type: ignore[arg-type]
    with pytest.raises(RunFolderError, match="no such run folder"):
        write_bundle(tmp_path / "nowhere", out)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "verdict.json").unlink()
    with pytest.raises(UsageError, match="only one of"):
        write_bundle(copy, out)
    with pytest.raises(UsageError, match="no such evidence"):
        verify_bundle(tmp_path / "none.zip")
    with pytest.raises(UsageError, match="public key"):
        verify_bundle(out if out.exists() else folder / "signed.zip", tmp_path / "t.pem")
    assert not out.exists()


def test_commands(folder: Path, tmp_path: Path) -> None:
    shell, out = CliRunner(), tmp_path / "e.zip"
    made = shell.invoke(
        app, ["bundle", str(folder / "run"), "-o", str(out), "--key", str(folder / "key.pem"), "--signer", "A. Auditor"]
    )
    assert made.exit_code == 0, made.output
    assert shell.invoke(app, ["verify", str(out), "--key", str(folder / "key.pub")]).exit_code == 0
    wrong = shell.invoke(app, ["verify", str(out), "--key", str(folder / "other.pub")])
    assert wrong.exit_code == 1
    assert "mismatch signature" in " ".join(wrong.output.split())
    assert isinstance(shell.invoke(app, ["verify", str(tmp_path / "none")]).exception, FimauditError)


def test_core_needs_no_cryptography() -> None:
    modules = "fimaudit.cli, fimaudit.evidence.bundle, fimaudit.evidence.verification"
    code = f"import {modules}, sys; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_standard_beside_the_run(folder: Path, tmp_path: Path) -> None:
    """Its table is a section of the page, filled from the run, kept by the next bundle, and part of what is verified."""
    shutil.copytree(folder / "run", tmp_path / "run")
    out = tmp_path / "e.zip"
    done = CliRunner().invoke(
        app, ["bundle", str(tmp_path / "run"), "-o", str(out), "--template", "24029-3", "--baseline", str(folder / "base")]
    )
    assert done.exit_code == 0, done.output
    page = members_of(out)["report.html"].decode()
    section = page.split('<section id="standard" data-standard="24029-3"')[1].split("</section>")[0]
    median = read_run(folder / "run").report.summary.margin_radius.median
    assert f"Median margin radius, a first-order estimate: {number(median.value)} ({interval_text(median)}" in section
    assert "Policy “release”: pass, from 2 rules" in section
    assert "The policy divides by an earlier run, of " in section
    assert 'Separability metrics</th><td class="words">nothing<' in section
    assert "supports" in section
    assert "could not be read" in section
    assert not re.search(r"\bcompl(?:ies|iant)\b", section)
    assert mismatch(out) is None
    again = write_bundle(tmp_path / "run", tmp_path / "again.zip", baseline=folder / "base", now=NOW)
    assert members_of(again)["report.html"].decode() == page
    from_python = Report.read(folder / "run").bundle(tmp_path / "python.zip", template="24029-3")
    assert 'data-standard="24029-3"' in members_of(from_python)["report.html"].decode()
    members = members_of(out)
    members["report.html"] = members["report.html"].replace(b"to first order", b"at all", 1)
    assert mismatch(packed(tmp_path / "changed.zip", members)) is not None


def test_a_standard_without_a_table_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected template='24029-3', got '9001'"):
        write_bundle(folder / "run", tmp_path / "e.zip", template="9001")
    assert not (tmp_path / "e.zip").exists()


def test_a_run_without_a_policy_says_that_it_has_none(tmp_path: Path) -> None:
    picture_run(tmp_path / "run", count=6, queries=40, seed=2)
    found = {topic.name: topic.found for topic in filled_table("24029-3", read_run(tmp_path / "run")).topics}
    assert found["Specification of the expected behaviour"] == found["Robustness during the life cycle"] == []
    moved = found["The response to a perturbation"][1]
    assert moved.startswith("In the worst direction a change of one grey level everywhere moves at most")
