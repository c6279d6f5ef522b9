"""Text of a stranger, made fit for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text of a stranger for the operator's terminal: control and direction characters are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
