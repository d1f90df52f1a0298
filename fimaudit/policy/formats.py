"""A verdict for machines and pull requests: JUnit XML and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from pydantic import ValidationError

from fimaudit.errors import RunFolderError
from fimaudit.errors.option_names import flags_in_messages
from fimaudit.policy.gate import Decision, Outcome, Verdict
from fimaudit.storage.durable_files import write_whole
from fimaudit.storage.run_folder import REPORT, VERDICT, RunFolder, first_error
from fimaudit.storage.tables import INPUTS_FILE

__all__ = ["OUTCOME_WORDS", "junit_xml", "keep_verdict", "kept_verdict", "markdown_summary"]

OUTCOME_WORDS: dict[Outcome, str] = {
    "pass": "within the policy",
    "fail": "outside the policy",
    "undecided": "intervals too wide to decide the policy",
}
#: Characters that XML 1.0 cannot hold, escaped or not.
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~>-])")


def junit_xml(verdict: Verdict, run: RunFolder) -> str:
    """One test case a decision; a failed rule is a failure, an undecided one an error, because neither may pass a gate."""
    outcomes = [d.outcome for d in verdict.decisions]
    suite = ElementTree.Element(
        "testsuite",
        {
            "name": _clean(f"fimaudit {verdict.policy}"),
            "tests": str(len(outcomes)),
            "failures": str(outcomes.count("fail")),
            "errors": str(outcomes.count("undecided")),
            "skipped": "0",
            "time": str(run.report.environment.get("seconds", 0)),
            "timestamp": str(run.report.environment.get("finished", ""))[:19],
        },
    )
    for decision in verdict.decisions:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _clean(str(run.report.model.get("name"))), "name": _clean(decision.title)}
        )
        properties = ElementTree.SubElement(case, "properties")
        for name in ("outcome", "value", "bound", "limit"):
            found = getattr(decision, name)
            if found is not None:
                ElementTree.SubElement(properties, "property", {"name": name, "value": str(found)})
        if decision.outcome != "pass":
            tag = "failure" if decision.outcome == "fail" else "error"
            found = ElementTree.SubElement(case, tag, {"type": decision.outcome, "message": _clean(decision.sentence)})
            found.text = _clean(decision.sentence)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def markdown_summary(verdict: Verdict, run: RunFolder) -> str:
    """A heading, a table of decisions, and what the numbers rest on."""
    report = run.report
    lines = [
        f"## fimaudit: {verdict.outcome.upper()} ({OUTCOME_WORDS[verdict.outcome]})",
        "",
        f"Model **{_plain(str(report.model.get('name')))}**, policy **{_plain(verdict.policy)}**, "
        f"{len(run.inputs)} of {report.data.get('inputs')} inputs, {report.summary.queries:,} queries. "
        f"Each rule is decided on its one-sided {verdict.confidence:.0%} confidence bound.",
        "",
        "| | rule | inputs | value | bound | required |",
        "|---|---|---|---:|---:|---:|",
    ]
    for d in verdict.decisions:
        numbers = f"{_number(d.value)} | {_number(_decided_on(d))} | {d.side} {d.limit:g}"
        lines.append(f"| {d.outcome} | {_plain(d.title)} | {d.inputs} | {numbers} |")
    ordered = sorted(verdict.decisions, key=lambda d: d.outcome == "pass")
    lines += ["", *(f"- {_plain(d.title)}: {_plain(d.sentence)}" for d in ordered)]
    lines += _warnings([*report.warnings, *verdict.warnings])
    return "\n".join(lines).rstrip() + "\n"


def keep_verdict(folder: str | Path, verdict: Verdict, policy: str | Path, baseline: str | Path | None) -> None:
    """Put the verdict, its policy and its baseline's data into the run folder, for the page and for evidence."""
    place = Path(folder)
    try:
        write_whole(place / "policy.yaml", Path(policy).read_bytes(), RunFolderError)
        write_whole(place / VERDICT, verdict.to_json().encode(), RunFolderError)
        if baseline is not None and Path(baseline).resolve() != (place / "baseline").resolve():
            for name in (REPORT, INPUTS_FILE):
                if (Path(baseline) / name).is_file():
                    write_whole(place / "baseline" / name, (Path(baseline) / name).read_bytes(), RunFolderError)
    except OSError as exc:
        raise RunFolderError(f"cannot write the verdict to {place}: {exc.strerror or exc}") from exc


def kept_verdict(folder: Path) -> Verdict | None:
    """The verdict that was put into a run folder, in the words that its file holds; ``None`` where there is none.

    Raises:
        RunFolderError: it cannot be read.
    """
    path = folder / VERDICT
    if not path.exists():
        return None
    try:
        with flags_in_messages():
            return Verdict.model_validate_json(path.read_bytes())
    except ValidationError as exc:
        raise RunFolderError(f"{path} is no verdict of this version of fimaudit: {first_error(exc)}") from exc


def _warnings(warnings: Sequence[str]) -> list[str]:
    return ["", "Warnings of the run:", "", *(f"- {_plain(w)}" for w in warnings)] if warnings else []


def _decided_on(d: Decision) -> float | None:
    """The bound that settled it: a limit is broken by the bound on its other side."""
    other = d.upper if d.side == "at least" else d.lower
    return other if d.outcome == "fail" and other is not None else d.bound


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("�", text)


def _plain(text: str) -> str:
    """One line of Markdown that shows exactly this text: no markup, no HTML, no mention."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
    return _MARKDOWN.sub(r"\\\1", flat)
