"""Which parts of a database's schema an exception is about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from workers import Handlers, Status
from workers.dispatch.outcomes import in_logs
from workers.loading import startup_failed
from workers.schema_parts import schema_parts
from workers.testing import call

BODY = {"statuses": [{"id": "s1", "status": "read", "timestamp": "1700000000", "recipient_id": "15550001"}]}
COLUMN = {"table_name": "statuses", "column_name": "wa_id", "constraint_name": None}
SAID = 'column "wa_id" of "statuses"'


class Failed(Exception):
    """As a driver's or a wrapper's, with these attributes."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("DETAIL: Failing row contains (15550001, Hello).")
        vars(self).update(attributes)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        Failed(**COLUMN),
        Failed(diag=SimpleNamespace(**COLUMN)),
        Failed(orig=Failed(diag=SimpleNamespace(**COLUMN))),
        Failed(orig=caused(Failed(), Failed(**COLUMN))),
        caused(Failed(), Failed(diag=SimpleNamespace(**COLUMN))),
    ],
    ids=["asyncpg", "psycopg", "SQLAlchemy on psycopg", "SQLAlchemy on asyncpg", "Django"],
)
def test_where_the_names_are(error: Exception) -> None:
    """They are found where each library has them, and told without the text."""
    assert in_logs(error) == f"Failed ({SAID})"
    assert startup_failed(error).text.endswith(f"function fails: Failed ({SAID})")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"table_name": "t"}, 'table "t"'),
        ({"constraint_name": "t_pkey"}, 'constraint "t_pkey"'),
        ({"table_name": "t", "constraint_name": "t_pkey"}, 'constraint "t_pkey" of "t"'),
        ({"table_name": "t", "column_name": "a", "constraint_name": "c"}, 'column "a", constraint "c" of "t"'),
        ({"table_name": None}, ""),
    ],
)
def test_words(names: dict[str, str], said: str) -> None:
    """Whichever of the three it names."""
    assert schema_parts(Failed(**names)) == said


@pytest.mark.parametrize("name", ["4915550001", "Ada Lovelace", "a\x1b[2J", "a\nb", "x" * 64, b"wa_id", 5, ["wa_id"]])
def test_what_is_no_name(name: object) -> None:
    """Numbers, words, control characters and what is longer than any name are not told."""
    assert schema_parts(Failed(column_name=name)) == ""


class Hostile(Exception):
    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


def test_attributes_that_raise() -> None:
    """They do no harm, and neither does an exception that wraps itself."""
    assert in_logs(Hostile()) == "Hostile"
    assert in_logs(Failed(orig=Hostile())) == "Failed"
    error = Failed()
    error.orig = error  # type: ignore[attr-defined]
    assert in_logs(error) == "Failed"
    assert schema_parts(None) == ""


def test_what_asyncpg_raises() -> None:
    """The real exception, raised by a handler: the names are in what is told of it, and its text stays where it was."""
    asyncpg: Any = pytest.importorskip("asyncpg")
    fields = {"S": "ERROR", "C": "23502", "M": "null value in column", "t": "statuses", "c": "wa_id"}
    handlers = Handlers()

    @handlers.status()
    def store(status: Status) -> None:
        raise asyncpg.exceptions.PostgresError.new(fields)

    (called,) = call(handlers, BODY)
    assert called.detail.startswith(f"NotNullViolationError ({SAID}): null value in column (")
