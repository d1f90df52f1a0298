"""The examples in docstrings: each runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def modules_with_examples() -> list[str]:
    found = []
    for root in (ROOT, ROOT / "adapters"):
        for package in root.glob("fimaudit*"):
            files = [file for file in package.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8")]
            found += [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    return sorted(set(found))


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_hold(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0
