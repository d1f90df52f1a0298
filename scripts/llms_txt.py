"""Write llms.txt from the site's pages: each with its title and how it begins, in the order of the table of contents.

Run by ``make llms``; ``python scripts/llms_txt.py --check`` ends with 1 where the file is not what the pages say. Format:
https://llmstxt.org.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS, OUT = ROOT / "docs", ROOT / "llms.txt"
TOCTREE = re.compile(r"^```{toctree}\n:caption: (.+)\n((?:.*\n)*?)```$", re.MULTILINE)
#: Sentences of a page's first paragraph are taken until there are so many letters, and not beyond so many.
ENOUGH, MOST = 80, 240


def llms_txt() -> str:
    """The whole file."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    title, about = _beginning(index, len(index))
    parts = [f"# {title}", "", f"> {about}", ""]
    for caption, body in TOCTREE.findall(index):
        parts += [f"## {caption}", "", *_links(body), ""]
    return "\n".join(parts)


def _links(body: str) -> Iterator[str]:
    for name in body.split("\n"):
        page = DOCS / f"{name}.md"
        if name and not name.startswith(":"):
            title, about = _beginning(page.read_text(encoding="utf-8"), ENOUGH)
            yield f"- [{title}](docs/{name}.md): {about}" if about else f"- [{title}](docs/{name}.md)"


def _beginning(text: str, enough: int) -> tuple[str, str]:
    """The heading, and the first sentences of the first paragraph that is prose."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    assert title is not None
    rest = re.sub(r"^```.*?^```$", "", text[title.end() :], flags=re.DOTALL | re.MULTILINE)
    paragraphs = (p for p in re.split(r"\n\s*\n", rest) if not p.strip("\n").startswith("    "))
    for plain in (" ".join(p.split()) for p in paragraphs):
        if plain and plain[0] not in "#|%<-$:{!" and not re.match(r"\d+\. ", plain):
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", plain).replace("**", "")
            said = ""
            for sentence in re.split(r"(?<=[.?!]) ", words):
                if len(said) >= enough or (said and len(said) + len(sentence) > MOST and enough == ENOUGH):
                    break
                said = f"{said} {sentence}".strip()
            return title[1], said
    return title[1], ""


def main() -> int:
    """Write, or check."""
    text = llms_txt()
    if "--check" in sys.argv[1:]:
        return int(not OUT.is_file() or OUT.read_text(encoding="utf-8") != text)
    OUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
