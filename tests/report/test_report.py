"""The page: from the run folder alone, self-contained, small, escaped, and usable in a real browser by everyone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from synthetic_runs import keep_shown_with, made_run, picture_run, pictures, table_run
from typer.testing import CliRunner

from fimaudit import Report
from fimaudit.audit_report import IntegrityCheck
from fimaudit.cli import app
from fimaudit.cli.console import show_report
from fimaudit.comparison.two_runs import compare_runs
from fimaudit.errors import RunFolderError
from fimaudit.policy.gate import Decision, Verdict
from fimaudit.report.page import has_pictures, page_html, render, render_comparison
from fimaudit.report.pictures import as_picture, heat_uri, is_picture, picture_uri
from fimaudit.report.shown import SHOWN_FILE, most_sensitive, read_shown
from fimaudit.report.wording import (
    NamedChange,
    integrity_sentence,
    interval_text,
    moved_share,
    named_change,
    number,
    percent,
    scope_sentences,
)
from fimaudit.results import Interval
from fimaudit.statistics.subgroups import calibration, divisions, share_interval
from fimaudit.statistics.summary import summarise
from fimaudit.storage.run_folder import RunFolder, read_run

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><b>bold"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: Milliseconds after which the browser hangs.
HUNG = 250_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders: pictures with a verdict, a table, and 10,000 inputs."""
    place = tmp_path_factory.mktemp("pages")
    report = picture_run(place / "pictures", count=24, queries=40)
    table_run(place / "table", count=30)
    made_run(place / "many", report, 10_000)
    decision = Decision(
        rule="not_ok",
        name="every input",
        selection="all inputs",
        inputs=24,
        outcome="pass",
        side="at most",
        limit=0.1,
        value=0,
        lower=0,
        upper=0,
        bound=0,
        sentence="none failed",
    )
    verdict = Verdict(policy="release", confidence=0.95, outcome="pass", decisions=[decision])
    (place / "pictures" / "verdict.json").write_text(verdict.to_json())
    hostile = pictures(12)
    evil_run(place / "evil", report, hostile.x)
    for name in ("pictures", "table", "many", "evil"):
        render(place / name)
    return place


def evil_run(place: Path, template: Report, x: Any) -> None:
    """Everything that comes from outside is an attack."""
    changes = {
        "model": {**template.model, "name": EVIL, "adapter": EVIL, "device": EVIL, "details": {"class_names": [EVIL] * 10}},
        "warnings": [EVIL],
        "domain": {**template.domain, "unit": EVIL},
    }
    report = made_run(place, template, 12, **changes)
    inputs = [
        s.model_copy(update={"group": f"{EVIL} {s.index % 2}", "flags": [EVIL], "reason": EVIL}) for s in report.inputs
    ]
    data = {**report.data, "source": EVIL, "feature_names": [EVIL] * 144}
    report = report.model_copy(update={"inputs": inputs, "data": data})
    (place / "report.json").write_text(report.to_json())
    keep_shown_with(place, x.reshape(len(x), -1), inputs, {s.index: np.ones(144) for s in inputs})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by playwright; without it these tests are skipped and say so."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine: the page is not tested in a browser (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as player:
        opened = player.chromium.launch(executable_path=program, args=FLAGS, timeout=HUNG)
        yield opened
        opened.close()


