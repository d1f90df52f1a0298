"""The two examples about bounds, run for fewer epochs."""

from __future__ import annotations

from pathlib import Path

from tests.command_line import run_script

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str) -> list[list[str]]:
    done = run_script(EXAMPLES / name, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_architecture_ranking() -> None:
    rows = run("architecture_ranking.py", "--epochs", "1", "--train", "200")
    assert [row[0].rstrip(",") for row in rows[1:9:2]] == ["VGG", "ResNet", "DenseNet", "Transformer"]
    assert all(float(row[-1]) >= 1.0 for row in rows[1:9])  # bound over measured
    assert "rank correlation" in " ".join(rows[9])


def test_fisher_penalty() -> None:
    _, plain, penalised = run("fisher_penalty.py", "--epochs", "5", "--attacked", "8")
    assert float(penalised[2]) < float(plain[2])  # mean lambda
    assert float(penalised[4]) >= float(plain[4])  # adversarial distance
    assert float(penalised[1].rstrip("%")) >= float(plain[1].rstrip("%")) - 5
