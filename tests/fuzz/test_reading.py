"""What the fuzzer checks, over its seeds and over generated bodies: without the fuzzer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import mutate
from tests.fuzz.reading import check

SEEDS = sorted(Path(__file__).with_name("corpus").iterdir())
WORDS = ["messages", "statuses", "errors", "contacts", "entry", "changes", "field", "value", "id", "from", "wa_id"]
WORDS += ["message_echoes", "calls", "user_preferences", "history", "threads", "standby", "user_actions", "to"]
WORDS += ["user_id_update", "sender", "recipient", "_vnd", "edit", "message", "image", "url"]
WORDS += ["user_id", "from_user_id", "type", "text", "status", "recipient_id", "timestamp", "system", "metadata"]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.sampled_from(WORDS)
)
JSON = st.recursive(
    LEAVES,
    lambda some: st.lists(some, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(), some, max_size=6),
    max_leaves=20,
)
QUICK = settings(
    max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.stem)
def test_seeds(seed: Path) -> None:
    """Each seed is placed, taken apart, read, and kept in a form that gives it again."""
    check(seed.read_bytes())


@QUICK
@given(st.dictionaries(st.sampled_from(WORDS), JSON))
def test_generated_bodies(tree: dict[str, Any]) -> None:
    """So is any JSON made of the senders' words."""
    check(orjson.dumps(tree))


@QUICK
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_seeds(seed: Path, data: st.DataObject) -> None:
    """So is a seed of which some bytes were cut out or replaced."""
    body = seed.read_bytes()
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 20)))
    check(body[:start] + data.draw(st.binary(max_size=8)) + body[end:])


@QUICK
@given(st.sampled_from([seed for seed in SEEDS if seed.stem not in ("deep", "truncated")]), st.integers(0))
def test_strange_seeds(seed: Path, number: int) -> None:
    """So is a seed in which some values are missing, misplaced or of another type."""
    body = mutate(seed.read_bytes(), number)
    assert body is not None
    check(body)
