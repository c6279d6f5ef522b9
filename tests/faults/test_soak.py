"""How the soak judges what it has seen (`make soak` runs it for an hour)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.soak_report import NAMED_AS, Hang, Sample, Seen, complaints, log_lines, memory, named


def _line(handler: str, at: float, event: str = "", pid: int = 1) -> dict[str, Any]:
    timestamp = datetime.fromtimestamp(at, UTC).isoformat()
    return {"event": event or NAMED_AS[handler][0], "handler": f"bot.{handler}", "timestamp": timestamp, "pid": pid}


def test_each_hang_needs_a_line_of_its_own() -> None:
    """Two hangs of a handler are not named by one line, nor by another handler's, another process', an earlier or a
    much later one.
    """
    hangs = [Hang(100.0, 1, "hangs_in_a_thread"), Hang(103.0, 1, "hangs_in_a_thread")]
    others = [
        _line("hangs_in_a_thread", 99.0),
        _line("hangs_in_a_thread", 200.0),
        _line("hangs_in_a_thread", 108.0, event="events failed"),
        _line("blocks", 105.0),
        _line("hangs_in_a_thread", 105.0, pid=2),
    ]
    alive = {1: 150.0}
    assert named(hangs, others, alive)["hangs_in_a_thread"].unnamed == hangs
    found = named(hangs, [*others, _line("hangs_in_a_thread", 105.0)], alive)["hangs_in_a_thread"]
    assert (found.begun, found.named, found.unnamed) == (2, 1, hangs[1:])


@pytest.mark.parametrize(("last_seen", "ended"), [(104.0, 1), (130.0, 0)])
def test_a_process_that_ended_named_nothing(last_seen: float, ended: int) -> None:
    """A hang whose process was killed before its time was over is not missed in the log."""
    of_another = _line("hangs_on_the_loop", 111.0 if ended else 140.0)
    found = named([Hang(100.0, 1, "hangs_on_the_loop")], [of_another], {1: last_seen})["hangs_on_the_loop"]
    assert (found.ended, len(found.unnamed)) == (ended, 1 - ended)


def test_memory_by_thirds() -> None:
    """Medians of the second and the last third are compared, without processes that are only just starting."""
    samples = [Sample(at, "worker", 60.0, rss) for at, rss in [(5.0, 10), (45.0, 100), (75.0, 120), (89.0, 140)]]
    samples += [Sample(75.0, "worker", 1.0, 9000), Sample(91.0, "worker", 60.0, 9000), Sample(5.0, "receiver", 60.0, 1)]
    (found,) = memory(samples, 90.0).items()
    assert found == ("worker", (100, 130, 140))
    assert found[1].growth == pytest.approx(1.3)


def test_what_was_seen_grows(tmp_path: Path) -> None:
    """What handlers write is read once, also a line that was half written at the first look."""
    seen, file = Seen(tmp_path), tmp_path / "1"
    lines = [json.dumps([at, 1, what, "7"]) for at, what in [(1.0, "handled"), (2.0, "blocks"), (3.0, "handled")]]
    file.write_text("\n".join(lines)[:-3])
    seen.look()
    assert (dict(seen.handled), seen.hangs) == ({"7": 1}, [Hang(2.0, 1, "blocks")])
    file.write_text("\n".join(lines) + "\n")
    seen.look()
    assert (dict(seen.handled), len(seen.hangs)) == ({"7": 2}, 1)


def test_complaints(tmp_path: Path) -> None:
    """Of a log with other text in it, warnings and errors are counted."""
    lines = [json.dumps({"event": "gone", "level": level}) for level in ("info", "error", "error")]
    (tmp_path / "log").write_text("\n".join(["Fatal Python error: Aborted", *lines]))
    assert complaints(log_lines(tmp_path / "log")) == {("error", "gone"): 2}
