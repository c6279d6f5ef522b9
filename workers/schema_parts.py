"""Which parts of a database's schema an exception is about. Logs may say so: they are no data, as its text may be."""

from __future__ import annotations

from collections.abc import Iterator

_WRAPPERS = 5  # around what the driver raised, at most
_LONGEST = 63  # PostgreSQL cuts longer names


def schema_parts(error: BaseException | None) -> str:
    """Such as `column "wa_id" of "statuses"`; empty where it names none.

    asyncpg has the names as attributes, psycopg has them in `diag`. SQLAlchemy and Django wrap these exceptions.
    """
    try:
        return next(filter(None, map(_in_words, _within(error))), "")
    except Exception:  # a class of the user's may raise whatever is asked of it
        return ""


def _within(error: object) -> Iterator[object]:
    for _ in range(_WRAPPERS):
        yield error
        yield getattr(error, "diag", None)
        inner = getattr(error, "orig", None)  # of SQLAlchemy; with asyncpg, that one wraps, too
        error = inner if isinstance(inner, BaseException) else getattr(error, "__cause__", None)


def _in_words(named: object) -> str:
    table, *others = (_name(named, part) for part in ("table", "column", "constraint"))
    parts = [f'{part} "{name}"' for part, name in zip(("column", "constraint"), others, strict=True) if name]
    if not parts:
        return f'table "{table}"' if table else ""
    return f'{", ".join(parts)} of "{table}"' if table else ", ".join(parts)


def _name(named: object, part: str) -> str:
    """Only what looks like a name: whatever else stands there might be a value."""
    name = getattr(named, f"{part}_name", None)
    return name if type(name) is str and name.isidentifier() and len(name) <= _LONGEST else ""
