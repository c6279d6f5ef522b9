"""Fixtures of the other packages."""

from tests.workers.conftest import commit  # noqa: F401
