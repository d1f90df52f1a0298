"""The policy file: which limits a run must keep, as checked data. ``read_policy``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fimaudit.errors import UsageError
from fimaudit.policy.verdict import Side
from fimaudit.results import FLAG_WORDS, Metric
from fimaudit.storage.yaml_files import nearest, parse_mapping, read_text

__all__ = [
    "FLAGS",
    "AccuracyRule",
    "FlagRule",
    "IntegrityRule",
    "NotOkRule",
    "Policy",
    "QuantileRule",
    "RatioRule",
    "Rule",
    "SelectedRule",
    "ShareBelowRule",
    "check_policy",
    "parse_policy",
    "read_policy",
]

#: What an input may be flagged with.
FLAGS = tuple(sorted(FLAG_WORDS))
Target = Literal["these_inputs", "population"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


class _Rule(_Strict):
    name: str | None = None


class _Selected(_Rule):
    """``group``: one group of the data, or ``"*"`` for each of them; ``label``: those of one class, by name or column."""

    group: str | None = None
    label: int | str | None = None


class _Bounded(_Strict):
    at_most: Positive | None = None
    at_least: Positive | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> _Bounded:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("expected exactly one of at_most and at_least")
        return self

    @property
    def limit(self) -> tuple[Side, float]:
        """On which side of what number the quantity must stay."""
        return ("at most", self.at_most) if self.at_most is not None else ("at least", float(self.at_least or 0))


class QuantileRule(_Selected, _Bounded):
    """A quantile (or the mean) of one quantity stays below or above a number."""

    rule: Literal["quantile"]
    metric: Metric
    statistic: Literal["median", "p05", "p95", "min", "max", "mean"]
    of: Target = "these_inputs"

    @model_validator(mode="after")
    def _answerable(self) -> QuantileRule:
        if self.of == "population" and self.statistic in ("min", "max", "mean"):
            raise ValueError(f"the {self.statistic} of a population cannot be limited from a sample; use median, p05 or p95")
        return self


class RatioRule(_Bounded, _Rule):
    """A quantile divided by that of the baseline run stays below or above a number."""

    rule: Literal["ratio"]
    metric: Metric
    statistic: Literal["median", "p05", "p95"]
    of: Target = "these_inputs"


class ShareBelowRule(_Selected):
    """At most this share of inputs has a margin radius below ``radius``."""

    rule: Literal["share_below_radius"]
    radius: Positive
    at_most: Share
    of: Target = "these_inputs"


class NotOkRule(_Selected):
    """At most this share of inputs has another status than ok, unmeasured inputs included."""

    rule: Literal["not_ok"]
    at_most: Share


class FlagRule(_Selected):
    """At most this share of inputs carries a flag."""

    rule: Literal["flag"]
    flag: str
    at_most: Share

    @field_validator("flag")
    @classmethod
    def _known(cls, flag: str) -> str:
        if flag not in FLAGS:  # no input would ever carry it, so the rule would always pass
            raise ValueError(f"no such flag {flag!r}; {nearest(flag, FLAGS, f'flags are {_listed(FLAGS)}')}")
        return flag


class IntegrityRule(_Rule):
    """No integrity check is contradicted; a run that was not checked is undecided."""

    rule: Literal["integrity"]


class AccuracyRule(_Selected):
    """At least this share of inputs is answered with its label."""

    rule: Literal["accuracy"]
    at_least: Share
    of: Target = "these_inputs"


#: Rules that may be asked of a part of the inputs.
SelectedRule = QuantileRule | ShareBelowRule | NotOkRule | FlagRule | AccuracyRule
Rule = Annotated[SelectedRule | RatioRule | IntegrityRule, Field(discriminator="rule")]


class Policy(_Strict):
    """Rules that must all hold, each decided on its one-sided confidence bound.

    Attributes:
        version: of this layout.
        name: for people.
        confidence: one-sided, of each decision.
        baseline: run folder that ``ratio`` rules divide by; relative to the policy file.
        unit: where given, the run must be in this unit.
        rules: at least one.
    """

    version: Literal[1] = 1
    name: str = "policy"
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    baseline: str | None = None
    unit: str | None = None
    rules: Annotated[list[Rule], Field(min_length=1)]

    @model_validator(mode="after")
    def _not_lambda_alone(self) -> Policy:
        metrics = {r.metric for r in self.rules if isinstance(r, QuantileRule | RatioRule)}
        others = any(isinstance(r, ShareBelowRule) for r in self.rules)
        if metrics == {"spectral_norm"} and not others:
            raise ValueError(
                "the only quantity it limits is spectral_norm, which a model passes by answering with sharper "
                "probabilities, without a single decision being more robust; add one on margin_radius or peak_spectral_norm"
            )
        return self

    @property
    def checks_integrity(self) -> bool:
        """Whether a rule asks for the integrity checks."""
        return any(isinstance(r, IntegrityRule) for r in self.rules)

    def needs_baseline(self) -> bool:
        """Whether a rule divides by a baseline run."""
        return any(isinstance(r, RatioRule) for r in self.rules)


def read_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        UsageError: missing, no YAML, an unknown key, a value out of range, or rules on the spectral norm alone.
    """
    return parse_policy(read_text(path, "policy file"), str(path))


