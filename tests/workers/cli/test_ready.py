"""When what prints events is ready: the workers start after it."""

from __future__ import annotations

import math

import pytest

from workers.cli import ready


def test_a_console_that_cannot_listen(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it does not listen it is waited for, but not for long: the rest runs without it."""
    monkeypatch.setattr(ready, "_CONSOLE_SECONDS", math.inf)
    assert not ready.console("1")
    monkeypatch.setattr(ready, "_CONSOLE_SECONDS", 0.0)
    assert ready.console("1")
