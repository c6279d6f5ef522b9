"""docs/metrics.md is what a real run shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_the_page_names_what_is_there(exposed: dict[str, Any]) -> None:
    """Each metric stands in the table of docs/metrics.md with its type and labels, and nothing else does."""
    rows = re.findall(r"^\| `(wa_\w+)` \| (\w+) \| ([^|]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert len({name for name, *_ in rows}) == len(rows)
    written = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert written == {name: (metric.kind, metric.labels) for name, metric in exposed.items()}
