"""What a kernel runs as it starts: plain text for pages, and ``%%sh``, of which every command must succeed."""

import os
import subprocess
import warnings

from IPython.core.magic import register_cell_magic

# Jupyter asks programs for colours, which a page cannot show.
os.environ.pop("FORCE_COLOR", None)
os.environ.update(NO_COLOR="1", TERM="dumb", COLUMNS="92")
warnings.filterwarnings("ignore", message="IProgress not found")


@register_cell_magic
def sh(line: str, cell: str) -> None:
    """The cell as one script: its output in one piece, and an error at the first command that fails."""
    done = subprocess.run(["bash", "-e"], input=cell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="")
    if done.returncode:
        raise RuntimeError(f"a command ended with exit code {done.returncode}: {done.stdout[-1000:]}")
