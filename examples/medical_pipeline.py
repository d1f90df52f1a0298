"""A table of patients with categories and gaps, audited as it is: ``python examples/medical_pipeline.py runs/patients``.

The pipeline imputes, scales and encodes; the audit displaces the numbers, holds text, whole numbers and missing cells, and
states its results in standard deviations. The second half does the same on the command line, from skops and CSV.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fimaudit

POLICY = """
name: patients
rules:
- {rule: accuracy, at_least: 0.6}
- {rule: quantile, metric: margin_radius, statistic: median, at_least: 0.2}
- {rule: not_ok, at_most: 0.05}
"""
NUMBERS, WORDS = ["age", "creatinine", "pressure"], ["sex", "smoker", "stage"]


def patients(count: int, seed: int = 0) -> pd.DataFrame:
    """Made-up patients: text, truth values, whole numbers, numbers with gaps, and the diagnosis."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "stage": rng.integers(1, 5, count),
            "age": rng.normal(55, 12, count).round(1),
            "sex": rng.choice(["female", "male"], count),
            "creatinine": rng.normal(1.0, 0.3, count).round(2),
            "pressure": rng.normal(125, 15, count).round(0) + 0.5,
            "smoker": rng.choice(["never", "former", "current"], count),
            "ward": rng.choice(["north", "south"], count),
        }
    )
    risk = 0.06 * (table.age - 55) + 0.6 * (table.stage - 2) + 0.8 * (table.smoker == "current") + rng.normal(0, 0.7, count)
    table["diagnosis"] = np.where(risk > 0.3, "disease", "healthy")
    table.loc[rng.random(count) < 0.15, "creatinine"] = np.nan
    table.loc[rng.random(count) < 0.10, "smoker"] = None
    return table


def fitted(table: pd.DataFrame) -> object:
    """Imputation, scaling and encoding by column, then a logistic regression."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    words = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = ColumnTransformer([("numbers", numbers, NUMBERS), ("words", words, WORDS)])
    return make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(table[NUMBERS + WORDS], table["diagnosis"])


def main(place: Path) -> None:
    """Audit in Python and on the command line, decide a policy, and pack the evidence."""
    place.mkdir(parents=True, exist_ok=True)
    known, asked = patients(600), patients(12, seed=1)
    pipeline = fitted(known)

    report = fimaudit.audit(pipeline, asked, y="diagnosis", group="ward", scale="std", out=place / "python", overwrite=True)
    held = [report.data["feature_names"][k] for k in report.domain["frozen"]]
    print(f"classes: {', '.join(report.model['class_names'])}; held: {', '.join(held)}")
    print(f"margin radius: median {report.summary.margin_radius.median} {report.domain['unit']}")
    for ward, summary in report.groups.items():
        print(f"  {ward}: {summary.margin_radius.median}")
    for warning in report.warnings:
        print(f"warning: {warning}")

    skops.io.dump(pipeline, place / "pipeline.skops")
    asked.to_csv(place / "patients.csv", index=False)
    (place / "policy.yaml").write_text(POLICY)
    table = ["--data", "patients.csv", "--label", "diagnosis", "--group", "ward", "--scale", "std"]
    commands = (
        ["audit", "pipeline.skops", *table, "--trust-pickle", "--out", "cli", "--overwrite"],
        ["gate", "cli", "--policy", "policy.yaml"],
        ["bundle", "cli", "--out", "evidence.zip"],
        ["verify", "evidence.zip"],
    )
    for command in commands:
        subprocess.run([sys.executable, "-m", "fimaudit", *command], cwd=place, check=True)
    same = fimaudit.Report.read(place / "cli")
    print(f"from the command line: median {same.summary.margin_radius.median}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/patients"))
