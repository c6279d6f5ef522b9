"""What can be read of the notifications that are known, and workers/events/schema.json, which is made from that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import paths
from tests.docs import schema as made
from workers.events import schema

# In one file, since both need what is read of every place, which is found once in a process.
pytestmark = [
    pytest.mark.skipif(not paths.SHARED.is_dir(), reason="there are no notifications here"),
    pytest.mark.timeout(400),
]


def test_every_place_has_its_attribute() -> None:
    """Whatever is altered in a notification, some attribute of some event is another; and not only `raw` or `envelope`,
    but for a list of exceptions."""
    given, missed, lost = paths.attributes_by_path()
    assert len(given) > 400
    assert lost == set()
    assert {place for place in missed if not any(part in place for part in paths.EXCEPTIONS)} == set()
    assert {part for part in paths.EXCEPTIONS if not any(part in place for place in missed)} == set()


def test_the_schema_is_that_of_this_version() -> None:
    """`python -m tests.docs.schema --write` would change nothing."""
    assert Path(schema.__file__).with_name("schema.json").read_bytes() == made.made()
