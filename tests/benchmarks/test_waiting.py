"""Handlers that wait: what is sent, the times that are kept, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks import machine, page, programs
from benchmarks.machine import BenchError
from benchmarks.waiting import figures, marks, measure, schedule, sides, situations, waits
from benchmarks.waiting.marks import Times
from benchmarks.waiting.schedule import Due
from ingest.routing import route

OURS = sides.SIDES[0]


def message(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(body)["entry"][0]["changes"][0]["value"]["messages"][0]
    return found


def test_a_body_tells_its_number_and_its_wait() -> None:
    """Handlers know from the message alone which event it is and how long to wait."""
    body = schedule.body(4711, contact=3, ms=250, business=2)
    assert schedule.told(message(body)) == (4711, 0.25)
    assert route(body, 8)[0].queue.startswith("messages.")


def test_a_thousand_contacts_write() -> None:
    """In turn, so that order holds up nobody; or at random, so that it holds up some."""
    for who in (schedule.in_turn, schedule.at_random):
        assert {who(number) for number in range(10_000)} == set(range(schedule.CONTACTS))
    assert len({schedule.in_turn(number) for number in range(300)}) == 300
    assert 200 < len({schedule.at_random(number) for number in range(300)}) < 300


def test_a_schedule_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Senders of all peers read the same file."""
    events = [*schedule.steadily(10, 4.0, 100), *schedule.at_once(2, 100, first=10), Due(1.5, b'{"a": "b c"}')]
    schedule.write(tmp_path / "schedule", events)
    assert schedule.read(tmp_path / "schedule") == events
    assert events[3].after == 0.75


def test_times_are_shared_and_the_first_begin_counts(tmp_path: Path) -> None:
    """What one process writes another one reads; an event that is tried again began when it was tried first."""
    read = marks.create(tmp_path / "marks", 3)
    written = marks.Marks(tmp_path / "marks")
    written.began(1)
    first = read.read().began[1]
    written.began(1)
    written.ended(2)
    times = read.read()
    assert first > 0
    assert [bool(moment) for moment in times.began] == [False, True, False]
    assert times.began[1] == first
    assert [bool(moment) for moment in times.ended] == [False, False, True]


def times(began: list[float], ended: list[float]) -> Times:
    return Times(marks.array("d", began), marks.array("d", ended))


def test_a_rate_is_of_what_ended() -> None:
    """From the first begin to the last end; a run in which nothing ended has none."""
    assert waits.rate_of(times([10.0, 10.5, 11.0, 0.0], [11.0, 11.5, 0.0, 0.0])) == pytest.approx(2 / 1.5)
    with pytest.raises(BenchError, match="no handler ended"):
        waits.rate_of(times([10.0], [0.0]))


def test_what_has_not_begun_has_waited_until_now() -> None:
    """Leaving it out would make a worker look the better the more it leaves undone."""
    found = waits.of([1.0, 2.0, 3.0], [1.5, 0.0, 3.1], now=10.0)
    assert (found["count"], found["missing"], found["max_ms"]) == (3, 1, 8000.0)


def test_neighbours_share_a_partition() -> None:
    """Eight different contacts whose messages go to one queue."""
    contacts = situations.neighbours(8)
    queues = {route(schedule.body(0, contact, 0), 8)[0].queue for contact in contacts}
    assert len(set(contacts)) == 8
    assert len(queues) == 1


def test_moments_are_counted_by_seconds() -> None:
    """Those before, after and in the unfinished last second do not count."""
    assert situations.each_second([9.9, 10.0, 10.9, 11.5, 12.2], 10.0, 12.5) == [2, 1]


def test_slots_allow_what_their_time_allows() -> None:
    """100 slots of 10 ms are 10,000 a second, 8 of a second are 8."""
    assert measure.allowed("async", 10) == 10_000
    assert measure.allowed("plain", 1000) == 8


