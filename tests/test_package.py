"""What is shipped: the wheel runs in a clean environment, the public names are explicit, the changelog is up to date."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import fimaudit_adapters
import numpy as np
import pytest

import fimaudit

ROOT = Path(__file__).parent.parent
SOURCES = {"fimaudit": ROOT / "fimaudit", "fimaudit_adapters": ROOT / "adapters" / "fimaudit_adapters"}
MODULES = sorted(file for root in SOURCES.values() for file in root.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel; from a copy, so that the build leaves nothing in the tree and takes nothing from an older one."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for root in SOURCES.values():
        shutil.copytree(root, copy / root.relative_to(ROOT), ignore=ignored)
    # Without isolation: setuptools is pinned in the lock, so the build needs no network.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a clean environment with the wheel; third-party packages are those of this environment.

    They come in by a path file, which does not run the path files found there: the editable install of this tree stays out.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    command = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--no-deps", "--no-index"]
    done = subprocess.run([*command, "--quiet", "--disable-pip-version-check", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (site / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def run(command: list[str], cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=clean, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_wheel_holds_every_file_of_both_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package, root in SOURCES.items():
        files = [f for f in root.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        missing = [name for f in files if (name := f"{package}/{f.relative_to(root).as_posix()}") not in held]
        assert not missing, f"not in the wheel: {missing}"
        assert f"{package}/py.typed" in held
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in held)
    assert not [name for name in held if name.startswith(("tests", "examples", "benchmarks"))]


def test_wheel_runs_in_a_clean_environment(installed: Path, tmp_path: Path) -> None:
    python, program = str(installed / "python"), str(installed / "fimaudit")
    code = "import fimaudit, fimaudit_adapters as a; print(fimaudit.__file__); print(a.__file__)"
    for place in run([python, "-c", code], tmp_path).splitlines():
        assert Path(place).is_relative_to(installed.parent), place
    assert run([program, "--version"], tmp_path).strip() == f"fimaudit {PROJECT['version']}"
    assert "audit" in run([program, "--help"], tmp_path)
    points = "from fimaudit.models.opening import adapters; print(*adapters())"
    assert set(run([python, "-c", points], tmp_path).split()) == set(PROJECT["entry-points"]["fimaudit.adapters"])


def test_wheel_audits(installed: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Softmax", ["x"], ["p"], axis=1)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in ("x", "p")]
    graph = onnx.helper.make_graph([node], "softmax", [ends[0]], [ends[1]])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.eye(4, dtype=np.float32))
    command = [str(installed / "fimaudit"), "audit", "model.onnx", "--data", "x.npy", "--out", "run"]
    assert "spectral norm" in run(command, tmp_path)
    assert len(fimaudit.Report.read(tmp_path / "run").inputs) == 4


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_public_names_are_explicit_and_sorted(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    }
    values = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["__all__"]
    ]
    if not public and not values:
        return
    assert len(values) == 1, f"{file.name} has no __all__"
    assert values[0] == sorted(values[0], key=_constants_classes_functions)
    assert len(set(values[0])) == len(values[0])
    assert not [name for name in values[0] if name.startswith("_")]


def _constants_classes_functions(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


PUBLIC = """AuditOptions Comparison FimauditError InputDomain Interval Normalize RayEngine Report Sensitivity Verdict
__version__ audit compare fisher_penalty gate lipschitz_bound open_classifier plan rank sensitivity validate"""


def test_public_names_are_these_and_exist() -> None:
    assert dir(fimaudit) == PUBLIC.split()
    assert {*fimaudit.__all__, "__version__"} == set(PUBLIC.split())
    for name in dir(fimaudit):
        assert getattr(fimaudit, name) is not None
    assert fimaudit.__version__ == PROJECT["version"]
    assert fimaudit.Classifier is not None  # was exported once
    assert not hasattr(fimaudit, "nothing_of_this_name")
    assert fimaudit_adapters.__file__ is not None


#: What takes long to load; a part of the package stands for all that it draws in.
SLOW = (
    "numpy scipy scipy.interpolate scipy.stats pydantic yaml pyarrow jinja2 matplotlib torch ray sklearn onnxruntime pandas "
    "fimaudit.results fimaudit.runs fimaudit.report.page"
)
#: Of these, what only some calls need.
LATER = (
    "scipy.interpolate scipy.stats scipy.optimize jinja2 pyarrow matplotlib torch ray sklearn onnxruntime pandas "
    "fimaudit.report.page"
)
#: An audit that keeps no folder.
AUDIT = "import fimaudit, numpy as np; fimaudit.audit(lambda x: np.full((len(x), 2), 0.5), np.eye(3, 4), queries=30)"


def loaded(code: str, names: str) -> str:
    """Which of the modules a program has loaded at its end."""
    last = f"import sys; print(*[m for m in '{names}'.split() if m in sys.modules], file=sys.stderr)"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONPATH"}
    command = [sys.executable, "-c", f"try:\n {code}\nfinally:\n {last}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import fimaudit",
        "import fimaudit.cli",
        "import sys, fimaudit.cli; sys.argv[1:] = ['--help']; fimaudit.cli.main()",
        "import sys, fimaudit.cli; sys.argv[1:] = ['--version']; fimaudit.cli.main()",
    ],
)
def test_the_package_and_its_help_load_nothing_slow(code: str) -> None:
    assert loaded(code, SLOW) == ""


@pytest.mark.parametrize("name", ["audit", "compare", "gate", "plan", "inspect", "report"])
def test_a_command_loads_what_only_others_need_later(name: str) -> None:
    code = f"import sys, fimaudit.cli; sys.argv[1:] = ['{name}', '--help']; fimaudit.cli.main()"
    assert loaded(code, LATER) == ""


@pytest.mark.parametrize("name", ["audit", "compare", "gate", "open_classifier", "plan", "sensitivity", "validate"])
def test_a_public_function_loads_what_only_some_calls_need_later(name: str) -> None:
    assert loaded(f"import fimaudit; fimaudit.{name}", LATER) == ""


def test_an_audit_without_a_folder_loads_neither_tables_nor_a_page() -> None:
    assert loaded(AUDIT, f"{LATER} numpy") == "numpy"


def test_versions_agree() -> None:
    top = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert top is not None
    assert top[1] == PROJECT["version"] == version("fimaudit")


def test_lock_pins_every_requirement() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.removesuffix(" \\") for line in lines if line and not line.startswith(("#", " "))]
    assert sum("--hash=sha256:" in line for line in lines) >= len(pins)
    names = set()
    for line in pins:
        match = re.fullmatch(r"([a-z0-9-]+)==[0-9][0-9a-z.]*( ; .+)?", line)
        assert match, f"expected name==version without local label or hash, got {line!r}"
        names.add(match[1])
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))]
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    wanted = {re.split(r"[<>=!~;\[ ]", line)[0].lower().replace("_", "-") for line in asked} - {"fimaudit"}
    assert wanted <= names, f"not in requirements.lock: {wanted - names}; run make lock"
