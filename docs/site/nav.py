"""The pages of the site, and llms.txt, which lists them: `python docs/site/nav.py` writes it."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
GROUPS: dict[str, dict[str, str]] = tomllib.loads((ROOT / "docs/site/nav.toml").read_text())
"""By group, each page with its line."""

PAGES = [page for pages in GROUPS.values() for page in pages]
LLMS = ROOT / "llms.txt"


def title(page: str) -> str:
    """The heading of a page, its first line."""
    return (ROOT / page).read_text().partition("\n")[0].removeprefix("# ")


def llms() -> str:
    """The text of llms.txt, in the form of llmstxt.org. Its links work in the repository and on the site."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["description"]
    lines = ["# wa-ingest", "", f"> {about}"]
    for group, pages in GROUPS.items():
        lines += ["", f"## {group.capitalize()}", ""]
        lines += [f"- [{title(page)}]({page}): {line}" for page, line in pages.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    LLMS.write_text(llms())