def test_a_side_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason is kept in its cell; the run takes many minutes."""

    def fail(*_: object) -> dict[str, Any]:
        raise BenchError("the peer ended")

    monkeypatch.setattr(measure, "_drain", fail)
    assert measure._figures(OURS, 100, quick=True) == {"failed": "the peer ended"}


def test_every_peer_has_its_program() -> None:
    """A row of the table is a module or script that is there, and every such module is a row."""
    named = {side.program for side in sides.SIDES if side is not OURS and side.name != "ours"}
    folder = machine.HERE / "peers" / "waiting"
    there = {file.stem for file in folder.glob("*.py")} - {"__init__", "common"}
    assert named == there | {"bullmq"}
    assert (machine.BULLMQ / "waiting.js").exists()


def test_the_lock_of_the_peers_names_no_registry() -> None:
    """Whoever installs it uses the registry of his own."""
    lines = (machine.HERE / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if "==" not in line or "://" in line or line.startswith("-")] == []


@pytest.mark.parametrize("side", [side for side in sides.SIDES if side.name == "ours"], ids=lambda side: side.form)
def test_ours_handles_a_schedule(tmp_path: Path, side: sides.Side) -> None:
    """Through receiver and worker: each event begins after it was posted, and lasts as long as it says."""
    file = tmp_path / "marks"
    kept = marks.create(file, 6)
    with (
        programs.valkey("everysec") as store,
        sides.entrance(side, store, file) as post,
        sides.working(side, store, file, []) as program,
    ):
        posted = post(schedule.at_once(6, 20))
        programs.wait_until(lambda: all(kept.read().ended), 60.0, "the last event", program)
    found = kept.read()
    assert all(began > due for due, began in zip(posted, found.began, strict=True))
    assert all(ended - began > 0.019 for began, ended in zip(found.began, found.ended, strict=True))


def rows(found: dict[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    return {table.title: table.rows for table in figures.tables(found)}


def test_a_cell_says_what_is_wrong_with_it(made_up: dict[str, Any]) -> None:
    """A failure, events that had not begun, and a sender that was too slow are not hidden in a figure."""
    found = rows(made_up["waiting"])
    (rates,) = (each for title, each in found.items() if title.endswith("slots / time") and "async" in title)
    assert rates == [("ours", "9,000 (90%)", "990 (99%)", "yes"), ("SAQ", "failed", "500 (50%)", "no")]
    (wait,) = (each for title, each in found.items() if title.endswith("p99 ms") and "async" in title)
    assert wait[0][2] == "50.0 / 99.0"
    assert wait[1][2] == "50.0 / 99.0, 3 of 100 not begun at 700/s"


def test_each_phase_of_scaling_is_a_row(made_up: dict[str, Any]) -> None:
    """With the rate of each second, so that a dip shows."""
    lines = rows(made_up["waiting"])["Waiting: ours, rates"]
    assert lines[-3:] == [
        ("plain 50 ms, 1 worker: each second 160, 158, 159", "159", "99%"),
        ("plain 50 ms, then 4: each second 600, 640, 630", "630", "98%"),
        ("plain 50 ms, then 1 again: each second 160, 160, 160", "160", "100%"),
    ]


@pytest.fixture
def result(made_up: dict[str, Any]) -> dict[str, Any]:
    """A run as the page wants it."""
    machine = {"cpu": "a processor", "cores": 2, "busy_before": 0.3}
    versions = {"python": "3", "valkey": "9", "peers: saq": "1.2"}
    return {"when": "today", "mode": "quick", "machine": machine, "versions": versions, "measures": made_up}


def test_the_page_gets_its_section_and_keeps_the_rest(result: dict[str, Any], tmp_path: Path) -> None:
    """Written twice it is the same; what stands before and after stays."""
    file = tmp_path / "page.md"
    file.write_text("# Top\n\n## Handlers that wait\n\nold\n\n## Handlers that do nothing\n\nold\n\n## Next\n\nrest\n")
    readme = tmp_path / "readme.md"
    readme.write_text(f"Top\n{page._README_BEGIN}\n\nold\n\n{page._README_END}\n\nrest\n")
    page.write(result, file, readme)
    text = file.read_text()
    page.write(result, file, readme)
    assert file.read_text() == text
    assert text.startswith("# Top\n\n## Handlers that wait\n")
    assert text.endswith("\n\n## Next\n\nrest\n")
    assert "old" not in text
    assert "A quick run of today, a processor, 2 cores, Python 3, Valkey 9; saq 1.2." in text
    assert "| ours | 9,000 (90%) | 990 (99%) | yes |" in text
    told = readme.read_text()
    assert told.startswith("Top\n<!--")
    assert told.endswith(" -->\n\nrest\n")
    assert "old" not in told
    assert "| ours | 9,000 (90%) | 990 (99%) | yes |" in told
    assert "wait before begin" not in told


def test_a_page_without_the_section_is_an_error(result: dict[str, Any], tmp_path: Path) -> None:
    """Rather than figures that nobody finds."""
    (tmp_path / "page.md").write_text("# Top\n")
    with pytest.raises(BenchError, match="has no part from"):
        page.write(result, page.PAGE, tmp_path / "page.md")


def test_handlers_that_wait_come_first() -> None:
    """They are what users have; those that do nothing are ours to watch."""
    headings = [line for line in page.PAGE.read_text().splitlines() if line.startswith("## ")]
    assert headings[:2] == ["## Handlers that wait", "## Handlers that do nothing"]


def test_the_page_gets_the_other_figures_as_well(result: dict[str, Any], tmp_path: Path) -> None:
    """Of a run without handlers that wait, their section stays as it is."""
    file = tmp_path / "page.md"
    file.write_text("## Handlers that wait\n\nthese\n\n## Handlers that do nothing\n\nold\n\n## Next\n")
    measures = {"redis": {"message_backlog": 20.0, "message_alone": 1200.0}, "recovery": {"median": 0.5}}
    page.write(result | {"measures": measures}, file, tmp_path / "none")
    text = file.read_text()
    assert text.startswith("## Handlers that wait\n\nthese\n\n## Handlers that do nothing\n")
    assert text.endswith("\n\n## Next\n")
    assert "| message | 20 | 1,200 |" in text
    assert "| Redis' CPU: a message alone, µs | ≤ 250 | 1,200 | no |" in text
    assert "old" not in text
    assert "not measured" not in text
