"""Every code block runs when the site is built, or says why it does not.

A block runs as a cell (``{code-cell}``; one that begins with ``%%sh`` holds commands, with ``%%writefile`` a file). Any
other block of Python or of commands needs a comment before it, ``% not run: REASON``, which its reader sees too. Blocks of
other languages name theirs.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

MARK = "not run:"
COMMANDS, FILE = "%%sh", "%%writefile"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml"}
#: The reason is shown as plain text: of a link its words.
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
RUNNABLE = {"python", "py", "pycon", "sh", "bash", "shell", "console"}
#: Where blocks come from cells, from docstrings (which pytest runs) or from files that are shown.
ELSEWHERE = ("cell_input", "cell_output")
LOGGER = logging.getLogger(__name__)


def check_blocks(app: Sphinx, doctree: nodes.document) -> None:
    """Show commands as commands, reasons as sentences, and warn of a block that does neither."""
    page = app.env.docname
    reason_of_page = app.config.blocks_not_run.get(page)
    for block in list(doctree.findall(nodes.literal_block)):
        if _inside(block, "cell_input"):
            _as_commands(block)
            continue
        if _inside(block, "cell_output") or "source" in block or _of_docstring(block):
            continue
        language = block.get("language", "default")
        if language not in RUNNABLE and language not in ("default", "none"):
            continue
        reason = _reason(block) or reason_of_page
        if reason is not None:
            _say(block, reason)
        elif language in RUNNABLE:
            LOGGER.warning("a block of %s neither runs nor says why not (%% not run: REASON)", language, location=block)
        else:
            LOGGER.warning("a block names no language; write ```text where it is neither code nor command", location=block)


def _inside(node: nodes.Node, name: str) -> bool:
    while (node := node.parent) is not None:
        if isinstance(node, nodes.Element) and name in node.get("classes", ()):
            return True
    return False


def _of_docstring(node: nodes.Node) -> bool:
    while (node := node.parent) is not None:
        if node.tagname == "desc_content":
            return True
    return False


def _as_commands(block: nodes.literal_block) -> None:
    """A cell of the magic ``%%sh`` reads as what a person types; one of ``%%writefile`` as the file, under its name."""
    first, _, rest = block.astext().partition("\n")
    magic, _, name = first.strip().partition(" ")
    if magic not in (COMMANDS, FILE):
        return
    block.rawsource = rest
    block.children = [nodes.Text(rest)]
    block["language"] = "bash" if magic == COMMANDS else LANGUAGES.get(Path(name).suffix, "text")
    if magic == FILE:
        block.parent.insert(block.parent.index(block), nodes.paragraph("", name, classes=["file-name"]))


def _reason(block: nodes.literal_block) -> str | None:
    siblings = block.parent.children
    before = siblings[siblings.index(block) - 1] if siblings.index(block) else None
    if isinstance(before, nodes.comment) and before.astext().strip().startswith(MARK):
        return LINK.sub(r"\1", before.astext().strip().removeprefix(MARK).strip()).replace("`", "")
    return None


def _say(block: nodes.literal_block, reason: str) -> None:
    note = nodes.paragraph("", f"Not run when this page is built: {reason}.", classes=["not-run"])
    block.parent.insert(block.parent.index(block) + 1, note)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_config_value("blocks_not_run", {}, "env", [dict])
    app.connect("doctree-read", check_blocks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