def opened(
    browser: Any, path: Path, width: int = 1280, scheme: str = "light", *, height: int = 900, unfolded: bool = True
) -> tuple[Any, list[str]]:
    """A page with everything that it complained about, its parts unfolded."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(HUNG)
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: said.append(f"request {r.url[:80]}") if not r.url.startswith(("file:", "data:")) else None)
    page.goto(path.as_uri())
    page.wait_for_selector("main")
    if unfolded:
        page.evaluate("document.querySelectorAll('details.part').forEach(part => { part.open = true; })")
        page.wait_for_function("!document.getElementById('rows') || document.querySelectorAll('#rows tbody tr').length > 0")
    return page, said


def test_sizes(folder: Path) -> None:
    assert read_run(folder / "many").report.data["inputs"] == 10_000
    assert (folder / "many" / "report.html").stat().st_size < 1_500_000
    assert (folder / "pictures" / "report.html").stat().st_size < 500_000


def test_self_contained(folder: Path) -> None:
    for name in ("pictures", "table"):
        text = (folder / name / "report.html").read_text()
        own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
        assert "http://" not in own
        assert "https://" not in own
        assert not re.search(r"<(link|iframe|object|embed|base)\b", own)
        assert "default-src 'none'" in own


def test_what_it_says(folder: Path) -> None:
    text = (folder / "pictures" / "report.html").read_text()
    for words in (
        "PASS",
        "one grey level everywhere",
        "Distance to another answer",
        "scanner A",
        "few inputs",
        "counterexample",
        "most sensitive direction",
        "What the intervals cover",
        "What the numbers do not say",
        "Confidence and right answers",
        "Choice of the step",
    ):
        assert words in text, words
    assert text.count("<img ") == 24
    table = (folder / "table" / "report.html").read_text()
    for words in (
        "marker 3",
        "one standard deviation of one feature",
        "No policy was applied",
        "under 40",
        "Glossary",
        "Small change</b>: one standard deviation of one feature",
    ):
        assert words in table, words


def test_same_folder_same_page(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder / "table", copy)
    before = (copy / "report.html").read_bytes()
    assert render(copy).read_bytes() == before
    assert b'<th scope="col">Value</th>' in before
    without = render(copy, pictures=False).read_text()
    assert '<th scope="col">Value</th>' not in without  # the features' names and shares stay: they are of the model
    assert "Features that carry it" in without
    assert has_pictures(before.decode())
    assert not has_pictures(without)


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("pictures", 1280, "light"),
        ("pictures", 390, "dark"),
        ("table", 390, "light"),
        ("evil", 1280, "light"),
    ],
)
def test_in_a_browser(browser: Any, folder: Path, tmp_path: Path, name: str, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page, said = opened(browser, folder / name / "report.html", width, scheme)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    drawn = page.evaluate("[...document.querySelectorAll('svg.plot')].map(p => p.querySelectorAll('text').length)")
    assert drawn
    assert min(drawn) > 2
    for folded in (False, True) if (name, width) == ("pictures", 1280) else (False,):
        page.evaluate("open => document.querySelectorAll('details.part').forEach(p => { p.open = open; })", not folded)
        found = axe.run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:100]) for v in found] == []
    shot = tmp_path / "page.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 50_000
    assert page.evaluate("window.hacked") is None
    page.close()


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
@pytest.mark.parametrize("name", ["pictures", "table"])
def test_the_first_screen_holds_the_answer(browser: Any, folder: Path, name: str, width: int, height: int) -> None:
    """What was found, one yardstick and one command, without scrolling."""
    page, said = opened(browser, folder / name / "report.html", width, height=height, unfolded=False)
    places = ".audited", ".found", ".card .big", ".card .yardstick", "#next .command"
    ends = [page.locator(place).first.bounding_box() for place in places]
    assert [box for box in ends if box["y"] + box["height"] > height or box["x"] + box["width"] > width] == []
    assert "in the worst direction and to first order" in page.locator(".found").text_content()
    assert page.locator(".card").count() == page.locator(".card .yardstick").count() == 3
    assert said == []
    page.close()


def test_charts_follow_the_page_and_speak(browser: Any, folder: Path) -> None:
    """Colours by the page's variables; each chart has its name, its sentence and its numbers."""
    colours = set()
    for scheme in ("light", "dark"):
        page, _ = opened(browser, folder / "pictures" / "report.html", 1280, scheme)
        colours.add(page.evaluate("getComputedStyle(document.querySelector('.plot text')).fill"))
        spoken = page.evaluate(
            "[...document.querySelectorAll('.plot')].map(p => p.getAttribute('aria-labelledby').split(' ')"
            ".map(id => document.getElementById(id).textContent))"
        )
        assert all(title and words for title, words in spoken)
        assert page.locator(".chart details table").count() == len(spoken)
        used = page.evaluate("[...document.querySelectorAll('.plot use')].map(u => u.getAttribute('href').slice(1))")
        there = page.evaluate("[...document.querySelectorAll('.plot [id]')].map(e => e.id)")
        assert set(used) <= set(there)
        assert len(set(there)) == len(there)
        page.close()
    assert len(colours) == 2


