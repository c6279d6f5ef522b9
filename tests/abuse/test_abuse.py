"""Each abuse of `tests.abuse.cases`, beside other traffic: `python -m tests.abuse.cases --write` has the figures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.abuse.cases import CASES, MEMORY_MB, OTHERS_SECONDS, Case, Result, run

pytestmark = pytest.mark.timeout(300)  # the first tests wait for others' runs


@pytest.fixture(scope="module")
def results() -> Iterator[dict[Case, Future[Result]]]:
    """Some runs at a time, longest first."""
    with ThreadPoolExecutor(3) as pool:
        yield {case: pool.submit(run, case) for case in sorted(CASES, key=lambda case: -case.seconds)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_abuse(case: Case, results: dict[Case, Future[Result]]) -> None:
    """The attacker gets what is documented; everybody else is answered 200 in time; memory stays bounded."""
    result = results[case].result()
    assert result.seen
    assert set(result.seen) <= case.ends
    assert result.posts >= 3
    assert len(result.odd) <= (0 if case.spares else result.posts / 10)
    assert result.p99 < 10 * OTHERS_SECONDS
    assert result.grown_mb < MEMORY_MB
    assert not result.smuggled
    assert "Traceback" not in result.log
    assert len(result.log.splitlines()) < 10
