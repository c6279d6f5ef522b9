"""No queue at all: what aiohttp itself can answer.

Measured: 13,000 to 21,000 requests/s with the server alone on its core, as the machine was slow or fast.
"""

from __future__ import annotations

from benchmarks.peers import common


async def accept(body: bytes) -> None:
    pass


if __name__ == "__main__":
    common.run(serve=lambda: common.serve_aiohttp(accept))
