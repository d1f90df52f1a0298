"""The examples in the docstrings of the estimators give what they say, and every public function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import fimaudit.estimation

MODULES = [f"fimaudit.estimation.{module.name}" for module in pkgutil.iter_modules(fimaudit.estimation.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
    functions = [getattr(module, public) for public in module.__all__ if inspect.isfunction(getattr(module, public))]
    missing = [function.__name__ for function in functions if ">>>" not in (function.__doc__ or "")]
    assert not missing


def test_importing_the_package_loads_no_distributions() -> None:
    """scipy.stats takes half a second, which most commands need not wait for."""
    import subprocess
    import sys

    asked = "import sys, fimaudit; print('scipy.stats' in sys.modules, 'scipy.optimize' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
