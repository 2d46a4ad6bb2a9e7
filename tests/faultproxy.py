"""A TCP proxy that misbehaves on demand: between agent and server, server and database, worker and Redis.

async with FaultProxy("127.0.0.1", port) as proxy:
    connect to proxy.port
    proxy.latency_s = 0.2      # each way
    proxy.stall()              # bytes wait, connections stay; proxy.flow() lets them go on
    proxy.reset()              # every connection ends with a RST
    proxy.half_close()         # the server's side says it sends no more
    proxy.partition()          # as stall, and new connections are accepted and never served; proxy.heal()
    proxy.bytes_per_s = 10_000
"""

import asyncio
import socket
import struct
from contextlib import suppress

CHUNK_BYTES = 16 << 10
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class FaultProxy:
    """Forwards to one target. `up` and `down` count bytes towards and from the target; `seen` keeps those towards it."""

    def __init__(self, host: str, port: int, *, keep: bool = False) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._partitioned = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._towards_client: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keep = keep
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.connections = 0
        self.up = self.down = 0
        self.seen = bytearray()
        self.port = 0

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Hold all bytes back."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let them go on."""
        self._flowing.set()

    def partition(self) -> None:
        """Nothing passes, and new connections get no answer."""
        self._partitioned = True
        self.stall()

    def heal(self) -> None:
        """End a partition. Connections opened meanwhile are reset: a real peer has forgotten them."""
        self._partitioned = False
        self.reset()
        self.flow()

    def reset(self) -> None:
        """End every connection with a RST."""
        for writer in list(self._writers):
            held = writer.get_extra_info("socket")
            if held is not None:
                with suppress(OSError):
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            writer.transport.abort()

    def half_close(self) -> None:
        """Tell the clients that the server sends no more, while their own bytes still pass."""
        for writer in list(self._towards_client):
            with suppress(OSError, RuntimeError):
                writer.write_eof()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self._partitioned:
                await self._join(reader, writer)
            else:
                await asyncio.Event().wait()
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            return
        self._writers.add(far_writer)
        self._towards_client.add(writer)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, up=True), self._pump(far_reader, writer, up=False)
            )
        finally:
            self._writers.discard(far_writer)
            self._towards_client.discard(writer)
            far_writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with suppress(OSError, RuntimeError):
            while data := await reader.read(CHUNK_BYTES):
                await self._hold_back(len(data))
                self._count(data, up=up)
                writer.write(data)
                await writer.drain()
            await self._flowing.wait()
            if writer.can_write_eof():
                writer.write_eof()

    async def _hold_back(self, size: int) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if self.bytes_per_s:
            await asyncio.sleep(size / self.bytes_per_s)
        await self._flowing.wait()

    def _count(self, data: bytes, *, up: bool) -> None:
        if up:
            self.up += len(data)
            if self._keep:
                self.seen += data
        else:
            self.down += len(data)
