"""What the theme leaves out for those who cannot see a page or use no mouse; axe finds nothing on a page after it."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

#: A headline of the table of contents has a level, each landmark a name of its own, a block that scrolls takes the keyboard,
#: a cell without a word is no heading of its column, and every page has a headline.
MENDED = (
    (r'role="heading">', 'role="heading" aria-level="2">'),
    (r'<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="Pages">'),
    (r'<aside class="toc-drawer( no-toc)?">', r'<aside class="toc-drawer\1" aria-label="On this page">'),
    (r'<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    (r"<pre(?=[ >])(?! tabindex)", '<pre tabindex="0"'),
    (r"<th(?: class=\"[^\"]*\")?>(?:<p></p>)?</th>", "<td></td>"),
    (r'<div id="search-results">', '<h1>Search</h1><div id="search-results">'),
)


def mend(app: Sphinx, error: Exception | None) -> None:
    """Rewrite the pages that were written."""
    if error is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        before = text = page.read_text(encoding="utf-8")
        for pattern, better in MENDED:
            text = re.sub(pattern, better, text)
        if text != before:
            page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
