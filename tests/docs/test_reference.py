"""The pages for users say what the code does."""

from __future__ import annotations

from collections import Counter

import pytest

from ingest.settings import Settings
from tests.docs import reference


def test_every_setting_has_its_place() -> None:
    """Each setting stands in one section of docs/settings.md, and each has a meaning."""
    listed = Counter(name for names in reference.SECTIONS.values() for name in names)
    assert listed == Counter(dict.fromkeys(Settings.model_fields, 1))
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_that_of_this_version(name: str) -> None:
    """The generated pages are what the modules say: `python -m tests.docs.reference --write`."""
    assert (reference.DOCS / name).read_text() == reference.PAGES[name]()
