"""Writes what was measured into docs/performance.md, each section whose measures were taken, and some into README.md.

A full run does so; `python -m benchmarks.page FILE` does it with another run's file from benchmarks/results.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import figures, ratios, results
from benchmarks.figures import Figures
from benchmarks.machine import ROOT, BenchError
from benchmarks.waiting import figures as waiting

PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"

_README_BEGIN = "<!-- Written by python -m benchmarks, until the end of these tables. -->"
_README_END = "<!-- The end of these tables. -->"

_VERSIONS = ("taskiq", "taskiq-redis", "saq", "streaq", "bullmq", "dramatiq", "celery")

_WAITING = """
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


_NOTHING = """
<!-- Written by python -m benchmarks; benchmarks/page.py has its words. -->

The pipeline itself, without the time that handlers take.

* **Accept**: one receiver process on one core, wrk with 64 connections, one text message of 265 bytes; medians of
  interleaved rounds.
* **Drain**: a backlog is loaded, then one worker process empties it; ours with claims, typed events and settle.
* **Latency**: one worker beside the receiver on the same core; 1 in 11 is a message, the rest statuses.
* **Redis' CPU**: in a backlog, and when each notification is handled before the next one comes (100/s).
"""

_PLOTS = " ".join(f"![{name}](plots/{name}.svg)" for name in ("accept", "drain", "latency", "growth"))


def write(result: dict[str, Any], page: Path = PAGE, readme: Path = README) -> None:
    """Put a run's figures into the pages. Raises BenchError when one has no place for them."""
    measures = result["measures"]
    sections: list[tuple[str, list[str]]] = []
    if "waiting" in measures:
        found = list(waiting.tables(measures["waiting"]))
        sections.append(("## Handlers that wait", [_WAITING, _run(result), "", *_markdown(found)]))
        rates = [one for one in found if one.title.endswith(waiting.RATES)]
        _replace(readme, _README_BEGIN, _README_END, ["", *_markdown(rates)])
    if measures.keys() - {"waiting"}:
        targets = figures.of_targets(ratios.targets(measures, int(result["machine"]["cores"])))
        found = [*figures.tables(measures), targets._replace(rows=[row for row in targets.rows if row[2]])]
        lines = [_NOTHING, _run(result), "", *_markdown(found), _PLOTS, ""]
        sections.append(("## Handlers that do nothing", lines))
    for heading, lines in sections:
        _replace(page, heading, "## ", lines)


def _replace(page: Path, begin: str, end: str, lines: list[str]) -> None:
    """Put these lines between the line `begin` and the next one that starts with `end`."""
    before, found, rest = page.read_text().partition(f"{begin}\n")
    _, there, after = rest.partition(f"\n{end}")
    if not (found and there):
        raise BenchError(f"{page} has no part from {begin!r} to {end!r}")
    page.write_text("\n".join([before + begin, *lines, ""]) + there.removeprefix("\n") + after)


def _run(result: dict[str, Any]) -> str:
    """When, and on what."""
    machine, versions = result["machine"], result["versions"]
    named = [f"{name} {versions[f'peers: {name}']}" for name in _VERSIONS if f"peers: {name}" in versions]
    busy = machine["busy_before"]
    run = (
        f"A {result['mode']} run of {result['when']}, {machine['cpu']}, {machine['cores']} cores, Python "
        f"{versions['python']}, Valkey {versions['valkey']}; {', '.join(named)}."
    )
    return run + (f" Others used {busy:.0%} of the machine at its start." if busy else "")


def _markdown(found: Iterable[Figures]) -> Iterator[str]:
    """Each table below its title."""
    for one in found:
        title = one.title.removeprefix("Waiting: ")
        yield from (f"**{title[0].upper()}{title[1:]}**", "")
        for row in (("", *one.columns), ["---"] * (len(one.columns) + 1), *one.rows):
            yield f"| {' | '.join(row)} |"
        yield ""


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else results.LATEST
    write(results.read(file))


if __name__ == "__main__":
    main()
