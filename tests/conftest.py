"""What several test files share."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from rich.console import Console
from xdist.scheduler import LoadScopeScheduling

from fimaudit.demo import Comparison, run_demo
from fimaudit.engines.driver import small_algebra

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

#: What takes longest comes first, so that no worker is left with it at the end.
LONGEST = (
    "test_ray.py",
    "test_bounds_soundness.py",
    "test_study.py",
    "http_endpoints",
    "test_notebook_examples.py",
    "test_report.py",
    "test_validate.py",
)

#: Servers that are installed first, which takes a minute or two.
INSTALLED = {"kserve", "mlflow", "mlflow_labels", "triton"}


def unit(nodeid: str) -> str:
    """What shares a worker: a file's tests, and all tests with servers; they share fixtures that are dear to set up."""
    path = Path(nodeid.partition("::")[0])
    return path.name if path.parent.name == "tests" else path.parent.name


class ByUnit(LoadScopeScheduling):
    """``--dist loadscope`` by ``unit``: with pytest 9.2, pytest-xdist 3.8 does not see its own groups (its issue 1386)."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByUnit:
    return ByUnit(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; of those with servers, the ones that wait for an installation last."""
    rank = {name: place for place, name in enumerate(LONGEST)}

    def order(item: pytest.Item) -> tuple[int, bool]:
        return rank.get(unit(item.nodeid), len(LONGEST)), not INSTALLED.isdisjoint(getattr(item, "fixturenames", ()))

    items.sort(key=order)


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
