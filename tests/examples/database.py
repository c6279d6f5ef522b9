"""A PostgreSQL with the tables of examples/postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.postgres_server import NoServer, PostgreSQL, server

SCHEMA = Path(__file__).parents[2] / "examples/postgres/schema.sql"


@contextmanager
def with_tables() -> Iterator[PostgreSQL]:
    """Skips where there is none."""
    try:
        with server() as made:
            made.script(SCHEMA)
            yield made
    except NoServer as error:
        pytest.skip(str(error))
