"""The Valkeys of the receiver's tests, for commands that are to meet one with other settings or users."""

from __future__ import annotations

from tests.ingest.conftest import own_valkey  # noqa: F401
