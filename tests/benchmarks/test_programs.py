"""Programs that a measure starts end with it, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks import accept, contenders
from benchmarks.machine import ROOT, BenchError
from benchmarks.programs import running, valkey, wait_until

# A program with a child that ignores SIGTERM; both say their pid.
STUBBORN = """
import os, signal, subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
print(os.getpid(), process.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Does it still run? A zombie does not: its reaper is slow, that is all."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_program_ends_with_its_children_when_the_measure_fails(wait_for: Callable[..., None]) -> None:
    """Also a child that ignores SIGTERM, also at Ctrl-C."""
    pids: list[int] = []
    with suppress(KeyboardInterrupt), running("stubborn", [sys.executable, "-c", STUBBORN], []) as program:
        wait_until(lambda: program.said().endswith("\n"), 20.0, "its line", program)
        pids += map(int, program.said().split())
        assert all(map(alive, pids))
        raise KeyboardInterrupt
    wait_for(lambda: not any(map(alive, pids)), what="the end of all")


def test_a_program_that_fails_is_quoted() -> None:
    """The error names the program, its status and its last words, without waiting for the time-out."""
    began = time.monotonic()
    with (
        pytest.raises(BenchError, match="the peer ended with status 3: out of luck"),
        running("the peer", [sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"], []) as program,
    ):
        wait_until(lambda: False, 60.0, "anything", program)
    assert time.monotonic() - began < 30


def test_settings_of_the_machine_do_not_reach_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WA_BATCH that somebody exported would change the figures."""
    monkeypatch.setenv("WA_BATCH", "1")
    code = "import os; print(os.environ.get('WA_BATCH'), os.environ.get('BENCH_COUNT'))"
    with running("it", [sys.executable, "-c", code], [], BENCH_COUNT=7) as program:
        program.process.wait(30)
        assert program.said().split() == ["None", "7"]


def test_what_is_missing_is_named_once_for_each_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the peers' environment a run goes on with ours, and says how to get it."""
    monkeypatch.setattr(contenders.machine, "PEERS_PYTHON", tmp_path / "python")
    found = contenders.skipped()
    (why,) = (cause for cause, titles in found.items() if "Celery" in titles)
    assert "make bench" in why
    assert len(found[why]) == 8
    assert not any(peer.name == "celery" for peer in contenders.chosen("serve", "accept", quick=False))


def test_an_answer_that_is_nowhere_fails_the_run() -> None:
    """More 200s than notifications in Redis: a rate of such a receiver is worth nothing."""
    accept._check({"ours": 10, "bare_aiohttp": 99}, {"ours": 10})
    with pytest.raises(BenchError, match="some are lost"):
        accept._check({"ours": 11}, {"ours": 10})


def test_a_backlog_of_ours_is_drained_and_timed(tmp_path: Path) -> None:
    """Loader, worker and handlers together: every event is handled once, and the handlers' times are written."""
    with valkey("everysec") as store:
        size = contenders.load("ours", store, 1500, "message")
        assert size == 1500 * 265
        with contenders.worker(store, tmp_path, [], "--burst", keep=100) as program:
            assert program.process.wait(60) == 0, program.said()
        (file,) = tmp_path.glob("*.json")
        seen = json.loads(file.read_text())
    assert len(seen["kept"]) == len({identity for identity, _ in seen["kept"]}) == 100
    assert all(0 < moment < time.monotonic() for _, moment in seen["kept"])


def test_handlers_stamp_every_thousandth_call(tmp_path: Path) -> None:
    """The times that rates are taken from: of calls 1, 1001, 2001."""
    code = "from benchmarks import handlers\nfor n in range(2500): handlers.count(None)"
    environment = os.environ | {"BENCH_HANDLED": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    (file,) = tmp_path.glob("*.json")
    seen = json.loads(file.read_text())
    assert seen["calls"] == 2500
    assert seen["stamps"] == sorted(seen["stamps"])
    assert len(seen["stamps"]) == 3
