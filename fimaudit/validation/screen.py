"""What ``print`` and a notebook show of a validation."""

from __future__ import annotations

from fimaudit.report.answer import Headline
from fimaudit.report.screen import Screen, bar
from fimaudit.report.wording import interval_text, number, percent
from fimaudit.validation.calibration_plot import attacks_chart
from fimaudit.validation.results import Validation

__all__ = ["validation_screen"]

NAMES = {"margin_radius": "margin radius", "peak_spectral_norm": "1 / peak norm", "spectral_norm": "1 / spectral norm"}
MOST_WARNINGS = 8


def validation_screen(v: Validation) -> Screen:
    """Whether the metric predicted what attacks need, in a sentence, then the numbers behind it."""
    found = next((c for c in v.correlations if c.metric == "margin_radius"), None)
    said = "No margin radius could be compared with an attack."
    if found is not None and found.ratio.value is not None:
        said = (
            f"The margin radius is {number(found.ratio.value)} of the smallest change that attacks found, in the median "
            f"({interval_text(found.ratio)}), and orders the inputs as they do with a rank correlation of "
            f"{number(found.spearman.value)} ({interval_text(found.spearman)})."
        )
    rows = v.measured_rows + v.forward_rows + v.backward_rows
    inputs = int(v.data.get("inputs", 0))
    ratios = [c for c in v.correlations if c.spearman.value is not None]
    return Screen(
        title=f"{v.model.get('name')} was attacked at {v.attacked:,} of {inputs:,} inputs, with {rows:,} rows.",
        sentences=[said],
        rows=[
            Headline(
                NAMES.get(c.metric, c.metric),
                number(c.spearman.value),
                f"Spearman, interval {interval_text(c.spearman)}; Kendall {number(c.kendall.value)}; {c.inputs} inputs",
            )
            for c in ratios
        ],
        notes=[
            *([("not measured", f"{v.censored:,} inputs whose answer no attack changed")] if v.censored else []),
            *([("not measured", f"{v.failed:,} inputs failed")] if v.failed else []),
            *(
                (
                    a.name,
                    f"changed the answer of {a.succeeded}, found the smallest change for {a.smallest}, "
                    f"{percent(a.median_excess)} longer than the smallest of all in the median",
                )
                for a in v.attacks
            ),
            *(("warning", w) for w in v.warnings[:MOST_WARNINGS]),
        ],
        plot=[f"{'radius / attack':18} {bar(found.ratio, 0.1, 10.0, 1.0)}"] if found and found.ratio.value else [],
        chart=lambda: attacks_chart(v),
    )
