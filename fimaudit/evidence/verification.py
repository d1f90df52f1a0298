"""Checking evidence: every hash, the signature, and the summary and verdict again from the inputs. ``verify_bundle``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fimaudit.data.packed_files import checked_members, unpacked
from fimaudit.errors import FimauditError, MissingExtraError, UsageError
from fimaudit.errors.option_names import with_keywords
from fimaudit.evidence.bundle import (
    BASELINE,
    BUNDLE,
    PAYLOAD_TYPE,
    POLICY,
    SIGNATURE,
    STATEMENT,
    build_statement,
    canonical,
    pre_authentication,
    read_key,
)
from fimaudit.foreign_errors import foreign, one_line, printable
from fimaudit.policy.gate import Verdict, decide
from fimaudit.policy.rules import parse_policy
from fimaudit.statistics.summary import summarise
from fimaudit.storage.run_folder import PAGE, REPORT, VERDICT, RunFolder, read_run, read_table
from fimaudit.storage.tables import INPUTS_FILE

__all__ = ["Finding", "verify_bundle"]

#: A member may unpack to this much; more is no evidence of ours.
MOST_BYTES = 4 * 2**30
#: And to so many times what is stored: tables and JSON pack 20-fold, a bomb 1000-fold.
MOST_PACKED, PACKED_BYTES = 200, 2**20
#: Of a finding: a member's name may have any length.
LONGEST_SENTENCE = 500
#: Of what an error says.
MOST_SAID = 300
#: Recomputed numbers may differ by rounding of another version of numpy or scipy.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it fits, and a sentence."""

    check: str
    fits: bool
    sentence: str


