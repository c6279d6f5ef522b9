"""workers/events/schema.json is that of the notifications that are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import paths
from tests.docs import schema as made
from workers.events import schema


@pytest.mark.skipif(not paths.SHARED.is_dir(), reason="there are no notifications here")
@pytest.mark.timeout(400)
def test_the_file_is_that_of_this_version() -> None:
    """`python -m tests.docs.schema --write` would change nothing."""
    assert Path(schema.__file__).with_name("schema.json").read_bytes() == made.made()
