"""The ports that a command listens on, tried before it starts anything."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pydantic import SecretStr

from ingest.settings import Settings, SettingsError, cannot_listen, host_port, variable
from ingest.telemetry.printable import printable
from workers.cli import env_file
from workers.cli.terminal import program

Address = tuple[str, int]

_OURS = ("ingest.server", "workers.cli.worker_metrics")
"""Modules of child processes that listen."""

_PARENT = "ingest.supervisor"

_LISTENS = "0A"  # in /proc/net/tcp


def check(settings: Settings, *fields: str) -> None:
    """Raise SettingsError when one of these settings names an address that cannot be listened on.

    Of a port that is in use it says by whom, and what to type for one that is free.
    """
    wanted = {field: address for field in fields if (address := getattr(settings, field)) is not None}
    held: dict[str, Address] = {}
    taken: dict[str, Address] = {}
    with ExitStack() as sockets:  # open until all are tried, because two settings may name the same port
        for field, address in wanted.items():
            try:
                sockets.enter_context(_listening(address))
                held[field] = address
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise cannot_listen(field, address, error) from None
                taken[field] = address
        free = {field: _next_free(address, sockets) for field, address in taken.items()}
    if taken:
        raise SettingsError(f"{_causes(taken, held)}; free: {_again(settings, free)}")


def _listening(address: Address) -> socket.socket:
    """As the receiver listens. Raises OSError."""
    opened = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen()
    except OSError:
        opened.close()
        raise
    return opened


def _next_free(address: Address, sockets: ExitStack) -> Address:
    """The same with the next port that is free; its socket is put among the others."""
    host, taken = address
    for port in range(taken + 1, 65536):
        try:
            sockets.enter_context(_listening((host, port)))
        except OSError:
            continue
        return host, port
    return host, 0  # the system chooses one


def _again(settings: Settings, free: Mapping[str, Address]) -> str:
    """This command, with these addresses and with what this environment says of other settings, but for secrets."""
    others = {variable(field): field for field in sorted(settings.model_fields_set - free.keys())}
    known = {
        name: os.environ[name]
        for name, field in others.items()
        if name in os.environ and name not in env_file.taken and not isinstance(getattr(settings, field), SecretStr)
    }
    new = {variable(field): host_port(*address) for field, address in free.items()}
    assigned = [f"{name}={shlex.quote(value)}" for name, value in (new | known).items()]
    return " ".join([*assigned, program(), shlex.join(sys.argv[1:])])


def _causes(taken: Mapping[str, Address], held: Mapping[str, Address]) -> str:
    """Which ports are in use, by whom; those of the same holder together."""
    ports: dict[str, list[str]] = {}
    for field, (_, port) in taken.items():
        ports.setdefault(_by(port, held), []).append(f"{variable(field)}: port {port}")
    return "; ".join(f"{' and '.join(of)} {'is' if len(of) == 1 else 'are'} in use{by}" for by, of in ports.items())


def _by(port: int, held: Mapping[str, Address]) -> str:
    """Who holds it, as far as this user may know."""
    for field, (_, other) in held.items():
        if port == other:
            return f" by {variable(field)}"
    try:
        return f" by {printable(_holder(port))}"
    except (LookupError, OSError):
        return f" (`sudo lsof -i :{port}` says by what)"


def _holder(port: int) -> str:
    """The program that listens there. Raises LookupError when it is another user's, OSError without Linux' /proc."""
    sockets = _sockets(port)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(file.readlink()) in sockets for file in (process / "fd").iterdir()):
                return _described(process)
        except OSError:  # another user's, or it has ended
            continue
    raise LookupError(port)


def _sockets(port: int) -> set[str]:
    """The sockets that listen on this port, as they stand in /proc/PID/fd."""
    tables = [file.read_text().splitlines()[1:] for file in Path("/proc/net").glob("tcp*")]
    rows = [line.split() for table in tables for line in table]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == port}


def _described(process: Path) -> str:
    """A process by its name; one of ours by its command, with the folder in which that runs."""
    if not any(module in _arguments(process) for module in _OURS):
        return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
    arguments, folder = _arguments(Path("/proc", parent)), (process / "cwd").readlink()
    if _PARENT not in arguments:
        return f"wa-ingest (pid {process.name}) in {folder}"
    command = arguments[arguments.index(_PARENT) + 2]  # behind the program's path
    return f"`wa-ingest {command}` (pid {parent}) in {'this folder' if folder == Path.cwd() else folder}"


def _arguments(process: Path) -> list[str]:
    return (process / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
