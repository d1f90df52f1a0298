"""Run the demo and paste what it prints into the first text block of README.md. Run by ``make readme``."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from fimaudit.demo import run_demo

README = Path(__file__).resolve().parent.parent / "README.md"


def main() -> None:
    """Replace the block; the rest of the page stays."""
    printed = io.StringIO()
    run_demo(Path("runs/demo"), Console(file=printed, width=80))
    shown = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())
    page = README.read_text(encoding="utf-8")
    pasted = re.sub(r"(?<=```text\n).*?(?=```)", lambda _: shown, page, count=1, flags=re.DOTALL)
    README.write_text(pasted, encoding="utf-8")
    print(shown, end="")


if __name__ == "__main__":
    main()
