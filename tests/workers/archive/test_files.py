"""The archive: what workers write before they settle, what they remove, how files are read."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis
from zstandard import ZstdDecompressor

from ingest.child import GIVE_UP
from ingest.routing import route
from ingest.settings import SettingsError
from ingest.store import keys
from ingest.store.records import unpack
from workers.archive import files
from workers.archive.files import HOUR_MS, Archive
from workers.handlers import Handlers
from workers.raised import RetryIn

RECEIVED = 1_700_000_000_000  # 2023-11-14T22:13:20Z
Commit = Callable[..., None]
Runner = Callable[..., Any]

HANDLERS = """
import os
from workers import Handlers

handlers = Handlers()

@handlers.message()
@handlers.status()
def record(event):
    with open(os.environ["SEEN"], "a") as out:
        out.write(event.id + "\\n")
"""


def no_wait() -> bool:
    return False


def no_fault(line: str) -> None:
    raise AssertionError(line)


def read(folder: Path, tell: Callable[[str], None] = no_fault) -> list[tuple[int, bytes]]:
    """What the archive holds, file by file."""
    found = [block for path in files.files([folder], tell) for block in files.blocks(path, tell)]
    return [record for block in found for record in files.records(block, tell)]


def bodies(folder: Path) -> list[bytes]:
    return sorted(body for _, body in read(folder))


def handle(runner: Runner, take: Callable[..., Any], redis: Redis, registry: Handlers, **settings: Any) -> None:
    """Take and run batches until nothing is left that is due."""
    running = runner(registry, **settings)
    while isinstance(taken := take(), tuple):
        running.run(*taken)


@pytest.fixture
def registry() -> Handlers:
    handlers = Handlers()
    handlers.message()(lambda event: None)
    handlers.status()(lambda event: None)
    return handlers


def test_any_bytes(tmp_path: Path) -> None:
    """Bodies and their times come back as they were, by hour, also with the standard tool's reading of the format."""
    given = [(RECEIVED + n, body) for n, body in enumerate([b"", bytes(range(256)) * 99, b"\x5f\x2a\x4d\x18wa-1" * 9])]
    later = (RECEIVED + HOUR_MS, os.urandom(100_000))
    kept = Archive(tmp_path / "a", "w1")
    assert kept.keep([*given, later], no_wait)
    assert kept.keep(given, no_wait)
    assert read(tmp_path / "a") == [*given, *given, later]
    first, second = sorted((tmp_path / "a").rglob("*.zst"))
    assert (first.relative_to(tmp_path), second.name) == (Path("a/2023-11-14/22-w1-0.zst"), "23-w1-0.zst")
    with ZstdDecompressor().stream_reader(io.BytesIO(second.read_bytes()), read_across_frames=True) as plain:
        assert plain.read().endswith(later[1])


