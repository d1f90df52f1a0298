"""What several test files share."""

from __future__ import annotations

import io
import os
import runpy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from rich.console import Console
from xdist.scheduler import LoadScopeScheduling

#: With FIMAUDIT_TESTS_LAST_DIGITS=1 every local model of every test answers as tests/last_digits/sitecustomize.py says.
LAST_DIGITS = Path(__file__).parent / "last_digits" / "sitecustomize.py"
FORCED, SEEN = os.environ.get("FIMAUDIT_TESTS_LAST_DIGITS") == "1", "FIMAUDIT_TESTS_LAST_DIGITS_SEEN"
COUNTS = FORCED and SEEN not in os.environ  # this process began it, and says at its end how many there were
if FORCED:
    os.environ.setdefault(SEEN, tempfile.mkdtemp(prefix="fimaudit-last-digits-"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(LAST_DIGITS.parent), os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )
    runpy.run_path(str(LAST_DIGITS))

from fimaudit.demo import DemoComparison, run_demo  # noqa: E402
from fimaudit.engines.driver import small_algebra  # noqa: E402
from fimaudit.report import page  # noqa: E402

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

#: Folders and files of the tests that look at charts, or choose themselves when they are drawn.
DRAWN = {
    "report", "comparison", "policy", "evidence", "docs", "storage", "simulation",
    "test_demo.py", "test_notebook_examples.py",
}  # fmt: skip

#: Where the tests with servers lie.
SERVERS = "http_endpoints"
#: Servers that are installed first, which takes a minute or two.
INSTALLED = {"kserve", "mlflow", "mlflow_labels", "triton"}


def unit(nodeid: str) -> str:
    """What shares a worker: a file's tests, and all tests with servers; they share fixtures that are dear to set up."""
    path = Path(nodeid.partition("::")[0])
    return SERVERS if SERVERS in path.parts else path.name


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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many tests asked a model whose last digits depend on the rows of a call, where that was forced on."""
    if COUNTS:
        folder = Path(os.environ[SEEN])
        terminalreporter.write_line(
            f"{len(list(folder.iterdir()))} tests asked local models whose last digits depend on the call"
        )
        shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def _no_charts_where_nobody_looks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drawing a page's charts takes a tenth of a second; only the tests of pages look at them."""
    if request.path.parent.name in DRAWN or request.path.name in DRAWN:
        yield
        return
    with mock.patch.object(page, "inline_svg", return_value=""):
        yield


@pytest.fixture(scope="session")
def _demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[DemoComparison], str]:
    printed = io.StringIO()
    compared = run_demo(tmp_path_factory.mktemp("demo"), Console(file=printed, width=80))
    return compared, printed.getvalue()


@pytest.fixture(scope="session")
def demo(_demo_run: tuple[list[DemoComparison], str]) -> list[DemoComparison]:
    """One run of ``fimaudit demo``."""
    return _demo_run[0]


@pytest.fixture(scope="session")
def demo_text(_demo_run: tuple[list[DemoComparison], str]) -> str:
    """What that run printed."""
    return _demo_run[1]


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """On networks this small a second thread only waits for the first."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One BLAS thread, as inside an audit: on small matrices more only wait for each other."""
    with small_algebra():
        yield
