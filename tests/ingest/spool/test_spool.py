"""The files of the disk spool, against a plain model and whatever happens to files."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from ingest.spool import spool
from ingest.spool.spool import Spool
from ingest.state.spooled import SpoolFigures, spool_figures
from ingest.store import disk, segments

SHARED_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def replay(folder: Path) -> list[bytes]:
    """The bodies that the next replay brings into Redis, all of them."""
    found = Spool(folder)
    with found.replaying() as alone, found.appends_stopped():
        assert alone
        left = found.unreplayed()
        bodies = [spooled.kept for spooled in spool.read(left)]
        spool.note_read(left)
        assert found.unreplayed() == []
    return bodies


def segment_of(folder: Path) -> Path:
    """The only segment."""
    (path,) = folder.glob("*.spool")
    return path


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    """Damage one byte; the folder does not notice."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


class Spooling(RuleBasedStateMachine):
    """Processes append, crash in the middle of a write, replay a part and crash; disks flip bits.

    The model: what was acknowledged and not yet replayed, in order of arrival, by body.
    """

    processes = Bundle("processes")

    @initialize(segment_bytes=st.integers(100, 2000))
    def begin(self, segment_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY))
        self.usual = spool.SEGMENT_BYTES
        spool.SEGMENT_BYTES = segment_bytes
        self.now = self.number = 0
        self.owed: list[bytes] = []
        self.replayed: set[bytes] = set()
        self.unacknowledged: set[bytes] = set()
        self.damaged: set[bytes] = set()
        self.exact = True

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        self.check(replay(self.folder))
        assert self.owed == []
        aside = b"".join(path.read_bytes() for path in self.folder.glob("*.corrupt"))
        assert len(aside) >= sum(map(len, self.damaged))
        assert {path.suffix for path in self.folder.iterdir()} <= {".lock", ".corrupt"}
        spool.SEGMENT_BYTES = self.usual
        shutil.rmtree(self.folder)

    def bodies(self, contents: list[bytes], steps: list[int]) -> list[tuple[int, bytes]]:
        arrived = []
        for content, step in zip(contents, steps, strict=False):
            self.now += step
            self.number += 1
            arrived.append((self.now, b"%d:" % self.number + content))
        return arrived

    def check(self, bodies: list[bytes]) -> None:
        """What was just replayed is what is owed, in order; others only if they may come (again)."""
        new = [body for body in bodies if body not in self.replayed and body not in self.unacknowledged]
        assert new == self.owed[: len(new)]
        assert not self.damaged.intersection(new)
        if self.exact:
            assert len(new) == len(bodies)
        self.owed = self.owed[len(new) :]
        self.replayed.update(bodies)

    @rule(target=processes)
    def start(self) -> Spool:
        return Spool(self.folder)

    contents = st.lists(st.binary(max_size=300) | st.just(segments._MAGIC * 20), min_size=1, max_size=5)
    steps = st.lists(st.integers(0, 1), min_size=5, max_size=5)

    @rule(process=processes, contents=contents, steps=steps)
    def append(self, process: Spool, contents: list[bytes], steps: list[int]) -> None:
        arrived = self.bodies(contents, steps)
        assert process.append(arrived)
        self.owed += [body for _, body in arrived]

    @rule(process=consumes(processes), contents=contents, steps=steps, data=st.data())
    def crash_while_writing(self, process: Spool, contents: list[bytes], steps: list[int], data: st.DataObject) -> None:
        before = {path: path.stat().st_size for path in self.folder.glob("*.spool")}
        arrived = self.bodies(contents, steps)
        process.append(arrived)
        ((path, size),) = {
            path: path.stat().st_size
            for path in self.folder.glob("*.spool")
            if path.stat().st_size != before.get(path, 0)
        }.items()
        os.truncate(path, data.draw(st.integers(before.get(path, 0), size - 1), "torn at"))
        self.unacknowledged.update(body for _, body in arrived)
        self.exact = False

    @rule(data=st.data(), mask=st.integers(1, 255))
    def flip_in_a_record(self, data: st.DataObject, mask: int) -> None:
        """One bit or more of a record that is still owed."""
        found = []
        for path in sorted(self.folder.glob("*.spool")):
            segment = segments.look(path)
            start = segment.offset
            for spooled in segments.records(segment):
                # What comes behind a damaged record is found again, so the end of the one before is not its start.
                start = spooled.end - segments._HEAD - len(spooled.kept)
                if spooled.kept in self.owed:
                    found.append((path, start, spooled))
        if found:
            path, start, spooled = data.draw(st.sampled_from(found), "record")
            flip(path, data.draw(st.integers(start, spooled.end - 1), "offset"), mask)
            self.owed.remove(spooled.kept)
            self.damaged.add(spooled.kept)
            self.exact = False

    @rule(data=st.data(), mask=st.integers(1, 255))
    def flip_in_a_preamble(self, data: st.DataObject, mask: int) -> None:
        """Figures and progress may be lost, notifications not."""
        paths = [path for path in sorted(self.folder.glob("*.spool")) if path.stat().st_size >= segments.FIRST]
        if paths:
            flip(data.draw(st.sampled_from(paths)), data.draw(st.integers(0, segments.FIRST - 1)), mask)
            self.exact = False

    @rule(count=st.integers(0, 20))
    def replay_a_part(self, count: int) -> None:
        """Then the replaying process dies: another one goes on where Redis had acknowledged."""
        process = Spool(self.folder)
        with process.replaying(), process.appends_stopped():
            left = process.unreplayed()
        items = spool.read(left)
        some = [spooled for spooled, _ in zip(items, range(count), strict=False)]
        spool.note_replayed(some)
        self.check([spooled.kept for spooled in some])

    @rule()
    def replay_all(self) -> None:
        self.check(replay(self.folder))
        assert self.owed == []
        assert not list(self.folder.glob("*.spool"))

    @invariant()
    def figures_are_right(self) -> None:
        if hasattr(self, "folder") and self.exact:
            assert spool_figures(self.folder).notifications == len(self.owed)
            assert Spool(self.folder).empty() == (not list(self.folder.glob("*.spool")))


