"""How Sphinx makes the site of the pages in nav.toml: `make docs`. The folder of its sources is the repository's root.

The pages are written for GitHub, so MyST reads them as GitHub does, without its own additions.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
from nav import GROUPS, LLMS, PAGES, ROOT

project = "wa-ingest"
html_title = "wa-ingest"
smartquotes = False  # `--` is `--`
html_theme = "furo"
html_copy_source = False
html_use_index = False
html_show_copyright = False
html_show_sphinx = False

extensions = ["myst_parser"]
root_doc = "README"
include_patterns = PAGES
exclude_patterns = [".*", "benchmarks", "examples", "ingest", "site", "tests", "workers"]  # need not be walked through
myst_heading_anchors = 4
myst_disable_syntax = ["myst_block_break", "myst_line_comment", "myst_role", "myst_target"]
highlight_language = "none"  # of indented blocks: command lines
suppress_warnings = ["misc.highlighting_failure"]  # bodies in docs/events.md are shortened


def add_navigation(_app: Sphinx, docname: str, source: list[str]) -> None:
    """The front page is README.md, which on GitHub shows no list of all pages."""
    if docname == root_doc:
        for group, pages in GROUPS.items():
            listed = "\n".join(page.removesuffix(".md") for page in pages if page != f"{root_doc}.md")
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {group.capitalize()}\n\n{listed}\n```\n"


def add_files(app: Sphinx, failure: Exception | None) -> None:
    """A front page under the name that web servers look for; llms.txt, and the pages that it links, as they are."""
    if failure is None:
        shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")
        for page in (LLMS.name, *PAGES):
            shutil.copy(ROOT / page, app.outdir / page)


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_files)
