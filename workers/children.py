"""Worker processes as children of a command."""

from __future__ import annotations

from ingest import processes
from ingest.settings import Settings, each_redis, redis_url


def kinds(settings: Settings, burst: bool = False, output: int | None = None) -> list[processes.Kind]:
    """WA_PROCESSES workers for each Redis: one serves one. `output`: see `processes.Kind`."""
    each = each_redis(settings)
    return [
        processes.Kind(
            "worker",
            "workers.worker",
            ("--burst",) if burst else (),
            settings.processes,
            ends=burst,
            output=output,
            env={"WA_REDIS_URL": redis_url(one)} if len(each) > 1 else {},
        )
        for one in each
    ]
