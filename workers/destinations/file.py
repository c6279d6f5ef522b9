"""Reads the file that WA_DESTINATIONS names, and says in one line what is wrong with it."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workers.destinations.destination import Destination
from workers.raised import HandlersError

_TABLE = re.compile(r"^\s*\[\[\s*destination\s*\]\]")


def read(path: Path) -> list[Destination]:
    """The destinations, in the order of the file. Raises HandlersError with file, line and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise HandlersError(f"WA_DESTINATIONS: cannot read {path}: {reason}") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HandlersError(f"WA_DESTINATIONS: {path}: {error}") from None
    tables = tree.pop("destination", None)
    if tree:
        name = next(iter(tree))
        raise _wrong(path, _line_of(text.splitlines(), 0, name), f"{name!r} is not known; write [[destination]]")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
        raise HandlersError(f"WA_DESTINATIONS: {path} has no destination: write [[destination]], then name and url")
    found = [_destination(path, text.splitlines(), number, table) for number, table in enumerate(tables)]
    name, times = Counter(each.name for each in found).most_common(1)[0]
    if times > 1:
        raise HandlersError(
            f"WA_DESTINATIONS: {path}: {times} destinations are called {name!r}; each needs its own name"
        )
    return found


def _destination(path: Path, lines: list[str], number: int, table: dict[str, Any]) -> Destination:
    begin = [n for n, line in enumerate(lines) if _TABLE.match(line)][number]
    try:
        found = Destination.model_validate(table)
        _ = found.key
        for file in (found.ca_file, found.client_cert, found.client_key):
            if file is not None:
                file.read_bytes()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        what = {"extra_forbidden": f"is not known; {_keys(key)}", "missing": "is missing"}.get(first["type"])
        says = f"{key} {what}" if what else f"{key}: {first['msg']}" if key else first["msg"]
        raise _wrong(path, _line_of(lines, begin, key), says.replace("Value error, ", "")) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else "a secret is not text"
        raise _wrong(path, begin + 1, reason) from None
    return found


def _keys(wrong: str) -> str:
    """The key that is meant, or all there are."""
    keys = [field.alias or name for name, field in Destination.model_fields.items()]
    close = get_close_matches(wrong, keys, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(keys)}"


def _line_of(lines: list[str], begin: int, key: str) -> int:
    """The number of the line where a key stands, in the table that begins there; else that of the table."""
    for n in range(begin + 1 if _TABLE.match(lines[begin]) else begin, len(lines)):
        if re.match(rf'\s*\[*\s*["\']?{re.escape(key)}["\']?\s*[=.\]]', lines[n]):
            return n + 1
        if _TABLE.match(lines[n]):
            break
    return begin + 1


def _wrong(path: Path, line: int, what: str) -> HandlersError:
    return HandlersError(f"WA_DESTINATIONS: {path}, line {line}: {what}")
