"""A server on this machine that answers every request after a while, many at a time.

    python benchmarks/synthesis_parts/server.py LATENCY_S [TOGETHER]

Prints its port. Past the first two requests nobody is answered before TOGETHER requests have
been under way at one time, once, or until `PATIENCE_S` is over: a slow client is waited for.
`GET /` tells the most requests that were under way together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

REPLY = {
    "choices": [{"message": {"role": "assistant", "content": "a made caption"},
                 "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 4},
}  # fmt: skip
SINGLE, PATIENCE_S = 2, 100.0


class Answering:
    """Answers on kept connections; counts what is under way."""

    def __init__(self, latency_s: float, together: int):
        self.latency_s, self.together = latency_s, together
        self.now = self.most = self.asked = 0
        self.has_been_full = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                sizes = [line for line in head.split("\r\n") if "content-length" in line.lower()]
                await reader.readexactly(int(sizes[0].split(":")[1]) if sizes else 0)
                told = {"most": self.most} if head.startswith("GET") else await self._reply()
                body = json.dumps(told).encode()
                kind = "Content-Type: application/json\r\n"
                writer.write(
                    f"HTTP/1.1 200 OK\r\n{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self) -> dict:
        self.now += 1
        self.asked += 1
        self.most = max(self.most, self.now)
        if self.most >= self.together:
            self.has_been_full.set()
        await asyncio.sleep(self.latency_s)
        if self.asked > SINGLE:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.has_been_full.wait(), PATIENCE_S)
        self.now -= 1
        return REPLY


async def main() -> None:
    """Serve until killed."""
    answering = Answering(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    server = await asyncio.start_server(answering.talk, "127.0.0.1", 0, limit=1 << 24)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
