"""Signs of life, and the probe that looks at them: real processes and files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingest import signs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A parent's folder, while the parent is alive."""
    monkeypatch.setattr(signs.tempfile, "tempdir", str(tmp_path))
    made = tmp_path / f"{signs.PREFIX}x"
    made.mkdir()
    descriptor = signs.lock(str(made))
    yield str(made)
    os.close(descriptor)


def fails(line: str) -> None:
    """The probe fails with this line."""
    with pytest.raises(SystemExit, match=line):
        signs.main()


def test_a_worker_that_gives_signs_is_healthy(folder: str) -> None:
    """One that is only just starting is, too."""
    signs.give(signs.path(folder, "worker-0"))
    signs.main()


def test_no_worker() -> None:
    """A machine on which no worker runs is not healthy, and the line says so."""
    fails("no worker runs on this machine; start some: wa-ingest work")


def test_one_of_several_is_silent(folder: str) -> None:
    """It is named, with the time since its last sign."""
    signs.give(signs.path(folder, "worker-0"))
    silent = signs.path(folder, "worker-1")
    signs.give(silent)
    os.utime(silent, (signs.seen(silent) - 45, signs.seen(silent) - 45))
    fails("no sign of life from worker-1 for 4[5-9] s")


def test_what_a_killed_parent_left_behind(tmp_path: Path, folder: str) -> None:
    """The folder of a parent that was killed stays, where the temporary folder does; it counts for nothing."""
    left = tmp_path / f"{signs.PREFIX}left"
    left.mkdir()
    signs.give(signs.path(str(left), "worker-0"))
    os.utime(signs.path(str(left), "worker-0"), (0, 0))
    os.close(signs.lock(str(left)))
    signs.give(signs.path(folder, "worker-0"))
    signs.main()


def test_a_process_gives_signs_by_itself(folder: str, wait_for: Callable[..., None]) -> None:
    """A child gives them from a thread, and no process that it starts is asked for any."""
    sign = signs.path(folder, "worker-0")
    program = (
        "import os, time; from ingest import signs; signs.give_steadily();"
        "print(os.environ.get('INGEST_SIGN'), flush=True); time.sleep(60)"
    )
    environment = os.environ | signs.expected(sign)
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "None\n"
        wait_for(lambda: signs.seen(sign))
        first = signs.seen(sign)
        wait_for(lambda: signs.seen(sign) > first)
        signs.main()
        child.kill()


def test_the_probe_costs_little() -> None:
    """`wa-ingest work --healthy` runs every few seconds: it imports none of the libraries of the other commands."""
    program = (
        "import sys, wa_ingest\nsys.argv = ['wa-ingest', 'work', '--healthy']\n"
        "try: wa_ingest.main()\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"click", "redis", "pydantic", "rich", "workers"} & set(done.stdout.split())
