"""What the processes of a command take while nothing happens. `make bench` measures it, these bounds are generous."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.processes import children, resident

ROOT = Path(__file__).parents[3]
PARENT = 25 * 1.5
WORKER = 50 * 1.5


@pytest.mark.parametrize(("command", "count"), [("serve", 1), ("work", 1), ("up", 2)])
def test_parent_and_workers_are_small(
    command: str,
    count: int,
    redis_url: str,
    tmp_path: Path,
    free_port: Callable[[], int],
    wait_for: Callable[..., None],
    run_module: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command stays small beside its children, and so does an idle worker with the handlers that print."""
    monkeypatch.setenv("WA_LISTEN", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("WA_ADMIN_LISTEN", f"127.0.0.1:{free_port()}")
    log = tmp_path / "log"
    with log.open("w") as output:
        parent = run_module("workers.cli", command, cwd=tmp_path, stdout=output)
    last = {"serve": "receiver started", "work": "worker started", "up": "Ctrl-C stops"}[command]
    wait_for(lambda: last in log.read_text() and len(children(parent.pid)) == count, 60, last)
    assert resident(parent.pid) < PARENT
    workers = [pid for pid, call in children(parent.pid).items() if "workers.engine.worker" in call]
    assert all(resident(pid) < WORKER for pid in workers)
    parent.terminate()
    assert parent.wait(40) == 0


def test_structlog_finds_no_rich(tmp_path: Path) -> None:
    """What `ingest.without_rich` runs starts without rich, as if it were called itself, and can still import it."""
    code = "import sys, structlog; assert 'rich' not in sys.modules; import rich; print(__name__, *sys.argv[1:])"
    (tmp_path / "users.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "ingest.without_rich", "users", "--burst"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "__main__ --burst\n"