Spooling.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSpooling = Spooling.TestCase
TestSpooling.__doc__ = "Whatever happens, what was acknowledged comes out once and in order, or is set aside."


def test_body_byte_for_byte(tmp_path: Path) -> None:
    """Any body and its time of arrival come back as they were."""
    bodies = [b"", bytes(range(256)) * 4, b"\xf5wa1" * 100, "žluťoučký".encode()]
    Spool(tmp_path).append([(1_795_255_946_789 + n, body) for n, body in enumerate(bodies)])
    found = list(spool.read(Spool(tmp_path).unreplayed()))
    assert [(spooled.received_ms, spooled.kept) for spooled in found] == [
        (1_795_255_946_789 + n, body) for n, body in enumerate(bodies)
    ]


def test_synced_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append ends with one sync of all it wrote, and of the folder when the segment is new."""
    synced: list[int] = []
    folders: list[Path] = []
    real = segments.sync
    monkeypatch.setattr(segments, "sync", lambda fd: (real(fd), synced.append(os.fstat(fd).st_size)))
    process = Spool(tmp_path)
    monkeypatch.setattr(segments, "sync_folder", folders.append)
    for n in range(1, 4):
        process.append([(n, b"x" * n)] * 100)
        assert len(synced) == n
        assert synced[-1] == segment_of(tmp_path).stat().st_size
    assert folders == [tmp_path]


def test_failed_sync_is_no_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk says no, so does append; the segment is left alone, what was kept before stays, and it goes on."""
    process = Spool(tmp_path)
    process.append([(1, b"one")])
    first = segment_of(tmp_path)

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(segments, "sync", broken)
        with pytest.raises(OSError, match="Input/output"):
            process.append([(2, b"two")])
    process.append([(3, b"three")])
    assert len(list(tmp_path.glob("*.spool"))) == 2
    assert [spooled.kept for spooled in segments.records(segments.look(first))] == [b"one"]
    assert replay(tmp_path) == [b"one", b"three"]


def test_full_disk(small_disk: Path) -> None:
    """A full disk is an error and leaves nothing torn; with room again the same segment goes on."""
    process = Spool(small_disk)
    kept = 12
    for n in range(kept):
        process.append([(n, b"%d:" % n + b"x" * 300_000)])
    size = segment_of(small_disk).stat().st_size
    with pytest.raises(OSError, match="No space left"):
        process.append([(kept, b"x" * 3_000_000)])
    assert segment_of(small_disk).stat().st_size == size
    assert disk.problem(small_disk) == "No space left on device"
    assert spool_figures(small_disk).notifications == kept
    process.append([(kept, b"small")])
    assert [body.partition(b":")[0] for body in replay(small_disk)] == [b"%d" % n for n in range(kept)] + [b"small"]
    assert disk.problem(small_disk) is None
    process.append([(kept, b"x" * 3_000_000)])


