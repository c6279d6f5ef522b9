"""Makes a stranger's text fit for a terminal."""

from __future__ import annotations

import json
import re

# Control characters (C0, DEL, C1), and what changes the direction or the lines of the text around it, is invisible, or
# cannot be written. Not the joiners U+200C and U+200D, which Persian and emoji are written with.
_STEERING = (
    r"\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f"
)
_IN_TEXT = re.compile(rf"[\x00-\x1f{_STEERING}]")
_IN_JSON = re.compile(f"[{_STEERING}]")


def printable(text: str) -> str:
    """A stranger's text for the operator's terminal, with control and direction characters as escapes."""
    return _IN_TEXT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_line(text: str) -> str:
    """The same, in one line: a space for what breaks lines."""
    return printable(" ".join(filter(None, map(str.strip, text.splitlines()))))


def printable_lines(text: str) -> str:
    """The same, with lines where the text has some."""
    return "\n".join(map(printable, text.splitlines()))


def printable_json(text: str) -> str:
    """JSON that means the same, its strings without these characters. (Those below space are escapes in any JSON.)"""
    return _IN_JSON.sub(lambda found: json.dumps(found[0])[1:-1], text)
