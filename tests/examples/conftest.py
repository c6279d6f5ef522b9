"""Worker processes that run an example."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workers.conftest import commit, dead, message, status  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture
def work(redis_url: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a worker with an example until nothing is left: `work("autoreply", NAME=value)`."""

    def run(example: str, **env: str) -> subprocess.CompletedProcess[str]:
        stdin, ours = os.pipe()  # a worker ends with its standard input
        own = {"WA_HANDLERS": f"examples.{example}:handlers", "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "workers.engine.worker", "--burst"],
                cwd=tmp_path,
                env=os.environ | own | env,
                stdin=stdin,
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            os.close(stdin)
            os.close(ours)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "Unclosed" not in done.stderr
        return done

    return run