def test_modes(tmp_path: Path) -> None:
    """Nobody else may read what is kept."""
    Archive(tmp_path / "deep" / "a", "w1").keep([(RECEIVED, b"x")], no_wait)
    for path in ((tmp_path / "deep" / "a"), *(tmp_path / "deep" / "a").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_one_sync_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A settle costs one sync of the file; the names of a new file and its folder are synced, too."""
    synced, folders = [], []
    monkeypatch.setattr(files, "sync", lambda fd: synced.append(os.fstat(fd).st_size))
    kept = Archive(tmp_path, "w1")
    monkeypatch.setattr(files, "sync_folder", folders.append)
    for _ in range(3):
        kept.keep([(RECEIVED, b"x")] * 500, no_wait)
    (path,) = tmp_path.rglob("*.zst")
    assert len(synced) == 3
    assert synced[-1] == path.stat().st_size
    assert folders == [path.parent, tmp_path]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk says no, what was written is taken back, in every file; the next write begins a file of its own."""
    kept = Archive(tmp_path, "w1")
    kept.keep([(RECEIVED, b"one")], no_wait)
    calls: list[int] = []

    def broken(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", broken)
        assert not kept.keep([(RECEIVED, b"two"), (RECEIVED + HOUR_MS, b"two")], no_wait)
    assert [path.name for path in tmp_path.rglob("*.zst")] == ["22-w1-0.zst"]
    assert kept.keep([(RECEIVED, b"three")], no_wait)
    assert bodies(tmp_path) == [b"one", b"three"]
    assert sorted(path.name for path in tmp_path.rglob("*.zst")) == ["22-w1-0.zst", "22-w1-1.zst"]


@pytest.mark.parametrize("cut", [1, 30, files.HEAD, files.HEAD + 5])
def test_torn(tmp_path: Path, cut: int) -> None:
    """A block that a crash cut off costs nothing of those before it, and is said in one line."""
    kept = Archive(tmp_path, "w1")
    kept.keep([(RECEIVED, b"one")], no_wait)
    (path,) = tmp_path.rglob("*.zst")
    good = path.stat().st_size
    kept.keep([(RECEIVED, b"two")], no_wait)
    os.truncate(path, good + cut)
    told: list[str] = []
    assert read(tmp_path, told.append) == [(RECEIVED, b"one")]
    assert told == [f"{path}: left out from byte {good} on: a write that a crash cut off, or damage"]


def test_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that is being written while the file is read is waited for."""
    kept = Archive(tmp_path, "w1")
    kept.keep([(RECEIVED, b"one")], no_wait)
    (path,) = tmp_path.rglob("*.zst")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    monkeypatch.setattr(time, "sleep", lambda _: path.write_bytes(whole))
    assert read(tmp_path) == [(RECEIVED, b"one")]


def test_damaged(tmp_path: Path) -> None:
    """A damaged block is said and left out, those behind it are read; a file of something else is named as such."""
    kept = Archive(tmp_path, "w1")
    for body in (b"one", b"two" * 1000, b"three"):
        kept.keep([(RECEIVED, body)], no_wait)
    (path,) = tmp_path.rglob("*.zst")
    _, second, _ = files.blocks(path, no_fault)
    data = bytearray(path.read_bytes())
    data[second.offset + second.length - 1] ^= 1
    path.write_bytes(data)
    (tmp_path / "other.zst").write_bytes(os.urandom(1000))
    (tmp_path / "notes.txt").write_text("mine")
    told: list[str] = []
    assert [body for _, body in read(tmp_path, told.append)] == [b"one", b"three"]
    assert told == [
        f"{tmp_path / 'other.zst'}: it is no file of the archive",
        f"{path}: damaged at byte {second.offset}, 1 notification is left out",
    ]


def test_prune(tmp_path: Path) -> None:
    """Files go by the hour in their names, never by their own times; what is not the archive's stays."""
    kept = Archive(tmp_path, "w1")
    now = round(time.time() * 1000) // HOUR_MS * HOUR_MS
    for hours in (0, 1, 2, 3, 30, 100):
        kept.keep([(now - hours * HOUR_MS, b"%d" % hours)], no_wait)
    mine = sorted(tmp_path.iterdir())[0] / "00-mine.txt"
    mine.touch()
    for path in tmp_path.rglob("*.zst"):
        os.utime(path, (0, 0))
    files.prune(tmp_path, 2 * 3600)
    assert bodies(tmp_path) == [b"0", b"1", b"2"]
    assert mine.exists()
    assert all(list(day.iterdir()) for day in tmp_path.iterdir())  # the days before are gone, and their folders
    files.prune(tmp_path, 1e12)
    assert bodies(tmp_path) == [b"0", b"1", b"2"]


def test_prune_says_when_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be read is one line in the log, and no exception."""
    files.prune(tmp_path / "missing", 1)
    assert "old files of the archive cannot be removed" in capsys.readouterr().err


def test_every_notification_once(
    runner: Runner,
    take: Any,
    commit: Commit,
    redis: Redis,
    registry: Handlers,
    message: Any,
    status: Any,
    tmp_path: Path,
) -> None:
    """All that is settled is kept, byte for byte: also what is unreadable or a copy; of several partitions, by each."""
    several = orjson.dumps({"messages": [{"from": str(n), "id": f"m{n}", "type": "text"} for n in range(20)]})
    sent = [message("1"), message("1"), status("1"), b"{", b"\xff\x00", several, b'{"entry": []}']
    commit(*sent)
    handle(runner, take, redis, registry, archive_dir=tmp_path)
    partitions = len(route(several, 8))
    assert partitions > 1
    assert bodies(tmp_path) == sorted([*sent, *[several] * (partitions - 1)])
    assert {ms for ms, _ in read(tmp_path)} == {RECEIVED}


def test_retries_are_not_kept_again(
    runner: Runner, take: Any, commit: Commit, redis: Redis, status: Any, tmp_path: Path
) -> None:
    """What fails is in the archive as it came, and not once more with every try."""
    handlers = Handlers()

    @handlers.status()
    def fail(event: Any) -> None:
        if event.attempt < 3:
            raise RetryIn(0.01)

    commit(status("1"))
    running = runner(handlers, archive_dir=tmp_path)
    deadline = time.monotonic() + 20
    while redis.exists(keys.LEDGER) and time.monotonic() < deadline:
        if isinstance(taken := take(), tuple):
            running.run(*taken)
    assert not redis.exists(keys.LEDGER)
    assert bodies(tmp_path) == [status("1")]


@pytest.mark.parametrize("is_async", [False, True])
def test_disk_that_fails(
    runner: Runner,
    take: Any,
    commit: Commit,
    redis: Redis,
    status: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[Any],
    is_async: bool,
) -> None:
    """While the archive cannot be written no event begins and nothing is settled; then it goes on, nothing twice."""
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.01)
    seen: list[str] = []
    owed: list[int] = []
    begun: list[int] = []
    handlers = Handlers()

    def sync_handler(event: Any) -> None:
        seen.append(event.id)
        time.sleep(0.02)

    async def async_handler(event: Any) -> None:
        seen.append(event.id)
        await asyncio.sleep(0.02)

    handlers.status()(async_handler if is_async else sync_handler)

    def broken(fd: int) -> None:
        owed.append(redis.llen(keys.batch_key(taken[1])))
        begun.append(len(seen))
        if len(owed) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", broken)
    commit(*[status(str(n)) for n in range(10)])
    taken = take()
    running = runner(handlers, archive_dir=tmp_path, concurrency=1)
    running.run(*taken)
    assert owed[:5] == [10] * 5
    assert begun[4] == begun[2] <= 3  # what had a slot when the disk failed first may still begin
    assert sorted(seen) == [str(n) for n in range(10)]
    assert bodies(tmp_path) == [status(str(n)) for n in range(10)]
    assert [(line["event"], line["log_level"]) for line in logged if "archive" in line["event"]] == [
        ("the archive cannot be written, work waits until it can", "error"),
        ("the archive is written again", "info"),
    ]


def test_stop_while_the_disk_fails(
    runner: Runner,
    take: Any,
    commit: Commit,
    redis: Redis,
    status: Any,
    tmp_path: Path,
    registry: Handlers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that is told to stop meanwhile does, and the batch is still owed, whole."""
    commit(status("1"), status("2"))
    taken = take()
    running = runner(registry, archive_dir=tmp_path)

    def broken(fd: int) -> None:
        running.stop.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "sync", broken)
    running.run(*taken)
    assert redis.llen(keys.batch_key(taken[1])) == 2
    assert redis.hexists(keys.TAKEN, "|".join(taken))
    assert read(tmp_path) == []


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A folder that can never be written stops the start with one line that names the variable."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="WA_ARCHIVE_DIR: cannot write to "):
        Archive(tmp_path / "file", "w1")


@pytest.fixture
def worker(
    run_module: Callable[..., Any], tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Start a worker process that archives into `archive`; its lines are in `log`."""
    (tmp_path / "bot.py").write_text(HANDLERS)
    (tmp_path / "seen").touch()
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("WA_HANDLERS", "bot:handlers")
    monkeypatch.setenv("WA_ARCHIVE_DIR", str(tmp_path / "archive"))

    def start(*arguments: str, **options: Any) -> Any:
        with (tmp_path / "log").open("a") as log:
            return run_module("workers.engine.worker", *arguments, cwd=tmp_path, stdout=log, **options)

    return start


def test_worker_says_so(worker: Callable[..., Any], tmp_path: Path) -> None:
    """A worker process that may not write there ends with that line and is not started again."""
    (tmp_path / "archive").touch()
    assert worker("--burst").wait(30) == GIVE_UP
    assert "wa-ingest: WA_ARCHIVE_DIR: cannot write to" in (tmp_path / "log").read_text()


def still_owed(redis: Redis) -> list[bytes]:
    found = redis.scan_iter(f"{keys.WA}batch:*", count=1000)
    return [unpack(record).body for key in found for record in redis.lrange(key, 0, -1)]


def test_killed_while_it_archives(
    worker: Callable[..., Any],
    commit: Commit,
    status: Any,
    redis: Redis,
    wait_for: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However often workers are killed: what Redis does not hold any more is in the archive, and in the end all is."""
    sent = {status(str(n)): 0 for n in range(1500)}
    commit(*sent, batch=20)
    monkeypatch.setenv("SLEEP", "0.001")
    generator = random.Random(7)
    mine = len(redis.client_list())
    folder = tmp_path / "archive"
    for _ in range(3):
        before = len(still_owed(redis))
        process = worker()
        wait_for(lambda before=before: len(still_owed(redis)) < before)
        time.sleep(generator.uniform(0, 0.1))
        process.kill()
        process.wait()
        wait_for(lambda: len(redis.client_list()) == mine, what="the end of its connections")
        assert {*still_owed(redis), *(body for _, body in read(folder, lambda _: None))} == set(sent)
    assert still_owed(redis)
    redis.delete(keys.ALIVE)
    redis.zadd(keys.ALIVE, {"bystander": time.time() * 1000})
    process = worker()
    wait_for(lambda: not redis.exists(keys.LEDGER))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    found = Counter(body for _, body in read(folder, lambda _: None))
    assert set(found) == set(sent)
    assert set((tmp_path / "seen").read_text().split()) == {str(n) for n in range(1500)}


POISON = HANDLERS.replace(
    "    with open",
    """    if event.id == "poison":
        os.kill(os.getpid(), 9)
    with open""",
)


def test_what_kills_its_worker(
    worker: Callable[..., Any], commit: Commit, status: Any, redis: Redis, wait_for: Any, tmp_path: Path
) -> None:
    """A notification that ends as `poison` is never settled, and is kept all the same: before the last try."""
    (tmp_path / "bot.py").write_text(POISON)
    sent = [status(str(n)) for n in range(20)] + [status("poison")]
    commit(*sent)
    for deaths in (1, 2, 3):
        assert worker().wait(60) == -signal.SIGKILL
        assert (status("poison") in bodies(tmp_path / "archive")) is (deaths == 3)
        redis.delete(keys.ALIVE, keys.REAPER)
        redis.zadd(keys.ALIVE, {"bystander": time.time() * 1000})
    process = worker()
    wait_for(lambda: not redis.exists(keys.LEDGER))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert redis.xlen(keys.dead_key("statuses")) == 1
    assert set(bodies(tmp_path / "archive")) == set(sent)


def test_full_disk(
    worker: Callable[..., Any],
    commit: Commit,
    status: Any,
    redis: Redis,
    wait_for: Any,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With a full disk a worker waits, alive, with its batch; when there is room again it goes on by itself."""
    monkeypatch.setenv("WA_ARCHIVE_DIR", str(small_disk / "archive"))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        file.writelines([bytes(4096)] * 2000)
    commit(*[status(str(n)) for n in range(600)])
    log = tmp_path / "log"
    process = worker()
    wait_for(lambda: "the archive cannot be written" in log.read_text())
    assert len(still_owed(redis)) == 600
    ballast.unlink()
    wait_for(lambda: not redis.exists(keys.LEDGER))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert sorted((tmp_path / "seen").read_text().split(), key=int) == [str(n) for n in range(600)]
    assert bodies(small_disk) == sorted(status(str(n)) for n in range(600))
    assert log.read_text().count("the archive cannot be written") == 1
    assert "Traceback" not in log.read_text()


def test_largest_file(worker: Callable[..., Any], commit: Commit, redis: Redis, wait_for: Any, tmp_path: Path) -> None:
    """Also where a file takes only a part: what was settled before can be read, the rest waits and is not lost."""
    sent = [orjson.dumps({"statuses": [{"id": str(n), "x": os.urandom(500).hex()}]}) for n in range(100)]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    commit(*sent, batch=10)
    process = worker(preexec_fn=limit)
    log = tmp_path / "log"
    wait_for(lambda: "the archive is written again" in log.read_text())
    wait_for(lambda: not redis.exists(keys.LEDGER), 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert bodies(tmp_path / "archive") == sorted(sent)
    assert sorted((tmp_path / "seen").read_text().split(), key=int) == [str(n) for n in range(100)]


def test_pruned_by_workers(worker: Callable[..., Any], redis: Redis, wait_for: Any, tmp_path: Path) -> None:
    """A worker removes what is older than WA_ARCHIVE_AGE by itself."""
    Archive(tmp_path / "archive", "w0").keep([(RECEIVED, b"old")], no_wait)
    code = "from workers.engine import worker; worker._TRIM_EVERY = 1; worker.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])},
    )
    try:
        wait_for(lambda: not list((tmp_path / "archive").iterdir()))
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]