def parse_policy(text: str, source: str = "policy") -> Policy:
    """A policy from its YAML text.

    Raises:
        UsageError: as ``read_policy``; of an unknown key with the nearest known one.
    """
    return check_policy(parse_mapping(text, source, "rules"), source)


def check_policy(data: Mapping[Any, Any], source: str = "policy") -> Policy:
    """A policy from what its file holds.

    Raises:
        UsageError: as ``parse_policy``.
    """
    try:
        return Policy.model_validate(data)
    except ValidationError as exc:
        raise UsageError(f"{source} is refused: {_refusal(exc, data)[:800]}") from exc


def _refusal(error: ValidationError, data: Mapping[Any, Any]) -> str:
    """Where and what the first finding is; an unknown word, with the nearest known one, before what is missing for it."""
    every = error.errors(include_url=False)
    found = next((e for e in every if e["type"] == "extra_forbidden"), every[0])
    place, kind = found["loc"], found["type"]
    of_rule = len(place) > 1 and place[0] == "rules"
    where = f"rule {int(place[1]) + 1}: " if of_rule else ""
    if kind == "extra_forbidden":
        keys = list((_RULES[str(place[2])] if of_rule else Policy).model_fields)
        return f"{where}unknown key {place[-1]!r}; {nearest(place[-1], keys, f'keys are {_listed(keys)}')}"
    if kind == "union_tag_invalid":
        tag = str(found["ctx"]["tag"])
        return f"{where}unknown rule {tag!r}; {nearest(tag, _RULES, f'rules are {_listed(_RULES)}')}"
    if kind == "union_tag_not_found":
        given = data["rules"][int(place[1])]
        near = next((key for key in given if nearest(key, ["rule"], "")), None) if isinstance(given, Mapping) else None
        instead = f"did you mean rule: in place of {near!r}?" if near else f"rules are {_listed(_RULES)}"
        return f"{where}expected rule: and its name; {instead}"
    key = ".".join(map(str, place[3:] if of_rule else place))
    if kind == "missing":
        return f"{where}it needs the key {key!r}"
    said = str(found["msg"]).replace("Value error, ", "").replace("Input should be ", "expected ")
    came = f", got {found['input']!r}" if isinstance(found["input"], str | int | float) and kind != "value_error" else ""
    return f"{where}{f'{key}: ' if key else ''}{said}{came}"


def _listed(names: Any) -> str:
    return ", ".join(names)


_RULES: dict[str, type[BaseModel]] = {
    "accuracy": AccuracyRule,
    "flag": FlagRule,
    "integrity": IntegrityRule,
    "not_ok": NotOkRule,
    "quantile": QuantileRule,
    "ratio": RatioRule,
    "share_below_radius": ShareBelowRule,
}
