"""A destination: an HTTP server that notes each post, and answers 429 above a rate.

Environment: BENCH_PORT, BENCH_POSTS (the file of what came), BENCH_PER_SECOND (posts that it takes each second; 0: all)
and BENCH_ANSWER_MS (how long an answer takes). A line of the file: seconds since the epoch, status of the answer,
attempt, the message's id.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import orjson
import uvloop
from aiohttp import web


async def serve() -> None:
    limit, wait = int(os.environ["BENCH_PER_SECOND"]), float(os.environ["BENCH_ANSWER_MS"]) / 1000
    second, left = 0, limit

    def takes(now: float) -> bool:
        nonlocal second, left
        if int(now) != second:
            second, left = int(now), limit
        left -= 1
        return not limit or left >= 0

    with Path(os.environ["BENCH_POSTS"]).open("a", buffering=1) as posts:  # noqa: ASYNC230 - once, at the start

        async def answer(request: web.BaseRequest) -> web.Response:
            body = orjson.loads(await request.read())
            now = time.time()
            status = 200 if takes(now) else 429
            id = body["entry"][0]["changes"][0]["value"]["messages"][0]["id"]
            posts.write(f"{now:.6f} {status} {request.headers['X-WA-Attempt']} {id}\n")
            if status == 429:
                return web.Response(status=429, headers={"Retry-After": "2"})
            await asyncio.sleep(wait)
            return web.Response()

        runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["BENCH_PORT"]), backlog=1024, reuse_port=True).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
