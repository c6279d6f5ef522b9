"""Writes what was measured of handlers that wait into docs/performance.md.

A full run does so; `python -m benchmarks.page FILE` does it with another run's file from benchmarks/results.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.machine import ROOT, BenchError
from benchmarks.waiting import figures
from benchmarks.waiting.figures import Figures

PAGE = ROOT / "docs" / "performance.md"

_SECTION = re.compile(r"(?<=^## Handlers that wait\n).*?(?=^## )", re.MULTILINE | re.DOTALL)

_VERSIONS = ("taskiq", "taskiq-redis", "saq", "streaq", "bullmq", "dramatiq", "celery")

_INTRO = """
<!-- Written by python -m benchmarks; benchmarks/page.py has its words. -->

What most handlers do is wait: for a model, a CRM, a database. Here each waits a fixed time, with as many slots for
everybody: 100 for async handlers, 8 threads or processes for plain ones. One worker has a core, Valkey and the
senders another. 1,000 contacts write in turn. Ours handles the messages of a contact one after the other, the peers
do not; so a contact who writes again while the last message is still at work waits with ours alone (the row "at
random" shows how long). Ours come in through the receiver, which shares the worker's core; the peers' by their own
enqueue call.

* **Events a second**: a backlog waits before the worker starts; from the first begin to the last end. In brackets the
  part of what the slots allow: 100 slots of 100 ms each are 1,000/s.
* **Wait**: events come by the clock at half of what the slots allow, at most 1,000/s. From the moment an event was
  due (ours) or its enqueue call began (peers) until its handler begins. What has not begun at the end counts with the
  time that it has waited. "at N/s": the enqueue calls did not reach the planned rate.

How the peers are set up is in `benchmarks/peers/waiting/` and `benchmarks/peers/bullmq/waiting.js`. ChasquiMQ is not
among them: it needs Redis 8.6 (`XADD IDMP`), and everything here runs on Valkey.
"""


def write(result: dict[str, Any], page: Path = PAGE) -> None:
    """Put a run's figures into the page. Raises BenchError when the page has no place for them."""
    text, count = _SECTION.subn(lambda _: section(result), page.read_text(), count=1)
    if not count:
        raise BenchError(f"{page} has no section 'Handlers that wait'")
    page.write_text(text)


def section(result: dict[str, Any]) -> str:
    """The section without its heading."""
    machine, versions = result["machine"], result["versions"]
    named = [f"{name} {versions[f'peers: {name}']}" for name in _VERSIONS if f"peers: {name}" in versions]
    busy = machine["busy_before"]
    run = (
        f"A {result['mode']} run of {result['when']}, {machine['cpu']}, {machine['cores']} cores, Python "
        f"{versions['python']}, Valkey {versions['valkey']}; {', '.join(named)}."
    )
    others = f" Others used {busy:.0%} of the machine at its start." if busy else ""
    found = figures.tables(result["measures"]["waiting"])
    return "\n".join([_INTRO, run + others, "", *(line for one in found for line in _lines(one)), ""])


def _lines(one: Figures) -> list[str]:
    """A table in Markdown, below its title."""
    title = one.title.removeprefix("Waiting: ")
    rows = [["", *one.columns], ["---"] * (len(one.columns) + 1), *one.rows]
    return [
        f"**{title[0].upper()}{title[1:]}**",
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else results.LATEST
    result = results.read(file)
    if "waiting" not in result["measures"]:
        raise SystemExit(
            f"{file} has no figures of handlers that wait; `python -m benchmarks --only waiting` takes them"
        )
    write(result)


if __name__ == "__main__":
    main()
