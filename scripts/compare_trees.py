"""Compare the reports of two checkouts: bit for bit, for a change that moves code and no number, or within rounding.

    python scripts/compare_trees.py OLD NEW [--models DIR] [--within 1e-9]

OLD and NEW are checkouts; both are run by this Python. DIR holds NAME.onnx and NAME.npz (x), as for
``benchmarks/realmodels.py``. Each tree audits the models, three functions and an estimator, under several settings, and runs
the demo; reports without their environment, and what the demo prints, must be equal, numbers up to the given share of them.
Exit code 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

AUDITS = """
import json, sys
import numpy as np
from pathlib import Path
from fimaudit import audit

rng = np.random.default_rng(0)
V, U = rng.standard_normal((20, 5)) / 4, rng.standard_normal((20, 20)) / 4

def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)

def smooth(x):
    return softmax(np.tanh(x @ U) @ V)

FUNCTIONS = {"smooth": smooth, "rounded": lambda x: smooth(x).round(3), "stepped": lambda x: smooth(np.round(x, 1))}
SETTINGS = [
    {"queries": 12}, {"queries": 60}, {"queries": 200}, {"queries": 200, "witness": True, "profile": "full"},
    {"queries": 200, "precision": 0.2}, {"queries": 200, "threshold": 0.5}, {"queries": 60, "focus": "top:3"},
    {"queries": 60, "budget": 900},
]
out = {}

def keep(name, report):
    out[name] = report.model_dump(mode="json", exclude={"environment"})

x = rng.standard_normal((10, 20))
for name, function in FUNCTIONS.items():
    for place, settings in enumerate(SETTINGS):
        keep(f"{name} {place}", audit(function, x, name=name, **settings))
from sklearn.linear_model import LogisticRegression
keep("estimator", audit(LogisticRegression().fit(x, np.arange(10) % 3), x, queries=60))
import torch
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.Tanh(), torch.nn.Linear(32, 5))
for mode in ("white-box", "black-box"):
    keep(f"network {mode}", audit(network, x.astype("float32"), link="softmax", mode=mode, queries=100))
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
for path in sorted(folder.glob("*.onnx")) if folder else []:
    link = json.loads((folder / "truth.json").read_text())[path.stem]["link"]
    keep(path.stem, audit(str(path), np.load(path.with_suffix(".npz"))["x"], link=link, queries=100))
print(json.dumps(out))
"""


def reports(tree: Path, models: Path | None) -> dict[str, object]:
    """What one tree says."""
    paths = os.pathsep.join([str(tree), str(tree / "adapters")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as empty:
        audits = [sys.executable, "-c", AUDITS, *([str(models.resolve())] if models else [])]
        found: dict[str, object] = json.loads(
            subprocess.run(audits, cwd=empty, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        demo = [sys.executable, "-m", "fimaudit", "demo"]
        printed = subprocess.run(demo, cwd=empty, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    found["demo"] = [line for line in printed.splitlines() if " s" not in line]  # lines with seconds differ each time
    return found


def largest_difference(old: object, new: object, place: str = "") -> tuple[float, str]:
    """The largest relative difference of two numbers that stand in the same place, infinite for anything else, and where."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return max((largest_difference(old[key], new[key], f"{place}.{key}") for key in old), default=(0.0, place))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return max((largest_difference(a, b, f"{place}[{i}]") for i, (a, b) in pairs), default=(0.0, place))
    if isinstance(old, float) and isinstance(new, float):
        return abs(old - new) / max(abs(old), abs(new), 1e-300), place
    return (0.0 if old == new else float("inf")), place


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--within", type=float, default=0.0, help="largest relative difference of a number")
    options = parser.parse_args()
    old, new = (reports(tree.resolve(), options.models) for tree in (options.old, options.new))
    differences = {name: largest_difference(old.get(name), new.get(name)) for name in sorted({*old, *new})}
    differ = [name for name, (by, _) in differences.items() if by > options.within]
    print(f"{len(old)} reports of {options.old}, {len(new)} of {options.new}: {len(differ)} differ")
    for name in differ:
        print(f"  {name}: by {differences[name][0]:.2g} at {differences[name][1]}")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
