"""Figures as a run gives them, made up."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bench import spread


def waiting(times: dict[str, Any]) -> dict[str, Any]:
    """Of handlers that wait: SAQ failed at 10 ms, and its sender was too slow at 100 ms."""
    wait = times | {"missing": 0, "rate": 1000.0, "posted": 1000.0}
    good = {"drain": {"count": 5, "rate": 990.0, "of_slots": 0.99}, "wait": wait}
    better = good | {"drain": {"count": 5, "rate": 9000.0, "of_slots": 0.9}}
    slow = {"drain": {"count": 5, "rate": 500.0, "of_slots": 0.5}, "wait": wait | {"missing": 3, "posted": 700.0}}
    per_second = [[160, 158, 159], [600, 640, 630], [160, 160, 160]]
    return {
        "slots": {"async": 100, "plain": 8},
        "async": {"ours": {"10": better, "100": good}, "saq": {"10": {"failed": "it ended"}, "100": slow}},
        "plain": {"ours": {"10": better, "100": good}},
        "situations": {
            "slow": times | {"missing": 0},
            "hangs": {"failed": "no worker"},
            "processes_1": {"rate": 80.0, "of_slots": 1.0},
            "scale": {"per_second": per_second, "rates": [159.0, 630.0, 160.0], "allowed": 160},
        },
    }


@pytest.fixture
def made_up() -> dict[str, Any]:
    """The measures of a quick run on which everything but lanes was taken."""
    times = spread([n / 1000 for n in range(1, 101)])
    answers = times | {"sent": 100, "not_answered": 0}
    to_handler = times | {"missing": 0}
    load = {"ours": answers, "bare_aiohttp": answers, "to_handler": to_handler, "messages_to_handler": to_handler}
    calls = {"round_trips": 0.03, "commands": 1.8}
    accept = {"bare_aiohttp": 10_000.0, "ours": 8_000.0, "ours_always": 7_000.0, "taskiq": 2_000.0, "bullmq": 4_000.0}
    return {
        "accept": {"median": accept, "redis": {"1": calls, "8": calls, "64": calls}},
        "drain": {"median": {"ours": 20_000.0, "ours_statuses": 19_000.0, "taskiq": 2_000.0, "bullmq": 5_000.0}},
        "memory": {"ours": {"bytes": 291.5, "of_bodies": 1.1}, "taskiq": {"bytes": 900.0, "of_bodies": 3.4}},
        "processes": {"serve": {"parent": 14.0, "receiver": 72.0}, "work": {"parent": 14.0, "worker": 51.0}},
        "latency": {"seconds": 3, "1000": load, "3300": load, "idle": load},
        "growth": {
            "waiting": {"10000": {"accept": 8e3, "drain": 2e4}, "100000": {"accept": 8e3, "drain": 1.9e4}},
            "workers": {"1": 2e4, "2": 3e4},
            "updates": {"1": 2e4, "100": 3e4, "1000": 3e4},
        },
        "recovery": {"seconds": [12.0], "median": 12.0},
        "waiting": waiting(times),
    }
