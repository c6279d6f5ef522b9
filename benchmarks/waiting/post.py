"""Posts a schedule to a receiver: `python -m benchmarks.waiting.post PORT FILE`.

Writes a line of JSON: when each was due (CLOCK_MONOTONIC seconds), and how many had no 200 for an answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvloop

from benchmarks.openloop import Plan, fire
from benchmarks.waiting import schedule


def main() -> None:
    port, file = sys.argv[1:]
    events = schedule.read(Path(file))
    plan = Plan(len(events), lambda number: events[number].after, lambda number: events[number].body)
    fired = uvloop.run(fire(int(port), plan))
    print(json.dumps({"posted": fired.due, "refused": fired.answered.count(0.0)}))


if __name__ == "__main__":
    main()
