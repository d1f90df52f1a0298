"""How options are named in messages: by flags on the command line, by keyword arguments in Python.

Messages are written once, with flags. ``FimauditError`` and the sentences of results (``results.Sentence``) put them into
the words of whoever calls. A file keeps the words in which it was written: what it advises is done where the run was made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["COMMAND_LINE", "caller", "flags_in_messages", "in_callers_words", "with_keywords"]

COMMAND_LINE = "command line"
#: Flags whose keyword has another name.
KEYWORDS = {"class": "finding", "data": "x", "label": "y", "for": "purpose"}
#: Flags without a value.
SWITCHES = {
    "binary",
    "count-refused",
    "header",
    "integrity",
    "linear-model",
    "overwrite",
    "resume",
    "trust-pickle",
    "witness",
    "worst-direction",
}
#: Values that are words; another word after a flag goes on with the sentence.
VALUES = {
    *("auto", "identity", "softmax", "sigmoid", "labels", "black-box", "white-box", "off", "cheap", "full", "local", "ray"),
    *("inputs", "interleaved", "raw", "std", "range", "cpu", "cuda", "learned", "all", "json"),
}
#: Flags of other programs that messages name.
FOREIGN = {"head", "port"}
_FLAG = re.compile(r"--([a-z][a-z-]*[a-z])(?![a-z-])(?: ('[^']*'|[^\s;()]+))?")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
_NUMBER = re.compile(r"-?\d[\d.]*")
_PAIR = re.compile(r"([\w.-]+)=([\w.:/-]+)")

_flags = False


@contextmanager
def flags_in_messages(wanted: bool = True) -> Iterator[None]:
    """Within it, messages name options as the command line does; or as Python does where that is not ``wanted``."""
    global _flags
    before, _flags = _flags, wanted
    try:
        yield
    finally:
        _flags = before


def caller() -> str:
    """Who reads messages now: ``command line`` or ``Python``."""
    return COMMAND_LINE if _flags else "Python"


def in_callers_words(text: str) -> str:
    """A message as its reader would type what it names."""
    return text if _flags else with_keywords(text)


def with_keywords(text: str) -> str:
    """A message with keyword arguments in place of flags.

    >>> with_keywords("use --link softmax, or --trust-pickle; say it with --classes a,b and --set batch=20")
    "use link='softmax', or trust_pickle=True; say it with classes='a,b' and batch=20"
    """
    return _FLAG.sub(_keyword, text) if "--" in text else text


def _keyword(found: re.Match[str]) -> str:
    flag, rest = found[1], found[2]
    after = "" if rest is None else f" {rest}"
    if flag in FOREIGN or found.string[found.end() :].startswith(" on the command line"):
        return found[0]
    if flag.removeprefix("no-") in SWITCHES:
        return f"{_name(flag.removeprefix('no-'))}={not flag.startswith('no-')}{after}"
    word = "" if rest is None else rest.rstrip(".,:")
    value = _value(flag, word)
    if value is None:
        return f"{_name(flag)}={after}" if flag != "set" else f"a keyword{after}"
    return f"{value}{(rest or '')[len(word) :]}"


def _name(flag: str) -> str:
    return KEYWORDS.get(flag, flag.replace("-", "_"))


def _value(flag: str, word: str) -> str | None:
    """``name=value``, where the word after a flag is its value."""
    pair = _PAIR.fullmatch(word.strip("'"))
    if pair is not None:
        own = pair[2] if _PLACEHOLDER.fullmatch(pair[2]) or _NUMBER.fullmatch(pair[2]) else f"'{pair[2]}'"
        return f"{pair[1]}={own}" if flag == "set" else f"{_name(flag)}={{'{pair[1]}': {own}}}"
    if "," in word and not word.startswith("'"):
        return f"{_name(flag)}='{word}'"
    if word.startswith("'") or _PLACEHOLDER.fullmatch(word) or _NUMBER.fullmatch(word):
        return f"{_name(flag)}={word}"
    if word in VALUES or re.search(r"[\d/:_.]", word):
        return f"{_name(flag)}='{word}'"
    return None
