"""The policy file: which limits a run must keep, as checked data. ``read_policy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fimaudit.errors import UsageError
from fimaudit.storage.run_folder import first_error

__all__ = [
    "AccuracyRule",
    "FlagRule",
    "IntegrityRule",
    "NotOkRule",
    "Policy",
    "QuantileRule",
    "RatioRule",
    "Rule",
    "ShareBelowRule",
    "parse_policy",
    "read_policy",
]

Metric = Literal["spectral_norm", "peak_spectral_norm", "margin_radius"]
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


class IntegrityRule(_Rule):
    """No integrity check is contradicted; a run that was not checked is undecided."""

    rule: Literal["integrity"]


class AccuracyRule(_Selected):
    """At least this share of inputs is answered with its label."""

    rule: Literal["accuracy"]
    at_least: Share
    of: Target = "these_inputs"


Rule = Annotated[
    QuantileRule | RatioRule | ShareBelowRule | NotOkRule | FlagRule | AccuracyRule | IntegrityRule,
    Field(discriminator="rule"),
]


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


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, str | int | float):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        UsageError: missing, no YAML, an unknown key, a value out of range, or rules on the spectral norm alone.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise UsageError(f"no such policy file: {file}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read the policy file {file}: {exc}") from exc
    return parse_policy(text, str(file))


def parse_policy(text: str, source: str = "policy") -> Policy:
    """A policy from its YAML text."""
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{source} is no valid YAML{where}: {getattr(exc, 'problem', None) or exc}") from exc
    if not isinstance(data, dict):
        raise UsageError(f"expected {source} to hold a mapping with rules, got {type(data).__name__}")
    try:
        return Policy.model_validate(data)
    except ValidationError as exc:
        raise UsageError(f"{source} is refused: {first_error(exc).replace('Value error, ', '')}") from exc
