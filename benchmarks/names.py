"""Who is measured, and what they are called in tables and plots. Imports nothing: plots run in another environment."""

from __future__ import annotations

from typing import NamedTuple


class Contender(NamedTuple):
    """A program to measure. `modes`: what it can do; `backlog`: what it drains in a full run, about four seconds."""

    name: str
    title: str
    modes: tuple[str, ...]
    backlog: int = 0


OURS = "ours"

PEERS = (
    Contender("bare_aiohttp", "bare aiohttp (the limit)", ("serve",)),
    Contender("rq_simple", "RQ, SimpleWorker", ("serve", "load", "work"), 1_000),
    Contender("rq_worker", "RQ, Worker", ("load", "work"), 200),
    Contender("celery", "Celery", ("serve", "load", "work"), 4_000),
    Contender("dramatiq", "dramatiq", ("serve", "load", "work"), 30_000),
    Contender("taskiq", "taskiq", ("serve", "load", "work"), 10_000),
    Contender("saq", "SAQ", ("load", "work"), 6_000),
    Contender("bullmq", "BullMQ", ("serve", "load", "work"), 40_000),
    Contender("limit", "LPOP in hundreds + orjson (the limit)", ("load", "work"), 400_000),
)

TITLES = {
    "ours": "ours",
    "ours_always": "ours, AOF always",
    "ours_statuses": "ours, statuses",
} | {peer.name: peer.title for peer in PEERS}

# As receivers they come with a web framework.
ACCEPT_TITLES = TITLES | {
    "rq_simple": "aiohttp + RQ enqueue",
    "celery": "FastAPI + Celery",
    "dramatiq": "FastAPI + dramatiq",
    "taskiq": "FastAPI + taskiq",
    "bullmq": "Fastify + BullMQ",
}

PYTHON_QUEUES = ("rq_simple", "rq_worker", "celery", "dramatiq", "taskiq", "saq")

# In a quick run only the fastest Python peer of each measure, as the full runs found them.
QUICK = {
    "accept": ("bare_aiohttp", "dramatiq", "bullmq"),
    "drain": ("dramatiq", "bullmq", "limit"),
    "memory": ("dramatiq", "bullmq"),
}
