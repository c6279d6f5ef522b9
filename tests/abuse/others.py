"""The traffic beside an attack: posts for some seconds on connections old and new, and prints how long each took."""

from __future__ import annotations

import asyncio
import hmac
import json
import ssl
import sys
import time

BODY = b'{"statuses":[{"id":"s","status":"read"}]}'
SIGNATURE = b"X-Hub-Signature-256: sha256=" + hmac.digest(b"secret", BODY, "sha256").hex().encode()
REQUEST = b"POST /webhook HTTP/1.1\r\nHost: x\r\n%b\r\nContent-Length: %d\r\n\r\n%b" % (SIGNATURE, len(BODY), BODY)
PAUSE = 0.02


async def _post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(REQUEST)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    return head[9:12].decode()


async def _keep_on(port: int, context: ssl.SSLContext | None, until: float, again: bool, took: list, odd: list) -> None:
    reader = writer = None
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            if writer is None or again:
                if writer is not None:
                    writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            status = await _post(reader, writer)
            if status != "200":
                odd.append(status)
        except (OSError, EOFError, TimeoutError) as error:
            odd.append(type(error).__name__)
            writer = None
        took.append(time.monotonic() - began)
        await asyncio.sleep(PAUSE)
    if writer is not None:
        writer.close()


async def main(port: int, seconds: float, ca: str) -> None:
    context = ssl.create_default_context(cafile=ca) if ca else None
    until = time.monotonic() + seconds
    took: list[float] = []
    odd: list[str] = []
    await asyncio.gather(*(_keep_on(port, context, until, n == 0, took, odd) for n in range(3)))
    print(json.dumps({"took": took, "odd": odd}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