def test_a_word_leads_to_its_meaning(browser: Any, folder: Path) -> None:
    page, said = opened(browser, folder / "pictures" / "report.html", unfolded=False)
    page.goto(f"{(folder / 'pictures' / 'report.html').as_uri()}#classes")
    assert page.locator("#classes").get_attribute("open") is not None
    page.get_by_role("link", name="trade", exact=True).click()
    page.locator("#term-trades").wait_for()
    assert page.locator("#glossary").get_attribute("open") is not None
    assert said == []
    page.close()


def test_labels_stay_text(browser: Any, folder: Path) -> None:
    page, said = opened(browser, folder / "evil" / "report.html")
    page.evaluate("() => new Promise(done => requestIdleCallback(() => requestIdleCallback(done)))")
    assert page.evaluate("window.hacked") is None
    assert page.title() == f"Sensitivity audit of {EVIL}"
    assert page.locator("h1").text_content() == EVIL
    assert EVIL in page.locator(".warnings li").first.text_content()
    assert page.locator("main b", has_text="bold").count() >= 0
    assert page.locator("img").count() == 0
    assert page.locator("#rows img, .plot img, .plot image, .plot a, .plot script, .plot b").count() == 0
    assert said == []
    page.close()


def test_table_sorts_filters_and_shows_few_rows(browser: Any, folder: Path) -> None:
    page, said = opened(browser, folder / "many" / "report.html")
    assert page.locator("#rows").get_attribute("aria-rowcount") == "10001"
    assert page.locator("#rows tbody tr").count() < 60
    button = page.get_by_role("button", name="margin radius", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    header = page.locator("th[aria-sort=ascending]")
    assert header.text_content().startswith("margin radius")
    smallest = min(s.margin_radius.value or 9 for s in read_run(folder / "many").inputs)
    place = page.evaluate("[...document.querySelectorAll('#rows thead th')].findIndex(t => t.ariaSort === 'ascending')")
    first = page.locator("#rows tbody tr").first.locator("th, td").nth(place).text_content()
    assert float(first) == pytest.approx(smallest, rel=1e-3)
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=descending]").count() == 1
    page.evaluate("document.getElementById('all').scrollTop = 1e9")
    page.locator("#rows tbody tr[aria-rowindex='10001']").wait_for()
    page.get_by_label("Show only rows with").fill("site 3")
    assert page.locator("#count").text_content() == "2500 of 10000 rows"
    assert said == []
    page.close()


def test_print(browser: Any, folder: Path, tmp_path: Path) -> None:
    page, said = opened(browser, folder / "pictures" / "report.html", 794, "dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#all").is_visible()
    assert not page.locator("nav").is_visible()
    page.evaluate("document.querySelectorAll('details.part').forEach(part => { part.open = false; })")
    assert page.locator("#measurement dl.facts").is_visible()  # paper shows what is folded
    assert page.evaluate("getComputedStyle(document.querySelector('.plot text')).fill") == "rgb(0, 0, 0)"
    out = tmp_path / "page.pdf"
    page.pdf(path=out, print_background=True)
    assert out.read_bytes().startswith(b"%PDF")
    assert said == []
    page.close()


def test_without_scripts_the_numbers_remain(folder: Path) -> None:
    text = (folder / "pictures" / "report.html").read_text()
    own = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    median = Report.read(folder / "pictures").summary.margin_radius.median
    assert number(median.value) in own
    assert interval_text(median) in own


