"""Random turns: every merge of the parts, each part in its own order, and the same ones when asked again."""

from __future__ import annotations

from collections import Counter

import pytest

from fimaudit.models.call_order import in_turns


def test_every_merge_is_equally_likely_and_no_part_is_reordered() -> None:
    seen = Counter("".join(in_turns(["ab", "xy"], seed)) for seed in range(6000))
    assert set(seen) == {"abxy", "axby", "axyb", "xaby", "xayb", "xyab"}
    assert all(count == pytest.approx(1000, abs=4 * 29) for count in seen.values())  # 29: one standard deviation


def test_turns_depend_on_the_seed_and_on_what_is_asked_alone() -> None:
    parts = [list(range(k, k + 20)) for k in (0, 100, 200)]
    assert in_turns(parts, 3, b"one") == in_turns(parts, 3, b"one")
    assert in_turns(parts, 3, b"one") != in_turns(parts, 3, b"other")
    assert in_turns(parts, 3, b"one") != in_turns(parts, 4, b"one")
    assert in_turns(parts) == [item for part in parts for item in part]
    assert in_turns([], 1) == []
