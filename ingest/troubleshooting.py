"""The sections of docs/troubleshooting.md, for `wa-ingest help` and the page. A wheel has it beside this module.

A topic is the anchor of a section's heading: `redis-is-full` is docs/troubleshooting.md#redis-is-full.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

_HEADING = re.compile(r"^## (.+)\n", re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor that a heading of Markdown gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@functools.cache
def sections() -> dict[str, str]:
    """The text of each section, its heading first, by topic."""
    here = Path(__file__)
    beside = here.with_suffix(".md")
    file = beside if beside.exists() else here.parents[1] / "docs" / beside.name
    _, *parts = _HEADING.split(file.read_text("utf-8"))
    return {
        anchor(heading): f"{heading}\n{'=' * len(heading)}\n\n{text.strip()}\n"
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
