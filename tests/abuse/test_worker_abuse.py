"""Abuses of `tests.abuse.worker_cases`: `python -m tests.abuse.worker_cases --write` runs all and has the figures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.abuse import worker_cases
from tests.abuse.worker_cases import (
    CASES,
    OTHERS_SECONDS,
    SCRIPT_MS,
    VALKEY_MB,
    VALKEY_TIMES,
    WORKER_MB,
    Case,
    Result,
    run,
)

FLOODS = ("10,000 messages, each waits",)
"""What is no more than a flood: others in the same partitions wait behind it (docs/security.md)."""

ABUSES = [case for case in CASES if case.name not in FLOODS and "nobody" not in case.name]


@pytest.fixture(scope="module")
def results() -> Iterator[dict[Case, Future[Result]]]:
    """Two runs at a time, each for a short time."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(worker_cases, "SECONDS", 2.0)
        yield {case: pool.submit(run, case) for case in ABUSES}


@pytest.mark.timeout(200)
@pytest.mark.parametrize("case", ABUSES, ids=lambda case: case.name)
def test_abuse(case: Case, results: dict[Case, Future[Result]]) -> None:
    """Others' messages reach their handlers in time, memory stays bounded, no script is long, and the worker lives."""
    result = results[case].result()
    assert not result.deaths
    assert result.p99 < 10 * OTHERS_SECONDS
    assert result.worker_mb < WORKER_MB
    assert result.valkey_mb < VALKEY_MB + VALKEY_TIMES * result.posted_mb
    assert result.longest_ms < 10 * SCRIPT_MS
    assert "Traceback" not in result.log.replace("exc_info", "")