def test_comparison_page(browser: Any, folder: Path, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    run = read_run(folder / "pictures")
    for name, seed in (("first", 0), ("second", 1)):
        made_run(tmp_path / name, run.report, 24, seed)
    first, second = (read_run(tmp_path / name) for name in ("first", "second"))
    path = render_comparison(compare_runs(first, second), first, second, tmp_path / "comparison.html")
    assert "would do so by chance" in path.read_text()  # inputs changed beyond their intervals
    assert f"<span>--baseline</span> <span>{tmp_path / 'first'}" in path.read_text()
    itself = render_comparison(compare_runs(run, run), run, run, tmp_path / "itself.html").read_text()
    assert "None of them changed beyond its interval" in itself
    page, said = opened(browser, path, 390)
    assert said == []
    assert axe.run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.close()


def test_commands(folder: Path, tmp_path: Path) -> None:
    shell = CliRunner()
    assert shell.invoke(app, ["report", str(folder / "pictures")]).output.strip().endswith("report.html")
    missing = shell.invoke(app, ["report", str(tmp_path)]).exception
    assert isinstance(missing, RunFolderError)
    assert missing.exit_code == 2
    out = tmp_path / "compared"
    pair = [str(folder / "pictures"), str(folder / "pictures")]
    assert shell.invoke(app, ["compare", *pair, "--out", str(out)]).exit_code == 0
    assert json.loads((out / "comparison.json").read_text())["inputs"] == 24
    assert (out / "comparison.html").exists()
    three = shell.invoke(app, ["compare", *pair, pair[0], "--out", str(out), "--json"])
    assert len(json.loads(three.output)["models"]) == 3


def test_damaged_folders(folder: Path, tmp_path: Path) -> None:
    for name, text, says in (("report.json", "{}", "no report"), ("verdict.json", "{}", "no verdict")):
        copy = tmp_path / name
        shutil.copytree(folder / "table", copy)
        (copy / name).write_text(text)
        with pytest.raises(RunFolderError, match=says):
            render(copy)
    copy = tmp_path / "pictures"
    shutil.copytree(folder / "pictures", copy)
    (copy / SHOWN_FILE).write_bytes(b"no archive")
    assert "<img " not in render(copy).read_text()


def test_numbers_in_words() -> None:
    shown = {
        0.0: "0",
        1234567.0: "1.23 × 10⁶",
        12345.0: "12,345",
        0.01234: "0.0123",
        1e-7: "1.00 × 10⁻⁷",
        0.5: "0.5",
        99.96: "100",
    }
    assert {v: number(v) for v in shown} == shown
    assert (percent(0.123), percent(1.0), percent(None), percent(0.0)) == ("12.3%", "100%", "–", "0%")
    assert interval_text(Interval(lower=0.0)) == "no limits"
    assert interval_text(Interval(lower=1.0)) == "at least 1"
    assert interval_text(Interval(lower=1.0, upper=2.0)) == "1 to 2"


def test_one_grey_level(folder: Path) -> None:
    change = named_change(Report.read(folder / "pictures"))
    assert change.length == pytest.approx(12 / 255)
    assert moved_share(Interval(value=4.0, lower=1.0, upper=1e9), change).model_dump() == pytest.approx(
        {"value": 12 / 255, "lower": 6 / 255, "upper": 1.0}
    )
    report = Report.read(folder / "pictures")
    row = report.model_copy(update={"data": {**report.data, "shape": [144]}})
    assert named_change(row) == NamedChange("a change of one hundredth of one feature's range", 0.01)


def test_pictures() -> None:
    assert is_picture((28, 28))
    assert is_picture((3, 8, 8))
    assert is_picture((8, 8, 3))
    assert not is_picture((30,))
    assert not is_picture((2, 8, 8))
    large = as_picture(np.zeros((3, 500, 300)))
    assert large is not None
    assert large.shape == (125, 75, 3)
    uri = picture_uri(np.eye(8), 0, 1)
    assert uri is not None
    assert uri.startswith("data:image/png;base64,")
    assert heat_uri(np.zeros((8, 8))) is not None
    assert heat_uri(np.zeros(8)) is None


def test_shown_inputs_are_the_most_sensitive(folder: Path) -> None:
    run = read_run(folder / "pictures")
    kept = read_shown(run.folder)
    radii = sorted(s.margin_radius.value or 9 for s in run.inputs)
    assert [s.margin_radius.value for s in most_sensitive(run.inputs)] == radii[:8]
    assert set(kept) == {s.index for s in most_sensitive(run.inputs)}
    np.testing.assert_array_equal(kept[run.inputs[0].index].x if 0 in kept else pictures(24).x[0], pictures(24).x[0])


def test_groups_labels_and_calibration(folder: Path) -> None:
    run = read_run(folder / "pictures")
    parts = {d.title: d for d in divisions(run.inputs, 0.95)}
    assert set(parts) == {"Groups", "True class", "Right and wrong answers"}
    assert [(s.name, s.inputs, s.small) for s in parts["Groups"].slices] == [("scanner A", 8, True), ("scanner B", 16, True)]
    right, wrong = parts["Right and wrong answers"].slices
    assert (right.accuracy, wrong.accuracy) == (
        share_interval(right.inputs, right.inputs, 0.95),
        share_interval(0, wrong.inputs, 0.95),
    )
    found = calibration(run.inputs, 0.95)
    assert found is not None
    assert sum(b[2] for b in found.bins) == 24
    assert calibration([s.model_copy(update={"label": None}) for s in run.inputs], 0.95) is None


def test_page_needs_nothing_but_the_core() -> None:
    code = (
        "import fimaudit.cli, fimaudit.report.page, sys; "
        "print([m for m in ('matplotlib', 'pandas', 'plotly', 'torch', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_features_by_default_and_over_all_inputs(folder: Path) -> None:
    """A table needs no option for the features that carry its inputs: the measurement has them."""
    text = (folder / "table" / "report.html").read_text()
    report = Report.read(folder / "table")
    assert all(s.carried_by for s in report.inputs if s.status == "ok")
    assert "Features that carry it, over all inputs" in text
    assert "estimated from random directions" not in text  # ten features: each was measured
    assert "Features that carry it" not in (folder / "pictures" / "report.html").read_text()


def test_words_for_what_was_not_measured(folder: Path, tmp_path: Path) -> None:
    run = read_run(folder / "pictures")
    blank = {"status": "below_detection", "peak_spectral_norm": Interval(), "margin_radius": Interval(), "contrast": None}
    quiet = [s.model_copy(update={**blank, "spectral_norm": Interval(lower=0, upper=0.5)}) for s in run.inputs]
    report = run.report.model_copy(update={"inputs": quiet, "summary": summarise(quiet, 0.95, 0, 0)})
    text = page_html(RunFolder(tmp_path, report, tuple(quiet)))
    assert "≤ 0.5" in text
    assert "limits at most" in text
    assert f"{len(quiet)} of {len(quiet)} inputs: below detection" in text


def test_the_first_failure_says_why(folder: Path, tmp_path: Path) -> None:
    run = read_run(folder / "pictures")
    failed = [s.model_copy(update={"status": "failed", "reason": "it says <no>"}) for s in run.inputs]
    report = run.report.model_copy(update={"inputs": failed, "summary": summarise(failed, 0.95, 0, 0)})
    assert f"input {failed[0].index} failed: it says &lt;no&gt;" in page_html(RunFolder(tmp_path, report, tuple(failed)))


METHODS = {"table": {"basis-central"}, "pictures": {"rademacher"}}


def test_scope_names_what_the_intervals_of_this_run_cover(folder: Path) -> None:
    sentences = {name: scope_sentences(read_run(folder / name).report, [], m)[0][0] for name, m in METHODS.items()}
    assert "two step sizes" in sentences["table"]
    assert "random choice of directions" not in sentences["table"]
    assert "random choice of directions" in sentences["pictures"]


def test_integrity_on_the_page_and_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = picture_run(tmp_path / "run", count=12, queries=30)
    assert 'id="integrity"' not in (tmp_path / "run" / "report.html").read_text()
    assert integrity_sentence(report) == "integrity: not checked"
    ok = [
        IntegrityCheck(name="history", outcome="ok", notices="notices", finding="alike", rows=52),
        IntegrityCheck(name="slope", outcome="not_applicable", notices="notices", finding="too few", rows=0),
    ]
    bad = IntegrityCheck(name="boundary", outcome="contradicted", notices="notices", finding=EVIL, rows=56)
    agreeing, contradicted = (report.model_copy(update={"integrity": checks}) for checks in (ok, [*ok, bad]))
    assert integrity_sentence(agreeing) == "integrity: 1 of 2 checks ok (history; not applicable: slope)"
    assert integrity_sentence(contradicted) == "integrity: contradicted by boundary"
    show_report(Console(width=100), contradicted)
    assert "integrity: contradicted by boundary" in capsys.readouterr().out
    (tmp_path / "run" / "report.json").write_text(contradicted.to_json())
    page = render(tmp_path / "run").read_text()
    assert 'id="integrity"' in page
    assert "108 rows" in page
    assert EVIL not in page
