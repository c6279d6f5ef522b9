"""The result of a simulated run, for people and programs, and why it failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ingest.terminal import counted, when
from workers.simulator.accounting import ENDED, Account
from workers.simulator.counters import Tally
from workers.simulator.verifying import Findings

FEW = 10
"""A run of no more notifications has a short report."""

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def as_json(tally: Tally, findings: Findings | Account | None) -> dict[str, Any]:
    """For a program; `wa-ingest simulate --help` says what the names mean."""
    found = {name: tally.latencies.quantile(share) for name, share in _QUANTILES.items()}
    return {
        "sent": tally.sent,
        "first_try": tally.first,
        "acknowledged": tally.acknowledged,
        "retried": tally.retried,
        "given_up": tally.given_up,
        "unacknowledged": tally.unacknowledged,
        "duplicates": tally.duplicates,
        "posts": tally.posts,
        "answers": dict(sorted(tally.answers.items())),
        "seconds": round(tally.seconds, 3),
        "rate": round(tally.rate, 1),
        "latency_seconds": {name: None if one is None else round(one, 6) for name, one in found.items()},
        "over_1s": round(tally.over_1s, 6),
        "rule": {True: "ok", False: "broken", None: None}[tally.fast_enough],
        "stopped": tally.stopped,
        "verify": _verified(findings),
    }


def _verified(findings: Findings | Account | None) -> dict[str, Any] | None:
    if isinstance(findings, Account):
        counted = {"ended": findings.ended, "missing": findings.missing}
        return findings._asdict() | counted | {"repeated": None, "out_of_order": None}
    return findings._asdict() if findings else None


def table(tally: Tally, findings: Findings | Account | None) -> Table:
    """For a person."""
    few = tally.sent <= FEW
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    for name, value, wrong in (_of_few if few else _rows)(tally, findings):
        table.add_row(name, Text(value, style="bold red" if wrong else ""))
    if few:
        return table
    rule = {True: Text("ok", "green"), False: Text("broken", "bold red"), None: Text("-", "dim")}
    table.add_row("median ≤ 250 ms, < 1 % over 1 s", rule[tally.fast_enough])
    return table


def _of_few(tally: Tally, findings: Findings | Account | None) -> Iterator[tuple[str, str, bool]]:
    """The same for so few that shares and quantiles would say nothing; nothing of what has not happened."""
    yield "started", when(datetime.fromtimestamp(tally.began)), False
    yield "sent", f"{tally.sent:,}", False
    yield from _answers(tally)
    if (slowest := tally.latencies.quantile(1.0)) is not None:
        yield "slowest answer", f"{slowest * 1000:,.1f} ms", tally.fast_enough is False
    for name, count in (("given up", tally.given_up), ("not acknowledged yet", tally.unacknowledged)):
        if count:
            yield name, f"{count:,}", True
    if tally.duplicates:
        yield "duplicates", f"{tally.duplicates:,}", False
    yield from (row for row in _checked(findings) if row[1] != "0" or row[0] == "handled")


def _answers(tally: Tally) -> Iterator[tuple[str, str, bool]]:
    for answer, count in sorted(tally.answers.items()):
        yield f"requests: {answer}", f"{count:,}", answer != "200"


def _rows(tally: Tally, findings: Findings | Account | None) -> Iterator[tuple[str, str, bool]]:
    """Name, value, and whether it is bad."""
    yield "sent", f"{tally.sent:,}", False
    yield "200 at first try", f"{tally.first:,}", False
    yield "retried", f"{tally.retried:,}", False
    yield "given up", f"{tally.given_up:,}", tally.given_up > 0
    if tally.unacknowledged:
        yield "not acknowledged yet", f"{tally.unacknowledged:,}", True
    yield "duplicates", f"{tally.duplicates:,}", False
    yield from _answers(tally)
    yield "requests a second", f"{tally.rate:,.0f}", False
    for name, share in _QUANTILES.items():
        seconds = tally.latencies.quantile(share)
        yield f"latency {name}", "-" if seconds is None else f"{seconds * 1000:,.1f} ms", False
    yield "over 1 s", f"{tally.over_1s:.2%}", False
    yield from _checked(findings)


def _checked(findings: Findings | Account | None) -> Iterator[tuple[str, str, bool]]:
    if isinstance(findings, Account):
        yield "messages and statuses to be handled", f"{findings.expected:,}", False
        yield "ended, by what the pipeline counts", f"{findings.ended:,}", False
        for name in ENDED:
            if count := getattr(findings, name):
                yield f"  of these {name}", f"{count:,}", False
        for name in ("missing", "dead", "waiting", "retrying"):
            yield name, f"{getattr(findings, name):,}", getattr(findings, name) > 0
        yield "repeated, out of order", "not seen", False
    elif findings:
        yield "messages and statuses to be handled", f"{findings.expected:,}", False
        yield "handled", f"{findings.handled:,}", False
        for name in ("missing", "repeated", "out_of_order"):
            count = getattr(findings, name)
            permitted = name == "repeated" and findings.may_repeat
            yield name.replace("_", " "), f"{count:,}", count > 0 and not permitted
        if findings.set_back:
            yield "batches of dead workers put back, calls failed", f"{findings.set_back:,}", False


def wrong(tally: Tally, findings: Findings | Account | None) -> str | None:
    """Why it exits with 1, in one line."""
    if tally.stopped:
        return f"stopped; {_of(tally.unacknowledged + tally.given_up, tally)} not acknowledged"
    if tally.given_up:
        most = next(name for name, _ in tally.answers.most_common() if name != "200")
        return f"{_of(tally.given_up, tally)} given up; mostly: {most}"
    if findings is None or findings.good:
        return None
    if isinstance(findings, Account):
        return _unfinished(findings)
    if not findings.handled:
        return (
            "nothing was handled: do workers run with WA_HANDLERS=workers.simulator.verifying:handlers on this Redis?"
        )
    permitted = " (permitted, because a worker died or a handler failed)" if findings.may_repeat else ""
    found = (
        (findings.missing, "is missing", "are missing"),
        (findings.repeated, f"was handled more than once{permitted}", f"were handled more than once{permitted}"),
        (findings.out_of_order, "out of order", "out of order"),
    )
    return f"of {counted(findings.expected, 'update')} {_listed(*found)}"


def _of(count: int, tally: Tally) -> str:
    return f"{count:,} of {tally.sent:,} {'was' if count == 1 else 'were'}"


def _unfinished(found: Account) -> str:
    lost = _listed(
        (found.missing, "has not ended", "have not ended"),
        (found.dead, "is a dead letter", "are dead letters"),
    )
    owed = _listed(
        (found.waiting, "notification waits or is in work", "notifications wait or are in work"),
        (found.retrying, "event waits for its next try", "events wait for their next try"),
    )
    parts = [f"of {counted(found.expected, 'update')} {lost}" if lost else "", owed]
    where = ["`wa-ingest status`"] if owed or found.missing else []
    where += ["`wa-ingest dead causes`"] if found.dead else []
    return f"{'; '.join(filter(None, parts))}: see {' and '.join(where)}"


def _listed(*found: tuple[int, str, str]) -> str:
    """What there is of these, each a count and its words."""
    return ", ".join(counted(*one) for one in found if one[0])
