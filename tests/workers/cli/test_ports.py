"""`up`, `serve` and `work` where another program has their ports."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.workers.cli.conftest import COMMAND, Folder

IN_USE = r"Error: {}: port {} is in use by {} \(pid {}\)"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("up", "WA_LISTEN"),
        ("up --reload", "WA_ADMIN_LISTEN"),
        ("up", "WA_WORKER_METRICS_LISTEN"),
        ("serve", "WA_LISTEN"),
        ("serve --processes 2", "WA_ADMIN_LISTEN"),
        ("work --lanes statuses", "WA_WORKER_METRICS_LISTEN"),
    ],
)
def test_a_port_that_is_taken(command: str, setting: str, folder: Folder, taken: int, redis_url: str) -> None:
    """One line names the setting, the port, who has it, and the same command with a port that is free; nothing is
    started."""
    status, (line,) = folder.run(*command.split(), **{setting: f"127.0.0.1:{taken}"})
    assert status == 1
    assert re.match(IN_USE.format(setting, taken, ".+", os.getpid()), line), line
    remedy = re.search(rf"; free: {setting}=127\.0\.0\.1:(\d+)(?: WA_\S+)* {COMMAND} {command}$", line)
    assert remedy, line
    with socket.create_server(("127.0.0.1", int(remedy[1]))):
        pass
    assert not list(folder.path.glob("data/valkey*"))


def test_the_line_to_copy_has_what_else_was_set(folder: Folder, taken: int, free_port: Callable[[], int]) -> None:
    """A port that was chosen before stays, and so does what handlers need; secrets are not shown."""
    mine = f"127.0.0.1:{free_port()}"
    given = {"WA_LISTEN": mine, "WA_HANDLERS": "bot:handlers", "WA_APP_SECRET": "s3cret"}
    status, (line,) = folder.run("up", WA_ADMIN_LISTEN=f"127.0.0.1:{taken}", **given)
    assert status == 1
    assigned = line.partition("; free: ")[2].split()
    assert f"WA_LISTEN={mine}" in assigned
    assert "WA_HANDLERS=bot:handlers" in assigned
    assert "s3cret" not in line


def test_an_up_that_fails_leaves_nothing(folder: Folder, taken: int) -> None:
    """A folder for data that it made itself is gone again, whatever it fails of; one that was there stays as it was."""
    data = folder.path / "data"
    for wrong in ({"WA_LISTEN": f"127.0.0.1:{taken}"}, {"WA_HANDLERS": "bot:none"}):
        assert folder.run("up", **wrong)[0] == 1
        assert not data.exists()
    data.mkdir()
    (data / "up.json").write_text("{}")
    assert folder.run("up", WA_LISTEN=f"127.0.0.1:{taken}")[0] == 1
    assert (data / "up.json").read_text() == "{}"


def test_another_receiver_of_this_folder(folder: Folder, redis_url: str, wait_for: Callable[..., None]) -> None:
    """A program of ours is named by its command and its folder, and both its ports are in the line to copy."""
    serve = folder.start("serve")
    wait_for(lambda: "receiver started" in folder.log())
    status, (line,) = folder.run("up")
    assert status == 1
    assert line.startswith(
        f"Error: WA_LISTEN: port {folder.port} and WA_ADMIN_LISTEN: port {folder.admin_port} are in use by "
        f"`wa-ingest serve` (pid {serve.pid}) in this folder; free: WA_LISTEN="
    )
    assert serve.poll() is None


def test_two_settings_with_one_port(folder: Folder, free_port: Callable[[], int]) -> None:
    """Settings that name the same port are told of each other."""
    address = f"127.0.0.1:{free_port()}"
    status, (line,) = folder.run("up", WA_LISTEN=address, WA_ADMIN_LISTEN=address)
    assert status == 1
    assert f"WA_ADMIN_LISTEN: port {address.partition(':')[2]} is in use by WA_LISTEN; free: " in line


def test_an_address_that_is_not_here(folder: Folder) -> None:
    """Any other reason is said as the system says it."""
    status, (line,) = folder.run("up", WA_LISTEN="192.0.2.1:8080")
    assert status == 1
    assert line == "Error: WA_LISTEN: cannot listen on 192.0.2.1:8080: Cannot assign requested address"
