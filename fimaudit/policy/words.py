"""A policy in sentences, with units, as a person would say what it requires."""

from __future__ import annotations

from fimaudit.policy.rules import (
    AccuracyRule,
    FlagRule,
    IntegrityRule,
    NotOkRule,
    Policy,
    QuantileRule,
    RatioRule,
    Rule,
    ShareBelowRule,
)
from fimaudit.results import QUANTITY_TITLES

__all__ = ["explain_policy", "explain_rule", "quantity_words", "target_words"]

STATISTICS = {"p05": "5th percentile of the", "p95": "95th percentile of the", "min": "smallest", "max": "largest"}
POPULATION = "population that the audited inputs are a sample of"
MEANINGS = {
    "spectral_norm": "how violently the answer can change; it also falls where a model is only more confident",
    "peak_spectral_norm": "how violently the answer can change, however confident the model is",
    "margin_radius": "the distance, to first order, to an input that is answered otherwise",
}


def quantity_words(statistic: str, metric: str) -> str:
    """``5th percentile of the margin radius``."""
    return f"{STATISTICS.get(statistic, statistic)} {QUANTITY_TITLES[metric]}"


def target_words(of: str) -> str:
    """Which inputs a rule is about."""
    return "these inputs" if of == "these_inputs" else "the population"


def limit_words(metric: str, limit: float, unit: str | None) -> str:
    """A limit with its unit: a length, or one over a length squared.

    >>> limit_words("margin_radius", 0.05, "grey range"), limit_words("peak_spectral_norm", 60, None)
    ('0.05 (unit: grey range)', '60 (in 1 / unit²)')
    """
    if metric == "margin_radius":
        return f"{limit:g} ({'in the unit of the run' if unit is None else f'unit: {unit}'})"
    return f"{limit:g} (in 1 / unit²{'' if unit is None else f', unit: {unit}'})"


def explain_policy(policy: Policy) -> list[str]:
    """What a policy requires: a sentence of the whole, one for each rule in order, and how they are decided."""
    count = len(policy.rules)
    head = f"The policy {policy.name!r} has {count} rule{'s' if count > 1 else ''}; a run passes where every one holds."
    rules = [
        f"{place}. {f'{rule.name}: ' if rule.name else ''}{explain_rule(rule, policy.unit)}"
        for place, rule in enumerate(policy.rules, start=1)
    ]
    level = f"{100 * policy.confidence:g} %"
    tail = [
        f"Each is decided on its one-sided {level} confidence bound, not on the measured value: pass where the bound keeps "
        f"the limit, fail where the bound on the other side breaks it, undecided between; the last two exit with 1."
    ]
    if policy.needs_baseline():
        where = "given by --baseline" if policy.baseline is None else policy.baseline
        tail.append(f"The baseline is the run folder {where}, audited on the same inputs.")
    if policy.unit is not None:
        tail.append(f"A run in another unit than {policy.unit!r} is refused.")
    return [head, *rules, *tail]


def explain_rule(rule: Rule, unit: str | None = None) -> str:
    """What one rule requires, in one or two sentences.

    >>> explain_rule(NotOkRule(rule="not_ok", at_most=0.05))
    'At most 5 % of the inputs may go without a full measurement; inputs that the run did not reach count among them.'
    """
    if isinstance(rule, QuantileRule):
        side, limit = rule.limit
        quantity = f"The {quantity_words(rule.statistic, rule.metric)} of {_whom(rule, rule.of)}"
        return f"{quantity} must be {side} {limit_words(rule.metric, limit, unit)}: {MEANINGS[rule.metric]}."
    if isinstance(rule, RatioRule):
        side, limit = rule.limit
        quantity = f"The {quantity_words(rule.statistic, rule.metric)} of {target_words(rule.of)}"
        return (
            f"{quantity} must be {side} {limit:g} times that of the baseline{_change(side, limit)}: {MEANINGS[rule.metric]}."
        )
    if isinstance(rule, ShareBelowRule):
        radius = limit_words("margin_radius", rule.radius, unit)
        return f"At most {_percent(rule.at_most)} of {_whom(rule, rule.of)} may have a margin radius below {radius}."
    if isinstance(rule, NotOkRule):
        without = "may go without a full measurement; inputs that the run did not reach count among them"
        return f"At most {_percent(rule.at_most)} of the inputs{_part(rule)} {without}."
    if isinstance(rule, FlagRule):
        return f"At most {_percent(rule.at_most)} of the inputs{_part(rule)} may carry the flag {rule.flag}."
    if isinstance(rule, AccuracyRule):
        alone = ", which says nothing of others" if rule.of == "these_inputs" else ""
        return f"At least {_percent(rule.at_least)} of {_whom(rule, rule.of)} must be answered with their label{alone}."
    assert isinstance(rule, IntegrityRule)
    return "No integrity check may contradict the answers, and at least one must have been made."


def _change(side: str, limit: float) -> str:
    """``, that is 10 % less at most``."""
    share = _percent(abs(1 - limit))
    if limit == 1:
        return ""
    if side == "at least":
        return f", that is {f'{share} less at most' if limit < 1 else f'{share} more at least'}"
    return f", that is {f'{share} more at most' if limit > 1 else f'{share} less at least'}"


def _whom(rule: QuantileRule | ShareBelowRule | AccuracyRule, of: str) -> str:
    return f"the {'audited inputs' if of == 'these_inputs' else POPULATION}{_part(rule)}"


def _part(rule: QuantileRule | ShareBelowRule | AccuracyRule | NotOkRule | FlagRule) -> str:
    group = None if rule.group is None else "each group by itself" if rule.group == "*" else f"group {rule.group}"
    label = None if rule.label is None else f"label {rule.label}"
    words = " and ".join(w for w in (group, label) if w)
    return f" ({words})" if words else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
