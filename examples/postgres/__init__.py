"""Keeps messages and delivery states in PostgreSQL, a list at a time.

    psql "$DATABASE_URL" -f examples/postgres/schema.sql
    WA_HANDLERS=examples.postgres:handlers wa-ingest up

In a folder of your own, with a copy of this one there, they are `postgres/schema.sql` and `postgres:handlers`.

DATABASE_URL names the database; without it, PostgreSQL's own variables do (PGHOST, PGUSER, …). It needs asyncpg:
`pip install asyncpg`.
"""

from .recording import handlers

__all__ = ["handlers"]
