"""The lines of `tail` and `up`."""

from __future__ import annotations

from typing import Any

import pytest

from workers.cli.event_lines import EventLines


@pytest.mark.parametrize(("attempt", "says"), [(1, "waits"), (2, "waits (try 2)")])
def test_what_was_put_off(capsys: pytest.CaptureFixture[str], attempt: int, says: str) -> None:
    """An event that was put off is shown as one that waits."""
    event: dict[str, Any] = {"outcome": "put_off", "attempt": attempt, "ms": 0.0, "error": "", "handlers": ["crm"]}
    event |= {"at": "2026-01-02T03:04:05.000+00:00", "kind": "message", "type": "text", "contact": None}
    EventLines().show(event | {"business": None})
    shown = capsys.readouterr().out
    assert f"  {says}  " in shown
    assert "put_off" not in shown
