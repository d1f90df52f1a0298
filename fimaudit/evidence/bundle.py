"""Evidence: a run folder as one archive whose every byte is accounted for, optionally signed. ``write_bundle``."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fimaudit.audit_report import Report
from fimaudit.errors import MissingExtraError, RunFolderError, UsageError
from fimaudit.policy.rules import parse_policy
from fimaudit.report.page import has_pictures, render
from fimaudit.report.standards import standard_of
from fimaudit.storage.durable_files import replacing, writing
from fimaudit.storage.folder_lock import FolderLock
from fimaudit.storage.run_folder import PAGE, REPORT, VERDICT, RunFolder, read_run
from fimaudit.storage.tables import INPUTS_FILE

__all__ = [
    "BUNDLE",
    "PAYLOAD_TYPE",
    "SIGNATURE",
    "STATEMENT",
    "build_statement",
    "pre_authentication",
    "read_key",
    "write_bundle",
]

STATEMENT = "statement.json"
SIGNATURE = "statement.dsse.json"
BUNDLE = "bundle.json"
POLICY = "policy.yaml"
BASELINE = "baseline"
LEDGER = "ledger.sqlite"
PREDICATE_TYPE = "urn:fimaudit:evidence:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
#: Members of a run folder that go in, where present; the first two must be.
MEMBERS = (
    REPORT, INPUTS_FILE, PAGE, POLICY, VERDICT, LEDGER, "shown.npz", "witness.npz", "subspace.npz", "profiles.parquet",
)  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_bundle(
    folder: str | Path,
    out: str | Path,
    *,
    key: str | Path | None = None,
    signer: str | None = None,
    baseline: str | Path | None = None,
    template: str | None = None,
    now: datetime | None = None,
) -> Path:
    """Pack a run folder into an archive that ``fimaudit verify`` can check.

    Args:
        folder: the run folder; a gate's ``policy.yaml`` and ``verdict.json`` in it are included.
        out: the archive, ``.zip``.
        key: Ed25519 private key in PEM, to sign with.
        signer: who signs; part of what is signed.
        baseline: run folder that the policy's ratio rules divide by; found in the folder's ``verdict.json`` where left out.
        template: the standard whose table, filled from this run, becomes a section of the page: ``24029-3``.
        now: time of bundling, for tests.

    Raises:
        RunFolderError: no run there, or the archive cannot be written.
        UsageError: a key without a signer, a key that is none, a verdict without its policy, an unknown template.
        MissingExtraError: signing without the package ``cryptography``.
    """
    if (key is None) != (signer is None):
        raise UsageError("expected --key and --signer together: a signature names who signs")
    private = None if key is None else read_key(Path(key), private=True)
    run = read_run(folder)
    with FolderLock(run.folder) if os.access(run.folder, os.W_OK) else nullcontext():  # not while a run changes it
        members = _run_members(run, baseline, template)
    about = {
        "created": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "fimaudit": version("fimaudit"),
        "signer": signer,
    }
    members[BUNDLE] = canonical(about)
    members[STATEMENT] = build_statement(members)
    if private is not None:
        members[SIGNATURE] = _sign(members[STATEMENT], private, str(signer))
    path = Path(out)
    with writing(path, RunFolderError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, RunFolderError) as file, zipfile.ZipFile(file, "w") as archive:
        for name in sorted(members):
            archive.writestr(_entry(name), members[name])
    return path


def _run_members(run: RunFolder, baseline: str | Path | None, template: str | None) -> dict[str, bytes]:
    """What of a run folder goes in, by name; its page is made anew where there is one."""
    if template is not None or (run.folder / PAGE).is_file():  # so that it shows the verdict that lies beside it
        _write_page(run.folder, template)
    members = {name: (run.folder / name).read_bytes() for name in MEMBERS if (run.folder / name).is_file()}
    if INPUTS_FILE not in members:
        raise RunFolderError(f"{run.folder} holds no {INPUTS_FILE}; evidence needs the table of inputs")
    if (POLICY in members) != (VERDICT in members):
        raise UsageError(f"{run.folder} holds only one of {POLICY} and {VERDICT}; run fimaudit gate on it again")
    if POLICY in members and parse_policy(members[POLICY].decode("utf-8"), POLICY).needs_baseline():
        place = Path(baseline) if baseline is not None else run.folder / BASELINE
        other = read_run(place)
        for name in (REPORT, INPUTS_FILE):
            if not (other.folder / name).is_file():
                raise RunFolderError(f"{other.folder} holds no {name}; the evidence of a ratio rule needs its baseline's")
            members[f"{BASELINE}/{name}"] = (other.folder / name).read_bytes()
    return members


def _write_page(folder: Path, template: str | None) -> None:
    """The page anew, with pictures and the table of a standard where it has them already; a new page has no pictures."""
    path = folder / PAGE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    render(folder, pictures=has_pictures(text), standard=template or standard_of(text))


def build_statement(members: Mapping[str, bytes]) -> bytes:
    """The in-toto Statement (v1) of these members; the same members give the same bytes, so it can be built again to check.

    Its subjects are the members by SHA-256; its predicate repeats what a reader looks for first.
    """
    report = Report.model_validate_json(members[REPORT])
    about = json.loads(members[BUNDLE])
    details = report.model.get("details", {})
    verdict = json.loads(members[VERDICT]) if VERDICT in members else None
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": hashlib.sha256(members[name]).hexdigest()}}
            for name in sorted(members)
            if name not in (STATEMENT, SIGNATURE)
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "bundle": about,
            "model": {
                "name": report.model.get("name"),
                "adapter": report.model.get("adapter"),
                "device": report.model.get("device"),
                "sha256": details.get("sha256"),
                "endpointFingerprint": details.get("fingerprint"),
                "provider": details.get("provider") or details.get("providers"),
            },
            "data": {"source": report.data.get("source"), "sha256": report.data.get("sha256")},
            "settings": report.settings,
            "environment": report.environment,
            "policy": None if verdict is None else verdict.get("policy"),
            "verdict": None if verdict is None else verdict.get("outcome"),
        },
    }
    return canonical(statement)


def canonical(data: Any) -> bytes:
    """JSON with sorted keys: one text for one value."""
    return (json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def pre_authentication(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is really signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _sign(payload: bytes, private: Any, signer: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = private.sign(pre_authentication(payload))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": hashlib.sha256(public).hexdigest(),
                "sig": base64.b64encode(signature).decode(),
                "signer": signer,
                "publicKey": base64.b64encode(public).decode(),
            }
        ],
    }
    return canonical(envelope)


def read_key(path: Path, *, private: bool = False) -> Any:
    """An Ed25519 key in PEM: the private one that signs, or the public one that a signature is checked with."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    except ImportError as exc:
        raise MissingExtraError("signing" if private else "checking a signature", "cryptography", "sign") from exc
    kind = "private" if private else "public"
    try:
        pem = path.read_bytes()
        loaded = serialization.load_pem_private_key(pem, None) if private else serialization.load_pem_public_key(pem)
    except FileNotFoundError as exc:
        raise UsageError(f"no such key file: {path}") from exc
    except (OSError, ValueError, TypeError) as exc:
        wanted = "an unencrypted Ed25519 private" if private else "an Ed25519 public"
        raise UsageError(f"expected {wanted} key in PEM, {path} is none") from exc
    if not isinstance(loaded, Ed25519PrivateKey if private else Ed25519PublicKey):
        raise UsageError(f"expected an Ed25519 {kind} key, {path} holds another kind")
    return loaded


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