def verify_bundle(path: str | Path, key: str | Path | None = None) -> list[Finding]:
    """Check an evidence archive; the list ends with the first thing that does not fit.

    Args:
        path: the archive.
        key: Ed25519 public key in PEM of the signer; without it a signature is checked against the key it carries, which
            proves that nothing changed since, but not who signed.

    Raises:
        UsageError: no such file, or a key that is none.
        MissingExtraError: a signature, and no package ``cryptography``.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"no such evidence file: {file}")
    trusted = None if key is None else read_key(Path(key))
    found: list[Finding] = []
    for finding in _all_checks(file, trusted):
        found.append(replace(finding, sentence=printable(finding.sentence, LONGEST_SENTENCE)))
        if not finding.fits:
            break
    return found


def _all_checks(file: Path, trusted: Any) -> Iterator[Finding]:
    try:
        yield from _checks(file, trusted)
    except FimauditError:
        raise
    except Exception as exc:  # JSON of any other shape than ours
        yield Finding("contents", False, f"a member holds what no bundle of ours does: {foreign(exc)}")


def _checks(file: Path, trusted: Any) -> Iterator[Finding]:
    try:
        members = _members(file)
    except Exception as exc:  # of zipfile and zlib
        yield Finding("archive", False, f"the archive is damaged: {one_line(exc, MOST_SAID) or type(exc).__name__}")
        return
    missing = [name for name in (STATEMENT, BUNDLE, REPORT, INPUTS_FILE) if name not in members]
    if missing:
        yield Finding("archive", False, f"the archive lacks {', '.join(missing)}")
        return
    yield Finding("archive", True, f"{len(members)} members, all readable")
    yield from _hashes(members)
    try:
        same = build_statement(members) == members[STATEMENT]
    except (ValueError, KeyError, TypeError) as exc:
        yield Finding("statement", False, f"{REPORT} or {BUNDLE} cannot be read: {one_line(exc, MOST_SAID)}")
        return
    yield Finding("statement", same, f"{STATEMENT} {'says' if same else 'does not say'} what the members say")
    yield from _signature(members, trusted)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in (REPORT, INPUTS_FILE, f"{BASELINE}/{REPORT}", f"{BASELINE}/{INPUTS_FILE}"):
            if name in members:
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_bytes(members[name])
        try:
            yield from _contents(place, members)
            yield from _page(place, members)
        except FimauditError as exc:
            yield Finding("contents", False, one_line(exc, MOST_SAID))


def _members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        entries = checked_members(archive)
        if sum(e.file_size for e in entries) > MOST_BYTES:
            raise ValueError("it unpacks to more than 4 GiB")
        bomb = next((e.filename for e in entries if e.file_size > MOST_PACKED * max(e.compress_size, PACKED_BYTES)), None)
        if bomb is not None:
            raise ValueError(f"{bomb[:80]!r} unpacks to more than {MOST_PACKED} times its size")
        return {e.filename: unpacked(archive, e) for e in entries}


def _hashes(members: Mapping[str, bytes]) -> Iterator[Finding]:
    try:
        subjects = {s["name"]: s["digest"]["sha256"] for s in json.loads(members[STATEMENT])["subject"]}
    except (ValueError, KeyError, TypeError):
        yield Finding("statement", False, f"{STATEMENT} is no in-toto Statement")
        return
    held = [name for name in members if name not in (STATEMENT, SIGNATURE)]
    for name in sorted({*subjects, *held}):
        if name not in members:
            yield Finding("hashes", False, f"{name} is in the statement, but not in the archive")
        elif name not in subjects:
            yield Finding("hashes", False, f"{name} is in the archive, but not in the statement")
        elif hashlib.sha256(members[name]).hexdigest() != subjects[name]:
            yield Finding("hashes", False, f"{name} is not the file that the statement describes: its SHA-256 differs")
    yield Finding("hashes", True, f"SHA-256 of {len(subjects)} members")


def _signature(members: Mapping[str, bytes], trusted: Any) -> Iterator[Finding]:
    signer = json.loads(members[BUNDLE]).get("signer")
    if SIGNATURE not in members:
        if signer is not None:
            yield Finding("signature", False, f"the bundle names {signer} as its signer, but its signature is missing")
        elif trusted is not None:
            yield Finding("signature", False, "a key was given, but the bundle is not signed")
        else:
            yield Finding("signature", True, "not signed: nothing shows who made it")
        return
    try:
        envelope = json.loads(members[SIGNATURE])
        one = envelope["signatures"][0]
        payload, signature, raw = (
            base64.b64decode(v, validate=True) for v in (envelope["payload"], one["sig"], one["publicKey"])
        )
        plain = {"payloadType": envelope["payloadType"], "keyid": one["keyid"], "signer": one["signer"]}
    except (ValueError, KeyError, TypeError, IndexError, binascii.Error):
        yield Finding("signature", False, f"{SIGNATURE} is no DSSE envelope")
        return
    expected = {"payloadType": PAYLOAD_TYPE, "keyid": hashlib.sha256(raw).hexdigest(), "signer": signer}
    if payload != members[STATEMENT] or plain != expected or canonical(envelope) != members[SIGNATURE]:
        yield Finding("signature", False, f"{SIGNATURE} does not belong to this statement")
        return
    yield _signed(payload, signature, raw, trusted, str(signer))


def _signed(payload: bytes, signature: bytes, raw: bytes, trusted: Any, signer: str) -> Finding:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as exc:
        raise MissingExtraError("checking a signature", "cryptography", "sign") from exc
    try:
        own = Ed25519PublicKey.from_public_bytes(raw)
        own.verify(signature, pre_authentication(payload))
        if trusted is not None:
            trusted.verify(signature, pre_authentication(payload))
    except ValueError:
        return Finding("signature", False, "the key in the envelope is no Ed25519 key")
    except InvalidSignature:
        what = "the given key" if trusted is not None else "the key it carries"
        return Finding("signature", False, f"the signature of {signer} does not fit {what}")
    if trusted is None:
        return Finding("signature", True, f"signed as {signer}; give the signer's public key with --key to know that it was")
    return Finding("signature", True, f"signed by {signer} with the given key")


def _contents(place: Path, members: Mapping[str, bytes]) -> Iterator[Finding]:
    run = read_run(place)
    table = read_table(place / INPUTS_FILE)
    report = run.report
    yield _equal("inputs", list(report.inputs) if report.inputs else table, table, f"{REPORT}'s inputs", INPUTS_FILE)
    indices = [s.index for s in table]
    total = int(report.data.get("inputs", 0))
    sound = len(set(indices)) == len(indices) == report.data.get("measured") and all(0 <= i < total for i in indices)
    yield Finding("inputs", sound, f"{len(indices)} inputs, where the report speaks of {report.data.get('measured')}")
    confidence = float(report.settings["confidence"])
    again = summarise(table, confidence, report.summary.queries, report.summary.requests)
    yield _equal("summary", report.summary, again, f"{REPORT}'s summary", "the one computed from the inputs")
    names = sorted({s.group for s in table if s.group is not None})
    if sorted(report.groups) != names:
        yield Finding("groups", False, f"{REPORT} has groups {sorted(report.groups)}, the inputs {names}")
    for name in names:
        of = [s for s in table if s.group == name]
        reported = report.groups[name]
        own = summarise(of, confidence, reported.queries, reported.requests)
        yield _equal("groups", reported, own, f"{REPORT}'s group {name!r}", "the one computed from the inputs")
    yield Finding("summary", True, "summary and groups, computed again from the inputs")
    if (POLICY in members) != (VERDICT in members):
        yield Finding("verdict", False, f"the bundle holds only one of {POLICY} and {VERDICT}")
    if POLICY not in members:
        yield Finding("verdict", True, "no policy, so no verdict")
        return
    try:
        policy = parse_policy(members[POLICY].decode("utf-8"), POLICY)
        verdict = Verdict.model_validate_json(members[VERDICT])
    except (UnicodeDecodeError, ValidationError) as exc:
        yield Finding("verdict", False, f"{POLICY} or {VERDICT} cannot be read: {one_line(exc, MOST_SAID)}")
        return
    baseline = read_run(place / BASELINE) if policy.needs_baseline() else None
    if baseline is not None:
        baseline = RunFolder(baseline.folder, baseline.report, tuple(read_table(place / BASELINE / INPUTS_FILE)))
    own_verdict = decide(RunFolder(place, report, tuple(table)), policy, baseline)
    own_verdict = own_verdict.model_copy(update={"baseline": verdict.baseline})
    yield _equal("verdict", verdict, own_verdict, VERDICT, "the one decided again from the inputs")
    yield Finding("verdict", True, f"{verdict.outcome}, decided again from the inputs under {policy.name!r}")


def _page(place: Path, members: Mapping[str, bytes]) -> Iterator[Finding]:
    """The page, where this version of the templates made it: rendered again it must be the same."""
    from fimaudit.report.page import has_pictures, made_by_fimaudit, page_html, page_run
    from fimaudit.report.standards import standard_of

    if PAGE not in members:
        return
    text = members[PAGE].decode("utf-8", errors="replace")
    if not made_by_fimaudit(text):
        yield Finding("page", True, f"{PAGE} was made by another version of fimaudit and is not rendered again")
        return
    for name in (VERDICT, "shown.npz"):
        if name in members:
            (place / name).write_bytes(members[name])
    same = page_html(page_run(place), pictures=has_pictures(text), standard=standard_of(text)) == text
    yield Finding("page", same, f"{PAGE} {'shows' if same else 'does not show'} what the data say")


def _equal(check: str, reported: Any, own: Any, named: str, other: str) -> Finding:
    place = _difference(_plain(reported), _plain(own))
    if place is None:
        return Finding(check, True, f"no difference between {named} and {other}")
    return Finding(check, False, f"{named} differs from {other} at {place}")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _difference(a: Any, b: Any, at: str = "") -> str | None:
    """Where two trees of plain data first differ by more than rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in {**a, **b}:
            if (name in a) != (name in b):
                return f"{at}.{name}".lstrip(".")
            if found := _difference(a[name], b[name], f"{at}.{name}"):
                return found
        return None
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{at.lstrip('.') or 'the list'}: {len(a)} entries against {len(b)}"
        return next((f for i, (x, y) in enumerate(zip(a, b, strict=True)) if (f := _difference(x, y, f"{at}[{i}]"))), None)
    if isinstance(a, float | int) and isinstance(b, float | int) and not isinstance(a, bool) and not isinstance(b, bool):
        same = math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-300)
        return None if same else f"{at.lstrip('.')}: {a!r} against {b!r}"
    if isinstance(a, str) and isinstance(b, str) and with_keywords(a) == with_keywords(b):  # by whoever they were said
        return None
    return None if a == b else f"{at.lstrip('.')}: {a!r} against {b!r}"
