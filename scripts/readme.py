"""Run the demo and paste what it says of its first network into the text block of README.md. Run by ``make readme``."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from fimaudit.demo import run_demo

README = Path(__file__).resolve().parent.parent / "README.md"


def excerpt(printed: str) -> str:
    """Of the first network what it is, the medians and the summary; the inputs one by one are left out."""
    first = [line.rstrip() for line in printed.split("\n\n")[0].splitlines()]
    head = next(place for place, line in enumerate(first) if line.startswith("─")) + 4
    return "".join(f"{line}\n" for line in first[:head] + [line for line in first[head:] if ": median" in line])


def main() -> None:
    """Replace the block; the rest of the page stays."""
    printed = io.StringIO()
    run_demo(Path("runs/demo"), Console(file=printed, width=80))
    shown = excerpt(printed.getvalue())
    page = README.read_text(encoding="utf-8")
    pasted = re.sub(r"(?<=```text\n).*?(?=```)", lambda _: shown, page, count=1, flags=re.DOTALL)
    README.write_text(pasted, encoding="utf-8")
    print(shown, end="")


if __name__ == "__main__":
    main()
