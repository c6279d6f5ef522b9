"""docs/recipes/delivery-reports.md: its questions to a real PostgreSQL. tests/examples tests the handlers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from benchmarks.postgres_server import PostgreSQL
from tests.examples.database import with_tables
from tests.recipes.conftest import lines

asyncpg = pytest.importorskip("asyncpg")

ROWS = """
INSERT INTO deliveries (message, state, sent_at, delivered_at, failed_at, read_at, code) VALUES
    ('a', 'read', '2026-11-21', '2026-11-21', NULL, '2026-11-22', NULL),
    ('b', 'failed', '2026-11-21', NULL, now(), NULL, 131026),
    ('c', 'failed', '2026-11-20', NULL, '2026-11-20', NULL, 131026)
"""


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with with_tables() as made:
        yield made


def test_the_questions(database: PostgreSQL) -> None:
    """They are answered as the page says: what failed since yesterday, and what was read of each day."""
    questions = [re.findall(r'-c "(.*)"', line)[0] for line in lines("delivery-reports.md", 'psql "$DATABASE_URL" -c')]

    async def ask() -> list[list[tuple[object, ...]]]:
        connection = await asyncpg.connect(database.url)
        try:
            await connection.execute(ROWS)
            return [sorted(tuple(map(str, row)) for row in await connection.fetch(one)) for one in questions]
        finally:
            await connection.close()

    failed, read = asyncio.run(ask())
    assert failed == [("131026", "1")]
    assert read == [("2026-11-20", "1", "0"), ("2026-11-21", "2", "1")]
