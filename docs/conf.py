"""The site: ``make docs`` builds it with Sphinx. Every cell and command on its pages runs while it is built."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))
# This checkout is what the site describes, whatever else is installed.
CHECKOUT = [str(HERE.parent), str(HERE.parent / "adapters")]
sys.path[:0] = CHECKOUT
os.environ["PYTHONPATH"] = os.pathsep.join(CHECKOUT)
# Commands in cells find the program of this environment, and none leaves half of the processors idle or takes them all.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What the kernels of this build run as they start; Jupyter keeps its own files beside it.
PROFILE = HERE / "_build" / "ipython" / "profile_default" / "startup"
PROFILE.mkdir(parents=True, exist_ok=True)
shutil.copy(HERE / "_extensions" / "kernel_startup.py", PROFILE)
os.environ["IPYTHONDIR"] = str(PROFILE.parents[1])
os.environ["FIMAUDIT_CHECKOUT"] = str(HERE.parent)

project = "fimaudit"
author = "the fimaudit maintainers"
copyright = "the fimaudit maintainers, Apache-2.0"
release = version = version_of("fimaudit")
html_title = f"fimaudit {release}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "accessible_pages",
    "every_block_runs",
    "reference_pages",
]
exclude_patterns = ["_build", "_extensions", "_templates", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme = "furo"
html_theme_options = {"top_of_page_buttons": []}  # they stand outside of every landmark
html_copy_source = False
smartquotes = False  # a flag keeps both of its hyphens

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page that a program writes may skip a level

nb_execution_mode = "force"
nb_execution_in_temp = True  # each page starts in an empty folder, as its reader does
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 240
nb_merge_streams = True

autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

#: Pages that a program writes whole: their commands carry no mark of their own, so the reason stands here.
blocks_not_run = {
    "study": "it trains and attacks networks for hours",
}
