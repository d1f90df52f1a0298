"""The house as a stranger finds it: no circles, few modules at the door, no name twice, no function longer than a page."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("fimaudit", "adapters") for path in sorted((ROOT / package).rglob("*.py"))]
#: Lines of a function, its docstring included.
LONGEST = 80
#: Modules directly in the package.
AT_THE_DOOR = 12


def test_no_module_reaches_itself() -> None:
    """Imports for type checkers count too."""
    graph = grimp.build_graph("fimaudit", "fimaudit_adapters", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        pytest.fail(f"these import each other: {circle.args[1]}")


def test_few_modules_lie_directly_in_the_package() -> None:
    assert len(list((ROOT / "fimaudit").glob("*.py"))) <= AT_THE_DOOR


def test_no_two_public_classes_have_one_name() -> None:
    names = Counter(
        node.name
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_function_is_longer_than_a_page() -> None:
    functions = [
        (path, node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = {f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}
