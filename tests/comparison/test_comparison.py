"""Comparing models: intervals that cover, differences that are found, and warnings where lambda alone misleads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import around, made_run, picture_run, pictures, softmax_model, table_run
from typer.testing import CliRunner

from fimaudit import Report
from fimaudit.audit_report import IntegrityCheck
from fimaudit.cli import app
from fimaudit.comparison.ranking import rank_runs
from fimaudit.comparison.two_runs import check_same, compare_runs
from fimaudit.errors import FimauditError, RunFolderError, UsageError
from fimaudit.results import Interval
from fimaudit.runs.comparing import compare
from fimaudit.statistics.paired import changes, column, quantile_ratio, rank_correlation, rank_intervals
from fimaudit.storage.run_folder import RunFolder, read_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    picture_run(folder / "plain")
    picture_run(folder / "again", seed=1)
    picture_run(folder / "sharp", sharpness=3.0)
    table_run(folder / "table")
    return folder


def noisy(true: np.ndarray, sigma: float, rng: np.random.Generator) -> list[Interval]:
    return [around(v, sigma) for v in true * np.exp(sigma * rng.standard_normal(len(true)))]


@pytest.mark.parametrize(
    ("p", "population"),
    [
        (0.5, True),
        pytest.param(0.5, False, marks=pytest.mark.coverage),
        pytest.param(0.95, False, marks=pytest.mark.coverage),
    ],
)
def test_a_model_against_itself_covers_one(p: float, population: bool) -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        true = np.exp(rng.normal(0, 1.5, 72))
        pair = [column(noisy(true, 0.1, rng), 0.95) for _ in range(2)]
        found = quantile_ratio(pair[0], pair[1], p, 0.95, rng, population=population)
        assert found.lower is not None
        assert found.upper is not None
        covered += found.lower <= 1 <= found.upper
    assert covered >= 186


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(4)
    true = np.exp(rng.normal(0, 1.0, 100))
    found = quantile_ratio(
        column(noisy(true, 0.1, rng), 0.95), column(noisy(true * 1.5, 0.1, rng), 0.95), 0.5, 0.95, rng, population=False
    )
    assert found.lower is not None
    assert found.upper is not None
    assert 1.1 < found.lower < 1.5 < found.upper < 2.1


def test_exact_values_compare_exactly() -> None:
    cells = [Interval(value=v, lower=v, upper=v) for v in (1.0, 2.0, 5.0)]
    one = column(cells, 0.95)
    assert quantile_ratio(one, one, 0.5, 0.95, np.random.default_rng(0), population=False) == Interval(
        value=1, lower=1, upper=1
    )


def test_unmeasured_inputs_leave_limits_open() -> None:
    rng = np.random.default_rng(0)
    measured = [around(v, 0.1) for v in (1.0, 2.0, 3.0)]
    unknown = [Interval(upper=1e-3)] * 2 + [around(3.0, 0.1)]
    found = quantile_ratio(column(measured, 0.95), column(unknown, 0.95), 0.5, 0.95, rng, population=False)
    assert found.value is None
    assert found.lower == 0
    assert found.upper is not None
    assert found.upper < 0.01


def test_another_seed_makes_no_difference(runs: Path) -> None:
    comparison = compare(runs / "plain", runs / "again")
    assert {q.verdict for q in comparison.quantities.values()} == {"not told apart"}
    assert comparison.quantities["spectral_norm"].surely_more <= 6
    assert comparison.quantities["spectral_norm"].spearman.value is not None
    assert comparison.quantities["spectral_norm"].spearman.value > 0.9
    assert not comparison.warnings
    assert len(comparison.changed) == 10
    assert comparison.answers.same_class == 1.0


def test_sharper_logits_differ_in_lambda_alone(runs: Path) -> None:
    comparison = compare(runs / "plain", runs / "sharp")
    verdicts = {name: q.verdict for name, q in comparison.quantities.items()}
    assert verdicts["spectral_norm"] != "not told apart"
    assert verdicts["peak_spectral_norm"] == verdicts["margin_radius"] == "not told apart"
    assert any("median confidence differs" in w for w in comparison.warnings)
    assert any("only the spectral norm" in w for w in comparison.warnings)


def test_models_that_are_not_audited_yet(tmp_path: Path) -> None:
    data = pictures(12)
    options = {"queries": 30, "lower": 0.0, "upper": 1.0}
    comparison = compare(softmax_model(0, 144, 5), softmax_model(4, 144, 5), data=data, out=tmp_path, **options)
    assert comparison.inputs == 12
    assert (tmp_path / "first" / "report.json").exists()
    assert any("accuracy differs" in w for w in comparison.warnings)
    with pytest.raises(UsageError, match="x="):
        compare(softmax_model(0, 144, 5), softmax_model(1, 144, 5))


def test_a_run_whose_integrity_is_contradicted_is_warned_of(runs: Path) -> None:
    plain, again = read_run(runs / "plain"), read_run(runs / "again")
    check = IntegrityCheck(name="history", outcome="contradicted", notices="n", finding="found", metrics=["margin_radius"])
    hostile = replace(again, report=again.report.model_copy(update={"integrity": [check]}))
    for found in (compare_runs(plain, hostile), rank_runs([plain, hostile], "margin_radius")):
        (said,) = [sentence for sentence in found.warnings if "integrity" in sentence]
        assert "contradicted (history): nothing is concluded from its margin_radius" in said
        assert "again" in said
    assert not any("integrity" in sentence for sentence in rank_runs([plain, again], "margin_radius").warnings)


def test_runs_that_cannot_be_paired(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same inputs"):
        compare(runs / "plain", runs / "table")
    with pytest.raises(UsageError, match=r"without report\.json"):
        compare(runs / "plain", tmp_path)
    with pytest.raises(RunFolderError, match="no such run folder"):
        read_run(tmp_path / "nowhere")
    run = read_run(runs / "plain")
    other = replace(run, report=run.report.model_copy(update={"domain": {**run.report.domain, "unit": "inch"}}))
    with pytest.raises(UsageError, match="same unit"):
        check_same(run, other)


def test_failed_inputs_are_left_out_and_counted(runs: Path) -> None:
    run = read_run(runs / "plain")
    broken = [s.model_copy(update={"status": "failed"}) if s.index < 5 else s for s in run.inputs]
    comparison = compare_runs(replace(run, inputs=tuple(broken)), read_run(runs / "again"))
    assert (comparison.inputs, comparison.left_out) == (55, 5)
    assert any("5 inputs" in w for w in comparison.warnings)


def test_ranks_carry_intervals(runs: Path, tmp_path: Path) -> None:
    template = Report.read(runs / "plain")
    folders = [tmp_path / name for name in "abc"]
    made_run(folders[0], template, 100)
    made_run(folders[1], template, 100)
    plain = read_run(runs / "plain")
    nearer = [s.model_copy(update={"margin_radius": _scaled(s.margin_radius, 0.5)}) for s in plain.inputs]
    fragile = RunFolder(tmp_path, plain.report, tuple(nearer))
    ranking = rank_runs([fragile, plain, read_run(runs / "again")], population=False)
    assert [m.rank for m in ranking.models] == [1, 2, 3]
    assert ranking.models[2].folder == str(tmp_path)
    assert [(m.best, m.worst) for m in ranking.models] == [(1, 2), (1, 2), (3, 3)]
    equal = rank_runs([read_run(f) for f in folders[:2]])
    assert {(m.best, m.worst) for m in equal.models} == {(1, 2)}


def _scaled(cell: Interval, by: float) -> Interval:
    return Interval(**{k: None if v is None else by * v for k, v in cell.model_dump().items()})


def test_rank_intervals_follow_sure_pairs() -> None:
    sure = Interval(value=2, lower=1.5, upper=3)
    open_pair = Interval(value=1.1, lower=0.8, upper=1.4)
    less = Interval(value=0.5, lower=1 / 3, upper=1 / 1.5)
    table = [[None, open_pair, sure], [open_pair, None, sure], [less, less, None]]
    assert rank_intervals(table) == [(1, 2), (1, 2), (3, 3)]


def test_correlation_and_changes_of_known_values() -> None:
    one = column([around(v, 0.1) for v in (1, 2, 3, 4, 5, 6.0)], 0.95)
    two = column([around(v, 0.1) for v in (2, 4, 6, 8, 10, 12.0)], 0.95)
    assert rank_correlation(one, two, 0.95).value == 1.0
    ratio, lower, upper = changes(one, two, 0.95)
    np.testing.assert_allclose(np.exp(ratio), 2)
    np.testing.assert_allclose(upper - ratio, 1.96 * 0.1 * np.sqrt(2), rtol=1e-3)
    np.testing.assert_allclose(ratio - lower, upper - ratio)


def test_adversarial_twin_of_a_digits_network_differs() -> None:
    torch = pytest.importorskip("torch")
    from sklearn.datasets import load_digits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a network this small waits for its threads
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images.reshape(-1, 1, 8, 8) / 16.0, dtype=torch.float32)
    y = torch.tensor(labels)

    def train(strength: float) -> object:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nn = torch.nn
            net = nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
            )
            optimiser = torch.optim.Adam(net.parameters(), 3e-3)
            for _ in range(10):
                for part in torch.randperm(1400).split(100):
                    batch = x[part].clone()
                    if strength:
                        batch.requires_grad_(True)
                        loss = nn.functional.cross_entropy(net(batch), y[part])
                        (slope,) = torch.autograd.grad(loss, batch)
                        batch = (batch + strength * slope.sign()).clamp(0, 1).detach()
                    optimiser.zero_grad()
                    nn.functional.cross_entropy(net(batch), y[part]).backward()
                    optimiser.step()
        return net.eval()

    options = {"link": "softmax", "queries": 130, "mode": "black-box", "lower": 0.0, "upper": 1.0}
    test = x[1400:1450].numpy()
    comparison = compare(train(0.0), train(0.15), data=test, **options)
    torch.set_num_threads(threads)
    assert comparison.quantities["margin_radius"].verdict == "less sensitive"
    assert comparison.quantities["peak_spectral_norm"].verdict == "less sensitive"
    assert any("median confidence differs" in w for w in comparison.warnings)  # lambda alone would say the opposite


def said(*arguments: str) -> tuple[int, str]:
    """Exit code and output of ``fimaudit compare``."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["compare", *arguments])
    return done.exit_code, str(done.exception) if isinstance(done.exception, FimauditError) else done.output


