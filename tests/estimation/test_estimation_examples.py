"""Every public function of the estimators shows an example, and the package is imported without what few commands need."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import fimaudit.estimation


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(fimaudit.estimation.__path__)])
def test_every_public_function_has_an_example(name: str) -> None:
    module = importlib.import_module(f"fimaudit.estimation.{name}")
    public = [getattr(module, one) for one in module.__all__]
    assert not [one.__name__ for one in public if inspect.isfunction(one) and ">>> " not in (one.__doc__ or "")]


def test_importing_the_package_loads_no_distributions() -> None:
    """scipy.stats takes half a second, which most commands need not wait for."""
    asked = "import sys, fimaudit; print('scipy.stats' in sys.modules, 'scipy.optimize' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