def test_start_on_a_full_disk(small_disk: Path) -> None:
    """What fills the disk may be what is to be replayed: a process starts all the same, and makes room."""
    process = Spool(small_disk)
    process.append([(1, b"one")])
    (small_disk / "ballast").write_bytes(b"")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(5 << 20))
    assert replay(small_disk) == [b"one"]


def test_damage_is_set_aside(tmp_path: Path) -> None:
    """A damaged record lies in a file of its own, once, however often it is read; the others come out."""
    Spool(tmp_path).append([(n, b"body %d" % n) for n in range(5)])
    path = segment_of(tmp_path)
    found = list(segments.records(segments.look(path)))
    flip(path, found[1].end + 2)  # the header of the third
    flip(path, found[3].end - 1)  # the body of the fourth
    damaged = path.read_bytes()
    for _ in range(2):
        assert [spooled.kept for spooled in segments.records(segments.look(path))] == [b"body 0", b"body 1", b"body 4"]
    aside = [tmp_path / f"{path.stem}.{found[n].end}.corrupt" for n in (1, 2)]
    assert sorted(tmp_path.glob("*.corrupt")) == sorted(aside)
    assert aside[0].read_bytes() == damaged[found[1].end : found[2].end]
    assert aside[1].read_bytes() == damaged[found[2].end : found[3].end]
    assert spool_figures(tmp_path).corrupt == 2


def test_torn_end(tmp_path: Path) -> None:
    """Wherever a write was torn, the record is cut off without a word; the ones before it come out."""
    Spool(tmp_path).append([(1, b"one"), (2, b"two")])
    path = segment_of(tmp_path)
    (_, last), whole = list(segments.records(segments.look(path))), path.read_bytes()
    for size in range(last.end - len(b"two") - segments._HEAD, last.end):
        path.write_bytes(whole[:size])
        assert [spooled.kept for spooled in segments.records(segments.look(path))] == [b"one"]
    assert not list(tmp_path.glob("*.corrupt"))
    assert replay(tmp_path) == [b"one"]


def test_body_that_holds_a_spool(tmp_path: Path) -> None:
    """Bytes of a spool inside a body never pass for a record, not even when the one around them is damaged."""
    Spool(tmp_path / "other").append([(1, b"forged")])
    inside = segment_of(tmp_path / "other").read_bytes()
    Spool(tmp_path).append([(1, inside), (2, b"next")])
    flip(segment_of(tmp_path), segments.FIRST)
    assert replay(tmp_path) == [b"next"]


