"""Makes a stranger's text fit for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A stranger's text for the operator's terminal, with control and direction characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
