"""What several test files share."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from fimaudit.demonstration import Comparison, run_demo
from fimaudit.engines.local import small_algebra


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests share a worker, and so do all tests with servers: they share fixtures that are dear to set up."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(item.path.name if folder == "tests" else folder))


@pytest.fixture(scope="session")
def _demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Comparison], str]:
    printed = io.StringIO()
    compared = run_demo(tmp_path_factory.mktemp("demo"), Console(file=printed, width=80))
    return compared, printed.getvalue()


@pytest.fixture(scope="session")
def demo(_demo_run: tuple[list[Comparison], str]) -> list[Comparison]:
    """One run of ``fimaudit demo``."""
    return _demo_run[0]


@pytest.fixture(scope="session")
def demo_text(_demo_run: tuple[list[Comparison], str]) -> str:
    """What that run printed."""
    return _demo_run[1]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One BLAS thread, as inside an audit: on small matrices more only wait for each other."""
    with small_algebra():
        yield