def test_order_of_arrival_over_processes(tmp_path: Path) -> None:
    """Several processes' notifications are merged by arrival; in the same millisecond, by when they were spooled."""
    processes = [Spool(tmp_path) for _ in range(3)]
    for n in range(60):
        processes[n * 7 % 3].append([(n // 10, b"%d" % n)])
    assert replay(tmp_path) == [b"%d" % n for n in range(60)]


def test_emptiness_of_others(tmp_path: Path) -> None:
    """A process notices at once what another spooled or replayed, however close in time."""
    one, other = Spool(tmp_path), Spool(tmp_path)
    for n in range(200):
        assert one.empty()
        other.append([(n, b"")])
        assert not one.empty()
        assert replay(tmp_path) == [b""]


def test_emptiness_where_time_is_coarse(tmp_path: Path) -> None:
    """Two changes of the folder may bear the same time: what changed lately is looked at again."""
    process, now = Spool(tmp_path), time.time_ns()
    os.utime(tmp_path, ns=(now, now))
    assert process.empty()
    Spool(tmp_path).append([(1, b"")])
    os.utime(tmp_path, ns=(now, now))
    assert not process.empty()


def test_one_stat_when_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that has not changed lately, the question whether it is empty costs one stat."""
    process = Spool(tmp_path)
    os.utime(tmp_path, (time.time() - 60, time.time() - 60))
    assert process.empty()
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("the folder was read"))
    assert process.empty()


def test_append_unless_empty(tmp_path: Path) -> None:
    """With nothing left to replay it keeps nothing and says so."""
    process = Spool(tmp_path)
    assert not process.append([(1, b"one")], unless_empty=True)
    assert replay(tmp_path) == []
    process.append([(1, b"one")])
    assert Spool(tmp_path).append([(2, b"two")], unless_empty=True)
    assert replay(tmp_path) == [b"one", b"two"]
    assert not process.append([(3, b"three")], unless_empty=True)


def test_appends_wait_while_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While appends are stopped nobody writes; after it they go on."""
    process, waits = Spool(tmp_path), threading.Event()
    real = spool._lock

    def lock(fd: int, how: int) -> bool:
        got = real(fd, how)
        if not got:
            waits.set()
        return got

    monkeypatch.setattr(spool, "_lock", lock)
    with Spool(tmp_path).appends_stopped():
        thread = threading.Thread(target=process.append, args=([(1, b"one")],))
        thread.start()
        assert waits.wait(30)
        assert not list(tmp_path.glob("*.spool"))
    thread.join()
    assert replay(tmp_path) == [b"one"]


def test_append_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is frozen while it keeps the others waiting costs them an error, not their lives."""
    monkeypatch.setattr(spool, "LOCK_SECONDS", 0.05)
    with Spool(tmp_path).appends_stopped(), pytest.raises(TimeoutError):
        Spool(tmp_path).append([(2, b"two")])
    assert replay(tmp_path) == []


def test_one_replays(tmp_path: Path) -> None:
    """One process at a time replays; the next may when it has ended."""
    one, other = Spool(tmp_path), Spool(tmp_path)
    with one.replaying() as alone:
        assert alone
        with other.replaying() as also:
            assert not also
    with other.replaying() as alone:
        assert alone


def test_writer_goes_on_while_it_is_replayed(tmp_path: Path) -> None:
    """What a process appends behind the replayed part of its segment is neither lost nor repeated."""
    process, reader = Spool(tmp_path), Spool(tmp_path)
    process.append([(1, b"one")])
    with reader.appends_stopped():
        left = reader.unreplayed()
    process.append([(2, b"two")])
    assert [spooled.kept for spooled in spool.read(left)] == [b"one"]
    spool.note_read(left)
    assert replay(tmp_path) == [b"two"]
    process.append([(3, b"three")])
    assert replay(tmp_path) == [b"three"]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Reading 64 MiB of spool takes little memory."""
    process = Spool(tmp_path)
    for n in range(16):
        process.append([(n, bytes(100_000))] * 42)
    assert len(list(tmp_path.glob("*.spool"))) > 2
    tracemalloc.start()
    try:
        assert sum(len(spooled.kept) for spooled in spool.read(Spool(tmp_path).unreplayed())) == 16 * 42 * 100_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_figures(tmp_path: Path) -> None:
    """Figures count what is left, also when a part of a segment is replayed; no folder, no figures."""
    assert spool_figures(tmp_path / "none") == SpoolFigures()
    now = time.time_ns() // 1_000_000
    process = Spool(tmp_path)
    process.append([(now - 60_000, b"x" * 100), (now - 30_000, b"x" * 100), (now, b"x" * 100)])
    found = spool_figures(tmp_path)
    assert (found.notifications, found.corrupt) == (3, 0)
    assert 300 < found.bytes < 600
    assert 60 <= found.oldest_seconds < 90
    some = [next(spool.read(process.unreplayed()))]
    spool.note_replayed(some)
    assert spool_figures(tmp_path).notifications == 2
    replay(tmp_path)
    assert spool_figures(tmp_path) == SpoolFigures()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text(""), "Not a directory"),
        (lambda path: path.symlink_to(path.parent / "nowhere"), "No such file or directory"),
    ],
)
def test_folder_that_is_none(tmp_path: Path, make: Callable[[Path], Any], reason: str) -> None:
    """What is no folder cannot be a spool."""
    make(tmp_path / "spool")
    with pytest.raises(OSError, match=reason):
        Spool(tmp_path / "spool")


def test_private(tmp_path: Path) -> None:
    """Only the receiver's user can read what is spooled."""
    Spool(tmp_path / "spool").append([(1, b"one")])
    assert (tmp_path / "spool").stat().st_mode & 0o77 == 0
    assert segment_of(tmp_path / "spool").stat().st_mode & 0o77 == 0