def test_command_takes_options_once_for_each_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_models.py").write_text(
        "from synthetic_runs import softmax_model\nimport numpy as np\n"
        "def probabilities():\n    return softmax_model(0, 144, 5)\n"
        "def logits():\n    return lambda x: 3 * np.log(softmax_model(0, 144, 5)(x))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    np.savez("x.npz", x=pictures(10).x)
    models = ["two_models:probabilities", "two_models:logits", "--data", "x.npz", "--queries", "30"]
    bounds = ["--lower", "0", "--upper", "1"]
    code, text = said(*models, *bounds, "--link", "identity", "--link", "softmax", "--out", "both")
    assert code == 0, text
    assert "only the spectral norm tells the two apart" in text
    assert "…" not in text  # fits 80 columns
    assert {p.name for p in (tmp_path / "both").iterdir()} == {"first", "second", "comparison.json", "comparison.html"}
    code, text = said("both/first", "both/second", "--link", "softmax", "--queries", "9")
    assert isinstance(code, int)
    assert text.startswith("--queries, --link cannot be used")
    code, text = said("both/first", "both/first")
    assert code == 0
    assert text.count("not told apart") == 3
    assert said(*models, "--link", "identity", "--link", "softmax", "--link", "auto")[1].endswith("got it 3 times")
    assert "look like logits" in said(*models, *bounds)[1]
    assert "already" in said(*models, *bounds, "--link", "identity", "--link", "softmax", "--out", "both")[1]
    three = ["both/first", "both/second", "two_models:logits", "--data", "x.npz", "--queries", "30", *bounds]
    code, text = said(*three, "--link", "softmax")
    assert code == 0, text
    assert "3 models on 10 inputs, by the median of the margin radius" in " ".join(text.split())
    assert "(second)" in text  # two models of one name carry their folders
    assert "(model3)" in text
