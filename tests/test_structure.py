"""The house as a stranger finds it: no circles, few modules at the door, no name twice, no function longer than a page."""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter
from contextlib import suppress
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
#: Names in capitals that a module of the package gives a value.
CONSTANTS = {
    name.id
    for path in FILES
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.Assign | ast.AnnAssign)
    for name in ast.walk(node)
    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store) and name.id.isupper()
}


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


def test_what_a_comment_names_is_there() -> None:
    """A constant is only as good as the test or benchmark that its comment names."""
    code = {path: path.read_text() for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    tests = {name for text in code.values() for name in re.findall(r"def (test_\w+)", text)} | {path.stem for path in code}
    lost = []
    for path in FILES:
        comments = " ".join(line.strip("# :") for line in path.read_text().splitlines() if line.lstrip().startswith("#"))
        lost += [name for name in re.findall(r"(?:tests|benchmarks)/[\w/]+\.\w+", comments) if not (ROOT / name).exists()]
        lost += [name for name in re.findall(r"\btest_\w+", comments) if name not in tests]
    assert lost == []


@pytest.mark.parametrize("package", ["estimation", "measurement", "statistics", "runs"])
def test_every_number_has_its_reason(package: str) -> None:
    """In a comment above it, or above the block of constants in which it stands."""
    bare = []
    for path in sorted((ROOT / "fimaudit" / package).rglob("*.py")):
        blocks = [block.splitlines() for block in path.read_text().split("\n\n")]
        for lines in (block for block in blocks if re.match(r"[A-Z][A-Z0-9_, ]+ = .*\d", block[0])):
            bare.append(f"{path.relative_to(ROOT)}: {lines[0]}")
    assert bare == []


def test_no_test_changes_a_constant_of_the_package() -> None:
    """Sizes are arguments: one that is patched where it lies is not found again once it has moved."""
    found = [
        f"{path.relative_to(ROOT)}: {patch}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__)
        for patch in changed_constants(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'monkeypatch.setattr("fimaudit.data.arrays.MOST_UNPACKED", 2)',
        'monkeypatch.setattr(f"{place}.MOST_INLINE", 100)',
        'monkeypatch.setattr(arrays, "MOST_UNPACKED", 2)',
        'mock.patch("fimaudit_adapters.pytorch.linearization.ROWS_BYTES", 1)',
        'mock.patch.object(arrays, "MOST_UNPACKED", 2)',
        "arrays.MOST_UNPACKED = 2",
        "WORKER = '''\n    import fimaudit.data\n    fimaudit.data.arrays.MOST_UNPACKED = 2\n'''",
    ],
)
def test_a_changed_constant_is_seen(code: str) -> None:
    assert len(changed_constants(code)) == 1


def changed_constants(code: str) -> list[str]:
    """Where code, or code that it holds as a string, gives a module's constant another value: by name or by assignment."""
    found = []
    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "patch", "patch.object")):
            named = [ast.unparse(argument).strip("f'\"").rpartition(".")[2] for argument in node.args[:2]]
            found += [ast.unparse(node) for name in named if name in CONSTANTS]
        elif isinstance(node, ast.Assign):
            places = [place for place in node.targets if isinstance(place, ast.Attribute)]
            found += [ast.unparse(node) for place in places if place.attr in CONSTANTS]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " = " in node.value:
            with suppress(SyntaxError):
                found += changed_constants(node.value)
    return found
