"""The kill matrix in short (`make faults` runs all of it): one process ends, freezes or is stopped at one step."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.matrix import LONG_SILENT, Case, Result, run_all

CASES = [
    Case("receiver", "commit sent", "SIGKILL"),
    Case("worker", "taken", "SIGKILL"),
    Case("worker", "handler returned", "SIGKILL", "async"),
    Case("worker", "in a handler", "SIGKILL", "bulk"),
    Case("worker", "in a handler", "SIGTERM", "bulk"),
    Case("worker", "in a handler", "SIGSTOP"),
    Case("worker", "before settle", "SIGTERM"),
    Case("worker", "settle sent", "SIGKILL", settle="back"),
    Case("worker", "settled", "SIGTERM", "async", "back"),
    Case("valkey", "commit sent", "SIGKILL"),
    # Longer than a worker waits for an answer: it sends its call again, and Valkey gets both.
    Case("valkey", "before take", "SIGSTOP", "async"),
    Case("valkey", "before settle", "SIGSTOP", settle="more"),
]

pytestmark = pytest.mark.timeout(300)  # the first test waits for all runs


@pytest.fixture(scope="module")
def results() -> dict[Case, Result]:
    """All runs at a time: they mostly wait."""
    return {result.case: result for result in asyncio.run(run_all(CASES, LONG_SILENT, at_once=len(CASES)))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_lost_or_repeated_beyond_the_rule(case: Case, results: dict[Case, Result]) -> None:
    """What got 200 is handled; twice only if its worker died or was silent; a contact's messages in order."""
    result = results[case]
    assert result.problems == []
    assert result.lost == 0
    assert result.acknowledged > 100
