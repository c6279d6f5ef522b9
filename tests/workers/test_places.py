"""Lines of code as logs name them."""

from __future__ import annotations

from pathlib import Path
from types import CodeType

import pytest

from workers.places import named, place


def test_modules_in_c_are_not_the_users() -> None:
    """An error that comes out of a module in C, which names a file that is not here, is told by the line that called
    it."""

    def raised_in(file: str, text: str, names: dict[str, object]) -> CodeType:
        code = compile(text, file, "exec")
        exec(code, names)
        return code

    names: dict[str, object] = {}
    raised_in("uvloop/loop.pyx", "def connect():\n    raise ConnectionRefusedError", names)
    bot = str(Path("/home/me/bot.py"))
    raised_in(bot, "\n\ndef store():\n    connect()", names)
    with pytest.raises(ConnectionRefusedError) as raised:
        names["store"]()  # type: ignore[operator]
    assert place(raised.value) == f"{bot}:4"


def test_an_error_without_a_place() -> None:
    """What was never raised, such as the time-out of a call that was left to itself, is told by its name alone."""
    assert named(TimeoutError()) == "TimeoutError"
