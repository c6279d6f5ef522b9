"""Lines of code as logs name them: where something failed, or is stuck. Files and numbers, no text of the program."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType, TracebackType

from workers.schema_parts import schema_parts

_OURS = str(Path(__file__).parent)
_PYTHON = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def place(error: BaseException | None) -> str:
    """Where an exception came from: the deepest line in the user's own code, else the deepest of all."""
    lines = _lines(error)
    return _deepest(_own(lines) or lines)


def named(error: BaseException | None) -> str:
    """The exception and where it came from, as far as that is known."""
    where = place(error)
    return f"{sort(error)} at {where}" if where else sort(error)


def sort(error: BaseException | None) -> str:
    """The exception's class, and what it is about in a database."""
    parts = schema_parts(error)
    return f"{type(error).__name__} ({parts})" if parts else type(error).__name__


def own_place(error: BaseException) -> str:
    """The same, or nothing where no code of the user's was called; of a syntax error, the line that has it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    return _deepest(_own(_lines(error)))


def _lines(error: BaseException | None) -> list[tuple[str, int]]:
    trace = None if error is None else error.__traceback__
    return [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(trace)]


def stack_of(frame: FrameType | None) -> list[str]:
    """The lines that are running, the outermost first: files and numbers, no text of the program."""
    frames = reversed(list(traceback.walk_stack(frame)))
    return [f"{each.f_code.co_filename}:{number} in {each.f_code.co_name}" for each, number in frames]


def trace_of(frame: FrameType | None) -> TracebackType | None:
    """The traceback of an exception that would be raised where this frame is now."""
    trace = None
    for each, number in traceback.walk_stack(frame):
        trace = TracebackType(trace, each, each.f_lasti, number)
    return trace


def _own(lines: list[tuple[str, int]]) -> list[tuple[str, int]]:
    # Modules in C name files that are not here: uvloop/loop.pyx.
    return [line for line in lines if not line[0].startswith((_OURS, "<", *_PYTHON)) and line[0].endswith(".py")]


def _deepest(lines: list[tuple[str, int]]) -> str:
    return f"{lines[-1][0]}:{lines[-1][1]}" if lines else ""
