"""The arguments of settle.lua."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from ingest.store import keys
from ingest.store.jobs import job_template, rq_now
from ingest.store.queues import lane_of
from workers.engine.batch_state import BatchState, Results


class Call(NamedTuple):
    """The keys and arguments of one call."""

    keys: list[str]
    args: list[Any]


class Calls:
    """Builds the calls of one worker process, which takes from `queues` and remembers events for `window` seconds."""

    def __init__(self, worker: str, queues: list[str], window: float) -> None:
        self._worker = worker
        self._window = window
        self._template = job_template()
        self._numbers = itertools.count(time.time_ns() // 1000)  # above those of any earlier process of this name
        lanes = list(dict.fromkeys(map(lane_of, queues)))
        self._urgent = {lane: [q for q in queues if lane_of(q) in lanes[:rank]] for rank, lane in enumerate(lanes)}

    def build(self, opened: BatchState, results: Results, tally: Mapping[str, int], how: str) -> Call:
        """The next call. `tally` is what was counted besides `results`."""
        args = [
            orjson.dumps(self._head(opened, results, tally, how)),
            *(part for letter in results.letters for part in letter),
            *(record for records in results.retries.values() for record in records),
            "\n".join(results.done),
        ]
        return Call(_keys(lane_of(opened.queue)), args)

    def _head(self, opened: BatchState, results: Results, tally: Mapping[str, int], how: str) -> dict[str, Any]:
        """The fields that the head of settle.lua describes, in the same order."""
        return {
            "rq": keys.RQ,
            "wa": keys.WA,
            "worker": self._worker,
            "token": opened.token,
            "queue": opened.queue,
            "batch": opened.batch,
            "now": rq_now() if results.retries else "",  # to write the time costs as much as all else here
            "template": self._template if results.retries else "",
            "call": next(self._numbers),
            "how": how,
            "records": results.records,
            "counts": results.counts,
            "tally": {**results.tally, **tally},
            "failed": results.failed,
            "fresh_failed": results.fresh_failed,
            "succeeded": results.succeeded,
            "probe": opened.probing,
            "spent": results.spent_ms,
            "window": self._window,
            "urgent": self._urgent.get(lane_of(opened.queue), []),
            "capped": opened.allowance is not None,
            "unused": 0 if how == "more" else opened.allowance or 0,
            "letters": len(results.letters),
            "retries": [(retry.id, retry.delay, len(records)) for retry, records in results.retries.items()],
        }


@functools.cache
def _keys(lane: str) -> list[str]:
    return [
        keys.LEDGER,
        keys.TAKEN,
        keys.LEASES,
        keys.doorbell_key(lane),
        keys.COUNTS,
        keys.dead_key(lane),
        keys.CLAIMS,
        keys.GENERATIONS,
        keys.SPENT,
        keys.FAILING,
        keys.WAITS,
        keys.DEATHS,
        keys.CONTROLS,
        keys.COUNTERS,
    ]
