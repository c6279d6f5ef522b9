"""The arguments of settle.lua."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from ingest.store import keys
from ingest.store.jobs import job_template, rq_now
from workers.engine.batch_state import BatchState, Results


class Part(NamedTuple):
    """What of one batch is settled. `how`: more, end or back, see settle.lua."""

    opened: BatchState
    results: Results
    how: str


class Calls:
    """Builds the calls of one worker process, which remembers events for `window` seconds."""

    def __init__(self, worker: str, window: float) -> None:
        self._worker = worker
        self._window = window
        self._template = job_template()
        self._numbers = itertools.count(time.time_ns() // 1000)  # above those of any earlier process of this name

    def build(
        self,
        parts: Sequence[Part],
        tally: Mapping[str, int],
        spent: Mapping[str, int],
        unused: Mapping[str, int],
        ring: Sequence[str] = (),
    ) -> list[Any]:
        """The arguments of the next call, see settle.lua. `tally` is what was counted besides the parts."""
        counts: Counter[str] = Counter()
        totals = Counter(tally)
        for part in parts:
            counts.update(part.results.counts)
            totals.update(part.results.tally)
        again = any(part.results.retries for part in parts)
        head = {
            "rq": keys.RQ,
            "wa": keys.WA,
            "worker": self._worker,
            "now": rq_now() if again else "",  # to write the time costs as much as all else here
            "template": self._template if again else "",
            "call": next(self._numbers),
            "counts": counts,
            "tally": totals,
            "window": self._window,
            "spent": spent,
            "unused": unused,
            "ring": ring,
            "batches": [_head(*part) for part in parts],
        }
        return [orjson.dumps(head), *(value for part in parts for value in _values(part.results))]


def _head(opened: BatchState, results: Results, how: str) -> dict[str, Any]:
    return {
        "token": opened.token,
        "queue": opened.queue,
        "batch": opened.batch,
        "how": how,
        "records": results.records,
        "letters": len(results.letters),
        "retries": [(retry.id, retry.delay, len(records)) for retry, records in results.retries.items()],
    }


def _values(results: Results) -> Iterator[Any]:
    for letter in results.letters:
        yield from letter
    for records in results.retries.values():
        yield from records
    yield "\n".join(results.done)
    yield "\n".join(results.freed)


KEYS = [
    keys.LEDGER,
    keys.TAKEN,
    keys.LEASES,
    keys.COUNTS,
    keys.CLAIMS,
    keys.GENERATIONS,
    keys.SPENT,
    keys.DEATHS,
    keys.CONTROLS,
    keys.COUNTERS,
    keys.WANTED,
]
