"""The function of a batch's RQ job: a name that RQ shows. Our worker never calls it, see `BatchWorker.execute_job`."""

from __future__ import annotations


def run(queue: str, batch: str) -> None:
    """Refuse: `rq worker` took a batch. What it took is still in the ledger, so nothing is lost."""
    raise RuntimeError("this job needs `wa-ingest work`, not `rq worker`; nothing is lost, its batch goes back")
