"""A verdict as plain data, mirrored one to one by ``verdict.json``."""

from __future__ import annotations

from typing import Any, Literal

from fimaudit.results import PlainData, Presented, Sentence

__all__ = ["Decision", "Outcome", "Side", "Verdict"]

#: On which side of a limit a quantity must stay.
Side = Literal["at most", "at least"]
Outcome = Literal["pass", "fail", "undecided"]


class Decision(PlainData):
    """One rule on one selection of inputs.

    Attributes:
        value: the point value, which decides nothing.
        lower, upper: one-sided confidence bounds; ``bound`` is the one the rule passes on.
        queries: rows an input that would probably decide an undecided rule; ``None`` where no number of them would.
        sentence: what was asked, found and decided, in words.
    """

    rule: str
    name: str
    selection: str
    inputs: int
    outcome: Outcome
    side: Side
    limit: float
    value: float | None
    lower: float | None
    upper: float | None
    bound: float | None
    queries: int | None = None
    sentence: Sentence

    @property
    def title(self) -> str:
        """The rule's name, and of which inputs it was asked where that is not all of them."""
        return self.name if self.selection == "all inputs" else f"{self.name} ({self.selection})"


class Verdict(Presented):
    """All decisions: fail if one fails, else undecided if one is, else pass."""

    schema_version: Literal[1] = 1
    policy: str
    confidence: float
    outcome: Outcome
    baseline: dict[str, Any] | None = None
    decisions: list[Decision]
    warnings: list[Sentence] = []
