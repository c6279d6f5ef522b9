"""No queue at all: what aiohttp itself can answer."""

from __future__ import annotations

from benchmarks.peers import common


async def accept(body: bytes) -> None:
    pass


if __name__ == "__main__":
    common.run(serve=lambda: common.serve_aiohttp(accept))
