"""Redis goes away while a command watches: it says why, with a remedy, and goes on when Redis is back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ingest.conftest import OwnValkey
from tests.workers.cli.conftest import Folder
from tests.workers.cli.terminal import on_terminal

STOPPED = "the `up` of this folder has stopped; run `wa-ingest up`"


def test_a_watch_on_a_terminal(own_valkey: Callable[..., OwnValkey], tmp_path: Path) -> None:
    """`status --watch` shows one line while Redis is away, then the figures again, until Ctrl-C."""
    valkey = own_valkey(appendonly="yes")
    is_away = False

    def until(text: str) -> bool:
        nonlocal is_away
        before, away, after = text.partition("Redis is not reachable: ")
        if "workers: 0" in before and not is_away:
            valkey.stop()
            is_away = True
        elif away and not valkey.path.exists():
            valkey.start()
        return "workers: 0" in after

    url = {"WA_REDIS_URL": valkey.url}
    screen = on_terminal("workers.cli", "status", "--watch", columns=200, cwd=tmp_path, until=until, **url)
    assert screen.status == 0
    away = [line for line in screen.lines if line.startswith("Redis is not reachable: ")]
    assert away, screen.text
    assert all(line.endswith("; see WA_REDIS_URL, and that it runs") for line in away)


def test_an_up_that_stops(folder: Folder, run_module: Any, wait_for: Callable[..., None]) -> None:
    """`status --watch` and `tail` beside an `up` say that it has stopped, and never that it starts its server again."""
    up = folder.start("up")
    wait_for(lambda: "Ctrl-C stops" in folder.log(), 60)
    commands = {"watch": ("status", "--watch", "--json"), "tail": ("tail",)}
    env = {"env": {name: value for name, value in os.environ.items() if not name.startswith("WA_")}}
    said = {name: folder.path / name for name in commands}
    running: dict[str, subprocess.Popen[str]] = {}
    for name, command in commands.items():
        with said[name].open("w") as log:
            running[name] = run_module("workers.cli", *command, cwd=folder.path, stdout=log, **env)
    wait_for(lambda: '"lanes"' in said["watch"].read_text(), 60)
    wait_for(lambda: "workers tell" in said["tail"].read_text(), 60)
    up.send_signal(signal.SIGINT)
    assert up.wait(40) == 0
    for name in commands:
        wait_for(lambda: STOPPED in said[name].read_text())  # noqa: B023
    folder.start("up")
    wait_for(lambda: '"lanes"' in said["watch"].read_text().rpartition(STOPPED)[2], 60)
    wait_for(lambda: "listening again" in said["tail"].read_text(), 60)
    for name, process in running.items():
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        assert "WA_REDIS_URL" not in said[name].read_text()
    watched = [json.loads(line) for line in said["watch"].read_text().splitlines()]
    assert {"error": STOPPED, "spool": None} in watched
